//! Networks: bridges, addresses, the rules of one nf_tables table, published ports.
//!
//! What a container has of networks stands in `$RUN/c/<id>/net.json` before the kernel is touched.
//! So whoever finds the file, the monitor at the end or the next command after a kill, undoes what
//! it lists and takes "not there" for done. The rules are made anew from these files whenever they
//! are not there: another program may have flushed them.

mod addresses;
mod conntrack;
mod definition;
mod error;
mod files;
mod foreign;
pub mod helper;
mod inside;
mod links;
mod netlink;
mod nft;
mod ports;
mod subnet;
mod table;

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, OwnedFd};

pub use self::definition::{DEFAULT, Definition, NewNetwork, is_name};
pub use self::error::NetError;
pub use self::files::{Attached, Endpoint};
pub use self::inside::Inside;
pub use self::ports::{Exposed, Port, PortError, Protocol, Publish, exposed, publish};
pub use self::subnet::Subnet;

use self::addresses::NoAddress;
use self::error::Why;
use self::files::Places;
use self::links::Cable;
use self::netlink::Socket;
use self::ports::Held;
use self::table::{BridgeRules, Contents, PortRules, Table};
use crate::container::{Membership, Record};
use crate::dirs::Dirs;
use crate::known_bad::left_out;

/// What a container that is being started has of networks.
#[derive(Debug)]
pub struct Attachment {
    pub attached: Attached,
    /// What could not be done and does not keep it from starting.
    pub notices: Vec<String>,
    held: Vec<Held>,
    mtu: u32,
}

impl Attachment {
    /// What the container's first process does.
    pub fn inside(&self) -> Inside {
        let networks = &self.attached.networks;
        Inside {
            interfaces: networks.iter().map(|one| (one.ipv4, one.prefix)).collect(),
            gateway: networks.iter().find(|one| !one.is_internal).map(|one| one.gateway),
        }
    }

    /// Lays the cables into the network namespace of process `pid`, a child of this one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn connect(&self, pid: i32, container: &str) -> Result<(), NetError> {
        let namespace = File::open(format!("/proc/{pid}/ns/net"))
            .map_err(Why::io("cannot open the container's network"))?;
        let lay = || -> io::Result<()> {
            let mut socket = Socket::route()?;
            for (at, one) in self.attached.networks.iter().enumerate() {
                let bridge = links::find(&mut socket, &one.bridge)?;
                let bridge = bridge.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
                let cable = Cable {
                    outer: &one.veth,
                    bridge: bridge.index,
                    inner: &inside::name(at),
                    mac: definition::mac_of(one.ipv4),
                    mtu: self.mtu,
                    alias: &format!("rrun {container}"),
                    isolated: one.is_isolated,
                };
                links::lay(&mut socket, &cable, namespace.as_fd())?;
            }
            Ok(())
        };
        lay().map_err(Why::kernel("cannot connect the container to its network"))?;
        live_on_after("connected");
        Ok(())
    }

    /// The sockets that hold the published ports.
    pub fn into_held(self) -> Option<HeldPorts> {
        let to = target_of(&self.attached)?;
        let sockets: Vec<_> = self.held.into_iter().map(|held| (held.socket, held.port)).collect();
        (!sockets.is_empty()).then_some(HeldPorts { to, sockets })
    }
}

/// The sockets of a container's published ports.
#[derive(Debug)]
pub struct HeldPorts {
    /// The container.
    pub to: Ipv4Addr,
    pub sockets: Vec<(OwnedFd, Port)>,
}

/// Everything before the container's namespaces are made: ports held, networks up, addresses
/// taken, rules in force.
///
/// # Errors
/// With nothing left behind that [`release`] would not undo.
pub fn attach(
    dirs: &Dirs,
    record: &Record,
    memberships: &[Membership],
) -> Result<Attachment, NetError> {
    // First of all: nothing else is there yet that would have to go.
    let held = ports::hold(&record.ports).map_err(|error| error::bind(dirs, error))?;
    live_on_after("held");
    let places = Places::of(dirs);
    let _lock = places.lock().map_err(Why::io("cannot lock the networks"))?;
    let mut notices = Vec::new();
    let mut mtu = u32::MAX;
    let mut networks = Vec::new();
    for membership in memberships {
        let network = definition_of(&places, &membership.network)?;
        let up = ensure_up(&places, network, &mut notices)?;
        mtu = mtu.min(up.mtu);
        networks.push((up.definition, membership));
    }
    let mut attached = Attached { networks: Vec::new(), ports: Vec::new() };
    attached.ports.extend(held.iter().map(|held| held.port));
    for (network, membership) in &networks {
        attached.networks.push(choose_place(&places, network, membership)?);
    }
    // From here on there is something to undo, and the file says what.
    let take = || -> io::Result<()> {
        places.write_attached(&record.id, &attached)?;
        for ((network, _), place) in networks.iter().zip(&attached.networks) {
            addresses::take(&places, network, place.ipv4, &record.id)?;
        }
        Ok(())
    };
    take().map_err(Why::io("cannot take an address"))?;
    live_on_after("addresses");
    publish_ports(&places, &record.id, &attached)?;
    live_on_after("published");
    Ok(Attachment { attached, notices, held, mtu })
}

/// The network of this name; `None`: the default one, which is made when it is first used.
///
/// # Errors
/// When there is none.
pub fn find(dirs: &Dirs, name: &str) -> Result<Option<Definition>, NetError> {
    let found = definition::read(&Places::of(dirs), name);
    match found.map_err(Why::io("cannot read the networks"))? {
        None if name != DEFAULT => Err(NetError::not_found(name)),
        found => Ok(found),
    }
}

/// Where a test lets this process be killed.
fn live_on_after(step: &str) {
    if left_out(&format!("net-lives-after-{step}")) {
        let _ = crate::sys::process::kill(std::process::id().cast_signed(), libc::SIGKILL);
    }
}

fn definition_of(places: &Places, name: &str) -> Result<Definition, NetError> {
    let found = definition::read(places, name).map_err(Why::io("cannot read the networks"))?;
    match found {
        Some(found) => Ok(found),
        None if name == DEFAULT => {
            let asked = NewNetwork { name: DEFAULT.to_owned(), ..NewNetwork::default() };
            make_definition(places, asked)
        }
        None => Err(NetError::not_found(name)),
    }
}

fn make_definition(places: &Places, asked: NewNetwork) -> Result<Definition, NetError> {
    let (taken, _) = Socket::route()
        .and_then(|mut socket| links::taken(&mut socket))
        .map_err(Why::io("cannot read this host's routes"))?;
    let name = asked.name.clone();
    let made = definition::settle(places, asked, &taken).map_err(|error| NetError {
        message: format!("cannot make the network {name}: {error}"),
        hint: Some("rrun network create --subnet ADDRESS/BITS NAME".to_owned()),
    })?;
    definition::write(places, &made).map_err(Why::io("cannot write the network's definition"))?;
    Ok(made)
}

/// A network whose bridge is there.
struct UpNetwork {
    definition: Definition,
    mtu: u32,
}

/// Makes sure that the network's bridge, the rules, and the way through other programs' chains are
/// there.
fn ensure_up(
    places: &Places,
    network: Definition,
    notices: &mut Vec<String>,
) -> Result<UpNetwork, NetError> {
    let mut socket = Socket::route().map_err(Why::io("cannot speak to the kernel"))?;
    let mut table = Table::open(&places.runroot).map_err(Why::io("cannot speak to the kernel"))?;
    let known = places.up(&network.id).map_err(Why::io("cannot read the networks"))?;
    let link = links::find(&mut socket, &network.bridge)
        .map_err(Why::kernel("cannot ask for the bridge"))?;
    let has_rules = table.is_there().map_err(Why::kernel("cannot ask for the rules"))?;
    if let (Some(_), Some(link), true) = (&known, link.filter(|link| link.is_up), has_rules) {
        // The first one to join finds other programs' chains as they are now.
        let is_idle = addresses::owners(places, &network.id).is_ok_and(|all| all.is_empty());
        if is_idle {
            open_foreign(places, notices);
        }
        return Ok(UpNetwork { definition: network, mtu: link.mtu });
    }
    let mtu = bring_up(places, &mut socket, &network)?;
    if table.is_there().map_err(Why::kernel("cannot ask for the rules"))? {
        table
            .add_bridge(&rules_of(&network))
            .or_else(|_| table.build(&contents(places)?))
            .map_err(Why::kernel("cannot add the network to the rules"))?;
    } else {
        contents(places)
            .and_then(|contents| table.build(&contents))
            .map_err(Why::kernel("cannot make the rules"))?;
    }
    forward_packets(places).map_err(Why::io("cannot turn on net.ipv4.ip_forward"))?;
    open_foreign(places, notices);
    Ok(UpNetwork { definition: network, mtu })
}

/// Makes the bridge with its address. Answers its MTU.
fn bring_up(places: &Places, socket: &mut Socket, network: &Definition) -> Result<u32, NetError> {
    let failed = || Why::kernel("cannot make a bridge");
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
        });
    }
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
fn forward_packets(places: &Places) -> io::Result<()> {
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
    Table::open(&places.runroot)?.build(&contents(places)?)?;
    fs::write(SWITCH, "1")
}

fn open_foreign(places: &Places, notices: &mut Vec<String>) {
    if left_out("forward-chains-opened") {
        return;
    }
    match foreign::open(&table::name_of(&places.runroot)) {
        Ok(closed) => notices.extend(closed.into_iter().map(|one| {
            format!("the host's firewall may keep containers from their network: {}", one.0)
        })),
        Err(error) => notices.push(format!("cannot read the host's firewall: {error}")),
    }
}

fn rules_of(network: &Definition) -> BridgeRules {
    BridgeRules {
        name: network.bridge.clone(),
        subnet: network.subnet,
        is_internal: network.internal,
        is_connected: network.icc,
    }
}

/// Everything that the rules are to hold, from the files of all.
fn contents(places: &Places) -> io::Result<Contents> {
    let bridges = places.ups()?.iter().map(rules_of).collect();
    let attached = places.attached_all()?;
    let ports = attached.iter().flat_map(|(id, attached)| ports_of(id, attached)).collect();
    Ok(Contents { bridges, guarded: places.guarded(), ports })
}

/// Published ports lead to the container's address in its first network that leads out, or in its
/// first one.
fn ports_of(container: &str, attached: &Attached) -> Vec<PortRules> {
    let Some(to) = target_of(attached) else { return Vec::new() };
    let rules = |port: &Port| PortRules { port: *port, to, container: container.to_owned() };
    attached.ports.iter().map(rules).collect()
}

/// Where published ports lead.
pub fn target_of(attached: &Attached) -> Option<Ipv4Addr> {
    let networks = &attached.networks;
    let first = networks.iter().find(|one| !one.is_internal).or(networks.first());
    first.map(|one| one.ipv4)
}

fn publish_ports(places: &Places, id: &str, attached: &Attached) -> Result<(), NetError> {
    let rules = ports_of(id, attached);
    if rules.is_empty() {
        return Ok(());
    }
    let mut table = Table::open(&places.runroot).map_err(Why::io("cannot speak to the kernel"))?;
    // What a dead one has left in the way is not in the files any more.
    table
        .add_ports(&rules)
        .or_else(|_| table.build(&contents(places)?))
        .map_err(Why::kernel("cannot publish ports"))?;
    for port in attached.ports.iter().filter(|port| port.protocol == Protocol::Udp) {
        // Whoever sent to that port before is otherwise stuck with where it led. Where there is no
        // connection tracking nothing is remembered.
        if !left_out("udp-forgotten") {
            let _ = conntrack::forget_udp(port.host_port);
        }
    }
    Ok(())
}

fn choose_place(
    places: &Places,
    network: &Definition,
    membership: &Membership,
) -> Result<Endpoint, NetError> {
    let wish = membership.ip;
    let ipv4 = addresses::choose(places, network, wish).map_err(|error| {
        let wish = wish.map(|wish| wish.to_string()).unwrap_or_default();
        let (message, hint) = match error {
            NoAddress::Exhausted => (
                format!("no address is left in network {} ({})", network.name, network.subnet),
                Some("rrun network create --subnet ADDRESS/BITS NAME".to_owned()),
            ),
            NoAddress::Taken(owner) => (
                format!("--ip={wish} is container {owner:.12}'s"),
                Some(format!("rrun stop {owner:.12}")),
            ),
            NoAddress::Outside => (
                format!("--ip={wish} is not in {} of network {}", network.subnet, network.name),
                None,
            ),
            NoAddress::Io(error) => (format!("cannot take an address: {error}"), None),
        };
        NetError { message, hint }
    })?;
    let mac = definition::mac_of(ipv4).map(|byte| format!("{byte:02x}")).join(":");
    Ok(Endpoint {
        network_id: network.id.clone(),
        network: network.name.clone(),
        bridge: network.bridge.clone(),
        veth: format!("veth{}", &crate::random::id()[..8]),
        ipv4,
        prefix: network.subnet.prefix(),
        gateway: network.gateway,
        mac,
        names: membership.aliases.clone(),
        is_internal: network.internal,
        is_isolated: !network.icc,
    })
}

/// Undoes what [`attach`] has done for a container; what is not there is done. The container's
/// cables go with its namespace.
///
/// # Errors
/// When something has to stay; the container's `net.json` stays with it.
pub fn release(dirs: &Dirs, id: &str) -> io::Result<Option<Attached>> {
    let places = Places::of(dirs);
    // Without the lock: nobody but this container's keeper writes or removes its file.
    let Some(attached) = places.attached(id)? else { return Ok(None) };
    let _lock = places.lock()?;
    let rules = ports_of(id, &attached);
    if !rules.is_empty() {
        Table::open(&places.runroot)?.remove_ports(&rules)?;
    }
    for one in &attached.networks {
        addresses::give_back(&places, &one.network_id, one.ipv4, id)?;
    }
    places.forget_attached(id)?;
    Ok(Some(attached))
}

/// Takes away what the kernel has not taken away by itself: a container's cables, where somebody
/// keeps its network namespace. Waits for the kernel, and so is done when nobody waits for it.
pub fn cut(attached: &Attached) {
    let Ok(mut socket) = Socket::route() else { return };
    for one in &attached.networks {
        let _ = links::delete(&mut socket, &one.veth);
    }
}

/// Puts the rules back where somebody has flushed them. Costs nothing where no network is up.
///
/// # Errors
/// When they cannot be put back.
pub fn heal(dirs: &Dirs) -> io::Result<()> {
    let places = Places::of(dirs);
    if places.ups()?.is_empty() {
        return Ok(());
    }
    let mut table = Table::open(&places.runroot)?;
    if table.is_there()? {
        return Ok(());
    }
    let _lock = places.lock()?;
    if !table.is_there()? {
        table.build(&contents(&places)?)?;
        foreign::open(&table::name_of(&places.runroot))?;
    }
    Ok(())
}

/// What a container has of networks now; `None` where it has none of its own.
///
/// # Errors
/// When its file cannot be read.
pub fn attached(dirs: &Dirs, id: &str) -> io::Result<Option<Attached>> {
    Places::of(dirs).attached(id)
}

/// The addresses by which a published port is reached without a rule: held by a socket.
pub fn is_served_by_rules(port: &Port) -> bool {
    matches!(port.host_ip, IpAddr::V4(address) if !address.is_loopback())
}
