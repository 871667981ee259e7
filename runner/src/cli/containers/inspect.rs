//! `inspect` of a container, with Docker's keys.

use std::path::Path;

use oci_spec::runtime::{LinuxDeviceType, LinuxNamespaceType, Mount};
use serde_json::{Map, Value, json};

use super::{network, status, view};
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::listing::print_inspected;
use crate::cli::{Globals, Verb};
use crate::container::{Ipc, Network, Record, Seccomp};
use crate::failure::Failure;
use crate::images::{ContainerDir, Store, StoreError};
use crate::launch::state::Status;
use crate::net::{Attached, DEFAULT};
use crate::spec::DEFAULT_CAPABILITIES;
use crate::userns::IdMap;

const FLAGS: &[Flag] = &[
    Flag::one("format", "json|TEMPLATE", "what of it is shown").short('f'),
    Flag::one("type", "container|image|volume|network", "look for these only"),
    Flag::switch("size", "how much a container has written, and with its image").short('s'),
];

pub(super) const VERBS: &[Verb] = &[
    Verb {
        names: &["inspect"],
        operands: "NAME [NAME…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Show everything known of containers, images and volumes",
        details: "\
  rrun inspect -f '{{.State.Status}} {{.State.ExitCode}}' web
  rrun inspect -f '{{json .Config.Env}}' localhost:5000/app",
        flags: FLAGS,
        flags_end: FlagsEnd::AtDashes,
        run: |globals, arguments| run(globals, arguments, arguments.value("type")),
    },
    Verb {
        names: &["container inspect"],
        operands: "CONTAINER [CONTAINER…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "",
        details: "",
        flags: FLAGS,
        flags_end: FlagsEnd::AtDashes,
        run: |globals, arguments| run(globals, arguments, Some("container")),
    },
];

fn run(globals: &Globals, arguments: &Arguments, kind: Option<&str>) -> Result<u8, Failure> {
    let store = globals.store()?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &arguments.operands {
        match find(globals, &store, name, kind) {
            Ok(mut value) => {
                if arguments.has("size") {
                    add_sizes(&store, &mut value)?;
                }
                found.push(value);
            }
            Err(failure) => {
                crate::cli::tell(&failure);
                code = 1;
            }
        }
    }
    if !found.is_empty() || arguments.value("format").is_none() {
        print_inspected(&found, arguments.value("format"))?;
    }
    Ok(code)
}

/// `--size`: `SizeRw` and `SizeRootFs`, of a container.
fn add_sizes(store: &Store, value: &mut Value) -> Result<(), Failure> {
    let Some(id) = value["Id"].as_str().filter(|_| value.get("HostConfig").is_some()) else {
        return Ok(());
    };
    if let Some(container) = store.open_container(id)? {
        let (written, image) = super::list::sizes(store, &container, &container.record()?);
        value["SizeRw"] = json!(written);
        value["SizeRootFs"] = json!(written.saturating_add(image));
    }
    Ok(())
}

/// A container of this name, else an image, else a volume.
fn find(
    globals: &Globals,
    store: &Store,
    name: &str,
    kind: Option<&str>,
) -> Result<Value, Failure> {
    if kind.is_none_or(|kind| kind == "container") {
        match store.container(name) {
            Ok(container) => return describe(globals, &container),
            Err(StoreError::NoSuchContainer(_)) if kind.is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    if kind.is_none_or(|kind| kind == "image")
        && let Some(value) = crate::cli::images::inspect::inspect(store, name)?
    {
        return Ok(value);
    }
    if kind.is_none_or(|kind| kind == "volume")
        && let Some(value) = crate::cli::volume::inspect_value(store, name)?
    {
        return Ok(value);
    }
    if kind.is_none_or(|kind| kind == "network")
        && let Some(value) = crate::cli::network::inspect_value(globals, store, name)?
    {
        return Ok(value);
    }
    let what = kind.unwrap_or("object");
    Err(Failure::new(format!("no such {what}: {name}")).hint("rrun ps -a, rrun images"))
}

fn describe(globals: &Globals, container: &ContainerDir) -> Result<Value, Failure> {
    let record = container.record()?;
    let status = status(globals, &container.id)?;
    let arguments = view::arguments(&record);
    // They come with the first start.
    let etc = crate::launch::etc_path(container.path());
    let file = |name: &str| match status {
        Status::Created => String::new(),
        _ => etc.join(name).display().to_string(),
    };
    Ok(json!({
        "Id": record.id,
        "Created": record.created,
        "Path": arguments.first(),
        "Args": arguments.get(1..),
        "State": state(&status),
        "Image": record.image.config.to_string(),
        "ImageManifestDescriptor": {"digest": record.image.manifest.to_string()},
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
        "LogPath": if record.stdio.log.is_some() {
            crate::launch::log_path(container.path()).display().to_string()
        } else {
            String::new()
        },
        "Name": format!("/{}", record.name),
        "RestartCount": 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(&record),
        "GraphDriver": graph_driver(container, &record, &status),
        "Mounts": mounts(&record),
        "Config": config(&record),
        "NetworkSettings": network(&record, &status, &network::attached(globals, &record.id)),
    }))
}

/// Where the container's files are. Together they are mounted only for the container, which its first
/// process leads to.
fn graph_driver(container: &ContainerDir, record: &Record, status: &Status) -> Value {
    let root = container.path().ancestors().nth(2).unwrap_or(container.path());
    let layers = record.image.layers.iter().rev();
    let lower: Vec<String> = layers
        .map(|layer| {
            root.join("layers")
                .join(layer.to_string().replace(':', "-"))
                .join("fs")
                .display()
                .to_string()
        })
        .collect();
    let merged = match status {
        Status::Running(state) | Status::Paused(state) => format!("/proc/{}/root", state.init.pid),
        _ => String::new(),
    };
    json!({
        "Name": "overlay2",
        "Data": {
            "LowerDir": lower.join(":"),
            "MergedDir": merged,
            "UpperDir": container.path().join("rw/u"),
            "WorkDir": container.path().join("rw/w"),
        },
    })
}

fn state(status: &Status) -> Value {
    const NEVER: &str = "0001-01-01T00:00:00Z";
    let (pid, started) = match status {
        Status::Running(state) | Status::Paused(state) => (state.init.pid, state.started.as_str()),
        Status::Exited(ended) => (0, ended.started.as_deref().unwrap_or(NEVER)),
        Status::Created | Status::Orphaned(_) => (0, NEVER),
    };
    let ended = match status {
        Status::Exited(ended) => Some(ended),
        _ => None,
    };
    json!({
        "Status": view::state_word(status),
        "Running": matches!(status, Status::Running(_) | Status::Paused(_)),
        "Paused": matches!(status, Status::Paused(_)),
        "Restarting": false,
        "OOMKilled": ended.is_some_and(|ended| ended.exit.oom.is_some()),
        "Dead": matches!(status, Status::Orphaned(_)),
        "Pid": pid,
        "ExitCode": ended.map_or(0, |ended| ended.exit.status()),
        "Error": ended.and_then(|ended| ended.error.as_deref()).unwrap_or_default(),
        "StartedAt": started,
        "FinishedAt": ended.map_or(NEVER, |ended| &ended.finished),
        "Health": null,
    })
}

/// `Config`: what the person and the image asked for.
fn config(record: &Record) -> Value {
    let anonymous = record.volumes.iter().filter(|volume| volume.anonymous);
    let mounts = record.spec.mounts().as_deref().unwrap_or_default();
    let volumes: serde_json::Map<String, Value> = anonymous
        .filter_map(|volume| mounts.get(volume.mount)?.destination().to_str())
        .map(|target| (target.to_owned(), json!({})))
        .collect();
    let ports = record.exposed_ports.iter().map(|port| (port.clone(), json!({})));
    let process = record.spec.process().clone().unwrap_or_default();
    let arguments = view::arguments(record);
    let (entrypoint, command) = arguments.split_at(record.entrypoint_words.min(arguments.len()));
    json!({
        "Hostname": record.hosts.hostname,
        "Domainname": record.hosts.domainname,
        "User": record.user,
        "AttachStdin": record.stdio.stdin_open && !record.stdio.detached,
        "AttachStdout": !record.stdio.detached,
        "AttachStderr": !record.stdio.detached,
        "ExposedPorts": ports.collect::<serde_json::Map<_, _>>(),
        "Tty": record.stdio.terminal,
        "OpenStdin": record.stdio.stdin_open,
        "StdinOnce": record.stdio.stdin_open && !record.stdio.detached,
        "Env": environment(record),
        "Cmd": (!command.is_empty()).then_some(command),
        "Healthcheck": null,
        "Image": view::familiar_image(record),
        "Volumes": (!volumes.is_empty()).then_some(volumes),
        "WorkingDir": process.cwd(),
        "Entrypoint": (!entrypoint.is_empty()).then_some(entrypoint),
        "OnBuild": null,
        "ExposedPorts": network::exposed(record),
        "Labels": record.labels,
        "Shell": null,
        "StopSignal": record.stop_signal.as_deref().unwrap_or_default(),
        "StopTimeout": record.stop_timeout_seconds,
    })
}

/// The variables that were asked for, without those that every container gets.
fn environment(record: &Record) -> Vec<String> {
    let process = record.spec.process().as_ref();
    let all = process.and_then(|process| process.env().as_ref()).into_iter().flatten();
    let is_ours = |text: &str| {
        text.strip_prefix("HOSTNAME=").is_some_and(|name| name == record.hosts.hostname)
            || (record.stdio.terminal && text == "TERM=xterm")
    };
    let bytes = record.environment_bytes.iter();
    let bytes = bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    all.filter(|text| !is_ours(text)).cloned().chain(bytes).collect()
}

fn host_config(record: &Record) -> Value {
    let linux = record.spec.linux().clone().unwrap_or_default();
    let process = record.spec.process().clone().unwrap_or_default();
    let mode = |kind| namespace_mode(record, kind);
    let mut value = json!({
        "Binds": binds(record),
        "ContainerIDFile": record.cidfile.as_deref().unwrap_or_default(),
        "NetworkMode": view::network_word(&record.network),
        "PortBindings": network::bindings(record),
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": record.remove_on_exit,
        "VolumeDriver": "",
        "VolumesFrom": null,
        "ConsoleSize": [0, 0],
        "Tmpfs": tmpfs(record),
        "LogConfig": match record.stdio.log {
            Some(log) => json!({
                "Type": "json-file",
                "Config": {
                    "max-size": log.file_max_bytes.to_string(),
                    "max-file": log.files.to_string(),
                },
            }),
            None => json!({"Type": "none", "Config": {}}),
        },
        "CgroupnsMode": mode(LinuxNamespaceType::Cgroup),
        "IpcMode": match &record.ipc {
            Ipc::Private => "private".to_owned(),
            Ipc::Shareable => "shareable".to_owned(),
            Ipc::None => "none".to_owned(),
            Ipc::Host => "host".to_owned(),
            Ipc::Container(id) => format!("container:{id}"),
        },
        "PidMode": match &record.pid_of {
            Some(id) => format!("container:{id}"),
            None => mode(LinuxNamespaceType::Pid),
        },
        "UTSMode": mode(LinuxNamespaceType::Uts),
        "UsernsMode": if IdMap::of(&record.spec).is_some() { "auto" } else { "" },
        "CgroupParent": record.cgroup_parent.as_deref().unwrap_or_default(),
        "Dns": record.hosts.dns,
        "DnsOptions": record.hosts.dns_options,
        "DnsSearch": record.hosts.dns_search,
        "ExtraHosts": if_any(record.hosts.added.iter()
            .map(|(name, address)| format!("{name}:{address}")).collect()),
        "GroupAdd": if_any(record.groups_added.clone()),
        "Cgroup": "",
        "Links": null,
        "PublishAllPorts": false,
        "StorageOpt": null,
        "Annotations": record.spec.annotations(),
        "Runtime": "rrun",
        "Isolation": "",
        "OomScoreAdj": process.oom_score_adj().unwrap_or(0),
        "Privileged": is_privileged(record),
        "ReadonlyRootfs": record.spec.root().as_ref().is_some_and(|r| r.readonly() == Some(true)),
        "SecurityOpt": security_options(record),
        "Init": record.init.then_some(true),
        "ShmSize": shm_size(record),
        "Sysctls": sysctls(&linux),
        "MaskedPaths": linux.masked_paths(),
        "ReadonlyPaths": linux.readonly_paths(),
    });
    for part in [rights(record), limits(record)] {
        extend(&mut value, part);
    }
    value
}

/// A list, or nothing where it is empty, as Docker tells those that nobody asked for.
fn if_any(list: Vec<String>) -> Option<Vec<String>> {
    (!list.is_empty()).then_some(list)
}

/// The options of each `--tmpfs`, without those that every one has.
fn tmpfs(record: &Record) -> Value {
    let options = |mount: &Mount| {
        let own = mount.options().iter().flatten();
        let own = own.filter(|option| !["noexec", "nosuid", "nodev"].contains(&option.as_str()));
        own.cloned().collect::<Vec<_>>().join(",")
    };
    let all = asked(record).filter(|(_, mount)| mount.typ().as_deref() == Some("tmpfs"));
    let all = all.map(|(_, mount)| (mount.destination().display().to_string(), options(mount)));
    let all: std::collections::BTreeMap<String, String> = all.collect();
    json!((!all.is_empty()).then_some(all))
}

/// The settings that were asked for, without those that every network of its own gets.
fn sysctls(linux: &oci_spec::runtime::Linux) -> Option<std::collections::BTreeMap<&str, &str>> {
    const USUAL: [(&str, &str); 2] = [
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("net.ipv4.ping_group_range", "0 2147483647"),
    ];
    let all = linux.sysctl().iter().flatten();
    let asked = all.map(|(name, value)| (name.as_str(), value.as_str()));
    let asked: std::collections::BTreeMap<_, _> =
        asked.filter(|pair| !USUAL.contains(pair)).collect();
    (!asked.is_empty()).then_some(asked)
}

/// Capabilities and devices in `HostConfig`.
fn rights(record: &Record) -> Value {
    let linux = record.spec.linux().as_ref();
    let sets = record.spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    let held = sets.and_then(|sets| sets.bounding().clone()).unwrap_or_default();
    let privileged = is_privileged(record);
    let name = |capability: &oci_spec::runtime::Capability| format!("CAP_{capability}");
    let sorted = |mut names: Vec<String>| {
        names.sort_unstable();
        (!names.is_empty()).then_some(names)
    };
    let added = held.iter().filter(|one| !privileged && !DEFAULT_CAPABILITIES.contains(one));
    let dropped = DEFAULT_CAPABILITIES.iter().filter(|one| !privileged && !held.contains(one));
    let devices = linux.and_then(|linux| linux.devices().as_ref()).into_iter().flatten();
    json!({
        "CapAdd": sorted(added.map(name).collect()),
        "CapDrop": sorted(dropped.map(name).collect()),
        "Devices": devices.zip(&record.devices).map(|(device, of_host)| json!({
            "PathInContainer": device.path(),
            "PathOnHost": of_host.path,
            "CgroupPermissions": of_host.access,
        })).collect::<Vec<_>>(),
        "DeviceCgroupRules": null,
        "DeviceRequests": null,
    })
}

/// Limits in `HostConfig`.
fn limits(record: &Record) -> Value {
    let process = record.spec.process().clone().unwrap_or_default();
    let linux = record.spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().clone()).unwrap_or_default();
    let memory = resources.memory().unwrap_or_default();
    let cpu = resources.cpu().clone().unwrap_or_default();
    // --cpus is kept as quota and period; Docker counts in billionths.
    let asked_cpus = record.asked_for.iter().any(|flag| flag == "cpus");
    let nano_cpus = match (cpu.quota(), cpu.period()) {
        (Some(quota), Some(period)) if asked_cpus && period > 0 => {
            quota.saturating_mul(1_000_000_000) / i64::try_from(period).unwrap_or(i64::MAX)
        }
        _ => 0,
    };
    json!({
        "Ulimits": process.rlimits().iter().flatten().map(|limit| json!({
            "Name": limit.typ().to_string().trim_start_matches("RLIMIT_").to_lowercase(),
            "Hard": limit.hard().cast_signed(),
            "Soft": limit.soft().cast_signed(),
        })).collect::<Vec<_>>(),
        "CpuShares": cpu.shares().unwrap_or(0),
        "Memory": memory.limit().unwrap_or(0),
        "NanoCpus": nano_cpus,
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": [],
        "BlkioDeviceWriteBps": [],
        "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteIOps": [],
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "BlkioWeight": resources.block_io().as_ref().and_then(|io| io.weight()).unwrap_or(0),
        "CpuPeriod": if asked_cpus { 0 } else { cpu.period().unwrap_or(0) },
        "CpuQuota": if asked_cpus { 0 } else { cpu.quota().unwrap_or(0) },
        "CpusetCpus": cpu.cpus().as_deref().unwrap_or_default(),
        "CpusetMems": cpu.mems().as_deref().unwrap_or_default(),
        "MemoryReservation": memory.reservation().unwrap_or(0),
        "MemorySwap": memory.swap().unwrap_or(0),
        "MemorySwappiness": memory.swappiness(),
        "OomKillDisable": memory.disable_oom_killer().unwrap_or(false),
        "PidsLimit": resources.pids().as_ref().map(|pids| pids.limit()),
    })
}

fn is_privileged(record: &Record) -> bool {
    let linux = record.spec.linux().as_ref();
    let rules = linux.and_then(|linux| linux.resources().as_ref()?.devices().as_ref());
    rules
        .and_then(|rules| rules.first())
        .is_some_and(|rule| rule.allow() && matches!(rule.typ(), Some(LinuxDeviceType::A)))
}

fn namespace_mode(record: &Record, kind: LinuxNamespaceType) -> String {
    let linux = record.spec.linux().as_ref();
    let mut all = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    match all.find(|namespace| namespace.typ() == kind) {
        None => "host".to_owned(),
        Some(namespace) => match namespace.path() {
            Some(path) => format!("ns:{}", path.display()),
            // Docker's word is empty where private is the only other mode.
            None if matches!(kind, LinuxNamespaceType::Pid | LinuxNamespaceType::Uts) => {
                String::new()
            }
            None => "private".to_owned(),
        },
    }
}

fn security_options(record: &Record) -> Option<Vec<String>> {
    let mut all = Vec::new();
    let process = record.spec.process().as_ref();
    if process.is_some_and(|process| process.no_new_privileges() == Some(true)) {
        all.push("no-new-privileges".to_owned());
    }
    match record.seccomp {
        Seccomp::Unconfined if !is_privileged(record) => all.push("seccomp=unconfined".to_owned()),
        Seccomp::Spec => all.push("seccomp=profile".to_owned()),
        Seccomp::Docker | Seccomp::Strict | Seccomp::Unconfined => {}
    }
    (!all.is_empty()).then_some(all)
}

fn shm_size(record: &Record) -> u64 {
    let mounts = record.spec.mounts().iter().flatten();
    let mut shm = mounts.filter(|mount| mount.destination() == Path::new("/dev/shm"));
    let options = shm.next().and_then(|mount| mount.options().clone()).unwrap_or_default();
    let size = options.iter().find_map(|option| option.strip_prefix("size="));
    size.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn is_read_only(mount: &Mount) -> bool {
    mount.options().iter().flatten().any(|option| option == "ro" || option == "rro")
}

/// The mounts that were asked for, by their index in the Spec: ours come first and are no binds,
/// but for those that share something with the host.
fn asked(record: &Record) -> impl Iterator<Item = (usize, &Mount)> {
    let ours = ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue"];
    record.spec.mounts().iter().flatten().enumerate().filter(move |(_, mount)| {
        let target = mount.destination();
        let is_shm =
            target == Path::new("/dev/shm") && mount.source().as_deref() == Some(Path::new("shm"));
        !ours.iter().any(|known| target == Path::new(known)) && !is_shm
    })
}

fn binds(record: &Record) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for (at, mount) in asked(record) {
        let volume = record.volumes.iter().find(|volume| volume.mount == at);
        let source = match (volume, mount.source()) {
            (Some(volume), _) if volume.anonymous => continue,
            (Some(volume), _) => volume.name.clone(),
            (None, Some(source)) if mount.typ().as_deref() == Some("bind") => {
                source.display().to_string()
            }
            _ => continue,
        };
        let access = if is_read_only(mount) { ":ro" } else { "" };
        all.push(format!("{source}:{}{access}", mount.destination().display()));
    }
    (!all.is_empty()).then_some(all)
}

fn mounts(record: &Record) -> Vec<Value> {
    asked(record)
        .map(|(at, mount)| {
            let volume = record.volumes.iter().find(|volume| volume.mount == at);
            let kind = match (volume, mount.typ().as_deref()) {
                (Some(_), _) => "volume",
                (None, Some("tmpfs")) => "tmpfs",
                _ => "bind",
            };
            let mut value = json!({
                "Type": kind,
                "Source": if kind == "tmpfs" { Value::from("") } else { json!(mount.source()) },
                "Destination": mount.destination(),
                "Mode": if kind != "tmpfs" && is_read_only(mount) { "ro" } else { "" },
                "RW": !is_read_only(mount),
                "Propagation": if kind == "bind" { propagation(mount) } else { "" },
            });
            if let Some(volume) = volume {
                value["Name"] = Value::from(volume.name.clone());
                value["Driver"] = Value::from("local");
            }
            value
        })
        .collect()
}

fn propagation(mount: &Mount) -> &str {
    let known = ["private", "shared", "slave"];
    let mut options = mount.options().iter().flatten();
    let found = options.find(|option| known.contains(&option.strip_prefix('r').unwrap_or(option)));
    found.map_or("rprivate", String::as_str)
}

fn network(record: &Record, status: &Status, attached: &Attached) -> Value {
    let namespace = match status {
        Status::Running(state) | Status::Paused(state) => {
            format!("/proc/{}/ns/net", state.init.pid)
        }
        _ => String::new(),
    };
    // What a network without addresses says.
    let none = json!({
        "EndpointID": "",
        "Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "MacAddress": "",
    });
    let mut own = none.clone();
    let more = json!({
        "Aliases": null,
        "DNSNames": null,
        "DriverOpts": null,
        "GwPriority": 0,
        "IPAMConfig": null,
        "Links": null,
        "NetworkID": "",
    });
    extend(&mut own, more);
    let networks = match &record.network {
        Network::Container(_) => Map::new(),
        // The default one, where this host cannot make it.
        Network::Bridge(_) if !namespace.is_empty() && attached.networks.is_empty() => {
            Map::from_iter([(view::network_word(&Network::None), own)])
        }
        Network::Bridge(memberships) => {
            let with = |part: Value| {
                let mut filled = own.clone();
                extend(&mut filled, part);
                filled
            };
            let mut all: Map<String, Value> = memberships
                .iter()
                .map(|one| (one.network.clone(), with(network::wanted(one))))
                .collect();
            let places = attached.networks.iter();
            all.extend(
                places.map(|one| (one.network.clone(), with(network::endpoint(record, one)))),
            );
            all
        }
        network => Map::from_iter([(view::network_word(network), own)]),
    };
    let mut value = json!({
        "Bridge": "",
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Networks": networks,
        "Ports": network::ports(record, attached, !namespace.is_empty()),
        "SandboxID": if namespace.is_empty() { "" } else { &record.id },
        "SandboxKey": namespace,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
    });
    extend(&mut value, none.clone());
    // Docker repeats the default network's on top.
    if let Some(first) = attached.networks.iter().find(|one| one.network == DEFAULT)
        && let Value::Object(mut all) = network::endpoint(record, first)
    {
        let repeated = none.as_object().into_iter().flat_map(Map::keys);
        let repeated: Vec<&String> = repeated.collect();
        all.retain(|key, _| repeated.contains(&key));
        extend(&mut value, Value::Object(all));
    }
    value
}

fn extend(value: &mut Value, part: Value) {
    if let (Value::Object(all), Value::Object(part)) = (value, part) {
        all.extend(part);
    }
}
