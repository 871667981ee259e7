//! `--network` and the flags about a container's place in its networks. Words are Docker's.

use crate::cli::flags::Arguments;
use crate::cli::request::Containers;
use crate::cli::values;
use crate::container::{Membership, Network};
use crate::failure::Failure;
use crate::net::{self, DEFAULT, Mac};

/// One word of `--network`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    None,
    Host,
    Container(String),
    /// A place in a network, by its name.
    In(Membership),
}

impl Mode {
    /// Whether there can be several.
    fn is_user_made(&self) -> bool {
        matches!(self, Self::In(place) if place.network != DEFAULT)
    }

    fn name(&self) -> &str {
        match self {
            Self::None => "none",
            Self::Host => "host",
            Self::Container(_) => "container",
            Self::In(place) => &place.network,
        }
    }
}

/// What the flags say of networks.
pub(super) fn network(
    arguments: &Arguments,
    containers: &dyn Containers,
) -> Result<Network, Failure> {
    let publishes = arguments.given("publish") || arguments.has("publish-all");
    let words = arguments.values("network").chain(arguments.values("net"));
    let mut modes = words.map(mode).collect::<Result<Vec<_>, _>>()?;
    if modes.is_empty() {
        modes.push(default(arguments, publishes)?);
    }
    if modes.len() > 1 && !modes.iter().all(Mode::is_user_made) {
        return Err(Failure::new(
            "conflicting options: cannot attach both user-defined and non-user-defined \
             network-modes",
        ));
    }
    add_flags_of_the_first(arguments, &mut modes[0])?;
    let network = match modes.swap_remove(0) {
        Mode::None => Network::None,
        Mode::Host => Network::Host,
        Mode::Container(name) => {
            refuse_with_shared_network(arguments)?;
            Network::Container(containers.id_of(&name)?)
        }
        Mode::In(first) => {
            let rest = modes.into_iter().filter_map(|mode| match mode {
                Mode::In(place) => Some(place),
                _ => None,
            });
            Network::Bridge(places(first, rest, containers)?)
        }
    };
    if publishes && matches!(network, Network::None | Network::Host) {
        crate::cli::tell(
            "rrun: published ports are discarded: the container has no network to publish from",
        );
    }
    Ok(network)
}

/// The network of containers for which nothing is said, if it is another than the bridge.
pub(super) const VARIABLE: &str = "RRUN_NETWORK";

/// Where nothing is said. Ports can only be published from a bridge.
fn default(arguments: &Arguments, publishes: bool) -> Result<Mode, Failure> {
    let asks = ["ip", "mac-address", "network-alias", "net-alias"];
    if publishes || asks.iter().any(|flag| arguments.given(flag)) {
        return Ok(Mode::In(Membership::of(DEFAULT)));
    }
    match std::env::var(VARIABLE) {
        Ok(text) => mode(&text),
        Err(_) => Ok(Mode::In(Membership::of(DEFAULT))),
    }
}

/// The places in their order, each network once and by its name.
fn places(
    first: Membership,
    rest: impl Iterator<Item = Membership>,
    containers: &dyn Containers,
) -> Result<Vec<Membership>, Failure> {
    let mut all: Vec<Membership> = Vec::new();
    for mut place in [first].into_iter().chain(rest) {
        place.network = containers.network(&place.network)?;
        if all.iter().any(|other| other.network == place.network) {
            let name = place.network;
            return Err(Failure::new(format!("network {name:?} is specified multiple times")));
        }
        all.push(place);
    }
    Ok(all)
}

/// `NAME`, or `name=NAME,ip=ADDRESS,alias=NAME,mac-address=ADDRESS`.
fn mode(text: &str) -> Result<Mode, Failure> {
    let wrong = |why: &str| Failure::new(format!("--network={text}: {why}"));
    if !text.contains('=') {
        return match text {
            "none" => Ok(Mode::None),
            "host" => Ok(Mode::Host),
            "default" | "" => Ok(Mode::In(Membership::of(DEFAULT))),
            other => match other.strip_prefix("container:") {
                Some(name) => Ok(Mode::Container(name.to_owned())),
                None => named(other),
            },
        };
    }
    let mut place = Membership::of("");
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| wrong("it is KEY=VALUE,…"))?;
        match key {
            "name" => value.clone_into(&mut place.network),
            "ip" => place.ip = Some(values::ipv4("network ip", value)?),
            "alias" => place.aliases.push(alias("network alias", value)?),
            "mac-address" => place.mac = Some(mac("network mac-address", value)?),
            "ip6" => return Err(wrong("containers have no IPv6 yet")),
            _ => {
                return Err(wrong(&format!("there is no {key}"))
                    .hint("there is: name, ip, alias, mac-address"));
            }
        }
    }
    match mode(&place.network)? {
        _ if place.network.is_empty() => Err(wrong("it has no name=")),
        Mode::In(named) if named.network != DEFAULT => Ok(Mode::In(place)),
        other if place == Membership::of(&place.network) => Ok(other),
        other => {
            add_to(&other, "ip", place.ip.is_some())?;
            add_to(&other, "alias", !place.aliases.is_empty())?;
            match other {
                Mode::In(named) => Ok(Mode::In(Membership { mac: place.mac, ..named })),
                _ => Err(wrong("such a network is not the container's own")),
            }
        }
    }
}

fn named(name: &str) -> Result<Mode, Failure> {
    if net::is_name(name) {
        return Ok(Mode::In(Membership::of(name)));
    }
    let why = "a name has letters, digits, and _ . - after the first one";
    Err(Failure::new(format!("--network={name}: {why}")))
}

/// `--ip`, `--network-alias` and `--mac-address` are of the first network.
fn add_flags_of_the_first(arguments: &Arguments, first: &mut Mode) -> Result<(), Failure> {
    let given = |flag: &'static str| arguments.value(flag).filter(|text| !text.is_empty());
    let aliases = arguments.values("network-alias").chain(arguments.values("net-alias"));
    let aliases = aliases.filter(|text| !text.is_empty());
    let aliases =
        aliases.map(|text| alias("network-alias", text)).collect::<Result<Vec<_>, _>>()?;
    let ip = given("ip").map(|text| values::ipv4("ip", text)).transpose()?;
    let mac = given("mac-address").map(|text| mac("mac-address", text)).transpose()?;
    add_to(first, "ip", ip.is_some())?;
    add_to(first, "alias", !aliases.is_empty())?;
    let place = match first {
        Mode::In(place) => place,
        Mode::None if mac.is_none() => return Ok(()),
        Mode::Host | Mode::Container(_) if mac.is_none() => return Ok(()),
        _ => return Err(Failure::new("conflicting options: mac-address and the network mode")),
    };
    for (is_twice, flag, what) in [
        (ip.is_some() && place.ip.is_some(), "ip", "IPv4 address"),
        (!aliases.is_empty() && !place.aliases.is_empty(), "network-alias", "alias"),
        (mac.is_some() && place.mac.is_some(), "mac-address", "MAC address"),
    ] {
        if is_twice {
            return Err(Failure::new(format!(
                "conflicting options: cannot specify both --{flag} and per-network {what}"
            )));
        }
    }
    place.ip = place.ip.or(ip);
    place.mac = place.mac.or(mac);
    place.aliases.extend(aliases);
    Ok(())
}

/// Addresses of one's choice, and names, are of networks that somebody made.
fn add_to(mode: &Mode, what: &str, is_asked: bool) -> Result<(), Failure> {
    if !is_asked || mode.is_user_made() {
        return Ok(());
    }
    let why = match what {
        "ip" => "user specified IP address is supported on user defined networks only",
        _ => "network-scoped aliases are only supported for user-defined networks",
    };
    Err(Failure::new(format!("invalid config for network {}: {why}", mode.name()))
        .hint("rrun network create NAME"))
}

/// A name that others look it up by.
fn alias(flag: &str, text: &str) -> Result<String, Failure> {
    if net::is_name(text) {
        return Ok(text.to_owned());
    }
    let why = "a name has letters, digits, and _ . - after the first one";
    Err(Failure::new(format!("--{flag}={text}: {why}")))
}

fn mac(flag: &str, text: &str) -> Result<Mac, Failure> {
    text.parse().map_err(|error| Failure::new(format!("--{flag}={text}")).because(&error))
}

/// What belongs to the network of the container that is shared.
fn refuse_with_shared_network(arguments: &Arguments) -> Result<(), Failure> {
    let conflicts = [
        ("publish", "port publishing and the container type network mode"),
        ("publish-all", "port publishing and the container type network mode"),
        ("expose", "port exposing and the container type network mode"),
    ];
    for (flag, what) in conflicts {
        if arguments.given(flag) {
            return Err(Failure::new(format!("conflicting options: {what}"))
                .hint(format!("give --{flag} to the container whose network is shared")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_network() {
        let place = |text: &str| match mode(text).unwrap() {
            Mode::In(place) => place,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(place("web"), Membership::of("web"));
        assert_eq!(place("default"), Membership::of("bridge"));
        let full = place("name=web,ip=10.1.2.3,alias=a,alias=b,mac-address=02:42:ac:11:00:02");
        assert_eq!((full.network.as_str(), full.aliases.len()), ("web", 2));
        assert_eq!(full.ip, Some([10, 1, 2, 3].into()));
        assert_eq!(mode("name=host").unwrap(), Mode::Host);
        assert_eq!(mode("container:x").unwrap(), Mode::Container("x".into()));
        for text in [
            "-x",
            "a b",
            "name=",
            "ip=1.2.3.4",
            "name=web,ip=x",
            "name=web,ip6=::1",
            "name=web,alias=-a",
            "name=web,mac-address=1",
            "name=web,x=y",
            "name=host,ip=1.2.3.4",
            "name=bridge,alias=a",
            "name=none,mac-address=02:42:ac:11:00:02",
            "name=a=b",
        ] {
            assert!(mode(text).is_err(), "{text}");
        }
    }
}
