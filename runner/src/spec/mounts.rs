//! The mounts of a container, in the order in which they are made.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::image_config::Execution;
use super::request::{BindRecursion, Host, MountKind, MountRequest, Request};
use super::{SpecError, VOLUMES_MAX};
use crate::container::{Ipc, Network, VolumeUse};

/// The source of a `/dev/shm` that is another container's: found when the container starts.
pub const OF_OTHER_CONTAINER: &str = "container";

/// A mount entry of the Spec.
fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
    mount
}

/// Docker's own mounts, then what was asked for, nearest to the root first, so that a mount below
/// another's target is not hidden by it.
pub(super) fn assemble(
    request: &Request,
    image: &Execution,
    host: &Host,
) -> Result<(Vec<Mount>, Vec<VolumeUse>), SpecError> {
    if image.volumes.len() > VOLUMES_MAX {
        return Err(SpecError::TooManyVolumes(image.volumes.len()));
    }
    let mut asked = request.mounts.clone();
    let mut targets = HashSet::new();
    for mount in &asked {
        if !targets.insert(mount.target.clone()) {
            return Err(SpecError::DuplicateMount(mount.target.clone()));
        }
    }
    for target in image.volumes.keys() {
        let clean = clean(target)?;
        if targets.insert(clean.clone()) {
            let kind = MountKind::Volume { name: None, populate: true };
            asked.push(MountRequest { target: clean, kind, read_only: false });
        }
    }
    if targets.contains("/") {
        return Err(SpecError::MountOverRoot);
    }
    asked.sort_by_key(|mount| depth(&mount.target));
    let mut mounts = defaults(request);
    // Whoever mounts over one of ours gets theirs; over all of /dev, its submounts go too.
    let hides = |ours: &Path| {
        asked.iter().any(|theirs| {
            ours == Path::new(&theirs.target)
                || (theirs.target == "/dev" && ours.starts_with("/dev"))
        })
    };
    mounts.retain(|ours| !hides(ours.destination()));
    let mut volumes = Vec::new();
    for one in &asked {
        mounts.push(entry(one, host, mounts.len(), &mut volumes));
    }
    Ok((mounts, volumes))
}

/// The path without `.`, `..` and repeated slashes.
///
/// # Errors
/// [`SpecError::RelativeTarget`]
pub fn clean(target: &str) -> Result<String, SpecError> {
    if !target.starts_with('/') {
        return Err(SpecError::RelativeTarget(target.to_owned()));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

fn defaults(request: &Request) -> Vec<Mount> {
    let access = if request.privileged { "rw" } else { "ro" };
    let shm_size = format!("size={}", request.shm_size_bytes);
    let quiet = ["nosuid", "noexec", "nodev"];
    // A sysfs shows the network namespace of who mounts it, who must own that one.
    let binds_sys = request.own_ids.is_some() && request.network == Network::Host;
    let sys = match binds_sys {
        // What is mounted below cannot be left out by who does not own it: it is covered.
        true if request.is_of_user => {
            let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"];
            mount("/sys", "bind", "/sys", &options)
        }
        true => {
            mount("/sys", "bind", "/sys", &["bind", "rprivate", "nosuid", "noexec", "nodev", "ro"])
        }
        false => mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
    };
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if request.own_ids.is_none_or(|count| count > 5) {
        terminals.push("gid=5");
    }
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &quiet),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &terminals),
        // One of its own, also with the host's network: bound, the host's would bring along what is
        // mounted in it, cgroups, debugfs and tracefs.
        sys,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", access]),
    ];
    // An mqueue shows the queues of the IPC namespace that mounts it, whosever that is.
    mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &quiet));
    match &request.ipc {
        Ipc::None => {}
        Ipc::Private | Ipc::Shareable => {
            let options = ["nosuid", "noexec", "nodev", "mode=1777", &shm_size];
            mounts.push(mount("/dev/shm", "tmpfs", "shm", &options));
        }
        // POSIX shared memory is files, and belongs to the same processes.
        Ipc::Host => {
            mounts.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate"]));
        }
        Ipc::Container(_) => {
            mounts.push(mount("/dev/shm", "bind", OF_OTHER_CONTAINER, &["bind", "rprivate"]));
        }
    }
    mounts
}

fn entry(asked: &MountRequest, host: &Host, index: usize, volumes: &mut Vec<VolumeUse>) -> Mount {
    match &asked.kind {
        MountKind::Tmpfs { options } => {
            let mut all = vec!["noexec", "nosuid", "nodev"];
            // An option's opposite takes its place: `--tmpfs /x:exec`.
            for option in options {
                let opposite = option.strip_prefix("no").map(str::to_owned);
                let opposite = opposite.unwrap_or_else(|| format!("no{option}"));
                all.retain(|known| *known != opposite && known != option);
                all.push(option);
            }
            if asked.read_only {
                all.push("ro");
            }
            mount(&asked.target, "tmpfs", "tmpfs", &all)
        }
        MountKind::Bind { source, propagation, recursion } => {
            let bind = if *recursion == BindRecursion::Disabled { "bind" } else { "rbind" };
            let mut options = vec![bind, propagation.as_deref().unwrap_or("rprivate")];
            match (asked.read_only, recursion) {
                (false, _) => {}
                (true, BindRecursion::Enabled) => options.push("rro"),
                (true, _) => options.push("ro"),
            }
            mount(&asked.target, "bind", source, &options)
        }
        MountKind::Volume { name, populate } => {
            let anonymous = name.is_none();
            let name = name.clone().unwrap_or_else(crate::random::id);
            let data = host.volumes.join(&name).join("_data");
            volumes.push(VolumeUse { mount: index, name, anonymous, populate: *populate });
            let options: &[&str] = if asked.read_only {
                &["rbind", "rprivate", "rro"]
            } else {
                &["rbind", "rprivate"]
            };
            let mut entry = mount(&asked.target, "bind", "", options);
            entry.set_source(Some(data));
            entry
        }
    }
}
