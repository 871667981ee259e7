//! Networks: bridges, addresses, the rules of one nf_tables table, published ports.
//!
//! What a container has of networks stands in `$RUN/c/<id>/net.json` before the kernel is touched.
//! So whoever finds the file, the monitor at the end or the next command after a kill, undoes what
//! it lists and takes "not there" for done. The rules are made anew from these files whenever they
//! are not there: another program may have flushed them.

mod addresses;
mod conntrack;
mod definition;
mod dns;
mod error;
mod files;
mod foreign;
pub mod helper;
mod inside;
mod links;
mod mac;
mod manage;
mod names;
mod netlink;
mod nft;
mod ports;
pub mod resolver;
mod subnet;
mod table;
mod up;

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

pub use self::definition::{DEFAULT, Definition, NewNetwork, is_name};
pub use self::error::NetError;
pub use self::files::{Attached, Endpoint};
pub use self::inside::Inside;
pub use self::mac::Mac;
pub use self::manage::{all, create, find, idle_down, members, remove};
pub use self::ports::{Exposed, Port, PortError, Protocol, Publish, exposed, publish};
pub use self::resolver::Resolver;
pub use self::subnet::Subnet;

use self::addresses::NoAddress;
use self::error::Why;
use self::files::Places;
use self::links::Cable;
use self::names::Names;
use self::netlink::Socket;
use self::ports::Held;
use self::table::{Contents, PortRules, Table};
use self::up::{ensure_up, rules_of};
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
    places: Places,
    /// Until it is the monitor's.
    pub rules: Option<Rules>,
}

/// A connection to the kernel's rules. To close one waits for some 10 ms where somebody has just
/// taken a member out of a set: the kernel frees these first, after everybody's turn. So it is kept
/// until nobody waits for its owner.
#[derive(Debug)]
pub struct Rules(Table);

/// What a container had of networks, and who knows of it.
#[derive(Debug)]
pub struct Released {
    attached: Attached,
    rules: Option<Rules>,
}

/// How long the kernel takes to free what was taken out, with room to spare.
const FREED_AFTER: Duration = Duration::from_millis(50);

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
                    mac: one.mac,
                    mtu: self.mtu,
                    alias: &format!("rrun {container}"),
                    isolated: one.is_isolated,
                };
                links::lay(&mut socket, &cable, namespace.as_fd())?;
            }
            Ok(())
        };
        lay().map_err(Why::kernel("cannot connect the container to its network", "veth"))?;
        live_on_after("connected");
        Ok(())
    }

    /// Makes the resolver of the container's names, in its network namespace, that of process
    /// `pid`. `servers`: whom it asks for what is outside.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open_resolver(&self, pid: i32, servers: Vec<IpAddr>) -> Result<Resolver, NetError> {
        let open = || -> io::Result<Resolver> {
            let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
            let with_names = self.attached.networks.iter().filter(|one| !one.names.is_empty());
            let names = with_names.map(|one| Names::open(&self.places, one));
            let leads_out = self.attached.networks.iter().any(|one| !one.is_internal);
            let servers = if leads_out { servers } else { Vec::new() };
            resolver::open(&namespace, names.collect::<io::Result<_>>()?, servers)
        };
        Ok(open().map_err(Why::kernel("cannot give the container a resolver", "nf_tables"))?)
    }

    /// What its monitor has to serve: published ports, and names.
    pub fn into_served(self, resolver: Option<Resolver>) -> Option<Served> {
        let to = target_of(&self.attached)?;
        let ports: Vec<_> = self.held.into_iter().map(|held| (held.socket, held.port)).collect();
        (!ports.is_empty() || resolver.is_some()).then_some(Served { to, ports, resolver })
    }
}

/// The sockets that are served for a container.
#[derive(Debug)]
pub struct Served {
    /// The container.
    pub to: Ipv4Addr,
    pub ports: Vec<(OwnedFd, Port)>,
    pub resolver: Option<Resolver>,
}

impl Served {
    /// All of them, in the order in which the helper gets them.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let of_names = self.resolver.iter().flat_map(|one| [one.udp.as_fd(), one.tcp.as_fd()]);
        self.ports.iter().map(|(socket, _)| socket.as_fd()).chain(of_names)
    }
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
    let lock = places.lock().map_err(Why::io("cannot lock the networks"))?;
    let mut table = Table::open(&places.runroot)
        .map_err(Why::kernel("cannot speak to the kernel", "nf_tables"))?;
    let mut notices = Vec::new();
    let mut mtu = u32::MAX;
    let mut networks = Vec::new();
    for membership in memberships {
        let network = manage::named(&places, &membership.network)?;
        let up = ensure_up(&places, &mut table, network, &mut notices)?;
        mtu = mtu.min(up.mtu);
        networks.push((up.definition, membership));
    }
    let mut attached = Attached { networks: Vec::new(), ports: Vec::new() };
    attached.ports.extend(held.iter().map(|held| held.port));
    for (network, membership) in &networks {
        attached.networks.push(choose_place(&places, record, network, membership)?);
    }
    if attached.networks.iter().all(|one| one.is_internal) {
        // Nothing of it is reached from elsewhere, by its ports neither.
        ports::only_here(&held).map_err(Why::io("cannot keep its ports to this host"))?;
    }
    // From here on there is something to undo, and the file says what.
    let take = || -> io::Result<()> {
        places.write_attached(&record.id, &attached)?;
        for ((network, _), place) in networks.iter().zip(&attached.networks) {
            addresses::take(&places, network, place.ipv4, &record.id)?;
            names::enter(&places, place, &record.id)?;
        }
        Ok(())
    };
    take().map_err(Why::io("cannot take an address"))?;
    live_on_after("addresses");
    publish_ports(&places, &mut table, &record.id, &attached)?;
    live_on_after("published");
    drop(lock);
    Ok(Attachment { attached, notices, held, mtu, places, rules: Some(Rules(table)) })
}

/// Where a test lets this process be killed.
fn live_on_after(step: &str) {
    if left_out(&format!("net-lives-after-{step}")) {
        let _ = crate::sys::process::kill(std::process::id().cast_signed(), libc::SIGKILL);
    }
}

/// Everything that the rules are to hold, from the files of all.
fn contents(places: &Places) -> io::Result<Contents> {
    let bridges = places.ups()?.iter().map(rules_of).collect();
    let attached = places.attached_all()?;
    let ports = attached.iter().flat_map(|(id, attached)| ports_of(id, attached)).collect();
    Ok(Contents { bridges, guarded: places.guarded(), ports })
}

/// The rules for a container's published ports. Where it is in internal networks alone there are
/// none: this host reaches them by its loopback, and nobody else does.
fn ports_of(container: &str, attached: &Attached) -> Vec<PortRules> {
    let leads_out = attached.networks.iter().find(|one| !one.is_internal);
    let Some(place) = leads_out else { return Vec::new() };
    let rules =
        |port: &Port| PortRules { port: *port, to: place.ipv4, container: container.to_owned() };
    attached.ports.iter().map(rules).collect()
}

/// Where published ports lead: to the first network that leads out, or to the first one.
pub fn target_of(attached: &Attached) -> Option<Ipv4Addr> {
    let networks = &attached.networks;
    let first = networks.iter().find(|one| !one.is_internal).or(networks.first());
    first.map(|one| one.ipv4)
}

/// This host, as a container reaches it.
pub fn gateway_of(attached: &Attached) -> Option<Ipv4Addr> {
    let networks = &attached.networks;
    let first = networks.iter().find(|one| !one.is_internal).or(networks.first());
    first.map(|one| one.gateway)
}

fn publish_ports(
    places: &Places,
    table: &mut Table,
    id: &str,
    attached: &Attached,
) -> Result<(), NetError> {
    let rules = ports_of(id, attached);
    if rules.is_empty() {
        return Ok(());
    }
    // What a dead one has left in the way is not in the files any more.
    table
        .add_ports(&rules)
        .or_else(|_| table.build(&contents(places)?))
        .map_err(Why::kernel("cannot publish ports", "nf_tables"))?;
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
    record: &Record,
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
        NetError { message, hint, ..NetError::default() }
    })?;
    Ok(Endpoint {
        network_id: network.id.clone(),
        network: network.name.clone(),
        bridge: network.bridge.clone(),
        veth: format!("veth{}", &crate::random::id()[..8]),
        ipv4,
        prefix: network.subnet.prefix(),
        gateway: network.gateway,
        mac: membership.mac.unwrap_or_else(|| Mac::of(ipv4)),
        aliases: membership.aliases.clone(),
        names: names_of(record, network, membership),
        wish,
        is_internal: network.internal,
        is_isolated: !network.icc,
    })
}

/// What a container is found by. The default network has no names, as Docker's.
fn names_of(record: &Record, network: &Definition, membership: &Membership) -> Vec<String> {
    if network.is_default() {
        return Vec::new();
    }
    let mut all: Vec<String> = Vec::new();
    let id = record.id[..12].to_owned();
    for name in [record.name.clone()].into_iter().chain(membership.aliases.clone()).chain([id]) {
        let name = name.to_ascii_lowercase();
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// Undoes what [`attach`] has done for a container; what is not there is done. The container's
/// cables go with its namespace.
///
/// # Errors
/// When something has to stay; the container's `net.json` stays with it.
pub fn release(dirs: &Dirs, id: &str, mut rules: Option<Rules>) -> io::Result<Option<Released>> {
    let places = Places::of(dirs);
    // Without the lock: nobody but this container's keeper writes or removes its file.
    let Some(attached) = places.attached(id)? else { return Ok(None) };
    let _lock = places.lock()?;
    let ports = ports_of(id, &attached);
    if !ports.is_empty() {
        let Rules(table) = match &mut rules {
            Some(rules) => rules,
            None => rules.insert(Rules(Table::open(&places.runroot)?)),
        };
        table.remove_ports(&ports)?;
    }
    for one in &attached.networks {
        names::leave(&places, one)?;
        addresses::give_back(&places, &one.network_id, one.ipv4, id)?;
    }
    places.forget_attached(id)?;
    Ok(Some(Released { attached, rules }))
}

/// Takes away what the kernel has not taken away by itself: a container's cables, where somebody
/// keeps its network namespace. Waits for the kernel, and so is done when nobody waits for it.
pub fn cut(released: &Released) {
    let Ok(mut socket) = Socket::route() else { return };
    for one in &released.attached.networks {
        let _ = links::delete(&mut socket, &one.veth);
    }
}

/// Closes what [`Rules`] are, when that waits for nothing any more: the next container's changes
/// would wait along.
pub fn let_go(released: Released) {
    if released.rules.is_some() && !released.attached.ports.is_empty() {
        std::thread::sleep(FREED_AFTER);
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
        foreign::open(&mut table)?;
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
