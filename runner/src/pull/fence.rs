//! Where a registry may lead: by redirects, and by the token server that it names.
//!
//! A registry is chosen by the person; what it leads to is not. Nothing that it says may make this
//! host ask addresses which the registry itself is not near: the host's own services, the networks
//! behind it, a cloud's metadata (169.254.169.254). So whoever answers from a public address leads
//! to public addresses only, from a private network to public and private ones, from the loopback
//! anywhere; link-local and special addresses are open to none. `RRUN_TRUSTED_HOSTS` names hosts
//! that are exempt.
//!
//! What counts is the address that answered, not what its name could mean besides: a second, near
//! record of a registry's name opens nothing. Through a proxy nobody can tell, and a name counts as
//! public. Where somebody was led to is checked by the resolver that the connection itself uses: the
//! address that was looked at is the one that is spoken to, however often a name changes its mind
//! (DNS rebinding).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::known_bad::left_out;

/// Hosts that any registry may lead to, separated by commas; with or without a port.
pub(crate) const TRUSTED_VARIABLE: &str = "RRUN_TRUSTED_HOSTS";

/// How near an address is to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reach {
    Public,
    Private,
    Loopback,
    /// Never to be led to: link-local, unspecified, multicast, reserved.
    Special,
}

/// Source: IANA's registries of special-purpose addresses (RFC 6890).
fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => reach_v4(v4),
            None => reach_v6(v6),
        },
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let [a, b, ..] = address.octets();
    let is_special = a == 0 || a >= 224 || address.is_link_local();
    // 100.64.0.0/10: shared between a provider and its customers. RFC 6598.
    let is_shared = a == 100 && b & 0xc0 == 64;
    match () {
        () if is_special => Reach::Special,
        () if address.is_loopback() => Reach::Loopback,
        () if address.is_private() || is_shared => Reach::Private,
        () => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    /// A cloud's metadata inside the private range.
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match () {
        () if address.is_loopback() => Reach::Loopback,
        () if address == METADATA || address.is_unspecified() => Reach::Special,
        () if address.is_multicast() || address.is_unicast_link_local() => Reach::Special,
        () if address.is_unique_local() => Reach::Private,
        () => Reach::Public,
    }
}

/// The IPv4 address that is meant: mapped (`::ffff:a.b.c.d`), compatible, or behind NAT64.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let [.., a, b, c, d] = address.octets();
    let is_mapped = segments[..5] == [0; 5] && segments[5] == 0xffff;
    let is_compatible = segments[..6] == [0; 6] && segments[6] != 0;
    let is_nat64 = segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    (is_mapped || is_compatible || is_nat64).then(|| Ipv4Addr::new(a, b, c, d))
}

/// An address that a registry led to and may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("leads to {host} ({address}), {}", kind(*address))]
pub struct Fenced {
    pub(crate) host: String,
    address: IpAddr,
}

fn kind(address: IpAddr) -> &'static str {
    match reach(address) {
        Reach::Loopback => "which is this host itself",
        Reach::Private => "which is on a private network",
        Reach::Special | Reach::Public => "an address that no registry has to do with",
    }
}

/// What decides it, of one command.
pub(crate) struct Fence {
    trusted: Vec<String>,
    /// The proxies of this host's settings.
    proxies: Matcher,
}

impl Fence {
    pub(crate) fn from_environment() -> Self {
        let trusted = std::env::var(TRUSTED_VARIABLE).unwrap_or_default();
        Self::new(&trusted, Matcher::from_system())
    }

    fn new(trusted: &str, proxies: Matcher) -> Self {
        let trusted = trusted.split(',').map(|host| host.trim().to_ascii_lowercase()).collect();
        Self { trusted, proxies }
    }

    /// How near an answer came from that was asked for at `url` and came from `peer`.
    pub(crate) fn reach_of(&self, url: &Url, peer: Option<SocketAddr>) -> Reach {
        let host = host_of(url);
        let found = match host.parse() {
            Ok(address) => reach(address),
            Err(_) if is_this_host(&host) => Reach::Loopback,
            Err(_) if left_out("fence-connected") => nearest(&host),
            Err(_) if self.is_proxied(url) => Reach::Public,
            Err(_) => peer.map_or(Reach::Public, |peer| reach(peer.ip())),
        };
        // A neighbour on the same wire is no nearer than the network.
        if found == Reach::Special { Reach::Private } else { found }
    }

    fn is_proxied(&self, url: &Url) -> bool {
        // What is no address for the proxy is none for the connection either.
        url.as_str().parse().is_ok_and(|url| self.proxies.intercept(&url).is_some())
    }

    /// Before a request to where somebody led who may lead as near as `limit`. Names are looked at
    /// when they are resolved.
    pub(crate) fn check(&self, url: &Url, limit: Reach) -> Result<(), Fenced> {
        let host = host_of(url);
        match host.parse() {
            _ if self.trusts(url) => Ok(()),
            Ok(address) => admit(&host, address, limit),
            Err(_) if is_this_host(&host) => admit(&host, IpAddr::V4(Ipv4Addr::LOCALHOST), limit),
            Err(_) => Ok(()),
        }
    }

    fn trusts(&self, url: &Url) -> bool {
        let host = host_of(url);
        let with_port = format!("{host}:{}", url.port_or_known_default().unwrap_or(0));
        self.trusted.iter().any(|known| *known == host || *known == with_port) || left_out("fence")
    }

    /// For a connection to where somebody led. `is_own`: to the registry itself, whose name may mean
    /// near addresses as well for good reasons: these are left out, where another name is spoilt by
    /// one.
    pub(crate) fn resolver(&self, url: &Url, limit: Reach, is_own: bool) -> Sieve {
        let host = if self.trusts(url) { String::new() } else { host_of(url) };
        Sieve(Arc::new(SieveOf { host, limit, is_own }))
    }
}

/// As it is compared: lower-case, an address without brackets.
fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase()
}

/// Known to be bad: what a name could mean, not what was spoken to.
fn nearest(host: &str) -> Reach {
    let found = (host, 0).to_socket_addrs().into_iter().flatten();
    found.map(|address| reach(address.ip())).max().unwrap_or(Reach::Public)
}

fn admit(host: &str, address: IpAddr, limit: Reach) -> Result<(), Fenced> {
    let reach = reach(address);
    if reach < Reach::Special && reach <= limit {
        return Ok(());
    }
    Err(Fenced { host: host.to_owned(), address })
}

/// Resolves names, and gives the addresses that may be spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Sieve(Arc<SieveOf>);

#[derive(Debug)]
struct SieveOf {
    /// Other names are proxies of this host's settings.
    host: String,
    limit: Reach,
    is_own: bool,
}

impl Sieve {
    fn sieve(&self, host: &str, mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Fenced> {
        let SieveOf { host: led_to, limit, is_own } = &*self.0;
        if host != led_to {
            return Ok(found);
        }
        let all = found.iter().try_for_each(|address| admit(host, address.ip(), *limit));
        if *is_own {
            found.retain(|address| admit(host, address.ip(), *limit).is_ok());
        }
        match all {
            Err(_) if *is_own && !found.is_empty() => Ok(found),
            Err(fenced) => Err(fenced),
            Ok(()) => Ok(found),
        }
    }
}

impl Resolve for Sieve {
    fn resolve(&self, name: Name) -> Resolving {
        let sieve = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_ascii_lowercase();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let admitted = sieve.sieve(&host, found)?;
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

/// Whether a host of a URL is the loopback: by its address, or by name (RFC 6761, 6.3).
pub(crate) fn is_this_host(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse().is_ok_and(|address| reach(address) == Reach::Loopback)
}

/// What was refused, where that is why a request failed.
pub(crate) fn refusal<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Fenced> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(fenced) = error.downcast_ref() {
            return Some(fenced);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_reach() {
        for (address, want) in [
            ("8.8.8.8", Reach::Public),
            ("10.0.0.1", Reach::Private),
            ("172.16.0.1", Reach::Private),
            ("172.32.0.1", Reach::Public),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("100.128.0.1", Reach::Public),
            ("127.0.0.53", Reach::Loopback),
            ("169.254.169.254", Reach::Special),
            ("0.0.0.0", Reach::Special),
            ("255.255.255.255", Reach::Special),
            ("224.0.0.1", Reach::Special),
            ("::1", Reach::Loopback),
            ("::", Reach::Special),
            ("fe80::1", Reach::Special),
            ("fd12::1", Reach::Private),
            ("fd00:ec2::254", Reach::Special),
            ("ff02::1", Reach::Special),
            ("2001:db8::1", Reach::Public),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("::ffff:169.254.169.254", Reach::Special),
            ("::10.0.0.1", Reach::Private),
            ("64:ff9b::a9fe:a9fe", Reach::Special),
        ] {
            assert_eq!(reach(address.parse().unwrap()), want, "{address}");
        }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn fence(proxy: Option<&str>) -> Fence {
        let proxies = Matcher::builder();
        let proxies = match proxy {
            Some(proxy) => proxies.http(proxy).no("direct.example").build(),
            None => proxies.build(),
        };
        Fence::new("", proxies)
    }

    #[test]
    fn nobody_leads_nearer_than_where_he_answered_from() {
        for (to, from) in [
            ("https://1.2.3.4/x", [true, true, true]),
            ("http://8.8.8.8:9/x", [true, true, true]),
            ("http://10.9.9.9/x", [false, true, true]),
            ("http://[fd12::1]/x", [false, true, true]),
            ("http://127.0.0.1:22/x", [false, false, true]),
            ("http://localhost:22/x", [false, false, true]),
            ("http://[::1]/x", [false, false, true]),
            // The parser of URLs knows the odd spellings of addresses.
            ("http://0x7f000001/x", [false, false, true]),
            ("http://2130706433/x", [false, false, true]),
            ("http://169.254.169.254/latest/meta-data", [false, false, false]),
            ("http://[::ffff:a9fe:a9fe]/x", [false, false, false]),
            ("http://0/x", [false, false, false]),
        ] {
            let fence = fence(None);
            let limits = [Reach::Public, Reach::Private, Reach::Loopback];
            assert_eq!(limits.map(|limit| fence.check(&url(to), limit).is_ok()), from, "{to}");
        }
    }

    #[test]
    fn the_address_that_answered_decides() {
        let peer = |text: &str| Some(SocketAddr::new(text.parse().unwrap(), 443));
        for (asked, peer, proxy, want) in [
            ("https://a.example/", peer("8.8.8.8"), None, Reach::Public),
            ("https://a.example/", peer("10.0.0.1"), None, Reach::Private),
            ("https://a.example/", peer("169.254.1.1"), None, Reach::Private),
            ("https://a.example/", None, None, Reach::Public),
            ("http://localhost:5000/", peer("127.0.0.1"), None, Reach::Loopback),
            ("http://10.0.0.1/", peer("8.8.8.8"), None, Reach::Private),
            ("http://a.example/", peer("10.0.0.1"), Some("http://10.0.0.1:3128"), Reach::Public),
            ("http://a.example/", peer("127.0.0.1"), Some("http://localhost:1"), Reach::Public),
            ("https://a.example/", peer("10.0.0.1"), Some("http://10.0.0.1:3128"), Reach::Private),
            ("http://direct.example/", peer("10.0.0.1"), Some("http://p:1"), Reach::Private),
        ] {
            assert_eq!(
                fence(proxy).reach_of(&url(asked), peer),
                want,
                "{asked} {peer:?} {proxy:?}"
            );
        }
    }

    #[test]
    fn names_are_looked_at_when_they_are_resolved() {
        let at = |address: &str| vec![SocketAddr::new(address.parse().unwrap(), 0)];
        let sieve =
            |limit, is_own| fence(None).resolver(&url("https://store.example/"), limit, is_own);
        let public = sieve(Reach::Public, false);
        assert!(public.sieve("store.example", at("1.2.3.4")).is_ok());
        let refused = public.sieve("store.example", at("10.0.0.1")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "leads to store.example (10.0.0.1), which is on a private network"
        );
        let mixed = [at("1.2.3.4"), at("127.0.0.1")].concat();
        assert!(public.sieve("store.example", mixed.clone()).is_err());
        // This host's own proxy: nobody led there.
        assert!(public.sieve("proxy.example", at("10.0.0.2")).is_ok());
        let private = sieve(Reach::Private, false);
        assert!(private.sieve("store.example", at("10.0.0.1")).is_ok());
        assert!(private.sieve("store.example", at("127.0.0.1")).is_err());
        let own = sieve(Reach::Public, true);
        assert_eq!(own.sieve("store.example", mixed).unwrap(), at("1.2.3.4"));
        assert!(own.sieve("store.example", at("127.0.0.1")).is_err());
    }
}
