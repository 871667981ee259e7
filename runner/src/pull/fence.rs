//! Where a registry may lead: by redirects, and by the token server that it names.
//!
//! A registry is chosen by the person; what it leads to is not. Nothing that it says may make this
//! host ask addresses which the registry itself is not near: the host's own services, the networks
//! behind it, a cloud's metadata (169.254.169.254). So a registry on a public address leads to
//! public addresses only, one on a private network to public and private ones, one on the loopback
//! anywhere; link-local and special addresses are open to none. `RRUN_TRUSTED_HOSTS` names hosts
//! that are exempt.
//!
//! Names are checked by the resolver that the connection itself uses: the address that was looked
//! at is the one that is spoken to, however often a name changes its mind (DNS rebinding).

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::known_bad::left_out;

/// Hosts that any registry may lead to, separated by commas; with or without a port.
pub(crate) const TRUSTED_VARIABLE: &str = "RRUN_TRUSTED_HOSTS";

/// How near an address is to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
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

/// The fence of one registry. Copies share it.
#[derive(Clone, Debug)]
pub(crate) struct Fence(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Lower-case, without a port.
    registry: String,
    /// How near the registry is, as far as that is known: a `Reach`.
    reach: AtomicU8,
    trusted: Vec<String>,
    /// Names that the registry led to.
    led_to: Mutex<HashSet<String>>,
}

impl Fence {
    /// For a registry at `url`.
    pub(crate) fn new(registry: &str, is_loopback: bool) -> Self {
        let host = match registry.strip_prefix('[') {
            Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
            None => registry.split(':').next().unwrap_or_default(),
        };
        let fixed = host.parse().map_or(Reach::Public, reach);
        let trusted = std::env::var(TRUSTED_VARIABLE).unwrap_or_default();
        Self(Arc::new(Inner {
            registry: host.to_ascii_lowercase(),
            reach: AtomicU8::new(if is_loopback { Reach::Loopback } else { fixed } as u8),
            trusted: trusted.split(',').map(|host| host.trim().to_ascii_lowercase()).collect(),
            led_to: Mutex::default(),
        }))
    }

    /// Before a request to where the registry led. Names are looked at when they are resolved.
    pub(crate) fn check(&self, url: &Url) -> Result<(), Fenced> {
        let Some(host) = url.host_str() else { return Ok(()) };
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let with_port = format!("{host}:{}", url.port_or_known_default().unwrap_or(0));
        let is_trusted = self.0.trusted.iter().any(|known| *known == host || *known == with_port);
        if host == self.0.registry || is_trusted || left_out("fence") {
            return Ok(());
        }
        match host.parse() {
            Ok(address) => self.admit(&host, address),
            Err(_) if is_this_host(&host) => self.admit(&host, IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Err(_) => {
                self.0.led_to.lock().unwrap_or_else(PoisonError::into_inner).insert(host);
                Ok(())
            }
        }
    }

    fn admit(&self, host: &str, address: IpAddr) -> Result<(), Fenced> {
        let reach = reach(address);
        if reach < Reach::Special && reach as u8 <= self.0.reach.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Fenced { host: host.to_owned(), address })
    }

    /// The addresses of `host` that may be spoken to.
    fn sieve(&self, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Fenced> {
        if host == self.0.registry {
            let nearest = found.iter().map(|address| reach(address.ip())).max();
            self.0.reach.fetch_max(nearest.unwrap_or(Reach::Public) as u8, Ordering::Relaxed);
            return Ok(found);
        }
        if !self.0.led_to.lock().unwrap_or_else(PoisonError::into_inner).contains(host) {
            // A proxy of this host's settings.
            return Ok(found);
        }
        // One that may not be spoken to spoils the name: no honest one has such addresses as well.
        found.iter().try_for_each(|address| self.admit(host, address.ip()))?;
        Ok(found)
    }
}

impl Resolve for Fence {
    fn resolve(&self, name: Name) -> Resolving {
        let fence = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_ascii_lowercase();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let admitted = fence.sieve(&host, found)?;
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

    fn admits(fence: &Fence, url: &str) -> bool {
        fence.check(&Url::parse(url).unwrap()).is_ok()
    }

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

    #[test]
    fn a_registry_leads_no_nearer_than_it_is() {
        let public = Fence::new("8.8.8.8:5000", false);
        let private = Fence::new("10.1.1.1", false);
        let loopback = Fence::new("localhost:5000", true);
        for (url, from) in [
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
            let got = [&public, &private, &loopback].map(|fence| admits(fence, url));
            assert_eq!(got, from, "{url}");
        }
    }

    #[test]
    fn names_are_looked_at_when_they_are_resolved() {
        let fence = Fence::new("registry.example:5000", false);
        let at = |address: &str| vec![SocketAddr::new(address.parse().unwrap(), 0)];
        assert!(admits(&fence, "https://store.example/x"));
        assert!(fence.sieve("store.example", at("1.2.3.4")).is_ok());
        let refused = fence.sieve("store.example", at("10.0.0.1")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "leads to store.example (10.0.0.1), which is on a private network"
        );
        let mixed = [at("1.2.3.4"), at("127.0.0.1")].concat();
        assert!(fence.sieve("store.example", mixed).is_err());
        // Not led to by the registry: this host's own proxy.
        assert!(fence.sieve("proxy.example", at("10.0.0.2")).is_ok());
        // Once the registry is seen to be on a private network, others there may be led to.
        assert!(fence.sieve("registry.example", at("10.0.0.3")).is_ok());
        assert!(fence.sieve("store.example", at("10.0.0.1")).is_ok());
        assert!(fence.sieve("store.example", at("127.0.0.1")).is_err());
    }
}
