//! `network create|ls|inspect|rm|prune`: words, columns and keys are Docker's.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::cli::flags::{Arguments, Flag, FlagsEnd, truth};
use crate::cli::listing::{LABEL, Listing, print_inspected};
use crate::cli::{Globals, Verb, confirm, print_line, values};
use crate::container::{Network, Record};
use crate::failure::Failure;
use crate::images::Store;
use crate::net::{self, Definition, Endpoint, NetError, NewNetwork, Subnet};
use crate::timestamp::Timestamp;

pub(super) const VERBS: &[Verb] = &[
    Verb {
        names: &["network create"],
        operands: "NETWORK",
        operands_min: 1,
        operands_max: 1,
        about: "Make a network",
        details: CREATE_DETAILS,
        flags: &[
            Flag::one("driver", "bridge", "the only one").short('d'),
            Flag::many("subnet", "ADDRESS/BITS", "its range of addresses; else one that is free"),
            Flag::many("gateway", "ADDRESS", "this host's address in it; else the first"),
            Flag::many("ip-range", "ADDRESS/BITS", "where containers' addresses are taken from"),
            Flag::switch("internal", "nothing leads out of it"),
            Flag::many("opt", "NAME=VALUE", "icc=false, mtu=BYTES, or Docker's names of them")
                .short('o'),
            Flag::many("label", "NAME[=VALUE]", "a label"),
            Flag::switch("ipv4", "addresses of IPv4 (true)"),
            Flag::switch("attachable", ""),
            Flag::one("ipam-driver", "default", ""),
            Flag::one("scope", "local", ""),
            Flag::switch("ipv6", ""),
            Flag::switch("ingress", ""),
            Flag::switch("config-only", ""),
            Flag::one("config-from", "NETWORK", ""),
            Flag::many("ipam-opt", "NAME=VALUE", ""),
            Flag::many("aux-address", "NAME=ADDRESS", ""),
        ],
        flags_end: FlagsEnd::AtDashes,
        run: create,
    },
    Verb {
        names: &["network ls", "network list"],
        operands: "",
        operands_min: 0,
        operands_max: 0,
        about: "List networks",
        details: "Filters: name, id, driver, scope, type (custom, builtin), label, dangling.",
        flags: &[
            Flag::switch("quiet", "ids only").short('q'),
            Flag::switch("no-trunc", "whole ids"),
            Flag::many("filter", "NAME=VALUE", "only those").short('f'),
            Flag::one("format", "table|json|TEMPLATE", "how they are shown"),
        ],
        flags_end: FlagsEnd::AtDashes,
        run: list,
    },
    Verb {
        names: &["network inspect"],
        operands: "NETWORK [NETWORK…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Show everything known of networks",
        details: "",
        flags: &[
            Flag::one("format", "json|TEMPLATE", "what of it is shown").short('f'),
            Flag::switch("verbose", "").short('v'),
        ],
        flags_end: FlagsEnd::AtDashes,
        run: inspect,
    },
    Verb {
        names: &["network rm", "network remove"],
        operands: "NETWORK [NETWORK…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Remove networks that no running container is in",
        details: "",
        flags: &[Flag::switch("force", "one that is not there is no error").short('f')],
        flags_end: FlagsEnd::AtDashes,
        run: remove,
    },
    Verb {
        names: &["network prune"],
        operands: "",
        operands_min: 0,
        operands_max: 0,
        about: "Remove networks that no container names, and bridges that nobody is on",
        details: "Filters: label, label!, until.",
        flags: &[
            Flag::switch("force", "do not ask").short('f'),
            Flag::many("filter", "NAME=VALUE", "only those"),
        ],
        flags_end: FlagsEnd::AtDashes,
        run: prune,
    },
];

const CREATE_DETAILS: &str = "\
Containers in it (`rrun run --network NAME`) reach each other, and the outside unless it is internal;
those of other networks reach them by published ports only.

  rrun network create app
  rrun network create --subnet 10.200.1.0/24 --gateway 10.200.1.254 office
  rrun network create --internal -o icc=false quiet";

/// What there is beside networks of this program's making.
const BUILT_IN: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

/// The id of one of those: always the same.
fn built_in_id(name: &str) -> String {
    shared::Digest::sha256(name.as_bytes()).hex().to_owned()
}

fn refused(error: NetError) -> Failure {
    Failure::from(error).exits(1)
}

fn create(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let name = &arguments.operands[0];
    if !net::is_name(name) {
        let why = "a name has letters, digits, and _ . - after the first one";
        return Err(Failure::new(format!("network {name}: {why}")).exits(1));
    }
    let asked = asked(name, arguments).map_err(|failure| failure.exits(1))?;
    // What others have left goes first.
    globals.store()?;
    let made = net::create(&globals.dirs, asked).map_err(refused)?;
    print_line(&made.id).map(|()| 0)
}

/// Flags whose feature is not here, and the values of them that mean the default.
const UNSUPPORTED: [(&str, &[&str], &str); 10] = [
    ("driver", &["bridge", ""], "there is only bridge"),
    ("ipam-driver", &["default", ""], "there is only default"),
    ("scope", &["local", ""], "there is only local"),
    ("ipv4", &["true"], "a network has addresses of IPv4"),
    ("ipv6", &["false"], "networks have no IPv6 yet"),
    ("ingress", &["false"], "there is no swarm"),
    ("config-only", &["false"], "give the options when the network is made"),
    ("config-from", &[""], "give the options when the network is made"),
    ("ipam-opt", &[], "there are no such options"),
    ("aux-address", &[], "leave those addresses out with --ip-range"),
];

fn asked(name: &str, arguments: &Arguments) -> Result<NewNetwork, Failure> {
    for (flag, harmless, why) in UNSUPPORTED {
        if let Some(value) = arguments.value(flag).filter(|value| !harmless.contains(value)) {
            return Err(Failure::new(format!("--{flag}={value} is not supported: {why}")));
        }
    }
    let one = |flag: &'static str| -> Result<Option<&str>, Failure> {
        let mut all = arguments.values(flag).filter(|value| !value.is_empty());
        match (all.next(), all.next()) {
            (_, Some(second)) => {
                Err(Failure::new(format!("--{flag}={second}: a network has one of these")))
            }
            (first, None) => Ok(first),
        }
    };
    let range = |flag: &'static str| -> Result<Option<Subnet>, Failure> {
        let parse = |text: &str| {
            text.parse::<Subnet>()
                .map_err(|error| Failure::new(format!("--{flag}={text}")).because(&error))
        };
        one(flag)?.map(parse).transpose()
    };
    let mut labels = BTreeMap::new();
    for text in arguments.values("label") {
        values::label("label", text, &mut labels)?;
    }
    let gateway = one("gateway")?.map(|text| values::ipv4("gateway", text)).transpose()?;
    let mut network = NewNetwork {
        name: name.to_owned(),
        subnet: range("subnet")?,
        gateway,
        range: range("ip-range")?,
        internal: arguments.has("internal"),
        labels,
        ..NewNetwork::default()
    };
    for option in arguments.values("opt") {
        take_option(&mut network, option)?;
    }
    if network.subnet.is_none() && (gateway.is_some() || network.range.is_some()) {
        return Err(Failure::new("--gateway and --ip-range need --subnet, which they lie in"));
    }
    Ok(network)
}

/// `-o NAME=VALUE`, by Docker's names or their last words.
fn take_option(network: &mut NewNetwork, option: &str) -> Result<(), Failure> {
    let wrong = |why: &str| Failure::new(format!("--opt={option}: {why}"));
    let (name, value) = option.split_once('=').ok_or_else(|| wrong("it is NAME=VALUE"))?;
    let switch = || truth(value).ok_or_else(|| wrong("it takes true or false"));
    match name {
        "com.docker.network.bridge.enable_icc" | "icc" => network.no_icc = !switch()?,
        "com.docker.network.driver.mtu" | "mtu" => {
            network.mtu = Some(values::number("opt mtu", value, 576, 65_535)?);
        }
        "com.docker.network.bridge.name" => {
            let valid = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            // What stands in other programs' chains for us goes by how the name begins.
            if !value.starts_with("rrun") || value.len() > 15 || !value.bytes().all(valid) {
                return Err(wrong("a bridge's name begins with rrun and has at most 15 letters"));
            }
            network.bridge = Some(value.to_owned());
        }
        "com.docker.network.bridge.enable_ip_masquerade" if switch()? => {}
        "com.docker.network.bridge.default_bridge" if !switch()? => {}
        _ => {
            return Err(wrong("there is no such option").hint(
                "there is: icc=true|false, mtu=BYTES, com.docker.network.bridge.name=rrun…",
            ));
        }
    }
    network.options.insert(name.to_owned(), value.to_owned());
    Ok(())
}

/// A row of `ls`, with what filters look at.
struct Row {
    id: String,
    name: String,
    driver: &'static str,
    created: String,
    labels: BTreeMap<String, String>,
    internal: bool,
}

fn rows(globals: &Globals) -> Result<Vec<Row>, Failure> {
    let own = net::all(&globals.dirs).map_err(refused)?.into_iter().map(|one| Row {
        id: one.id,
        name: one.name,
        driver: "bridge",
        created: one.created,
        labels: one.labels,
        internal: one.internal,
    });
    let rest = BUILT_IN.map(|(name, driver)| Row {
        id: built_in_id(name),
        name: name.to_owned(),
        driver,
        created: String::new(),
        labels: BTreeMap::new(),
        internal: false,
    });
    let mut all: Vec<Row> = own.chain(rest).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

fn is_custom(name: &str) -> bool {
    name != net::DEFAULT && !BUILT_IN.iter().any(|(built_in, _)| *built_in == name)
}

fn list(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let mut all = rows(globals)?;
    for filter in arguments.values("filter") {
        let wrong = || {
            Failure::new(format!("--filter={filter}: there is no such filter"))
                .hint("there is: name, id, driver, scope, type, label, dangling")
                .exits(1)
        };
        let (name, value) = filter.split_once('=').ok_or_else(wrong)?;
        match name {
            "name" => all.retain(|row| row.name.contains(value)),
            "id" => all.retain(|row| row.id.starts_with(value)),
            "driver" => all.retain(|row| row.driver == value),
            "scope" => all.retain(|_| value == "local"),
            "label" => all.retain(|row| has_label(&row.labels, value)),
            "type" if value == "custom" => all.retain(|row| is_custom(&row.name)),
            "type" if value == "builtin" => all.retain(|row| !is_custom(&row.name)),
            "dangling" => {
                let wanted = truth(value).ok_or_else(wrong)?;
                let used = used(&store)?;
                all.retain(|row| (is_custom(&row.name) && !used.contains(&row.name)) == wanted);
            }
            _ => return Err(wrong()),
        }
    }
    let shown_id = |id: &str| match arguments.has("no-trunc") {
        true => id.to_owned(),
        false => id[..12].to_owned(),
    };
    if arguments.has("quiet") && !arguments.given("format") {
        for row in &all {
            print_line(&shown_id(&row.id))?;
        }
        return Ok(0);
    }
    let rows: Vec<Value> = all
        .iter()
        .map(|row| {
            let labels: Vec<String> =
                row.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let created = Timestamp::parse(&row.created);
            json!({
                "CreatedAt": created.map_or_else(String::new, Timestamp::to_readable),
                "Driver": row.driver,
                "ID": shown_id(&row.id),
                "IPv4": "true",
                "IPv6": "false",
                "Internal": row.internal.to_string(),
                LABEL: row.labels,
                "Labels": labels.join(","),
                "Name": row.name,
                "Scope": "local",
            })
        })
        .collect();
    let listing = Listing {
        fields: &[
            ("ID", "NETWORK ID"),
            ("Name", "NAME"),
            ("Driver", "DRIVER"),
            ("Scope", "SCOPE"),
            ("IPv4", "IPV4"),
            ("IPv6", "IPV6"),
            ("Internal", "INTERNAL"),
            ("Labels", "LABELS"),
            ("CreatedAt", "CREATED AT"),
        ],
        shown: vec!["ID", "Name", "Driver", "Scope"],
    };
    listing.print(&rows, arguments.value("format"))?;
    Ok(0)
}

fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|known| known == value),
        None => labels.contains_key(wanted),
    }
}

/// The names of networks that containers name, whether they run or not.
fn used(store: &Store) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for container in store.containers()? {
        if let Ok(Record { network: Network::Bridge(memberships), .. }) = container.record() {
            all.extend(memberships.into_iter().map(|one| one.network));
        }
    }
    Ok(all)
}

fn inspect(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &arguments.operands {
        match inspect_value(globals, &store, name)? {
            Some(value) => found.push(value),
            None => {
                crate::cli::tell(refused(NetError::not_found(name)));
                code = 1;
            }
        }
    }
    print_inspected(&found, arguments.value("format"))?;
    Ok(code)
}

/// A network in the keys of Docker's `inspect`; none where there is none of that name or id.
pub(super) fn inspect_value(
    globals: &Globals,
    store: &Store,
    name: &str,
) -> Result<Option<Value>, Failure> {
    for (built_in, driver) in BUILT_IN {
        if name == built_in || name == built_in_id(built_in) {
            let ipam = json!({ "Driver": "default", "Options": null, "Config": null });
            let base = (built_in_id(built_in), built_in, driver, String::new());
            return Ok(Some(described(base, ipam, json!({}))));
        }
    }
    let network = match net::find(&globals.dirs, name) {
        Ok(network) => network,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(refused(error)),
    };
    let members = net::members(&globals.dirs, &network.id).map_err(refused)?;
    let containers: Map<String, Value> = members
        .into_iter()
        .map(|(id, place)| {
            let value = member(name_of(store, &id), &id, &place);
            (id, value)
        })
        .collect();
    let mut config = json!({
        "Subnet": network.subnet.to_string(),
        "Gateway": network.gateway.to_string(),
    });
    if let Some(range) = network.range {
        config["IPRange"] = Value::from(range.to_string());
    }
    let ipam = json!({ "Driver": "default", "Options": {}, "Config": [config] });
    let Definition { id, name, created, .. } = &network;
    let mut value = described((id.clone(), name, "bridge", created.clone()), ipam, json!({}));
    value["Internal"] = Value::from(network.internal);
    value["Containers"] = Value::Object(containers);
    value["Options"] = json!(network.options);
    value["Labels"] = json!(network.labels);
    Ok(Some(value))
}

fn described(
    (id, name, driver, created): (String, &str, &str, String),
    ipam: Value,
    containers: Value,
) -> Value {
    json!({
        "Name": name,
        "Id": id,
        "Created": created,
        "Scope": "local",
        "Driver": driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": ipam,
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": {},
        "Labels": {},
    })
}

fn member(name: String, id: &str, place: &Endpoint) -> Value {
    json!({
        "Name": name,
        "EndpointID": id,
        "MacAddress": place.mac,
        "IPv4Address": format!("{}/{}", place.ipv4, place.prefix),
        "IPv6Address": "",
    })
}

/// A container's name, or of its id what is enough.
fn name_of(store: &Store, id: &str) -> String {
    let found = store.open_container(id).ok().flatten().and_then(|found| found.record().ok());
    found.map_or_else(|| format!("{id:.12}"), |record| record.name)
}

fn remove(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let mut code = 0;
    for name in &arguments.operands {
        match remove_one(globals, &store, name, arguments.has("force")) {
            Ok(()) => print_line(name)?,
            Err(failure) => {
                crate::cli::tell(&failure);
                code = 1;
            }
        }
    }
    Ok(code)
}

fn remove_one(globals: &Globals, store: &Store, name: &str, force: bool) -> Result<(), Failure> {
    if BUILT_IN.iter().any(|(built_in, _)| name == *built_in || name == built_in_id(built_in)) {
        return Err(refused(NetError::predefined(name)));
    }
    match net::find(&globals.dirs, name) {
        Ok(network) => {
            net::remove(&globals.dirs, &network, |id| name_of(store, id)).map_err(refused)
        }
        Err(error) if force && error.is_not_found() => Ok(()),
        Err(error) => Err(refused(error)),
    }
}

fn prune(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let what = "This will remove all custom networks not used by at least one container.";
    if !arguments.has("force") && !confirm(what)? {
        return Ok(0);
    }
    let store = globals.store()?;
    let mut all = net::all(&globals.dirs).map_err(refused)?;
    for filter in arguments.values("filter") {
        match filter.split_once('=') {
            Some(("label", wanted)) => all.retain(|one| has_label(&one.labels, wanted)),
            Some(("label!", wanted)) => all.retain(|one| !has_label(&one.labels, wanted)),
            Some(("until", text)) => {
                let until = values::moment("filter until", text, Timestamp::now())?;
                all.retain(|one| Timestamp::parse(&one.created).is_some_and(|at| at < until));
            }
            _ => {
                return Err(Failure::new(format!("--filter={filter}: there is no such filter"))
                    .hint("there is: label, label!, until")
                    .exits(1));
            }
        }
    }
    // A container is made under this lock, and names its networks from then on.
    let _hold = store.hold_exclusive()?;
    let used = used(&store)?;
    let mut removed = Vec::new();
    for network in all.iter().filter(|one| !one.is_default() && !used.contains(&one.name)) {
        // One that is in use after all stays.
        if net::remove(&globals.dirs, network, |id| name_of(&store, id)).is_ok() {
            removed.push(network.name.as_str());
        }
    }
    net::idle_down(&globals.dirs).map_err(refused)?;
    if !removed.is_empty() {
        print_line("Deleted Networks:")?;
        for name in removed {
            print_line(name)?;
        }
        print_line("")?;
    }
    Ok(0)
}
