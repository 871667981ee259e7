//! From an image's configuration and what was asked for to the record of a container.
//!
//! A pure function: it asks neither the disk nor the kernel, so everything about defaults can be
//! tested in tables, and `create` and `start` cannot disagree. The defaults are Docker's.

mod capabilities;
mod image_config;
mod mounts;
mod process;
mod request;
mod resources;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Process, Root, Spec, User};

pub use self::capabilities::{
    DEFAULT as DEFAULT_CAPABILITIES, from_mask as capabilities_from_mask, mask as capability_mask,
};
pub use self::image_config::{Execution, ImageConfig};
pub use self::mounts::{OF_OTHER_CONTAINER, clean as clean_target};
pub use self::process::change as change_environment;
use self::request::SeccompChoice;
pub use self::request::{
    BindRecursion, CapabilityName, DeviceUse, Host, Limits, MountKind, MountRequest, Request,
    SeccompRequest, Sharing, Variable,
};
use crate::container::{
    DeviceOfHost, ImageUse, Ipc, Network, RECORD_FORMAT, Record, Seccomp, Stdio,
};
use crate::known_bad::left_out;
use crate::net::{self, Exposed, PortError, Publish};
use crate::seccomp::{self, SeccompError};
use crate::userns;

/// Version of the runtime specification that our configurations keep to.
const OCI_VERSION: &str = "1.2.0";

/// Source: moby, `oci/defaults.go`.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Mount points of the kernel's own file systems.
const BELOW_SYS: [&str; 5] = [
    "/sys/kernel/debug",
    "/sys/kernel/tracing",
    "/sys/kernel/security",
    "/sys/fs/bpf",
    "/sys/firmware/efi/efivars",
];
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Volumes that an image may declare. Each is a directory and a mount, of which the kernel allows a
/// namespace 100,000 (`fs.mount-max`); images in use have a handful.
pub(crate) const VOLUMES_MAX: usize = 1000;

/// Why a container cannot be made as asked.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("no command: neither the command line nor the image names one")]
    NoCommand,
    #[error("the command is empty")]
    EmptyCommand,
    #[error("the mount target {0} is not absolute")]
    RelativeTarget(String),
    #[error("two mounts have the target {0}")]
    DuplicateMount(String),
    #[error("the image declares {0} volumes, and at most {VOLUMES_MAX} are made")]
    TooManyVolumes(usize),
    #[error("a mount cannot have the target /")]
    MountOverRoot,
    #[error("sysctl {name}: {why}")]
    Sysctl { name: String, why: &'static str },
    #[error("the working directory {0} is not absolute")]
    RelativeWorkdir(String),
    #[error("{0:?} is not a user: it is NAME or NUMBER, and :GROUP if wanted")]
    User(String),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error("the image exposes the port {0:?}")]
    Port(String, #[source] PortError),
}

/// Settles everything about one container.
///
/// # Errors
/// Where parts of the request contradict each other or the image.
pub fn record(
    request: &Request,
    image: &ImageConfig,
    image_use: ImageUse,
    host: &Host,
    id: &str,
    created: String,
) -> Result<Record, SpecError> {
    let mut hosts = request.hosts.clone();
    if hosts.hostname.is_empty() {
        let is_host = request.network == Network::Host || request.uts == Sharing::Host;
        hosts.hostname = if is_host { host.hostname.clone() } else { id[..12].to_owned() };
    }
    let execution = &image.config;
    let held = capabilities::held(
        &host.capabilities,
        &request.capabilities_added,
        &request.capabilities_dropped,
        request.privileged,
        request.strict,
    );
    let seccomp = choose_seccomp(request, &held)?;
    let user = match &request.user {
        Some(user) => user.clone(),
        None => execution.user.clone(),
    };
    check_user(&user)?;
    let (mounts, volumes) = mounts::assemble(request, execution, host)?;

    let (exposed, ports) = ports(request, execution)?;
    let (arguments, entrypoint_words) = process::arguments(request, execution)?;
    let (texts, environment_bytes) = process::environment(request, execution, &hosts.hostname);
    let mut process = Process::default();
    let mut numeric = User::default();
    numeric.set_uid(0).set_gid(0);
    process
        .set_terminal(Some(request.terminal))
        .set_user(numeric)
        .set_args(Some(arguments))
        .set_env(Some(texts))
        .set_cwd(workdir(request, execution)?)
        .set_capabilities(Some(capabilities::sets(&held)))
        .set_rlimits(Some(request.rlimits.clone()).filter(|all| !all.is_empty()))
        .set_no_new_privileges(Some(request.no_new_privileges || request.strict))
        .set_oom_score_adj(request.limits.oom_score_adj);

    // Without a namespace of its own they would be set for the host.
    let own_names = request.uts != Sharing::Host || left_out("names-of-its-own");
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(Some(request.read_only));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_process(Some(process))
        .set_hostname(own_names.then(|| hosts.hostname.clone()))
        .set_domainname(Some(hosts.domainname.clone()).filter(|name| !name.is_empty() && own_names))
        .set_mounts(Some(mounts))
        .set_annotations(annotations(&request.annotations))
        .set_linux(Some(linux(request, &seccomp)?));

    let mut labels = execution.labels.clone();
    labels.extend(request.labels.clone());
    let image_signal = Some(execution.stop_signal.clone()).filter(|signal| !signal.is_empty());
    Ok(Record {
        format: RECORD_FORMAT,
        id: id.to_owned(),
        name: request.name.clone(),
        created,
        image: image_use,
        spec,
        entrypoint_words,
        user,
        groups_added: request.groups_added.clone(),
        network: request.network.clone(),
        ports,
        exposed,
        ipc: request.ipc.clone(),
        pid_of: match &request.pid {
            Sharing::Container(id) => Some(id.clone()),
            Sharing::Private | Sharing::Host => None,
        },
        seccomp: match seccomp {
            SeccompChoice::Docker => Seccomp::Docker,
            SeccompChoice::Strict => Seccomp::Strict,
            SeccompChoice::Unconfined => Seccomp::Unconfined,
            SeccompChoice::Spec(_) => Seccomp::Spec,
        },
        stdio: Stdio {
            terminal: request.terminal,
            stdin_open: request.stdin_open,
            detached: request.detached,
            log: request.log,
        },
        remove_on_exit: request.remove_on_exit,
        init: request.init,
        stop_signal: request.stop_signal.clone().or(image_signal),
        stop_timeout_seconds: request.stop_timeout_seconds,
        cgroup_parent: request.cgroup_parent.clone(),
        volumes,
        labels,
        hosts,
        environment_bytes,
        exposed_ports: request
            .exposed_ports
            .iter()
            .chain(execution.exposed_ports.keys())
            .cloned()
            .collect(),
        devices: request.devices.iter().map(of_host).collect(),
        cidfile: request.cidfile.clone(),
        asked_for: request.asked_for.clone(),
    })
}

fn of_host(asked: &DeviceUse) -> DeviceOfHost {
    DeviceOfHost { path: asked.source.clone(), access: asked.access.clone() }
}

/// The ports that the image and `--expose` name, and those that are published: of `-p`, and with
/// `-P` all the others too.
fn ports(request: &Request, image: &Execution) -> Result<(Vec<Exposed>, Vec<Publish>), SpecError> {
    let mut exposed = request.exposed.clone();
    for text in image.exposed_ports.keys() {
        exposed.extend(net::exposed(text).map_err(|error| SpecError::Port(text.clone(), error))?);
    }
    let mut ports = request.ports.clone();
    exposed.extend(ports.iter().map(|port| port.exposed));
    exposed.sort_unstable();
    exposed.dedup();
    if request.publishes_all {
        let named: Vec<Exposed> = ports.iter().map(|port| port.exposed).collect();
        let others = exposed.iter().filter(|one| !named.contains(one));
        ports.extend(others.map(|one| Publish { host_ip: None, host_ports: None, exposed: *one }));
    }
    Ok((exposed, ports))
}

fn annotations(all: &BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    if all.is_empty() {
        return None;
    }
    Some(all.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn workdir(request: &Request, image: &Execution) -> Result<PathBuf, SpecError> {
    let asked = request.workdir.as_deref().unwrap_or(&image.working_dir);
    if asked.is_empty() {
        return Ok(PathBuf::from("/"));
    }
    // Images of old tools have `app` where `/app` is meant, and run with Docker.
    match (asked.starts_with('/'), &request.workdir) {
        (true, _) => Ok(PathBuf::from(asked)),
        (false, None) => Ok(PathBuf::from(format!("/{asked}"))),
        (false, Some(_)) => Err(SpecError::RelativeWorkdir(asked.to_owned())),
    }
}

/// A user's or group's number: digits alone, of 31 bits, which is Docker's range. Above it lies the
/// kernel's "no change", which as an argument of setresuid(2) leaves root what it is.
pub fn id(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&id| is_number && id <= i32::MAX.cast_unsigned())
}

/// Strict: `0:`, `:0`, `+5`, `1 000` name nobody, least of all root (CVE-2026-30892).
///
/// # Errors
/// [`SpecError::User`]
pub fn check_user(text: &str) -> Result<(), SpecError> {
    if text.is_empty() {
        return Ok(());
    }
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let is_name = |name: &str| {
        let is_number = name.bytes().all(|b| b.is_ascii_digit());
        !name.is_empty()
            && !name.starts_with(['-', '+'])
            && !name.contains([':', '/', '\0'])
            && !name.contains(char::is_whitespace)
            && (!is_number || id(name).is_some())
    };
    if is_name(user) && group.is_none_or(is_name) || left_out("user-strict") {
        Ok(())
    } else {
        Err(SpecError::User(text.to_owned()))
    }
}

fn choose_seccomp(
    request: &Request,
    held: &oci_spec::runtime::Capabilities,
) -> Result<SeccompChoice, SpecError> {
    Ok(match &request.seccomp {
        SeccompRequest::Default if request.privileged => SeccompChoice::Unconfined,
        SeccompRequest::Default if request.strict => SeccompChoice::Strict,
        SeccompRequest::Default => SeccompChoice::Docker,
        SeccompRequest::Unconfined => SeccompChoice::Unconfined,
        SeccompRequest::Profile(bytes) => {
            let policy = seccomp::read_profile(bytes, held)?;
            // What cannot be compiled is told now, not when the container starts.
            seccomp::program(&policy)?;
            SeccompChoice::Spec(Box::new(policy))
        }
    })
}

fn linux(request: &Request, seccomp: &SeccompChoice) -> Result<Linux, SpecError> {
    let mut linux = Linux::default();
    if let Some(count) = request.own_ids {
        // From which id of the host on is settled when the record is written.
        linux.set_uid_mappings(Some(userns::mapping(0, count)));
        linux.set_gid_mappings(Some(userns::mapping(0, count)));
    }
    let confined = !request.privileged && !request.shows_system_paths;
    let paths = |list: &[&str]| Some(list.iter().map(|&path| path.to_owned()).collect());
    linux
        .set_namespaces(Some(namespaces(request)))
        .set_resources(Some(resources::resources(request)))
        .set_masked_paths(if confined { paths(&masked(request)) } else { None })
        .set_readonly_paths(if confined { paths(&READ_ONLY) } else { None })
        .set_devices(Some(request.devices.iter().map(|one| one.device.clone()).collect()))
        .set_rootfs_propagation(Some("rprivate".to_owned()))
        .set_sysctl(sysctls(request)?)
        .set_seccomp(match seccomp {
            SeccompChoice::Spec(policy) => Some((**policy).clone()),
            SeccompChoice::Docker | SeccompChoice::Strict | SeccompChoice::Unconfined => None,
        });
    Ok(linux)
}

/// What the host has mounted below its `/sys` is covered where that is shown.
fn masked(request: &Request) -> Vec<&'static str> {
    let of_host: &[&str] = match request.own_ids.is_some() && request.network == Network::Host {
        true => &BELOW_SYS,
        false => &[],
    };
    MASKED.iter().chain(of_host).copied().collect()
}

fn namespaces(request: &Request) -> Vec<LinuxNamespace> {
    use LinuxNamespaceType::{Cgroup, Mount, Network as Net, Pid, Uts};
    let network = if request.network == Network::Host { Sharing::Host } else { Sharing::Private };
    let own = &Sharing::Private;
    let all = [
        (Mount, own),
        (Net, &network),
        (Uts, &request.uts),
        (Pid, &request.pid),
        (LinuxNamespaceType::Ipc, if request.ipc == Ipc::Host { &Sharing::Host } else { own }),
        (Cgroup, &request.cgroup),
    ];
    let mut namespaces = Vec::new();
    if request.own_ids.is_some() {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(LinuxNamespaceType::User);
        namespaces.push(namespace);
    }
    // Those of another container are found when this one starts: their files change with it.
    for (kind, _) in all.into_iter().filter(|(_, sharing)| **sharing != Sharing::Host) {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespaces.push(namespace);
    }
    namespaces
}

/// Only settings that belong to a namespace of the container's own, or they would be the host's.
fn sysctls(request: &Request) -> Result<Option<HashMap<String, String>>, SpecError> {
    let mut all = HashMap::new();
    // Docker's: servers that are not root bind low ports, and ping works without NET_RAW.
    let own_network = matches!(request.network, Network::None | Network::Bridge(_));
    if own_network {
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        // The kernel takes no group that the namespace does not have.
        let last = request.own_ids.map_or(i32::MAX.cast_unsigned(), |count| count - 1);
        all.insert("net.ipv4.ping_group_range".to_owned(), format!("0 {last}"));
    }
    for (name, value) in &request.sysctls {
        // sysctl(8) takes both separators.
        let name = name.replace('/', ".");
        let error = |why| SpecError::Sysctl { name: name.clone(), why };
        let is_ipc = name.starts_with("fs.mqueue.") || IPC_SYSCTLS.contains(&name.as_str());
        let own_ipc = matches!(request.ipc, Ipc::Private | Ipc::Shareable | Ipc::None);
        if name.split('.').any(str::is_empty) {
            return Err(error("this is no name of a setting"));
        } else if is_ipc && !own_ipc {
            return Err(error("it would change an IPC namespace that is not the container's own"));
        } else if name.starts_with("net.") && !own_network {
            return Err(error("it would change a network that is not the container's own"));
        } else if name == "kernel.domainname" && request.uts != Sharing::Private {
            return Err(error("it would change a host name that is not the container's own"));
        } else if !is_ipc
            && !name.starts_with("net.")
            && name != "kernel.domainname"
            && !left_out("sysctls-namespaced")
        {
            return Err(error("it does not belong to a namespace: it would change the whole host"));
        }
        all.insert(name, value.clone());
    }
    Ok(Some(all).filter(|all| !all.is_empty()))
}

/// Source: moby, `opts/opts.go`; ipc_namespaces(7).
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

#[cfg(test)]
mod tests;
