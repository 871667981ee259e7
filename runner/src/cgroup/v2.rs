//! Limits in the words of cgroup v2. Source: the kernel's `admin-guide/cgroup-v2.rst`.

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::files;
use super::settings::{
    BLOCK_RATE, BLOCK_WEIGHT, CPU_BURST, CPU_IDLE, CPU_REAL_TIME, CPU_SHARES, CPUS, CPUSET_CPUS,
    CPUSET_MEMS, HUGE_PAGES, KERNEL_MEMORY_TCP, MEMORY, MEMORY_RESERVATION, MEMORY_SWAP,
    MEMORY_SWAPPINESS, NETWORK, OOM_KILL_DISABLE, PIDS, Setting, impossible, or_max, set,
};

/// Controllers that every container gets where they are: `stats` and the OOM report read them.
const USUAL: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// In microseconds; what the kernel starts a cgroup with.
const DEFAULT_PERIOD: u64 = 100_000;

/// Everything that is to be written. `has` tells whether the cgroup has a file.
pub(super) fn settings(resources: &LinuxResources, has: &dyn Fn(&str) -> bool) -> Vec<Setting> {
    let mut all = Vec::with_capacity(8);
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut all);
    }
    if let Some(memory) = resources.memory() {
        memory_settings(memory, &mut all);
    }
    if let Some(pids) = resources.pids() {
        let limit = if pids.limit() > 0 { pids.limit().to_string() } else { "max".to_owned() };
        all.push(set("pids", PIDS, "pids.max", limit));
    }
    if let Some(io) = resources.block_io() {
        io_settings(io, has, &mut all);
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.max", huge.page_size());
        all.push(set("hugetlb", HUGE_PAGES, file, or_max(huge.limit())));
    }
    if resources.network().is_some() {
        all.push(impossible("net_cls", NETWORK, "cgroup v2 has no network classes"));
    }
    all
}

/// The controllers that have to be enabled down the path.
pub(super) fn wanted_controllers(resources: &LinuxResources) -> Vec<String> {
    let mut wanted: Vec<String> = USUAL.map(str::to_owned).to_vec();
    let named = settings(resources, &|_| true).into_iter().map(|one| one.controller.to_owned());
    let unified = resources.unified().iter().flatten();
    let verbatim = unified.filter_map(|(file, _)| Some(file.split_once('.')?.0.to_owned()));
    for controller in named.chain(verbatim) {
        if !wanted.contains(&controller) {
            wanted.push(controller);
        }
    }
    wanted
}

fn cpu_settings(cpu: &LinuxCpu, all: &mut Vec<Setting>) {
    if let Some(cpus) = cpu.cpus() {
        all.push(set("cpuset", CPUSET_CPUS, "cpuset.cpus", cpus));
    }
    if let Some(mems) = cpu.mems() {
        all.push(set("cpuset", CPUSET_MEMS, "cpuset.mems", mems));
    }
    if let Some(shares) = cpu.shares().filter(|&shares| shares > 0) {
        all.push(set("cpu", CPU_SHARES, "cpu.weight", weight_of_shares(shares)));
    }
    let quota = cpu.quota().filter(|&quota| quota != 0);
    let period = cpu.period().filter(|&period| period > 0);
    if quota.is_some() || period.is_some() {
        let value = format!("{} {}", or_max(quota.unwrap_or(-1)), period.unwrap_or(DEFAULT_PERIOD));
        all.push(set("cpu", CPUS, "cpu.max", value));
    }
    if let Some(burst) = cpu.burst() {
        all.push(set("cpu", CPU_BURST, "cpu.max.burst", burst));
    }
    if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0)
        || cpu.realtime_period().is_some_and(|period| period != 0)
    {
        all.push(impossible("cpu", CPU_REAL_TIME, "cgroup v2 does not divide real time"));
    }
    if let Some(idle) = cpu.idle() {
        all.push(set("cpu", CPU_IDLE, "cpu.idle", idle));
    }
}

/// `cpu.shares` (2 to 262144, usually 1024) as `cpu.weight` (1 to 10000, usually 100).
///
/// The quadratic in the logarithm that goes through both ends and through the two usual values, so
/// that a container with the usual shares stands level with the rest of the machine. Source: runc
/// 1.3.2, crun 1.23, kubernetes#131216.
fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[expect(clippy::cast_precision_loss, reason = "below 2^18")]
    let logarithm = (shares as f64).log2();
    let exponent = (logarithm * logarithm + 125.0 * logarithm) / 612.0 - 7.0 / 34.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 10000")]
    let weight = 10_f64.powf(exponent).ceil() as u64;
    weight
}

fn memory_settings(memory: &LinuxMemory, all: &mut Vec<Setting>) {
    let limit = memory.limit().filter(|&limit| limit != 0);
    if let Some(limit) = limit {
        all.push(set("memory", MEMORY, "memory.max", or_max(limit)));
    }
    if let Some(swap) = memory.swap().filter(|&swap| swap != 0) {
        all.push(swap_setting(limit, swap));
    }
    if let Some(reservation) = memory.reservation().filter(|&bytes| bytes != 0) {
        all.push(set("memory", MEMORY_RESERVATION, "memory.low", or_max(reservation)));
    }
    if memory.swappiness().is_some() {
        let why = "cgroup v2 has no swappiness of a cgroup's own";
        all.push(impossible("memory", MEMORY_SWAPPINESS, why));
    }
    if memory.kernel_tcp().is_some_and(|bytes| bytes != 0) {
        let why = "cgroup v2 limits kernel memory with the rest only";
        all.push(impossible("memory", KERNEL_MEMORY_TCP, why));
    }
    if memory.disable_oom_killer() == Some(true) {
        let why = "cgroup v2 always kills when memory runs out";
        all.push(impossible("memory", OOM_KILL_DISABLE, why));
    }
}

/// The configuration counts memory and swap together, v2 counts swap alone.
fn swap_setting(limit: Option<i64>, swap: i64) -> Setting {
    if swap < 0 {
        return set("memory", MEMORY_SWAP, "memory.swap.max", "max");
    }
    match limit {
        Some(limit) if limit > 0 && swap >= limit => {
            set("memory", MEMORY_SWAP, "memory.swap.max", swap - limit)
        }
        Some(limit) if limit > 0 => {
            impossible("memory", MEMORY_SWAP, "memory and swap together are less than memory")
        }
        _ => impossible("memory", MEMORY_SWAP, "it needs a limit of memory too (--memory)"),
    }
}

fn io_settings(io: &LinuxBlockIo, has: &dyn Fn(&str) -> bool, all: &mut Vec<Setting>) {
    // BFQ's weights have the range of v1's; the general ones go from 1 to 10000.
    let bfq = has("io.bfq.weight");
    let file = if bfq { "io.bfq.weight" } else { "io.weight" };
    let scaled = |weight: u16| {
        let weight = u32::from(weight);
        if bfq { weight } else { 1 + weight.saturating_sub(10) * 9999 / 990 }
    };
    if let Some(weight) = io.weight().filter(|&weight| weight > 0) {
        all.push(set("io", BLOCK_WEIGHT, file, scaled(weight)));
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {}", device.major(), device.minor(), scaled(weight));
            all.push(set("io", BLOCK_WEIGHT, file, value));
        }
    }
    if io.leaf_weight().is_some_and(|weight| weight > 0) {
        all.push(impossible("io", BLOCK_WEIGHT, "cgroup v2 has no leaf weights"));
    }
    let mut throttle = |key: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let rate =
                if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            all.push(set("io", BLOCK_RATE, "io.max", value));
        }
    };
    throttle("rbps", io.throttle_read_bps_device());
    throttle("wbps", io.throttle_write_bps_device());
    throttle("riops", io.throttle_read_iops_device());
    throttle("wiops", io.throttle_write_iops_device());
}

/// Lets the children of `directory` use those of the wanted controllers that it has itself.
///
/// # Errors
/// EBUSY when `directory` holds processes ("no internal processes"). Controllers that could be
/// enabled are, nevertheless.
pub(super) fn enable(directory: &Path, wanted: &[String]) -> io::Result<()> {
    let available = files::read(directory, "cgroup.controllers")?;
    let enabled = files::read(directory, "cgroup.subtree_control")?;
    let missing: Vec<&str> = available
        .split_whitespace()
        .filter(|&name| wanted.iter().any(|one| one == name))
        .filter(|&name| !enabled.split_whitespace().any(|one| one == name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let all = missing.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    if files::write(directory, "cgroup.subtree_control", &all).is_ok() {
        return Ok(());
    }
    // It is all or nothing in one write, and one may fail alone: cpu while there are processes of
    // real-time priority.
    let mut result = Ok(());
    for name in missing {
        let one = files::write(directory, "cgroup.subtree_control", &format!("+{name}"));
        result = result.and(one);
    }
    result
}

/// Whether a name of the `unified` map is a file in the cgroup and nothing else.
pub(super) fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && !name.starts_with('.')
}

/// Whether the cgroup can hold processes at all: below a threaded cgroup it cannot.
pub(super) fn is_invalid(directory: &Path) -> bool {
    fs::read(directory.join("cgroup.type")).is_ok_and(|kind| kind.starts_with(b"domain invalid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(resources: &LinuxResources, bfq: bool) -> Vec<String> {
        settings(resources, &|_| bfq)
            .iter()
            .map(|one| match one.impossible {
                Some(why) => format!("{}: {why}", one.flags[0]),
                None => format!("{}={}", one.file, one.value),
            })
            .collect()
    }

    #[test]
    fn shares_become_weights() {
        let cases = [
            (0, 1),
            (1, 1),
            (2, 1),
            (1024, 100),
            // From the notes on runc's change.
            (2000, 170),
            (262_144, 10_000),
            (1 << 40, 10_000),
        ];
        for (shares, weight) in cases {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        let all: Vec<u64> = (2..262_144).step_by(97).map(weight_of_shares).collect();
        assert!(all.is_sorted() && all.iter().all(|weight| (1..=10_000).contains(weight)));
    }

    #[test]
    fn memory_and_swap_are_counted_apart() {
        let cases: [(Option<i64>, Option<i64>, &[&str]); 7] = [
            (Some(100), Some(200), &["memory.max=100", "memory.swap.max=100"]),
            (Some(100), Some(100), &["memory.max=100", "memory.swap.max=0"]),
            (Some(100), Some(-1), &["memory.max=100", "memory.swap.max=max"]),
            (Some(-1), Some(-1), &["memory.max=max", "memory.swap.max=max"]),
            (Some(100), None, &["memory.max=100"]),
            (
                Some(100),
                Some(50),
                &["memory.max=100", "memory-swap: memory and swap together are less than memory"],
            ),
            (None, Some(50), &["memory-swap: it needs a limit of memory too (--memory)"]),
        ];
        for (limit, swap, expected) in cases {
            let mut memory = LinuxMemory::default();
            memory.set_limit(limit).set_swap(swap);
            let mut resources = LinuxResources::default();
            resources.set_memory(Some(memory));
            assert_eq!(lines(&resources, false), expected);
        }
    }

    #[test]
    fn processor_time() {
        let cases = [
            (Some(50_000), Some(100_000), "50000 100000"),
            (Some(50_000), None, "50000 100000"),
            (Some(-1), None, "max 100000"),
            (None, Some(20_000), "max 20000"),
        ];
        for (quota, period, expected) in cases {
            let mut cpu = LinuxCpu::default();
            cpu.set_quota(quota).set_period(period);
            let mut resources = LinuxResources::default();
            resources.set_cpu(Some(cpu));
            assert_eq!(lines(&resources, false), [format!("cpu.max={expected}")]);
        }
    }

    #[test]
    fn block_weights_keep_their_range_under_bfq() {
        for (weight, bfq, expected) in [
            (10, false, "io.weight=1"),
            (1000, false, "io.weight=10000"),
            (500, true, "io.bfq.weight=500"),
        ] {
            let mut io = LinuxBlockIo::default();
            io.set_weight(Some(weight));
            let mut resources = LinuxResources::default();
            resources.set_block_io(Some(io));
            assert_eq!(lines(&resources, bfq), [expected]);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_files() {
        for name in ["", ".", "..", "../memory.max", "a/b", "/etc/passwd"] {
            assert!(!is_file_name(name), "{name}");
        }
        assert!(is_file_name("memory.high"));
    }
}
