//! The one table of rules. It never changes while it is there; what changes are the members of its
//! sets, so that a port is one element, and what a killed monitor leaves is found by its comment.
//!
//! It decides what goes to containers and nothing else: its chains accept by policy, and a drop of
//! anybody else's holds.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use shared::Digest;

use super::netlink::{Message, Socket, attribute};
use super::nft::{
    self, APPEND, Element, FORWARD, Hook, INET, IPV4, Load, OUTPUT, POSTROUTING, PREROUTING, R0,
    RTN_LOCAL, Rule, STATE_INVALID, STATE_NEW, STATE_OF_OLD, STATUS_DNAT, Set, TABLE_USERDATA,
};
use super::ports::{Port, Protocol};
use super::subnet::Subnet;

/// What is in the table's comment. Another text: another program's rules, which are exchanged.
const VERSION: &str = "rrun 1";

/// Elements of one batch: it stays below what a socket takes without privileges over its size.
const BATCH: usize = 400;

/// A network that is up.
#[derive(Clone, Debug)]
pub(super) struct BridgeRules {
    pub(super) name: String,
    pub(super) subnet: Subnet,
    /// Nothing leaves it, nothing comes in from elsewhere.
    pub(super) is_internal: bool,
    /// Its members reach each other.
    pub(super) is_connected: bool,
}

/// A published port and where it leads.
#[derive(Clone, Debug)]
pub(super) struct PortRules {
    pub(super) port: Port,
    pub(super) to: Ipv4Addr,
    pub(super) container: String,
}

/// Everything that the sets hold, from the files.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) bridges: Vec<BridgeRules>,
    /// Interfaces that did not forward to each other before there was a network.
    pub(super) guarded: Vec<String>,
    pub(super) ports: Vec<PortRules>,
}

const SETS: [Set; 7] = [
    set("bridges", nft::TYPE_IFNAME, 16),
    set("closed", nft::TYPE_IFNAME, 16),
    set("within", nft::TYPE_IFNAME << 6 | nft::TYPE_IFNAME, 32),
    set("guarded", nft::TYPE_IFNAME, 16),
    Set { is_interval: true, ..set("subnets4", nft::TYPE_IPV4, 4) },
    Set {
        data: Some((nft::TYPE_IPV4 << 6 | nft::TYPE_PORT, 8)),
        ..set("ports4", (nft::TYPE_IPV4 << 6 | nft::TYPE_PROTOCOL) << 6 | nft::TYPE_PORT, 12)
    },
    Set {
        data: Some((nft::TYPE_IPV4 << 6 | nft::TYPE_PORT, 8)),
        ..set("anyport4", nft::TYPE_PROTOCOL << 6 | nft::TYPE_PORT, 8)
    },
];

const fn set(name: &'static str, key_type: u32, key_bytes: u32) -> Set {
    Set { name, key_type, key_bytes, data: None, is_interval: false }
}

/// A name that belongs to one run root: two stores on one host never touch each other's.
pub(super) fn name_of(runroot: &Path) -> String {
    match mark_of(runroot) {
        None => "rrun".to_owned(),
        Some(mark) => format!("rrun-{mark}"),
    }
}

/// What tells the names of another run root than root's own apart: eight digits.
pub(super) fn mark_of(runroot: &Path) -> Option<String> {
    if runroot == Path::new("/run/roadstead") {
        return None;
    }
    let digest = Digest::sha256(runroot.as_os_str().as_encoded_bytes());
    Some(digest.hex()[..8].to_owned())
}

/// A connection to the kernel's rules, for the table of one run root.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) socket: Socket,
    pub(super) name: String,
}

impl Table {
    pub(super) fn open(runroot: &Path) -> io::Result<Self> {
        Ok(Self { socket: Socket::netfilter()?, name: name_of(runroot) })
    }

    /// Whether the rules are there, as this program writes them.
    pub(super) fn is_there(&mut self) -> io::Result<bool> {
        match self.socket.get(nft::get_table(&self.name)) {
            Ok(payload) => {
                let remark = payload.get(4..).and_then(|rest| attribute(rest, TABLE_USERDATA));
                Ok(remark.and_then(nft::comment_of) == Some(VERSION))
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the table anew with everything in it, in one step: no packet meets half of it.
    pub(super) fn build(&mut self, contents: &Contents) -> io::Result<()> {
        let name = self.name.clone();
        // To delete what is not there fails; to add what is there does not.
        let mut batch = vec![
            nft::new_table(&name, VERSION),
            nft::delete_table(&name),
            nft::new_table(&name, VERSION),
        ];
        batch.extend((1..).zip(&SETS).map(|(number, set)| set.message(&name, number)));
        batch.extend(chains(&name));
        batch.extend(rules(&name));
        let elements = self.elements(contents);
        let (first, more) = elements.split_at(elements.len().min(BATCH));
        batch.extend_from_slice(first);
        self.socket.batch(batch)?;
        for part in more.chunks(BATCH) {
            self.socket.batch(part.to_vec())?;
        }
        Ok(())
    }

    fn elements(&self, contents: &Contents) -> Vec<Message> {
        let table = self.name.as_str();
        let mut all: Vec<Message> =
            contents.bridges.iter().flat_map(|bridge| bridge.elements(table, true)).collect();
        let guarded = contents.guarded.iter();
        all.extend(guarded.map(|name| Element::of(nft::ifname(name)).put(table, "guarded")));
        all.extend(contents.ports.iter().filter_map(|port| port.element(table, true)));
        all
    }

    pub(super) fn remove(&mut self) -> io::Result<()> {
        match self.socket.batch(vec![nft::delete_table(&self.name)]) {
            Err(batch) if batch.error.raw_os_error() != Some(libc::ENOENT) => Err(batch.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn add_bridge(&mut self, bridge: &BridgeRules) -> io::Result<()> {
        let batch = bridge.elements(&self.name, true);
        Ok(self.socket.batch(batch)?)
    }

    pub(super) fn add_ports(&mut self, ports: &[PortRules]) -> io::Result<()> {
        let batch = ports.iter().filter_map(|port| port.element(&self.name, true)).collect();
        Ok(self.socket.batch(batch)?)
    }

    /// Takes ports out; those that are not there are out already.
    pub(super) fn remove_ports(&mut self, ports: &[PortRules]) -> io::Result<()> {
        let batch = ports.iter().filter_map(|port| port.element(&self.name, false)).collect();
        self.each(batch)
    }

    /// All at once, or where something is missing one after the other.
    fn each(&mut self, batch: Vec<Message>) -> io::Result<()> {
        if self.socket.batch(batch.clone()).is_ok() {
            return Ok(());
        }
        for message in batch {
            match self.socket.batch(vec![message]) {
                Err(batch) if batch.error.raw_os_error() != Some(libc::ENOENT) => {
                    return Err(batch.into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl BridgeRules {
    fn elements(&self, table: &str, put: bool) -> Vec<Message> {
        let name = nft::ifname(&self.name);
        let mut all = vec![("bridges", Element::of(name.clone()))];
        if self.is_internal {
            all.push(("closed", Element::of(name.clone())));
        }
        if self.is_connected {
            all.push(("within", Element::of([name.clone(), name].concat())));
        }
        let after = self.subnet.last().to_bits().wrapping_add(1);
        all.push(("subnets4", Element::of(self.subnet.first().octets().to_vec())));
        let mut end = Element::of(after.to_be_bytes().to_vec());
        end.ends_interval = true;
        all.push(("subnets4", end));
        let message = |(set, element): (&str, Element)| {
            if put { element.put(table, set) } else { element.take(table, set) }
        };
        all.into_iter().map(message).collect()
    }
}

impl PortRules {
    /// `None`: a port that no rule serves, but the socket that holds it: loopback, IPv6.
    fn element(&self, table: &str, put: bool) -> Option<Message> {
        let std::net::IpAddr::V4(host) = self.port.host_ip else { return None };
        if host.is_loopback() {
            return None;
        }
        let (mut key, set) = match host {
            Ipv4Addr::UNSPECIFIED => (Vec::new(), "anyport4"),
            host => (host.octets().to_vec(), "ports4"),
        };
        let protocol = match self.port.protocol {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
        };
        let port = |number: u16| [number.to_be_bytes(), [0; 2]].concat();
        key.extend([protocol as u8, 0, 0, 0]);
        key.extend(port(self.port.host_port));
        let element = Element {
            key,
            data: Some([self.to.octets().to_vec(), port(self.port.port)].concat()),
            ends_interval: false,
            comment: Some(format!("c:{}", self.container)),
        };
        Some(if put { element.put(table, set) } else { element.take(table, set) })
    }
}

fn chains(table: &str) -> Vec<Message> {
    let hook = |kind, number, priority| Some(Hook { kind, number, priority });
    [
        ("publish", None),
        ("into", None),
        ("prerouting", hook("nat", PREROUTING, -100)),
        ("output", hook("nat", OUTPUT, -100)),
        ("postrouting", hook("nat", POSTROUTING, 100)),
        ("forward", hook("filter", FORWARD, 0)),
    ]
    .into_iter()
    .map(|(name, hook)| nft::chain(table, name, hook))
    .collect()
}

fn rules(table: &str) -> Vec<Message> {
    let from = |set: &str| Rule::new().load(Load::InInterface, R0).in_set(R0, set);
    let to = |set: &str| Rule::new().load(Load::OutInterface, R0).in_set(R0, set);
    let ipv4 = || Rule::new().load(Load::Family, R0).is(R0, &[IPV4]);
    let local = || Rule::new().load(Load::TargetKind, R0).is(R0, &RTN_LOCAL);
    [
        ("prerouting", local().jump("publish")),
        // A target on loopback belongs to the socket behind the port: with its source address the
        // packet could not leave the host (CVE-2020-8558 is what happens when it may).
        ("output", ipv4().load(Load::TargetIpv4Head, R0).is(R0, &[127]).back()),
        ("output", local().jump("publish")),
        (
            "publish",
            ipv4()
                .load(Load::TargetIpv4, R0)
                .load(Load::Protocol, R0 + 1)
                .load(Load::TargetPort, R0 + 2)
                .map(R0, "ports4")
                .dnat_ipv4(R0),
        ),
        (
            "publish",
            ipv4()
                .load(Load::Protocol, R0)
                .load(Load::TargetPort, R0 + 1)
                .map(R0, "anyport4")
                .dnat_ipv4(R0),
        ),
        (
            "postrouting",
            from("bridges").load(Load::OutInterface, R0).not_in_set(R0, "bridges").masquerade(),
        ),
        // Hairpin. By the source's range, since a packet that br_netfilter shows has come in by no
        // interface here.
        (
            "postrouting",
            to("bridges")
                .load(Load::ConnectionStatus, R0)
                .has(R0, STATUS_DNAT)
                .load(Load::Family, R0)
                .is(R0, &[IPV4])
                .load(Load::SourceIpv4, R0)
                .in_set(R0, "subnets4")
                .masquerade(),
        ),
        ("forward", to("bridges").jump("into")),
        ("forward", from("closed").drop()),
        ("forward", from("bridges").load(Load::ConnectionState, R0).has(R0, STATE_INVALID).drop()),
        (
            "forward",
            from("guarded")
                .load(Load::OutInterface, R0)
                .in_set(R0, "guarded")
                .load(Load::ConnectionState, R0)
                .has(R0, STATE_NEW)
                .drop(),
        ),
        ("into", Rule::new().load(Load::ConnectionState, R0).has(R0, STATE_OF_OLD).accept()),
        ("into", Rule::new().load(Load::ConnectionStatus, R0).has(R0, STATUS_DNAT).accept()),
        (
            "into",
            Rule::new()
                .load(Load::InInterface, R0)
                .load(Load::OutInterface, R0 + 4)
                .in_set(R0, "within")
                .accept(),
        ),
        ("into", Rule::new().drop()),
    ]
    .into_iter()
    .map(|(chain, rule)| rule.into(INET, table, chain, APPEND, None))
    .collect()
}
