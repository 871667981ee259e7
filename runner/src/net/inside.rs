//! The container's own side: what its first process sets up of its networks, in its namespace.

use std::io;
use std::net::Ipv4Addr;

use super::links;
use super::netlink::Socket;

/// The interfaces of one container.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    /// In the order of the flags: `eth0`, `eth1` …, address and prefix.
    pub(super) interfaces: Vec<(Ipv4Addr, u8)>,
    /// Of the first network that leads out.
    pub(super) gateway: Option<Ipv4Addr>,
}

/// The name of interface number `at` in a container.
pub(super) fn name(at: usize) -> String {
    format!("eth{at}")
}

impl Inside {
    /// Gives the interfaces their addresses and brings them up.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn set_up(&self) -> io::Result<()> {
        let mut socket = Socket::route()?;
        for (at, (address, prefix)) in self.interfaces.iter().enumerate() {
            let Some(link) = links::find(&mut socket, &name(at))? else {
                return Err(io::Error::from_raw_os_error(libc::ENODEV));
            };
            links::quiet(&mut socket, link.index)?;
            links::add_address(&mut socket, link.index, *address, *prefix)?;
            links::set_up(&mut socket, link.index)?;
        }
        match self.gateway {
            Some(gateway) => links::add_default_route(&mut socket, gateway),
            None => Ok(()),
        }
    }
}
