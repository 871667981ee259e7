//! How much memory there is for files, of the machine's and of the control group's.

use std::fs;
use std::path::Path;

/// Bytes that could be filled with files without taking memory from anybody's work; 0 where nothing
/// can be told. `root` is where `/proc` and `/sys` are. Sources: proc_meminfo(5), cgroups(7), the
/// kernel's cgroup-v1/memory and cgroup-v2.
pub(super) fn at_hand(root: &Path) -> u64 {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let machine = field(&meminfo, "MemAvailable:").unwrap_or(0).saturating_mul(1024);
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    groups.lines().filter_map(|line| group(root, line)).fold(machine, u64::min)
}

/// What a line of `/proc/self/cgroup` leaves, if it limits memory.
fn group(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let v1 = controllers.split(',').any(|controller| controller == "memory");
    if !v1 && !controllers.is_empty() {
        return None;
    }
    let base = root.join(if v1 { "sys/fs/cgroup/memory" } else { "sys/fs/cgroup" });
    let own = base.join(path.trim_start_matches('/'));
    // In a container the path may be one of the host's; what is seen there is the own group then.
    let own = if own.is_dir() { own } else { base.clone() };
    let files = if v1 {
        ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"]
    } else {
        ["memory.max", "memory.current", "inactive_file"]
    };
    // Whatever is the narrowest on the way up.
    own.ancestors()
        .take_while(|group| group.starts_with(&base))
        .filter_map(|g| left(g, files))
        .min()
}

fn left(group: &Path, [limit, usage, inactive]: [&str; 3]) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    // "max" is no number, and no limit.
    let limit = number(limit)?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let reclaimable = field(&stat, inactive).unwrap_or(0);
    Some(limit.saturating_sub(number(usage)?.saturating_sub(reclaimable)))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let mut words = text.lines().map(str::split_whitespace);
    words.find_map(|mut line| (line.next()? == name).then(|| line.next()?.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_of_machine_and_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(at_hand(root.path()), 0, "nothing can be told");
        write("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:    1000 kB\n");
        assert_eq!(at_hand(root.path()), 1_024_000);
        write("proc/self/cgroup", "4:memory:/outer/own\n3:cpu,cpuacct:/\n0::/outer/own\n");
        write("sys/fs/cgroup/outer/own/memory.max", "max\n");
        write("sys/fs/cgroup/outer/own/memory.current", "5\n");
        assert_eq!(at_hand(root.path()), 1_024_000, "no limit");
        write("sys/fs/cgroup/outer/memory.max", "900000\n");
        write("sys/fs/cgroup/outer/memory.current", "300000\n");
        write("sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file 200000\n");
        assert_eq!(at_hand(root.path()), 800_000, "a limit above, and files that can go");
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "700000\n");
        write("sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n");
        assert_eq!(at_hand(root.path()), 600_000, "v1 beside it, seen from within");
    }
}
