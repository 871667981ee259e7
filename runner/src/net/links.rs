//! Interfaces, addresses and routes. Source: rtnetlink(7), linux/if_link.h.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::mac::Mac;
use super::netlink::{CREATE, EXCL, Message, Socket, attribute, number32, text_of};
use super::subnet::Subnet;

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const BRPORT_MODE: u16 = 4;
const BRPORT_ISOLATED: u16 = 33;
const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const FAMILY_IPV4: u8 = libc::AF_INET as u8;
const FAMILY_BRIDGE: u8 = libc::AF_BRIDGE as u8;
const UP: u32 = libc::IFF_UP as u32;

/// An interface as the kernel lists it.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) is_up: bool,
}

/// `struct ifinfomsg`
fn link_head(family: u8, index: u32, flags: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[0] = family;
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    // Which of the flags are meant.
    head[12..16].copy_from_slice(&flags.to_ne_bytes());
    head
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let rest = payload.get(16..)?;
    Some(Link {
        index: number32(payload, 4)?,
        name: text_of(attribute(rest, IFLA_IFNAME)?).to_owned(),
        mtu: attribute(rest, IFLA_MTU).and_then(|value| number32(value, 0)).unwrap_or(0),
        is_up: number32(payload, 8)? & UP != 0,
    })
}

/// The interface of this name, if there is one.
pub(super) fn find(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    let ask = Message::new(GETLINK, 0).put(&link_head(0, 0, 0)).text(IFLA_IFNAME, name);
    match socket.get(ask) {
        Ok(payload) => Ok(parse_link(&payload)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn all(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    let ask = Message::new(GETLINK, 0).put(&link_head(0, 0, 0));
    socket.dump(ask, |payload| links.extend(parse_link(payload)))?;
    Ok(links)
}

/// A bridge with an address of its own: without one it takes the lowest of its members', which
/// change.
pub(super) fn make_bridge(socket: &mut Socket, name: &str, mac: Mac, mtu: u32) -> io::Result<()> {
    let make = Message::new(NEWLINK, CREATE | EXCL)
        .put(&link_head(0, 0, 0))
        .text(IFLA_IFNAME, name)
        .attribute(IFLA_ADDRESS, &mac.0)
        .number(IFLA_MTU, mtu)
        .nest(IFLA_LINKINFO, |info| info.text(INFO_KIND, "bridge"));
    socket.ask(make)
}

pub(super) fn set_up(socket: &mut Socket, index: u32) -> io::Result<()> {
    socket.ask(Message::new(SETLINK, 0).put(&link_head(0, index, UP)))
}

pub(super) fn delete(socket: &mut Socket, name: &str) -> io::Result<()> {
    let gone = Message::new(DELLINK, 0).put(&link_head(0, 0, 0)).text(IFLA_IFNAME, name);
    match socket.ask(gone) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// That the kernel knows cables: it refuses one with so many queues for that reason alone.
pub(super) fn check_veth(socket: &mut Socket) -> io::Result<()> {
    let absurd = Message::new(NEWLINK, CREATE | EXCL)
        .put(&link_head(0, 0, 0))
        .number(IFLA_NUM_TX_QUEUES, u32::MAX)
        .nest(IFLA_LINKINFO, |info| info.text(INFO_KIND, "veth"));
    match socket.ask(absurd) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    }
}

/// The two ends of a container's cable.
#[derive(Debug)]
pub(super) struct Cable<'a> {
    /// The end on the bridge.
    pub(super) outer: &'a str,
    pub(super) bridge: u32,
    /// The end in the container.
    pub(super) inner: &'a str,
    pub(super) mac: Mac,
    pub(super) mtu: u32,
    /// What `ip link` tells of whose it is.
    pub(super) alias: &'a str,
    /// Members of its bridge do not reach each other.
    pub(super) isolated: bool,
}

/// Lays a cable from a bridge of this network namespace into another one.
pub(super) fn lay(
    socket: &mut Socket,
    cable: &Cable<'_>,
    namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let inner = |peer: Message| {
        peer.put(&link_head(0, 0, 0))
            .text(IFLA_IFNAME, cable.inner)
            .attribute(IFLA_ADDRESS, &cable.mac.0)
            .number(IFLA_MTU, cable.mtu)
            .number(IFLA_NET_NS_FD, namespace.as_raw_fd().cast_unsigned())
    };
    let make = Message::new(NEWLINK, CREATE | EXCL)
        .put(&link_head(0, 0, 0))
        .text(IFLA_IFNAME, cable.outer)
        .number(IFLA_MTU, cable.mtu)
        .number(IFLA_MASTER, cable.bridge)
        .nest(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "veth").nest(INFO_DATA, |data| data.nest(VETH_INFO_PEER, inner))
        });
    socket.ask(make)?;
    let Some(link) = find(socket, cable.outer)? else {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    };
    // Hairpin: what a container sends to its own published port comes back through its own port.
    let port = Message::new(SETLINK, 0).put(&link_head(FAMILY_BRIDGE, link.index, 0)).nest(
        IFLA_PROTINFO,
        |port| {
            port.attribute(BRPORT_MODE, &[1])
                .attribute(BRPORT_ISOLATED, &[u8::from(cable.isolated)])
        },
    );
    socket.ask(port)?;
    quiet(socket, link.index)?;
    let up =
        Message::new(SETLINK, 0).put(&link_head(0, link.index, UP)).text(IFLA_IFALIAS, cable.alias);
    socket.ask(up)
}

/// No IPv6 address of the interface's own making: nothing is announced, nothing looked for twice.
/// Before it is up, or the kernel has made one.
pub(super) fn quiet(socket: &mut Socket, index: u32) -> io::Result<()> {
    let set = Message::new(SETLINK, 0).put(&link_head(0, index, 0)).nest(IFLA_AF_SPEC, |all| {
        all.nest(libc::AF_INET6 as u16, |v6| {
            v6.attribute(INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE])
        })
    });
    match socket.ask(set) {
        // A host without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        other => other,
    }
}

pub(super) fn add_address(
    socket: &mut Socket,
    index: u32,
    address: Ipv4Addr,
    prefix: u8,
) -> io::Result<()> {
    let mut head = [FAMILY_IPV4, prefix, 0, 0, 0, 0, 0, 0];
    head[4..].copy_from_slice(&index.to_ne_bytes());
    let add = Message::new(NEWADDR, CREATE | EXCL)
        .put(&head)
        .attribute(IFA_LOCAL, &address.octets())
        .attribute(IFA_ADDRESS, &address.octets());
    match socket.ask(add) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

pub(super) fn add_default_route(socket: &mut Socket, gateway: Ipv4Addr) -> io::Result<()> {
    /// RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST
    const HEAD: [u8; 12] = [FAMILY_IPV4, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    let add =
        Message::new(NEWROUTE, CREATE | EXCL).put(&HEAD).attribute(RTA_GATEWAY, &gateway.octets());
    socket.ask(add)
}

/// A route that is no default one, or an address of this host as one.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) subnet: Subnet,
    pub(super) interface: u32,
}

/// What of IPv4 this network namespace has a use for already, and by which interfaces its default
/// routes lead.
pub(super) fn taken(socket: &mut Socket) -> io::Result<(Vec<Taken>, Vec<u32>)> {
    let (mut all, mut defaults) = (Vec::new(), Vec::new());
    let address = |value: Option<&[u8]>| -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = value?.try_into().ok()?;
        Some(bytes.into())
    };
    let routes = Message::new(GETROUTE, 0).put(&[FAMILY_IPV4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    socket.dump(routes, |payload| {
        let Some((head, rest)) = payload.split_at_checked(12) else { return };
        let Some(interface) = attribute(rest, RTA_OIF).and_then(|value| number32(value, 0)) else {
            return;
        };
        match address(attribute(rest, RTA_DST)) {
            None => defaults.push(interface),
            // Those of multicast are everywhere.
            Some(start) if !start.is_multicast() && !start.is_broadcast() => {
                all.extend(Subnet::new(start, head[1]).map(|subnet| Taken { subnet, interface }));
            }
            Some(_) => {}
        }
    })?;
    let addresses = Message::new(GETADDR, 0).put(&[FAMILY_IPV4, 0, 0, 0, 0, 0, 0, 0]);
    socket.dump(addresses, |payload| {
        let Some((head, rest)) = payload.split_at_checked(8) else { return };
        if let (Some(local), Some(interface)) =
            (address(attribute(rest, IFA_LOCAL)), number32(payload, 4))
        {
            all.extend(Subnet::new(local, head[1]).map(|subnet| Taken { subnet, interface }));
        }
    })?;
    Ok((all, defaults))
}
