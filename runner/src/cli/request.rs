//! From the flags of `run` and `create` to the request: every text is parsed here, and what only
//! this host can tell (a device's numbers, the number of processors) is asked here.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use crate::cli::flags::{Arguments, truth};
use crate::cli::{mount_flags, names, network_flags, values};
use crate::container::{HOST_GATEWAY, Hosts, Ipc, LogFiles, Network};
use crate::failure::Failure;
use crate::known_bad::left_out;
use crate::net::{self, Exposed, Publish};
use crate::signal::Signal;
use crate::spec::{
    CapabilityName, DeviceUse, Limits, MountKind, MountRequest, Request, SeccompRequest, Sharing,
    Variable,
};
use crate::userns::{self, IdMap};

/// Docker's. Source: moby, `daemon/config`.
const SHM_SIZE_DEFAULT_BYTES: u64 = 64 << 20;
/// Docker's, below which nothing starts.
const MEMORY_MIN_BYTES: i64 = 6 << 20;
/// Largest seccomp profile, bytes; Docker's has 20 KB.
const PROFILE_BYTES_MAX: u64 = 1 << 20;

/// How `--network=container:NAME` and its kin find whose they share.
pub(super) trait Containers {
    fn id_of(&self, name: &str) -> Result<String, Failure>;

    /// What the container of this id is called, for those that share its network.
    fn hosts_of(&self, id: &str) -> Result<Hosts, Failure>;
    /// The name of the network of this name or id.
    fn network(&self, name: &str) -> Result<String, Failure>;
}

/// What the flags ask for.
pub(super) fn request(
    arguments: &Arguments,
    command: &[String],
    containers: &dyn Containers,
    of_user: Option<&IdMap>,
) -> Result<Request, Failure> {
    refuse_unsupported(arguments)?;
    if of_user.is_some() {
        refuse_for_users(arguments)?;
    }
    let security = security(arguments)?;
    let mounts = mounts(arguments)?;
    let uts = sharing(arguments, "uts", containers)?;
    let network = match of_user {
        Some(_) => network_of_user(arguments, containers)?,
        None => network_flags::network(arguments, containers)?,
    };
    let ipc = ipc(arguments, containers)?;
    refuse_what_is_not_its_own(arguments, &network, &uts, &ipc)?;
    let own_ids = match of_user {
        Some(ids) => Some(ids.count()),
        None => own_ids(arguments)?,
    };
    if own_ids.is_some() {
        refuse_with_own_ids(arguments, &network)?;
    }
    let mut hosts = hosts(arguments)?;
    let is_near = |(_, address): &(String, String)| address == HOST_GATEWAY;
    if network == Network::None && hosts.added.iter().any(is_near) {
        return Err(Failure::new("--add-host: without a network there is no host-gateway")
            .hint("--network bridge"));
    }
    if let Network::Container(id) = &network {
        let theirs = containers.hosts_of(id)?;
        hosts = Hosts { hostname: theirs.hostname, domainname: theirs.domainname, ..hosts };
    }
    let names = |flag: &str| {
        let one = |text: &str| {
            text.parse::<CapabilityName>()
                .map_err(|()| Failure::new(format!("--{flag}={text}: there is no such capability")))
        };
        arguments.values(flag).map(one).collect::<Result<Vec<_>, _>>()
    };
    let rlimits = arguments.values("ulimit").map(values::ulimit).collect::<Result<_, _>>()?;
    let rules = arguments.values("device-cgroup-rule").map(values::device_rule);
    let device_rules = rules.collect::<Result<_, _>>()?;
    Ok(Request {
        name: match arguments.value("name") {
            Some(name) => values::container_name(name)?,
            None => names::random(),
        },
        command: command.to_vec(),
        entrypoint: arguments.value("entrypoint").map(|text| match text {
            "" => Vec::new(),
            text => vec![text.to_owned()],
        }),
        environment: environment(arguments)?,
        workdir: arguments.value("workdir").map(str::to_owned),
        user: arguments.value("user").map(str::to_owned),
        groups_added: arguments.values("group-add").map(str::to_owned).collect(),
        terminal: arguments.has("tty"),
        stdin_open: arguments.has("interactive"),
        detached: arguments.has("detach"),
        remove_on_exit: arguments.has("rm"),
        init: arguments.has("init"),
        stop_signal: stop_signal(arguments)?,
        stop_timeout_seconds: match arguments.value("stop-timeout") {
            Some(text) => Some(values::number("stop-timeout", text, -1, i32::MAX)?),
            None => None,
        },
        log: log(arguments)?,
        labels: labels(arguments)?,
        annotations: annotations(arguments)?,
        network,
        ports: publish(arguments)?,
        publishes_all: arguments.has("publish-all"),
        exposed: expose(arguments)?,
        hosts,
        pid: sharing(arguments, "pid", containers)?,
        ipc,
        uts,
        cgroup: sharing(arguments, "cgroupns", containers)?,
        own_ids,
        is_of_user: of_user.is_some(),
        cgroup_parent: arguments.value("cgroup-parent").map(str::to_owned),
        sysctls: sysctls(arguments)?,
        mounts,
        read_only: arguments.has("read-only"),
        shm_size_bytes: match arguments.value("shm-size") {
            Some(text) => match values::size("shm-size", text)? {
                0 => SHM_SIZE_DEFAULT_BYTES,
                bytes => bytes.unsigned_abs(),
            },
            None => SHM_SIZE_DEFAULT_BYTES,
        },
        limits: limits(arguments)?,
        rlimits,
        privileged: arguments.has("privileged"),
        capabilities_added: names("cap-add")?,
        capabilities_dropped: names("cap-drop")?,
        no_new_privileges: security.no_new_privileges,
        seccomp: security.seccomp,
        shows_system_paths: security.shows_system_paths,
        strict: security.strict,
        devices: devices(arguments)?,
        device_rules,
        exposed_ports: exposed_ports(arguments)?,
        cidfile: arguments.value("cidfile").map(str::to_owned),
        asked_for: arguments.names().map(str::to_owned).collect(),
    })
}

/// Flags of Docker's whose feature is not here, and the values of them that mean the default.
const UNSUPPORTED: [(&str, &[&str], &str); 8] = [
    ("restart", &["no", ""], "restart policies are not supported yet"),
    ("volumes-from", &[], "name the volumes with -v"),
    ("link", &[], "use a user-made network: names resolve there"),
    ("ip6", &[""], "containers have no IPv6 yet"),
    ("gpus", &[""], "pass the devices with --device"),
    ("health-cmd", &["", "none"], "health checks are not supported yet"),
    ("isolation", &["default", ""], "there is only the default"),
    ("runtime", &["rrun", ""], "rrun runs containers itself"),
];

/// A flag that was asked for is never dropped silently.
fn refuse_unsupported(arguments: &Arguments) -> Result<(), Failure> {
    for (flag, harmless, why) in UNSUPPORTED {
        if let Some(value) = arguments.value(flag).filter(|value| !harmless.contains(value)) {
            return Err(Failure::new(format!("--{flag}={value} is not supported: {why}")));
        }
    }
    Ok(())
}

/// Options that would set something of a namespace which the container does not own: it would be
/// set for its owner as well, the host or another container, or not at all.
fn refuse_what_is_not_its_own(
    arguments: &Arguments,
    network: &Network,
    uts: &Sharing,
    ipc: &Ipc,
) -> Result<(), Failure> {
    if left_out("names-of-its-own") {
        return Ok(());
    }
    let of_network = matches!(network, Network::Container(_));
    let all: [(bool, &[&str], &str); 4] = [
        (
            *uts == Sharing::Host,
            &["hostname", "domainname"],
            "the names are the host's (--uts=host), and would be set for it",
        ),
        (
            of_network,
            &[
                "hostname",
                "domainname",
                "add-host",
                "dns",
                "dns-search",
                "dns-option",
                "dns-opt",
                "expose",
            ],
            "name and network are the other container's (--network=container:…)",
        ),
        (
            matches!(ipc, Ipc::Host | Ipc::Container(_)),
            &["shm-size"],
            "/dev/shm is not the container's own (--ipc)",
        ),
        (*ipc == Ipc::None, &["shm-size"], "there is no /dev/shm (--ipc=none)"),
    ];
    for (applies, flags, why) in all {
        let given = |flag: &&&str| arguments.value(flag).is_some_and(|text| !text.is_empty());
        if let Some(flag) = flags.iter().find(given).filter(|_| applies) {
            return Err(Failure::new(format!("--{flag}: {why}")).hint(format!(
                "leave --{flag} away, or give the container a namespace of its own"
            )));
        }
    }
    Ok(())
}

/// `--log-driver` and `--log-opt`. Source: Docker's reference, "JSON File logging driver".
fn log(arguments: &Arguments) -> Result<Option<LogFiles>, Failure> {
    let mut files = LogFiles::default();
    for option in arguments.values("log-opt") {
        match option.split_once('=') {
            // Docker's word for a log without end.
            Some(("max-size", "-1")) => files.file_max_bytes = u64::MAX,
            Some(("max-size", size)) => match values::size("log-opt max-size", size)? {
                0 => return Err(Failure::new("--log-opt=max-size=0: nothing fits into that")),
                bytes => files.file_max_bytes = bytes.unsigned_abs(),
            },
            Some(("max-file", count)) => {
                files.files = values::number("log-opt max-file", count, 1, 1000)?;
            }
            _ => {
                let why = "there is: max-size=SIZE, max-file=NUMBER";
                return Err(Failure::new(format!("--log-opt={option}: {why}")));
            }
        }
    }
    match arguments.value("log-driver") {
        None | Some("" | "json-file") => Ok(Some(files)),
        Some("none") => Ok(None),
        Some(driver) => {
            let why = "is not supported: there is json-file and none";
            Err(Failure::new(format!("--log-driver={driver} {why}")))
        }
    }
}

fn exposed_ports(arguments: &Arguments) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for text in arguments.values("expose") {
        all.extend(values::ports("expose", text)?);
    }
    Ok(all)
}

fn environment(arguments: &Arguments) -> Result<Vec<Variable>, Failure> {
    let mut all = Vec::new();
    for path in arguments.values("env-file") {
        all.extend(values::variables_of_file("env-file", path)?);
    }
    for text in arguments.values("env") {
        all.push(values::variable("env", text)?);
    }
    Ok(all)
}

fn stop_signal(arguments: &Arguments) -> Result<Option<String>, Failure> {
    let Some(text) = arguments.value("stop-signal") else { return Ok(None) };
    match text.parse::<Signal>() {
        Ok(_) => Ok(Some(text.to_owned())),
        Err(error) => Err(Failure::new(format!("--stop-signal={text}")).because(&error)),
    }
}

fn labels(arguments: &Arguments) -> Result<BTreeMap<String, String>, Failure> {
    let mut all = BTreeMap::new();
    for path in arguments.values("label-file") {
        for line in values::lines("label-file", path)? {
            values::label("label-file", &line, &mut all)?;
        }
    }
    for text in arguments.values("label") {
        values::label("label", text, &mut all)?;
    }
    Ok(all)
}

fn annotations(arguments: &Arguments) -> Result<BTreeMap<String, String>, Failure> {
    let mut all = BTreeMap::new();
    for text in arguments.values("annotation") {
        values::label("annotation", text, &mut all)?;
    }
    Ok(all)
}

fn hosts(arguments: &Arguments) -> Result<Hosts, Failure> {
    let all = |flag: &str| arguments.values(flag).map(str::to_owned).collect::<Vec<_>>();
    let added = arguments.values("add-host").map(values::host).collect::<Result<_, _>>()?;
    let dns = arguments.values("dns").map(|text| values::address("dns", text));
    let mut dns_options = all("dns-option");
    dns_options.extend(all("dns-opt"));
    Ok(Hosts {
        hostname: match arguments.value("hostname") {
            None | Some("") => String::new(),
            Some(text) => values::hostname("hostname", text)?,
        },
        domainname: match arguments.value("domainname") {
            None | Some("") => String::new(),
            Some(text) => values::hostname("domainname", text)?,
        },
        added,
        dns: dns.collect::<Result<_, _>>()?,
        dns_search: all("dns-search"),
        dns_options,
    })
}

fn publish(arguments: &Arguments) -> Result<Vec<Publish>, Failure> {
    let mut all: Vec<Publish> = Vec::new();
    for text in arguments.values("publish") {
        let ports = net::publish(text)
            .map_err(|error| Failure::new(format!("--publish={text}")).because(&error))?;
        for port in ports {
            // Said twice is said once.
            if !all.contains(&port) || port.host_ports.is_none() {
                all.push(port);
            }
        }
    }
    Ok(all)
}

fn expose(arguments: &Arguments) -> Result<Vec<Exposed>, Failure> {
    let mut all = Vec::new();
    for text in arguments.values("expose") {
        all.extend(
            net::exposed(text)
                .map_err(|error| Failure::new(format!("--expose={text}")).because(&error))?,
        );
    }
    Ok(all)
}

fn sharing(
    arguments: &Arguments,
    flag: &str,
    containers: &dyn Containers,
) -> Result<Sharing, Failure> {
    let Some(text) = arguments.value(flag) else { return Ok(Sharing::Private) };
    match (flag, text) {
        (_, "host") => Ok(Sharing::Host),
        (_, "" | "private") => Ok(Sharing::Private),
        ("pid", other) if other.starts_with("container:") => {
            Ok(Sharing::Container(containers.id_of(&other["container:".len()..])?))
        }
        ("pid", _) => Err(no_such_mode(flag, text, "private, host, container:NAME")),
        _ => Err(no_such_mode(flag, text, "private, host")),
    }
}

/// `--userns`: how many ids of its own the container is to have.
fn own_ids(arguments: &Arguments) -> Result<Option<u32>, Failure> {
    let refused = |value: &str, why: &str| Failure::new(format!("--userns={value}: {why}"));
    match arguments.value("userns").unwrap_or_default() {
        "" | "host" => Ok(None),
        "auto" => Ok(Some(userns::SLOT_IDS)),
        text => match (text.strip_prefix("auto:size="), text.split([':', '=']).next()) {
            (Some(count), _) => {
                let most = userns::SLOTS * userns::SLOT_IDS;
                values::number("userns=auto:size", count, 1, most).map(Some)
            }
            (None, Some("keep-id")) => {
                Err(refused(text, "it is for ordinary users: root's id is 0")
                    .hint("--userns=auto, which no id of the host's stands behind"))
            }
            _ => Err(refused(text, "there is: host, auto, auto:size=NUMBER")),
        },
    }
}

/// The network of an ordinary user's container: the host's, or none, which is told where nothing was
/// asked for.
fn network_of_user(arguments: &Arguments, containers: &dyn Containers) -> Result<Network, Failure> {
    let names = |flag| arguments.values(flag).next().is_some();
    let is_named = names("network") || names("net");
    let by_variable = std::env::var(network_flags::VARIABLE).unwrap_or_default();
    if is_named || matches!(by_variable.as_str(), "none" | "host") {
        return network_flags::network(arguments, containers);
    }
    crate::cli::tell(
        "rrun: no network: ordinary users' containers have none of their own yet, and \
         --network host shares the host's",
    );
    Ok(Network::None)
}

/// What an ordinary user's containers do not have.
fn refuse_for_users(arguments: &Arguments) -> Result<(), Failure> {
    let refused = |flag: &str, value: &str, why: &str, hint: &str| {
        Err(Failure::new(format!("--{flag}={value}: {why}")).hint(hint.to_owned()))
    };
    match arguments.value("userns").unwrap_or_default() {
        "" | "host" => {}
        value if value == "auto" || value.starts_with("auto:") || value == "nomap" => {
            let why = "it needs idmapped layers, which the kernel lets only root make";
            return refused(
                "userns",
                value,
                why,
                "leave it away: the container's root is you already",
            );
        }
        value => {
            let why = "it is not supported yet for ordinary users";
            return refused("userns", value, why, "leave it away: the container's root is you");
        }
    }
    for flag in ["publish", "publish-all", "ip", "mac-address", "network-alias", "net-alias"] {
        if arguments.given(flag) {
            let value = arguments.value(flag).unwrap_or("true");
            let why = "ordinary users' containers have no networks of their own yet";
            return refused(flag, value, why, "--network host, or sudo rrun …");
        }
    }
    let words = arguments.values("network").chain(arguments.values("net"));
    match words.into_iter().find(|word| !matches!(*word, "none" | "host")) {
        None => Ok(()),
        Some(value) => {
            let why = "ordinary users' containers have no networks of their own yet";
            refused("network", value, why, "--network none, --network host, or sudo rrun …")
        }
    }
}

/// What belongs to namespaces that are not the container's own, and the kernel lets only their owner
/// have: mounts above all.
fn refuse_with_own_ids(arguments: &Arguments, network: &Network) -> Result<(), Failure> {
    let is_shared = |flag: &str| {
        arguments.value(flag).filter(|value| *value == "host" || value.starts_with("container:"))
    };
    for flag in ["pid", "ipc", "cgroupns"] {
        if let Some(value) = is_shared(flag) {
            let why = "what it is shared with belongs to another user namespace";
            return Err(Failure::new(format!("--{flag}={value} with a user namespace: {why}"))
                .hint(format!("leave --{flag} away")));
        }
    }
    if let Network::Container(_) = network {
        let why = "that network belongs to another user namespace";
        return Err(Failure::new(format!("--network=container:… with a user namespace: {why}"))
            .hint("--network none or host"));
    }
    Ok(())
}

fn ipc(arguments: &Arguments, containers: &dyn Containers) -> Result<Ipc, Failure> {
    let text = arguments.value("ipc").unwrap_or_default();
    match text {
        "" | "private" => Ok(Ipc::Private),
        "shareable" => Ok(Ipc::Shareable),
        "none" => Ok(Ipc::None),
        "host" => Ok(Ipc::Host),
        _ => match text.strip_prefix("container:") {
            Some(name) => Ok(Ipc::Container(containers.id_of(name)?)),
            None => {
                let modes = "private, shareable, none, host, container:NAME";
                Err(no_such_mode("ipc", text, modes))
            }
        },
    }
}

fn no_such_mode(flag: &str, text: &str, modes: &str) -> Failure {
    Failure::new(format!("--{flag}={text}: there is no such mode"))
        .hint(format!("there is: {modes}"))
}

fn sysctls(arguments: &Arguments) -> Result<BTreeMap<String, String>, Failure> {
    let one = |text: &str| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::new(format!("--sysctl={text}: it is NAME=VALUE"))),
    };
    arguments.values("sysctl").map(one).collect()
}

fn mounts(arguments: &Arguments) -> Result<Vec<MountRequest>, Failure> {
    let mut all: Vec<MountRequest> = Vec::new();
    let mut seen = Vec::new();
    for text in arguments.values("volume") {
        // The same words twice are one wish, as with Docker; two for one place are a mistake.
        if !seen.contains(&text) {
            all.push(mount_flags::volume(text)?);
            seen.push(text);
        }
    }
    for text in arguments.values("mount") {
        let mount = mount_flags::mount(text)?;
        if let MountKind::Bind { source, .. } = &mount.kind
            && std::fs::symlink_metadata(source).is_err()
        {
            return Err(Failure::new(format!("--mount: the source {source} does not exist"))
                .hint(format!("make it: mkdir -p {source}, or use -v, which does")));
        }
        all.push(mount);
    }
    for text in arguments.values("tmpfs") {
        let tmpfs = mount_flags::tmpfs(text)?;
        // The last word on a place counts, as with Docker.
        let is_tmpfs = |one: &MountRequest| matches!(one.kind, MountKind::Tmpfs { .. });
        all.retain(|one| !(is_tmpfs(one) && one.target == tmpfs.target));
        all.push(tmpfs);
    }
    Ok(all)
}

/// As Docker does, `-v` makes a directory that is missing; `--mount` has refused it before.
pub(super) fn make_sources(mounts: &[MountRequest]) -> Result<(), Failure> {
    for mount in mounts {
        let MountKind::Bind { source, .. } = &mount.kind else { continue };
        if std::fs::symlink_metadata(source).is_err() {
            std::fs::create_dir_all(source).map_err(|error| {
                Failure::new(format!("--volume: cannot make the source {source}")).because(&error)
            })?;
        }
    }
    Ok(())
}

fn limits(arguments: &Arguments) -> Result<Limits, Failure> {
    let memory = size(arguments, "memory")?;
    let reservation = size(arguments, "memory-reservation")?;
    let swap = match arguments.value("memory-swap") {
        Some("-1") => Some(-1),
        _ => size(arguments, "memory-swap")?,
    };
    check_memory(memory, swap, reservation)?;
    let cpus = arguments.value("cpus").filter(|text| *text != "0");
    let cpus = cpus.map(|text| values::cpus(text, processors())).transpose()?;
    if cpus.is_some() && (arguments.given("cpu-quota") || arguments.given("cpu-period")) {
        return Err(Failure::new(
            "--cpus and --cpu-quota or --cpu-period say the same thing twice",
        ));
    }
    let text = |flag: &'static str| arguments.value(flag).filter(|text| !text.is_empty());
    Ok(Limits {
        memory_bytes: memory,
        memory_swap_bytes: swap,
        memory_reservation_bytes: reservation,
        memory_swappiness: number(arguments, "memory-swappiness", 0, 100)?,
        oom_kill_disabled: arguments.has("oom-kill-disable"),
        oom_score_adj: number(arguments, "oom-score-adj", -1000, 1000)?,
        cpu_shares: number(arguments, "cpu-shares", 0, 262_144)?.filter(|&shares| shares > 0),
        cpu_period_us: match cpus {
            Some(_) => Some(100_000),
            None => number(arguments, "cpu-period", 1000, 1_000_000)?,
        },
        cpu_quota_us: match cpus {
            Some(quota) => Some(quota),
            None => number(arguments, "cpu-quota", -1, i64::MAX)?.filter(|&quota| quota != 0),
        },
        cpuset_cpus: text("cpuset-cpus")
            .map(|list| values::set("cpuset-cpus", list, online("cpu/online").as_deref()))
            .transpose()?,
        cpuset_mems: text("cpuset-mems")
            .map(|list| values::set("cpuset-mems", list, online("node/online").as_deref()))
            .transpose()?,
        pids: number(arguments, "pids-limit", -1, i64::from(i32::MAX))?,
        blkio_weight: number(arguments, "blkio-weight", 10, 1000)?,
    })
}

/// The processors of this machine. Those that this process may use are the caller's own matter
/// (taskset): a container gets all of them.
fn processors() -> usize {
    let listed = online("cpu/online").and_then(|list| values::count_of_set(&list));
    listed.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// The processors (`cpu/online`) or memory nodes (`node/online`) that there are, as a list.
fn online(what: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/sys/devices/system").join(what)).ok()?;
    Some(text.trim().to_owned())
}

fn number<T>(arguments: &Arguments, flag: &str, low: T, high: T) -> Result<Option<T>, Failure>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    arguments.value(flag).map(|text| values::number(flag, text, low, high)).transpose()
}

/// A size; 0 is no limit.
fn size(arguments: &Arguments, flag: &str) -> Result<Option<i64>, Failure> {
    let size = arguments.value(flag).map(|text| values::size(flag, text)).transpose()?;
    Ok(size.filter(|&bytes| bytes != 0))
}

fn check_memory(
    memory: Option<i64>,
    swap: Option<i64>,
    reservation: Option<i64>,
) -> Result<(), Failure> {
    match (memory, swap) {
        (Some(memory), _) if memory < MEMORY_MIN_BYTES => {
            return Err(Failure::new("--memory: the least is 6m"));
        }
        (None, Some(swap)) if swap > 0 => {
            return Err(Failure::new("--memory-swap counts memory and swap together")
                .hint("give --memory too"));
        }
        (Some(memory), Some(swap)) if swap > 0 && swap < memory => {
            return Err(Failure::new(
                "--memory-swap is memory and swap together: it cannot be less than --memory",
            ));
        }
        _ => {}
    }
    match (memory, reservation) {
        (_, Some(reservation)) if reservation < MEMORY_MIN_BYTES => {
            Err(Failure::new("--memory-reservation: the least is 6m"))
        }
        (Some(memory), Some(reservation)) if reservation > memory => {
            Err(Failure::new("--memory-reservation is larger than --memory"))
        }
        _ => Ok(()),
    }
}

#[derive(Default)]
struct Security {
    no_new_privileges: bool,
    seccomp: SeccompRequest,
    shows_system_paths: bool,
    strict: bool,
}

fn security(arguments: &Arguments) -> Result<Security, Failure> {
    let mut security = Security::default();
    for option in arguments.values("security-opt") {
        let wrong = |why: &str| Failure::new(format!("--security-opt={option}: {why}"));
        // Docker takes the old spelling with a colon, too.
        let (name, value) = match option.split_once(['=', ':']) {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("no-new-privileges", None) => security.no_new_privileges = true,
            ("no-new-privileges", Some(text)) => {
                security.no_new_privileges =
                    truth(text).ok_or_else(|| wrong("it takes true or false"))?;
            }
            ("seccomp", Some("unconfined")) => security.seccomp = SeccompRequest::Unconfined,
            ("seccomp", Some("builtin" | "default")) => security.seccomp = SeccompRequest::Default,
            ("seccomp", Some(path)) => {
                let bytes = values::read_file("security-opt seccomp", path, PROFILE_BYTES_MAX)?;
                security.seccomp = SeccompRequest::Profile(bytes);
            }
            ("systempaths", Some("unconfined")) => security.shows_system_paths = true,
            ("profile", Some("strict")) => security.strict = true,
            ("profile", Some("default")) => security.strict = false,
            // Nothing confines here by label, so there is nothing to take away.
            ("apparmor", Some("unconfined")) | ("label", Some("disable")) => {}
            ("apparmor", Some(_)) => {
                return Err(wrong("AppArmor profiles are not supported yet"));
            }
            ("label", Some(_)) => return Err(wrong("SELinux labels are not supported")),
            _ => {
                return Err(wrong("there is no such option").hint(
                    "there is: no-new-privileges, seccomp=FILE|unconfined, \
                     systempaths=unconfined, profile=strict",
                ));
            }
        }
    }
    Ok(security)
}

fn devices(arguments: &Arguments) -> Result<Vec<DeviceUse>, Failure> {
    let mut all = Vec::new();
    for text in arguments.values("device") {
        let wrong = |why: &str| Failure::new(format!("--device={text}: {why}"));
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, access) = match parts[..] {
            [source] => (source, source, "rwm"),
            [source, access] if values::is_access(access) => (source, source, access),
            [source, target] => (source, target, "rwm"),
            [source, target, access] => (source, target, access),
            _ => return Err(wrong("it is HOST[:CONTAINER[:rwm]]")),
        };
        if !values::is_access(access) || !source.starts_with('/') || !target.starts_with('/') {
            return Err(wrong("it is HOST[:CONTAINER[:rwm]], with absolute paths"));
        }
        add_devices(Path::new(source), Path::new(target), access, &mut all)
            .map_err(|error| wrong("cannot use it").because(&error))?;
    }
    if arguments.has("privileged") {
        let mut found = Vec::new();
        host_devices(Path::new("/dev"), &mut found);
        let known: Vec<PathBuf> = all.iter().map(|one| one.device.path().clone()).collect();
        all.extend(found.into_iter().filter(|one| !known.contains(one.device.path())));
    }
    Ok(all)
}

/// A device, or every device of a directory.
fn add_devices(
    source: &Path,
    target: &Path,
    access: &str,
    all: &mut Vec<DeviceUse>,
) -> std::io::Result<()> {
    if std::fs::metadata(source)?.is_dir() {
        for entry in std::fs::read_dir(source)? {
            let name = entry?.file_name();
            let below = source.join(&name);
            let kind = std::fs::metadata(&below)?.file_type();
            if kind.is_dir() || kind.is_block_device() || kind.is_char_device() {
                add_devices(&below, &target.join(&name), access, all)?;
            }
        }
        return Ok(());
    }
    let device = device(source, target)?;
    let source = source.to_owned();
    all.push(DeviceUse { source, device, access: access.to_owned() });
    Ok(())
}

fn device(source: &Path, target: &Path) -> std::io::Result<LinuxDevice> {
    let metadata = std::fs::metadata(source)?;
    let kind = match metadata.file_type() {
        kind if kind.is_block_device() => LinuxDeviceType::B,
        kind if kind.is_char_device() => LinuxDeviceType::C,
        _ => return Err(std::io::Error::other("it is not a device")),
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(target.to_owned())
        .set_typ(kind)
        .set_major(i64::from(rustix::fs::major(metadata.rdev())))
        .set_minor(i64::from(rustix::fs::minor(metadata.rdev())))
        .set_file_mode(Some(metadata.mode() & 0o7777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    Ok(device)
}

/// What a container makes itself, and what is not a device of the host's. Source: runc,
/// `libcontainer/devices`.
const NOT_FROM_HOST: [&str; 12] = [
    "/dev/pts",
    "/dev/shm",
    "/dev/fd",
    "/dev/mqueue",
    "/dev/.lxc",
    "/dev/.lxd-mounts",
    "/dev/.udev",
    "/dev/console",
    "/dev/ptmx",
    "/dev/tty",
    "/dev/stdin",
    "/dev/core",
];

/// Every device below `dir`. What cannot be read is left out, as it is not there for us either.
fn host_devices(dir: &Path, all: &mut Vec<DeviceUse>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if NOT_FROM_HOST.iter().any(|known| path == Path::new(known)) {
            continue;
        }
        if kind.is_dir() {
            host_devices(&path, all);
        } else if let Ok(device) = device(&path, &path)
            && (kind.is_block_device() || kind.is_char_device())
        {
            all.push(DeviceUse { source: path, device, access: "rwm".to_owned() });
        }
    }
}
