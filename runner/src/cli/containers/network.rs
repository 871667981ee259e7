//! `port`, and what `ps` and `inspect` show of a container's networks: words and keys are Docker's.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

use super::{connect_running, find};
use crate::cli::flags::{Arguments, FlagsEnd};
use crate::cli::{Globals, Verb, print_line};
use crate::container::{Membership, Network, Record};
use crate::failure::Failure;
use crate::net::{self, Attached, Endpoint, Port, Publish};

pub(super) const VERBS: &[Verb] = &[Verb {
    names: &["port", "container port"],
    operands: "CONTAINER [PORT[/udp]]",
    operands_min: 1,
    operands_max: 2,
    about: "Show where a container's ports are published",
    details: "",
    flags: &[],
    flags_end: FlagsEnd::AtDashes,
    run: port,
}];

fn port(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let name = &arguments.operands[0];
    let container = find(&globals.store()?, name)?;
    connect_running(globals, &container.id)?;
    let attached = attached(globals, &container.id);
    let Some(text) = arguments.operands.get(1) else {
        for port in sorted(&attached) {
            print_line(&format!("{} -> {}", port.exposed(), port.host()))?;
        }
        return Ok(0);
    };
    let wanted = net::exposed(text)
        .map_err(|error| Failure::new(format!("no port {text}")).because(&error).exits(1))?;
    let found: Vec<&Port> =
        sorted(&attached).into_iter().filter(|port| wanted.contains(&port.exposed())).collect();
    if found.is_empty() {
        return Err(Failure::new(format!("no public port '{text}' published for {name}"))
            .hint(format!("rrun port {name}"))
            .exits(1));
    }
    for port in found {
        print_line(&port.host().to_string())?;
    }
    Ok(0)
}

/// What a container has of networks now; nothing while it does not run.
pub(super) fn attached(globals: &Globals, id: &str) -> Attached {
    net::attached(&globals.dirs, id).unwrap_or(None).unwrap_or_default()
}

fn sorted(attached: &Attached) -> Vec<&Port> {
    let mut ports: Vec<&Port> = attached.ports.iter().collect();
    ports.sort_by_key(|port| (port.exposed(), port.host_ip));
    ports
}

/// `0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 443/tcp`
pub(super) fn ports_text(record: &Record, attached: &Attached) -> String {
    let published = sorted(attached);
    let unpublished = record
        .exposed
        .iter()
        .filter(|exposed| !published.iter().any(|port| port.exposed() == **exposed));
    let mut words: Vec<String> =
        published.iter().map(|port| format!("{}->{}", port.host(), port.exposed())).collect();
    words.extend(unpublished.map(ToString::to_string));
    words.join(", ")
}

/// `HostConfig.PortBindings`: what was asked for.
pub(super) fn bindings(record: &Record) -> Value {
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for Publish { host_ip, host_ports, exposed } in &record.ports {
        let host_port = match host_ports {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        let host_ip = host_ip.map(|ip| ip.to_string()).unwrap_or_default();
        let binding = json!({"HostIp": host_ip, "HostPort": host_port});
        all.entry(exposed.to_string()).or_default().push(binding);
    }
    json!(all)
}

/// `Config.ExposedPorts`
pub(super) fn exposed(record: &Record) -> Option<Value> {
    let ports = record.exposed.iter().map(|port| (port.to_string(), json!({})));
    let ports: Map<String, Value> = ports.collect();
    (!ports.is_empty()).then_some(Value::Object(ports))
}

/// `NetworkSettings.Ports`
pub(super) fn ports(record: &Record, attached: &Attached, is_running: bool) -> Map<String, Value> {
    let mut ports: Map<String, Value> = Map::new();
    let of_network = matches!(record.network, Network::Bridge(_));
    for exposed in record.exposed.iter().filter(|_| is_running && of_network) {
        ports.insert(exposed.to_string(), Value::Null);
    }
    for port in sorted(attached) {
        let binding =
            json!({"HostIp": port.host_ip.to_string(), "HostPort": port.host_port.to_string()});
        let entry = ports.entry(port.exposed().to_string()).or_insert(Value::Null);
        match entry {
            Value::Array(all) => all.push(binding),
            other => *other = json!([binding]),
        }
    }
    ports
}

/// What one of `NetworkSettings.Networks` has of its own.
pub(super) fn endpoint(record: &Record, place: &Endpoint) -> Value {
    json!({
        "Aliases": some(&place.aliases),
        "DNSNames": some(&place.names),
        "NetworkID": place.network_id,
        "EndpointID": record.id,
        "IPAMConfig": ipam(place.wish),
        "IPAddress": place.ipv4.to_string(),
        "IPPrefixLen": place.prefix,
        "Gateway": if place.is_internal { String::new() } else { place.gateway.to_string() },
        "MacAddress": place.mac,
    })
}

/// The same of a network that the container is not in now.
pub(super) fn wanted(membership: &Membership) -> Value {
    json!({ "Aliases": some(&membership.aliases), "IPAMConfig": ipam(membership.ip) })
}

fn some(all: &[String]) -> Option<&[String]> {
    (!all.is_empty()).then_some(all)
}

fn ipam(wish: Option<Ipv4Addr>) -> Option<Value> {
    wish.map(|address| json!({ "IPv4Address": address.to_string() }))
}
