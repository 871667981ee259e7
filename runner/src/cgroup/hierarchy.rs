//! Which cgroup hierarchies this process can see, and where it stands in them.
//!
//! The kernel's own tables decide: `/proc/self/cgroup` names every hierarchy and
//! `/proc/self/mountinfo` says where it is mounted. No name below `/sys/fs/cgroup` is taken for
//! granted. Sources: cgroups(7), proc_pid_mountinfo(5), proc_pid_cgroup(5).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::files;

/// Source: `linux/magic.h`.
const CGROUP_SUPER_MAGIC: i64 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// cgroup v2
    pub unified: bool,
    /// v1: its controllers, or `name=…`. Empty in v2, where each cgroup has its own list.
    pub controllers: Vec<String>,
    pub mount_point: PathBuf,
    /// The directory of the caller's own cgroup, when the mount shows it.
    pub own: Option<PathBuf>,
}

/// Reads the kernel's tables. Mounts that others cover are left out.
pub(super) fn detect() -> io::Result<Vec<Hierarchy>> {
    let mounts = files::read_proc("/proc/self/mountinfo")?;
    let own = String::from_utf8_lossy(&files::read_proc("/proc/self/cgroup")?).into_owned();
    Ok(parse(&mounts, &own, is_mounted))
}

/// Whether `path` is still the hierarchy that the table says was mounted there.
fn is_mounted(path: &Path, unified: bool) -> bool {
    let magic = if unified { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC };
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == magic)
}

/// A line of mountinfo about a cgroup file system.
struct Mount {
    unified: bool,
    /// The cgroup that the mount shows as its root.
    root: PathBuf,
    point: PathBuf,
    options: String,
}

fn parse(mounts: &[u8], own: &str, is_mounted: impl Fn(&Path, bool) -> bool) -> Vec<Hierarchy> {
    let mounts: Vec<Mount> = mounts.split(|&byte| byte == b'\n').filter_map(mount).collect();
    own.lines().filter_map(|line| hierarchy(line, &mounts, &is_mounted)).collect()
}

/// `36 35 0:31 ROOT POINT rw,relatime shared:1 - cgroup cgroup rw,memory`
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let root = fields.nth(3)?;
    let point = fields.next()?;
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let unified = match fields.next()? {
        b"cgroup" => false,
        b"cgroup2" => true,
        _ => return None,
    };
    let options = String::from_utf8_lossy(fields.nth(1)?).into_owned();
    Some(Mount { unified, root: unescape(root), point: unescape(point), options })
}

/// Space, tab, newline and backslash stand as `\040` and so on.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// `4:memory:/path`, `0::/path`
fn hierarchy(
    line: &str,
    mounts: &[Mount],
    is_mounted: impl Fn(&Path, bool) -> bool,
) -> Option<Hierarchy> {
    let mut fields = line.splitn(3, ':');
    let unified = fields.next()? == "0";
    let controllers: Vec<String> =
        fields.next()?.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let own = fields.next()?;
    // A path with `..` is above the root of this cgroup namespace.
    let own = Path::new(own.strip_suffix(" (deleted)").unwrap_or(own));
    let own = Some(own).filter(|own| !own.iter().any(|part| part == ".."));

    let has = |mount: &Mount, name: &str| mount.options.split(',').any(|option| option == name);
    let relative = |mount: &Mount| own.and_then(|own| own.strip_prefix(&mount.root).ok());
    let found = mounts
        .iter()
        .filter(|mount| mount.unified == unified)
        .filter(|mount| unified || controllers.iter().all(|name| has(mount, name)))
        .filter(|mount| is_mounted(&mount.point, unified))
        .min_by_key(|mount| {
            let usual = mount.point.starts_with("/sys/fs/cgroup");
            (relative(mount).is_none(), !usual, mount.root.as_os_str().len())
        })?;
    let own = relative(found).map(|own| found.point.join(own));
    Some(Hierarchy { unified, controllers, mount_point: found.point.clone(), own })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mounts: &str, own: &str) -> Vec<(String, String, Option<String>)> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        parse(mounts.as_bytes(), own, |_, _| true)
            .into_iter()
            .map(|one| {
                let name = if one.unified { "v2".to_owned() } else { one.controllers.join(",") };
                (name, text(one.mount_point), one.own.map(text))
            })
            .collect()
    }

    fn row(name: &str, point: &str, own: Option<&str>) -> (String, String, Option<String>) {
        (name.to_owned(), point.to_owned(), own.map(str::to_owned))
    }

    #[test]
    fn pure_v2() {
        let mounts = "\
22 1 0:20 / /sys rw,nosuid shared:2 - sysfs sysfs rw
26 22 0:23 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate
";
        assert_eq!(
            found(mounts, "0::/user.slice/session-1.scope\n"),
            [row("v2", "/sys/fs/cgroup", Some("/sys/fs/cgroup/user.slice/session-1.scope"))]
        );
    }

    #[test]
    fn hybrid_with_joined_controllers_and_a_bind_mount_of_one() {
        let mounts = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
60 23 0:29 /docker/x /mnt/cpu rw - cgroup cgroup rw,cpu,cpuacct
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 master:1 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 31 0:31 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw
";
        // `blkio` is known to the kernel and mounted nowhere.
        let own = "5:blkio:/\n4:name=systemd:/a (deleted)\n3:cpu,cpuacct:/docker/x\n0::/a\n";
        assert_eq!(
            found(mounts, own),
            [
                row("name=systemd", "/sys/fs/cgroup/systemd", Some("/sys/fs/cgroup/systemd/a")),
                row(
                    "cpu,cpuacct",
                    "/sys/fs/cgroup/cpu,cpuacct",
                    Some("/sys/fs/cgroup/cpu,cpuacct/docker/x")
                ),
                row("v2", "/sys/fs/cgroup/uni fied", Some("/sys/fs/cgroup/uni fied/a")),
            ]
        );
    }

    #[test]
    fn v1_in_a_container_without_a_cgroup_namespace() {
        let mounts = "9 8 0:9 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(
            found(mounts, "3:memory:/docker/x/y\n0::/\n"),
            [row("memory", "/sys/fs/cgroup/memory", Some("/sys/fs/cgroup/memory/y"))]
        );
    }

    #[test]
    fn an_own_cgroup_outside_of_the_namespace_is_not_reachable() {
        let mounts = "9 8 0:9 /../.. /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(found(mounts, "0::/../x\n"), [row("v2", "/sys/fs/cgroup", None)]);
    }

    #[test]
    fn covered_mounts_and_nonsense_are_left_out() {
        let mounts = "1 1 0:9 / /x rw - cgroup2 cgroup rw\nshort\n\n1 2 3 - cgroup2\n";
        assert!(parse(mounts.as_bytes(), "0::/\nx\n", |_, _| false).is_empty());
        assert_eq!(found(mounts, "0::/\nnonsense\n").len(), 1);
    }
}
