//! Publishing ports: what is asked for, and the sockets that hold them.
//!
//! A port belongs to whoever listens on it. So "in use" is the kernel's answer, to other programs
//! too, and what no rule serves (loopback, IPv6) reaches the socket.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::str::FromStr;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::BindToDevice;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};

use crate::known_bad::left_out;

/// How often the kernel is asked for a port that is free in both versions of IP.
const TRIES: usize = 20;

/// Connections that wait for whoever takes them; as Docker's proxy.
const BACKLOG: i32 = 128;

/// Ports of one range at most: each is a socket or two.
const RANGE_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// `80/tcp`: a port in the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Exposed {
    pub port: u16,
    pub protocol: Protocol,
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// One port that is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// `None`: every address of this host.
    pub host_ip: Option<IpAddr>,
    /// The first that is free of these; `None`: the kernel's choice.
    pub host_ports: Option<(u16, u16)>,
    pub exposed: Exposed,
}

/// One that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub protocol: Protocol,
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub port: u16,
}

impl Port {
    pub fn exposed(&self) -> Exposed {
        Exposed { port: self.port, protocol: self.protocol }
    }

    pub fn host(&self) -> SocketAddr {
        SocketAddr::new(self.host_ip, self.host_port)
    }
}

/// What is wrong with the text of `-p` or `--expose`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("it is [ADDRESS:][[HOST[-HOST]]:]PORT[-PORT][/tcp|udp]")]
    Form,
    #[error("a port is a number from 1 to 65535")]
    Number,
    #[error("{0} is not supported: there is tcp and udp")]
    Protocol(String),
    #[error("the two ranges have different lengths")]
    Lengths,
    #[error("that range has more than {RANGE_MAX} ports")]
    Many,
}

/// `80`, `8000-8010`; in a host's port 0 means any, as nothing does.
fn range(text: &str) -> Result<(u16, u16), PortError> {
    let number = |text: &str| match text.parse::<u16>() {
        Ok(number) if number > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(number),
        _ => Err(PortError::Number),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    match usize::from(last).checked_sub(usize::from(first)) {
        None => Err(PortError::Form),
        Some(more) if more >= RANGE_MAX => Err(PortError::Many),
        Some(_) => Ok((first, last)),
    }
}

fn protocol(text: &str) -> Result<(&str, Protocol), PortError> {
    match text.split_once('/') {
        None => Ok((text, Protocol::Tcp)),
        Some((ports, name)) => match name.to_ascii_lowercase().as_str() {
            "tcp" => Ok((ports, Protocol::Tcp)),
            "udp" => Ok((ports, Protocol::Udp)),
            _ => Err(PortError::Protocol(name.to_owned())),
        },
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`: `--expose`, and an image's `ExposedPorts`.
///
/// # Errors
/// What is wrong with it.
pub fn exposed(text: &str) -> Result<Vec<Exposed>, PortError> {
    let (ports, protocol) = protocol(text)?;
    let (first, last) = range(ports)?;
    Ok((first..=last).map(|port| Exposed { port, protocol }).collect())
}

/// `-p`: one or, of a range, several.
///
/// # Errors
/// What is wrong with it.
pub fn publish(text: &str) -> Result<Vec<Publish>, PortError> {
    let (text, protocol) = protocol(text)?;
    let (host_ip, rest) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once("]:").ok_or(PortError::Form)?;
            let address = Ipv6Addr::from_str(address).map_err(|_| PortError::Form)?;
            (Some(IpAddr::V6(address)), rest)
        }
        None if text.matches(':').count() == 2 => {
            let (address, rest) = text.split_once(':').ok_or(PortError::Form)?;
            let address = match address {
                "" => None,
                "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                address => Some(address.parse().map_err(|_| PortError::Form)?),
            };
            (address, rest)
        }
        None => (None, text),
    };
    let (host, ports) = match rest.split_once(':') {
        Some((_, ports)) if ports.contains(':') => return Err(PortError::Form),
        Some(("" | "0", ports)) => (None, ports),
        Some((host, ports)) => (Some(range(host)?), ports),
        None => (None, rest),
    };
    let (first, last) = range(ports)?;
    let length = |(first, last): (u16, u16)| last - first;
    let all = (first..=last).enumerate().map(|(at, port)| {
        let host_ports = match host {
            // A range for one port: whichever of it is free.
            Some(host) if first == last => Some(host),
            Some((start, _)) => {
                #[expect(clippy::cast_possible_truncation, reason = "below the range's length")]
                let own = start + at as u16;
                Some((own, own))
            }
            None => None,
        };
        Publish { host_ip, host_ports, exposed: Exposed { port, protocol } }
    });
    match host {
        Some(host) if first != last && length(host) != length((first, last)) => {
            Err(PortError::Lengths)
        }
        _ => Ok(all.collect()),
    }
}

/// A published port with the socket that holds it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) port: Port,
    pub(super) socket: OwnedFd,
}

/// Why a port cannot be published.
#[derive(Debug, thiserror::Error)]
#[error("cannot publish {at}/{protocol}")]
pub(super) struct BindError {
    pub(super) at: SocketAddr,
    pub(super) protocol: Protocol,
    #[source]
    pub(super) error: io::Error,
}

/// Takes the ports that a container is to have.
///
/// # Errors
/// For the first one that somebody else has, or that cannot be had.
pub(super) fn hold(wanted: &[Publish]) -> Result<Vec<Held>, BindError> {
    let mut all = Vec::new();
    for one in wanted {
        let (first, last) = one.host_ports.unwrap_or((0, 0));
        let mut failed = None;
        for host_port in first..=last {
            match hold_at(one, host_port) {
                Ok(held) => {
                    all.extend(held);
                    failed = None;
                    break;
                }
                Err(error) => {
                    let is_taken = error.error.kind() == io::ErrorKind::AddrInUse;
                    failed = Some(error);
                    if !is_taken {
                        break;
                    }
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(all)
}

/// Keeps ports from everybody but this host, and to its loopback.
pub(super) fn only_here(all: &[Held]) -> io::Result<()> {
    if left_out("internal-closed") {
        return Ok(());
    }
    for held in all {
        setsockopt(&held.socket, BindToDevice, &OsString::from("lo"))?;
    }
    Ok(())
}

/// One port: with no address given in both versions of IP, under the same number.
fn hold_at(wanted: &Publish, host_port: u16) -> Result<Vec<Held>, BindError> {
    let Exposed { port, protocol } = wanted.exposed;
    let held = |address: IpAddr, host_port: u16| {
        let at = SocketAddr::new(address, host_port);
        match listen(at, protocol) {
            Ok((socket, host_port)) => {
                let port = Port { protocol, host_ip: address, host_port, port };
                Ok(Held { port, socket })
            }
            Err(error) => Err(BindError { at, protocol, error: error.into() }),
        }
    };
    let Some(address) = wanted.host_ip else {
        let mut tries = 0;
        loop {
            tries += 1;
            let first = held(Ipv4Addr::UNSPECIFIED.into(), host_port)?;
            match held(Ipv6Addr::UNSPECIFIED.into(), first.port.host_port) {
                Ok(second) => return Ok(vec![first, second]),
                Err(BindError { error, .. }) if is_off(&error) => return Ok(vec![first]),
                Err(error) if host_port != 0 || tries == TRIES => return Err(error),
                Err(_) => {}
            }
        }
    };
    Ok(vec![held(address, host_port)?])
}

/// Whether the error says that this host does without IPv6.
fn is_off(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn listen(at: SocketAddr, protocol: Protocol) -> Result<(OwnedFd, u16), Errno> {
    let (family, kind) = (
        if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 },
        match protocol {
            Protocol::Tcp => SocketType::STREAM,
            Protocol::Udp => SocketType::DGRAM,
        },
    );
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Past connections in TIME_WAIT are not in the way of a restart.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &at)?;
    if protocol == Protocol::Tcp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, bound.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(ip: Option<&str>, host: Option<(u16, u16)>, port: u16, protocol: Protocol) -> Publish {
        let host_ip = ip.map(|ip| ip.parse().unwrap());
        Publish { host_ip, host_ports: host, exposed: Exposed { port, protocol } }
    }

    #[test]
    fn texts_of_publish() {
        use Protocol::{Tcp, Udp};
        for (text, expected) in [
            ("80", one(None, None, 80, Tcp)),
            ("8080:80", one(None, Some((8080, 8080)), 80, Tcp)),
            ("0:80", one(None, None, 80, Tcp)),
            (":80", one(None, None, 80, Tcp)),
            ("8080:80/UDP", one(None, Some((8080, 8080)), 80, Udp)),
            ("8080-8090:80", one(None, Some((8080, 8090)), 80, Tcp)),
            ("127.0.0.1:8080:80", one(Some("127.0.0.1"), Some((8080, 8080)), 80, Tcp)),
            ("localhost:8080:80", one(Some("127.0.0.1"), Some((8080, 8080)), 80, Tcp)),
            ("127.0.0.1::80", one(Some("127.0.0.1"), None, 80, Tcp)),
            ("[::1]:8080:80", one(Some("::1"), Some((8080, 8080)), 80, Tcp)),
            ("[::1]::80/tcp", one(Some("::1"), None, 80, Tcp)),
        ] {
            assert_eq!(publish(text), Ok(vec![expected]), "{text}");
        }
        let range = publish("8000-8002:90-92/udp").unwrap();
        let ports: Vec<_> = range.iter().map(|one| (one.host_ports, one.exposed.port)).collect();
        let expected = [8000, 8001, 8002].map(|port| Some((port, port)));
        assert_eq!(ports, expected.into_iter().zip([90, 91, 92]).collect::<Vec<_>>());
        assert_eq!(exposed("90-92").unwrap().len(), 3);
    }

    #[test]
    fn texts_that_are_refused() {
        for (text, why) in [
            ("", PortError::Number),
            ("0", PortError::Number),
            ("65536", PortError::Number),
            ("+80", PortError::Number),
            ("80:", PortError::Number),
            ("90-80", PortError::Form),
            ("1-5000:1-5000", PortError::Many),
            ("80-81:80-82", PortError::Lengths),
            ("80/sctp", PortError::Protocol("sctp".into())),
            ("a:b:c:80", PortError::Form),
            ("[::1]80", PortError::Form),
            ("[::g]:80:80", PortError::Form),
            ("1.2.3:80:80", PortError::Form),
        ] {
            assert_eq!(publish(text), Err(why), "{text}");
        }
    }

    #[test]
    fn a_port_is_held_in_both_versions_and_by_one() {
        let free = hold(&publish("80").unwrap()).unwrap();
        let number = free[0].port.host_port;
        assert!(free.iter().all(|held| held.port.host_port == number && number != 0));
        let error = hold(&publish(&format!("{number}:80")).unwrap()).unwrap_err();
        assert_eq!(error.error.kind(), io::ErrorKind::AddrInUse);
        let foreign = hold(&publish("192.0.2.1:8080:80").unwrap()).unwrap_err();
        assert_eq!(foreign.error.kind(), io::ErrorKind::AddrNotAvailable);
        let last = number.saturating_add(3);
        let next = hold(&publish(&format!("{number}-{last}:80")).unwrap());
        // The next ones may be somebody else's on this machine, all of them hardly ever.
        assert!(next.map_or(true, |held| held[0].port.host_port != number));
    }
}
