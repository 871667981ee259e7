//! A network's bridge and its rules: made when the network is first needed, and gone with it.

use std::fs;
use std::io;

use super::definition::Definition;
use super::error::{NetError, Why};
use super::files::Places;
use super::netlink::Socket;
use super::table::{self, BridgeRules, Table};
use super::{addresses, contents, foreign, links};
use crate::known_bad::left_out;

/// A network whose bridge is there.
pub(super) struct UpNetwork {
    pub(super) definition: Definition,
    pub(super) mtu: u32,
}

/// Makes sure that the network's bridge, the rules, and the way through other programs' chains are
/// there.
pub(super) fn ensure_up(
    places: &Places,
    table: &mut Table,
    network: Definition,
    notices: &mut Vec<String>,
) -> Result<UpNetwork, NetError> {
    let mut socket = Socket::route().map_err(Why::io("cannot speak to the kernel"))?;
    let known = places.up(&network.id).map_err(Why::io("cannot read the networks"))?;
    let link = links::find(&mut socket, &network.bridge)
        .map_err(Why::kernel("cannot ask for the bridge", "bridge"))?;
    let has_rules =
        table.is_there().map_err(Why::kernel("cannot ask for the rules", "nf_tables"))?;
    if let (Some(_), Some(link), true) = (&known, link.filter(|link| link.is_up), has_rules) {
        // The first one to join finds other programs' chains as they are now.
        let is_idle = addresses::owners(places, &network.id).is_ok_and(|all| all.is_empty());
        if is_idle {
            open_foreign(table, notices);
        }
        return Ok(UpNetwork { definition: network, mtu: link.mtu });
    }
    let mtu = bring_up(places, &mut socket, &network)?;
    if table.is_there().map_err(Why::kernel("cannot ask for the rules", "nf_tables"))? {
        table
            .add_bridge(&rules_of(&network))
            .or_else(|_| table.build(&contents(places)?))
            .map_err(Why::kernel("cannot add the network to the rules", "nf_tables"))?;
    } else {
        contents(places)
            .and_then(|contents| table.build(&contents))
            .map_err(Why::kernel("cannot make the rules", "nf_tables"))?;
    }
    forward_packets(places, table)
        .map_err(Why::kernel("cannot turn on net.ipv4.ip_forward", "forwarding"))?;
    open_foreign(table, notices);
    Ok(UpNetwork { definition: network, mtu })
}

/// Makes the bridge with its address. Answers its MTU.
fn bring_up(places: &Places, socket: &mut Socket, network: &Definition) -> Result<u32, NetError> {
    let failed = || Why::kernel("cannot make a bridge", "bridge");
    let (taken, defaults) = links::taken(socket).map_err(failed())?;
    let own = links::find(socket, &network.bridge).map_err(failed())?;
    let own_index = own.as_ref().map(|link| link.index);
    let all = links::all(socket).map_err(failed())?;
    let overlap = taken
        .iter()
        .find(|one| Some(one.interface) != own_index && one.subnet.overlaps(network.subnet));
    if let Some(overlap) = overlap {
        let name = all.iter().find(|link| link.index == overlap.interface);
        let name = name.map_or("another interface", |link| link.name.as_str());
        return Err(NetError {
            message: format!(
                "cannot bring up the network {}: {} is in use by {name} ({})",
                network.name, network.subnet, overlap.subnet
            ),
            hint: Some(format!("rrun network rm {0}; rrun network create {0}", network.name)),
            ..NetError::default()
        });
    }
    links::check_veth(socket)
        .map_err(Why::kernel("cannot connect containers to a bridge", "veth"))?;
    let of_defaults = all.iter().filter(|link| defaults.contains(&link.index));
    let mtu = network.mtu.or_else(|| of_defaults.map(|link| link.mtu).min()).unwrap_or(1500);
    let make = |socket: &mut Socket| -> io::Result<u32> {
        places.make_network(&network.id)?;
        places.write_up(network)?;
        let link = match own {
            Some(link) => link,
            None => {
                links::make_bridge(socket, &network.bridge, network.mac(), mtu)?;
                let found = links::find(socket, &network.bridge)?;
                found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?
            }
        };
        for (key, value) in [("rp_filter", "2"), ("route_localnet", "0")] {
            // Not there without /proc/sys, and then as it was.
            let _ = fs::write(sysctl(&network.bridge, key), value);
        }
        links::add_address(socket, link.index, network.gateway, network.subnet.prefix())?;
        links::set_up(socket, link.index)?;
        Ok(link.mtu)
    };
    Ok(make(socket).map_err(failed())?)
}

fn sysctl(interface: &str, key: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{interface}/{key}")
}

/// Turns forwarding on. What did not forward before still does not: the names of all interfaces
/// that are there go into the rules first.
fn forward_packets(places: &Places, table: &mut Table) -> io::Result<()> {
    const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(SWITCH)?.trim() != "0" {
        return Ok(());
    }
    let mut socket = Socket::route()?;
    let bridges: Vec<String> = places.ups()?.into_iter().map(|network| network.bridge).collect();
    let names = links::all(&mut socket)?.into_iter().map(|link| link.name);
    let names: Vec<String> = names.filter(|name| name != "lo" && !bridges.contains(name)).collect();
    let names = if left_out("interfaces-guarded") { Vec::new() } else { names };
    places.write_guarded(&names)?;
    table.build(&contents(places)?)?;
    fs::write(SWITCH, "1")
}

fn open_foreign(table: &mut Table, notices: &mut Vec<String>) {
    if left_out("forward-chains-opened") {
        return;
    }
    match foreign::open(table) {
        Ok(closed) => notices.extend(closed.into_iter().map(|one| {
            format!("the host's firewall may keep containers from their network: {}", one.0)
        })),
        Err(error) => notices.push(format!("cannot read the host's firewall: {error}")),
    }
}

pub(super) fn rules_of(network: &Definition) -> BridgeRules {
    BridgeRules {
        name: network.bridge.clone(),
        subnet: network.subnet,
        is_internal: network.internal,
        is_connected: network.icc,
    }
}

/// Takes a network's bridge and rules away; what is not there is away. With the last one go the
/// table and what stands in other programs' chains.
pub(super) fn take_down(places: &Places, network: &Definition) -> io::Result<()> {
    let mut table = Table::open(&places.runroot)?;
    places.forget_network(&network.id)?;
    // All anew: to take members of a set of ranges out one by one says more than is needed.
    if table.is_there()? {
        table.build(&contents(places)?)?;
    }
    let mut socket = Socket::route()?;
    links::delete(&mut socket, &network.bridge)?;
    if !places.ups()?.is_empty() {
        return Ok(());
    }
    // What did not forward before must not begin to: we have turned it on.
    if places.guarded().is_empty() {
        table.remove()?;
    }
    let of_another_store = links::all(&mut socket)?;
    if of_another_store.iter().any(|link| link.name.starts_with(foreign::PREFIX)) {
        return Ok(());
    }
    foreign::close(&table::name_of(&places.runroot))
}
