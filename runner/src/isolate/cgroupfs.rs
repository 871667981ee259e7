//! `/sys/fs/cgroup` inside the container: what the host has, seen from the container's own cgroup.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::{Plan, rootfs};
use crate::known_bad::left_out;
use crate::sys::mount::{Attributes, RDONLY, set_attributes};

/// A mounted cgroup hierarchy of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The directory's name under `/sys/fs/cgroup`; empty where cgroup v2 is all there is.
    pub name: String,
    /// Controllers and `name=…` of a v1 hierarchy; `None` for v2.
    pub v1: Option<Vec<String>>,
}

impl Hierarchy {
    /// The hierarchies that `mountinfo` (of `/proc/self/mountinfo`, proc_pid_mountinfo(5)) shows
    /// under `/sys/fs/cgroup`.
    pub fn all(mountinfo: &str) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let Some(place) = before.split(' ').nth(4) else { continue };
            let Some(name) = place.strip_prefix("/sys/fs/cgroup") else { continue };
            let name = name.trim_start_matches('/').to_owned();
            let mut after = after.split(' ');
            let (kind, options) = (after.next().unwrap_or(""), after.nth(1).unwrap_or(""));
            let v1 = match kind {
                "cgroup2" => None,
                "cgroup" => Some(
                    options
                        .split(',')
                        .filter(|option| !["rw", "ro", "xattr", "clone_children"].contains(option))
                        .filter(|option| !option.starts_with("release_agent"))
                        .map(str::to_owned)
                        .collect(),
                ),
                _ => continue,
            };
            let found = Self { name, v1 };
            if !found.name.contains('/') && !all.contains(&found) {
                all.push(found);
            }
        }
        all
    }

    fn make(&self) -> Result<OwnedFd, Errno> {
        let kind = if self.v1.is_some() { "cgroup" } else { "cgroup2" };
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for option in self.v1.as_deref().unwrap_or_default() {
            match option.split_once('=') {
                Some((name, value)) => {
                    rustix::mount::fsconfig_set_flag(context.as_fd(), "none")?;
                    rustix::mount::fsconfig_set_string(context.as_fd(), name, value)?;
                }
                None => rustix::mount::fsconfig_set_flag(context.as_fd(), option.as_str())?,
            }
        }
        rustix::mount::fsconfig_create(context.as_fd())?;
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, quiet())
    }
}

fn quiet() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
}

/// Attaches the host's hierarchies at `place`, with these attributes: read-only unless the
/// container is privileged (CVE-2022-0492).
pub(super) fn attach(plan: &Plan<'_>, place: &OwnedFd, set: u64) -> Result<(), Errno> {
    let set = if left_out("cgroups-read-only") { set & !RDONLY } else { set };
    let attributes = |mount: &OwnedFd| {
        let wanted = Attributes { set, ..Attributes::default() };
        set_attributes(mount.as_fd(), wanted, false)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    };
    if let [only] = &plan.hierarchies[..]
        && only.name.is_empty()
    {
        let mount = only.make()?;
        attributes(&mount)?;
        return rootfs::attach(&mount, place);
    }
    let tmpfs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(tmpfs.as_fd(), "mode", "0755")?;
    rustix::mount::fsconfig_create(tmpfs.as_fd())?;
    let tmpfs = rustix::mount::fsmount(tmpfs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, quiet())?;
    rootfs::attach(&tmpfs, place)?;
    for hierarchy in plan.hierarchies.iter().filter(|one| !one.name.is_empty()) {
        let mount = hierarchy.make()?;
        attributes(&mount)?;
        rustix::fs::mkdirat(&tmpfs, hierarchy.name.as_str(), Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = rustix::fs::openat(&tmpfs, hierarchy.name.as_str(), flags, Mode::empty())?;
        rootfs::attach(&mount, &at)?;
        // `cpu` and `cpuacct` beside `cpu,cpuacct`, as everywhere.
        for alias in hierarchy.name.split(',').filter(|alias| *alias != hierarchy.name) {
            rustix::fs::symlinkat(hierarchy.name.as_str(), &tmpfs, alias)?;
        }
    }
    if set & RDONLY != 0 { attributes(&tmpfs) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_mounted() {
        let hybrid = "\
30 24 0:26 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:29 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct";
        let v1 = |name: &str, options: &[&str]| Hierarchy {
            name: name.to_owned(),
            v1: Some(options.iter().map(|&option| option.to_owned()).collect()),
        };
        assert_eq!(
            Hierarchy::all(hybrid),
            [
                Hierarchy { name: "unified".to_owned(), v1: None },
                v1("systemd", &["name=systemd"]),
                v1("cpu,cpuacct", &["cpu", "cpuacct"]),
            ]
        );
        let pure = "29 23 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw";
        assert_eq!(Hierarchy::all(pure), [Hierarchy { name: String::new(), v1: None }]);
    }
}
