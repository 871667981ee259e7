//! Remembered connections. A client that sends datagrams to a port keeps the connection that the
//! kernel remembers alive, to whoever had the port before or to nobody: it has to be forgotten.

use std::io;

use super::netlink::{Message, Socket, attribute};
use super::nft;

/// Source: linux/netfilter/nfnetlink_conntrack.h.
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const TARGET_PORT: u16 = 3;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// Of the protocol's number and the target port.
const FILTER_FLAGS: u32 = 1 << 3 | 1 << 5;

/// Forgets the connections by UDP whose first packet went to this port.
pub(super) fn forget_udp(port: u16) -> io::Result<()> {
    let mut socket = Socket::netfilter()?;
    let udp = libc::IPPROTO_UDP as u8;
    let all = nft::message(DELETE, 0, nft::IPV4)
        .nest(TUPLE_ORIGINAL, |tuple| {
            tuple.nest(TUPLE_PROTOCOL, |protocol| {
                protocol
                    .attribute(PROTOCOL_NUMBER, &[udp])
                    .attribute(TARGET_PORT, &port.to_be_bytes())
            })
        })
        .nest(FILTER, |filter| {
            filter.number(FILTER_ORIGINAL, FILTER_FLAGS).number(FILTER_REPLY, 0)
        });
    match socket.ask(all) {
        // Kernels before 6.2 have no such filter here.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        // Nothing is remembered.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
        other => return other,
    }
    let mut tuples: Vec<Vec<u8>> = Vec::new();
    socket.dump(nft::message(GET, 0, nft::IPV4), |payload| {
        let rest = payload.get(4..).unwrap_or_default();
        let Some(tuple) = attribute(rest, TUPLE_ORIGINAL) else { return };
        let protocol = attribute(tuple, TUPLE_PROTOCOL).unwrap_or_default();
        let is_udp = attribute(protocol, PROTOCOL_NUMBER) == Some(&[udp]);
        if is_udp && attribute(protocol, TARGET_PORT) == Some(&port.to_be_bytes()) {
            tuples.push(tuple.to_vec());
        }
    })?;
    for tuple in tuples {
        let one: Message = nft::message(DELETE, 0, nft::IPV4)
            .nest(TUPLE_ORIGINAL, |attribute| attribute.put(&tuple));
        match socket.ask(one) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
