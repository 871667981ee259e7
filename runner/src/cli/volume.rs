//! `volume create|ls|inspect|rm|prune`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::listing::{LABEL, Listing, print_inspected};
use crate::cli::mount_flags::volume_name;
use crate::cli::{Globals, Verb, confirm, print_line, values};
use crate::failure::Failure;
use crate::images::{Store, volume_bytes};
use crate::pull::human_bytes;
use crate::timestamp::Timestamp;
use crate::volumes::{self, Volume};

pub(super) const VERBS: &[Verb] = &[
    Verb {
        names: &["volume create"],
        operands: "[NAME]",
        operands_min: 0,
        operands_max: 1,
        about: "Make a volume",
        details: "",
        flags: &[
            Flag::many("label", "NAME[=VALUE]", "a label"),
            Flag::one("driver", "local", "the only one").short('d'),
        ],
        flags_end: FlagsEnd::AtDashes,
        run: create,
    },
    Verb {
        names: &["volume ls", "volume list"],
        operands: "",
        operands_min: 0,
        operands_max: 0,
        about: "List volumes",
        details: "Filters: name, label, dangling.",
        flags: &[
            Flag::switch("quiet", "names only").short('q'),
            Flag::many("filter", "NAME=VALUE", "only those").short('f'),
            Flag::one("format", "table|json|TEMPLATE", "how they are shown"),
        ],
        flags_end: FlagsEnd::AtDashes,
        run: list,
    },
    Verb {
        names: &["volume inspect"],
        operands: "VOLUME [VOLUME…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Show everything known of volumes",
        details: "",
        flags: &[Flag::one("format", "json|TEMPLATE", "what of it is shown").short('f')],
        flags_end: FlagsEnd::AtDashes,
        run: inspect,
    },
    Verb {
        names: &["volume rm", "volume remove"],
        operands: "VOLUME [VOLUME…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Remove volumes that no container uses",
        details: "",
        flags: &[Flag::switch("force", "one that is not there is no error").short('f')],
        flags_end: FlagsEnd::AtDashes,
        run: remove,
    },
    Verb {
        names: &["volume prune"],
        operands: "",
        operands_min: 0,
        operands_max: 0,
        about: "Remove volumes without a name that no container uses",
        details: "",
        flags: &[
            Flag::switch("all", "those with a name too").short('a'),
            Flag::switch("force", "do not ask").short('f'),
        ],
        flags_end: FlagsEnd::AtDashes,
        run: prune,
    },
];

fn unreadable(error: std::io::Error) -> Failure {
    Failure::new("cannot read the volumes").because(&error)
}

fn create(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    if let Some(driver) = arguments.value("driver").filter(|driver| *driver != "local") {
        return Err(Failure::new(format!("--driver={driver}: there is only local")));
    }
    let mut labels = BTreeMap::new();
    for text in arguments.values("label") {
        values::label("label", text, &mut labels)?;
    }
    let name = match arguments.operands.first() {
        Some(name) => volume_name(name)?,
        None => crate::random::id(),
    };
    let volume = Volume {
        anonymous: arguments.operands.is_empty(),
        created: Timestamp::now().to_rfc3339(),
        labels,
        name,
    };
    volumes::create(&globals.store()?.volumes(), &volume).map_err(|error| {
        Failure::new(format!("cannot make the volume {}", volume.name)).because(&error)
    })?;
    print_line(&volume.name).map(|()| 0)
}

fn describe(store: &Store, volume: &Volume) -> Value {
    json!({
        "CreatedAt": volume.created,
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": volumes::data(&store.volumes(), &volume.name),
        "Name": volume.name,
        "Options": null,
        "Scope": "local",
    })
}

/// A volume in the keys of Docker's `inspect`; none where there is none of that name.
pub(super) fn inspect_value(store: &Store, name: &str) -> Result<Option<Value>, Failure> {
    if volume_name(name).is_err() {
        return Ok(None);
    }
    let found = volumes::find(&store.volumes(), name).map_err(unreadable)?;
    Ok(found.map(|volume| describe(store, &volume)))
}

fn inspect(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &arguments.operands {
        match inspect_value(&store, name)? {
            Some(value) => found.push(value),
            None => {
                crate::cli::tell(no_such(name));
                code = 1;
            }
        }
    }
    print_inspected(&found, arguments.value("format"))?;
    Ok(code)
}

fn no_such(name: &str) -> Failure {
    Failure::new(format!("no such volume: {name}")).hint("rrun volume ls")
}

/// The containers that use it, whether they run or not.
fn users(store: &Store, name: &str) -> Result<Vec<String>, Failure> {
    let mut ids = Vec::new();
    for container in store.containers()? {
        let Ok(record) = container.record() else { continue };
        if record.volumes.iter().any(|volume| volume.name == name) {
            ids.push(record.id);
        }
    }
    Ok(ids)
}

/// Whether a container uses the volume.
pub(super) fn is_used(store: &Store, name: &str) -> Result<bool, Failure> {
    Ok(!users(store, name)?.is_empty())
}

fn list(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let mut all = volumes::list(&store.volumes()).map_err(unreadable)?;
    for filter in arguments.values("filter") {
        match filter.split_once('=') {
            Some(("name", part)) => all.retain(|volume| volume.name.contains(part)),
            Some(("label", wanted)) => all.retain(|volume| match wanted.split_once('=') {
                Some((name, value)) => volume.labels.get(name).is_some_and(|known| known == value),
                None => volume.labels.contains_key(wanted),
            }),
            Some(("dangling", truth)) => {
                let wanted = crate::cli::flags::truth(truth).unwrap_or(true);
                let mut kept = Vec::new();
                for volume in all {
                    if is_used(&store, &volume.name)? != wanted {
                        kept.push(volume);
                    }
                }
                all = kept;
            }
            _ => {
                return Err(Failure::new(format!("--filter={filter}: there is no such filter"))
                    .hint("there is: name, label, dangling"));
            }
        }
    }
    if arguments.has("quiet") && !arguments.given("format") {
        for volume in &all {
            print_line(&volume.name)?;
        }
        return Ok(0);
    }
    let rows: Vec<Value> = all
        .iter()
        .map(|volume| {
            let labels: Vec<String> =
                volume.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            json!({
                "Driver": "local",
                LABEL: volume.labels,
                "Labels": labels.join(","),
                "Mountpoint": volumes::data(&store.volumes(), &volume.name),
                "Name": volume.name,
                "Scope": "local",
            })
        })
        .collect();
    let listing = Listing {
        fields: &[
            ("Driver", "DRIVER"),
            ("Name", "VOLUME NAME"),
            ("Labels", "LABELS"),
            ("Mountpoint", "MOUNTPOINT"),
            ("Scope", "SCOPE"),
        ],
        shown: vec!["Driver", "Name"],
    };
    listing.print(&rows, arguments.value("format"))?;
    Ok(0)
}

fn remove(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let mut code = 0;
    for name in &arguments.operands {
        match remove_one(&store, name, arguments.has("force")) {
            Ok(()) => print_line(name)?,
            Err(failure) => {
                crate::cli::tell(&failure);
                code = 1;
            }
        }
    }
    Ok(code)
}

fn remove_one(store: &Store, name: &str, force: bool) -> Result<(), Failure> {
    let name = volume_name(name)?;
    // A container is made under this lock, and names its volumes from then on.
    let _hold = store.hold_exclusive()?;
    if volumes::find(&store.volumes(), &name).map_err(unreadable)?.is_none() {
        return if force { Ok(()) } else { Err(no_such(&name)) };
    }
    let users = users(store, &name)?;
    if !users.is_empty() {
        return Err(Failure::new(format!(
            "cannot remove the volume {name}: it is in use by [{}]",
            users.join(", ")
        ))
        .hint(format!("rrun rm {:.12}", users[0])));
    }
    volumes::remove(&store.volumes(), &name)
        .map_err(|error| Failure::new(format!("cannot remove the volume {name}")).because(&error))
}

fn prune(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let which = if arguments.has("all") { "all" } else { "all anonymous" };
    let what =
        format!("This will remove {which} local volumes not used by at least one container.");
    if !arguments.has("force") && !confirm(&what)? {
        return Ok(0);
    }
    let store = globals.store()?;
    let (mut removed, mut reclaimed) = (Vec::new(), 0);
    for volume in volumes::list(&store.volumes()).map_err(unreadable)? {
        if !volume.anonymous && !arguments.has("all") {
            continue;
        }
        let bytes = volume_bytes(&store, &volume.name);
        if remove_one(&store, &volume.name, false).is_ok() {
            removed.push(volume.name);
            reclaimed = u64::saturating_add(reclaimed, bytes);
        }
    }
    if !removed.is_empty() {
        print_line("Deleted Volumes:")?;
        for name in &removed {
            print_line(name)?;
        }
        print_line("")?;
    }
    print_line(&format!("Total reclaimed space: {}", human_bytes(reclaimed))).map(|()| 0)
}
