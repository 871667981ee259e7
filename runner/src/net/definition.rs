//! Networks: how they are defined, and which range of addresses one gets that was given none.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::files::{Places, absent, list};
use super::links::Taken;
use super::mac::Mac;
use super::subnet::Subnet;
use super::table;
use crate::launch::state::read_json;

/// The form of [`Definition`] that this program writes.
const FORMAT: u32 = 1;

/// The network of containers that name none. It is called so by Docker too.
pub const DEFAULT: &str = "bridge";

/// `$ROOT/networks/<name>.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub format: u32,
    /// 64 lower-case hex digits.
    pub id: String,
    pub name: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// The bridge's name as an interface.
    pub bridge: String,
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
    /// Where containers' addresses are taken from, if not from everywhere.
    #[serde(default)]
    pub range: Option<Subnet>,
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Nothing leads out of it.
    #[serde(default)]
    pub internal: bool,
    /// Its members reach each other.
    #[serde(default = "yes")]
    pub icc: bool,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

/// What somebody asks for who makes a network.
#[derive(Clone, Debug, Default)]
pub struct NewNetwork {
    pub name: String,
    pub subnet: Option<Subnet>,
    pub gateway: Option<Ipv4Addr>,
    pub range: Option<Subnet>,
    pub mtu: Option<u32>,
    pub internal: bool,
    pub no_icc: bool,
    pub bridge: Option<String>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// Whether a network can be called so: a file is. Docker's rule for names.
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && name.len() <= 128
}

impl Definition {
    pub(super) fn mac(&self) -> Mac {
        Mac::of(self.gateway)
    }

    /// The one that is there without anybody making it.
    pub fn is_default(&self) -> bool {
        self.name == DEFAULT
    }
}

pub(super) fn read(places: &Places, name: &str) -> io::Result<Option<Definition>> {
    let found: Option<Definition> = read_json(&places.definitions.join(format!("{name}.json")))?;
    match found {
        Some(found) if found.format != FORMAT => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("network {name} was made by another version of rrun"),
        )),
        other => Ok(other),
    }
}

/// All that are defined, by name.
pub(super) fn all(places: &Places) -> io::Result<Vec<Definition>> {
    let mut found = Vec::new();
    for path in list(&places.definitions)? {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if let (Some(name), Some("json")) = (stem, path.extension().and_then(|end| end.to_str())) {
            found.extend(read(places, name)?);
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Durable when it returns.
pub(super) fn forget(places: &Places, name: &str) -> io::Result<()> {
    absent(fs::remove_file(places.definitions.join(format!("{name}.json"))))?;
    fs::File::open(&places.definitions)?.sync_all()
}

/// Durable when it returns.
pub(super) fn write(places: &Places, definition: &Definition) -> io::Result<()> {
    fs::create_dir_all(&places.definitions)?;
    let temporary = places.definitions.join(format!(".{}.tmp", definition.name));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(definition)?)?;
    file.sync_all()?;
    fs::rename(&temporary, places.definitions.join(format!("{}.json", definition.name)))?;
    fs::File::open(&places.definitions)?.sync_all()
}

/// A definition of what is asked for, with a free range where none is given.
pub(super) fn settle(
    places: &Places,
    asked: NewNetwork,
    taken: &[Taken],
) -> Result<Definition, Unsettled> {
    let known = all(places).unwrap_or_default();
    let is_default = asked.name == DEFAULT;
    let id = crate::random::id();
    let subnet = match asked.subnet {
        Some(subnet) => check_subnet(subnet, &known, taken)?,
        None => free(is_default, &known, taken).ok_or(Unsettled::NoRange)?,
    };
    let gateway = asked.gateway.unwrap_or_else(|| (*subnet.hosts().start()).into());
    if !subnet.hosts().contains(&gateway.to_bits()) {
        return Err(Unsettled::Gateway(gateway, subnet));
    }
    if let Some(range) = asked.range.filter(|range| !subnet.holds(*range)) {
        return Err(Unsettled::Range(range, subnet));
    }
    let bridge =
        asked.bridge.unwrap_or_else(|| match (is_default, table::mark_of(&places.runroot)) {
            (true, None) => "rrun0".to_owned(),
            (true, Some(mark)) => format!("rrun-{mark}"),
            (false, _) => format!("rrun-{}", &id[..8]),
        });
    if let Some(other) = known.iter().find(|other| other.bridge == bridge) {
        return Err(Unsettled::Bridge(bridge, other.name.clone()));
    }
    Ok(Definition {
        format: FORMAT,
        gateway,
        id,
        name: asked.name,
        created: crate::timestamp::Timestamp::now().to_rfc3339(),
        bridge,
        subnet,
        range: asked.range,
        mtu: asked.mtu,
        internal: asked.internal,
        icc: !asked.no_icc,
        options: asked.options,
        labels: asked.labels,
    })
}

/// Why a network cannot be made as asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsettled {
    #[error("every range of addresses that networks are given is in use on this host")]
    NoRange,
    #[error("{0} has no room for a gateway and a container")]
    Small(Subnet),
    #[error("{0} is not a range of addresses that machines have")]
    Special(Subnet),
    /// Docker's words.
    #[error("Pool overlaps with other one on this address space: {0} is network {1}'s")]
    OfNetwork(Subnet, String),
    #[error("Pool overlaps with other one on this address space: this host has a route to {0}")]
    OfHost(Subnet),
    #[error("the gateway {0} is not an address for a machine in {1}")]
    Gateway(Ipv4Addr, Subnet),
    #[error("the range {0} is not in {1}")]
    Range(Subnet, Subnet),
    #[error("the bridge {0} is network {1}'s")]
    Bridge(String, String),
}

/// That a network can have the range.
fn check_subnet(
    subnet: Subnet,
    known: &[Definition],
    taken: &[Taken],
) -> Result<Subnet, Unsettled> {
    if subnet.prefix() > 30 {
        return Err(Unsettled::Small(subnet));
    }
    let first = subnet.first();
    let is_special = first.is_loopback() || first.octets()[0] == 0 || first.octets()[0] >= 224;
    if is_special || subnet.prefix() < 8 {
        return Err(Unsettled::Special(subnet));
    }
    if let Some(other) = known.iter().find(|other| other.subnet.overlaps(subnet)) {
        return Err(Unsettled::OfNetwork(other.subnet, other.name.clone()));
    }
    match taken.iter().find(|other| other.subnet.overlaps(subnet)) {
        Some(other) => Err(Unsettled::OfHost(other.subnet)),
        None => Ok(subnet),
    }
}

/// The first range that nothing on this host has a use for. Those that other programs take by
/// default, and show no route of while unused, are not among these: 10.88/16 (Podman), 10.96/12 and
/// 10.244/16 (Kubernetes), 10.42/15 (k3s), 172.17/16 and following (Docker).
fn free(is_default: bool, known: &[Definition], taken: &[Taken]) -> Option<Subnet> {
    let (second, size, prefix): (_, u32, u8) =
        if is_default { (64..=87, 1 << 12, 20) } else { (128..=191, 1 << 8, 24) };
    second
        .flat_map(|second| {
            let start = Ipv4Addr::new(10, second, 0, 0).to_bits();
            (start..start + (1 << 16)).step_by(size as usize)
        })
        .filter_map(|start| Subnet::new(start.into(), prefix))
        .find(|subnet| {
            !known.iter().any(|other| other.subnet.overlaps(*subnet))
                && !taken.iter().any(|other| other.subnet.overlaps(*subnet))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_are_in_use_are_passed_over() {
        let taken = |text: &str| vec![Taken { subnet: text.parse().unwrap(), interface: 1 }];
        for (is_default, route, expected) in [
            (true, "192.168.0.0/16", "10.64.0.0/20"),
            (true, "10.64.0.0/15", "10.66.0.0/20"),
            (true, "10.64.20.1/32", "10.64.0.0/20"),
            (false, "192.168.0.0/16", "10.128.0.0/24"),
            (false, "10.128.0.0/24", "10.128.1.0/24"),
        ] {
            let found = free(is_default, &[], &taken(route)).unwrap();
            assert_eq!(found.to_string(), expected, "{route}");
        }
        assert!(free(true, &[], &taken("10.0.0.0/8")).is_none());
    }
}
