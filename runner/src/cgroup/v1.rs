//! Limits in the words of cgroup v1. Source: the kernel's `admin-guide/cgroup-v1/`.

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::files;
use super::settings::{
    BLOCK_RATE, BLOCK_WEIGHT, CPU_BURST, CPU_IDLE, CPU_REAL_TIME, CPU_SHARES, CPUS, CPUSET_CPUS,
    CPUSET_MEMS, HUGE_PAGES, KERNEL_MEMORY_TCP, MEMORY, MEMORY_RESERVATION, MEMORY_SWAP,
    MEMORY_SWAPPINESS, NETWORK, OOM_KILL_DISABLE, PIDS, Setting, set,
};

/// What the settings depend on.
pub(super) struct Now<'a> {
    /// `memory.memsw.limit_in_bytes` as it stands; `u64::MAX` in a new cgroup.
    pub memory_and_swap: u64,
    /// Whether this kernel has the file, in the hierarchy of the controller.
    pub has: &'a dyn Fn(&'static str, &str) -> bool,
}

/// Everything that is to be written, in this order.
pub(super) fn settings(resources: &LinuxResources, now: &Now<'_>) -> Vec<Setting> {
    let mut all = Vec::with_capacity(8);
    // cpuset first: a cgroup without processors or memory nodes takes no process.
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut all);
    }
    if let Some(memory) = resources.memory() {
        memory_settings(memory, now, &mut all);
    }
    if let Some(pids) = resources.pids() {
        let limit = if pids.limit() > 0 { pids.limit().to_string() } else { "max".to_owned() };
        all.push(set("pids", PIDS, "pids.max", limit));
    }
    if let Some(io) = resources.block_io() {
        block_settings(io, now, &mut all);
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.limit_in_bytes", huge.page_size());
        all.push(set("hugetlb", HUGE_PAGES, file, huge.limit()));
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            all.push(set("net_cls", NETWORK, "net_cls.classid", class));
        }
        for one in network.priorities().iter().flatten() {
            let value = format!("{} {}", one.name(), one.priority());
            all.push(set("net_prio", NETWORK, "net_prio.ifpriomap", value));
        }
    }
    all
}

fn cpu_settings(cpu: &LinuxCpu, all: &mut Vec<Setting>) {
    if let Some(cpus) = cpu.cpus() {
        all.push(set("cpuset", CPUSET_CPUS, "cpuset.cpus", cpus));
    }
    if let Some(mems) = cpu.mems() {
        all.push(set("cpuset", CPUSET_MEMS, "cpuset.mems", mems));
    }
    if let Some(shares) = cpu.shares().filter(|&shares| shares > 0) {
        all.push(set("cpu", CPU_SHARES, "cpu.shares", shares));
    }
    if let Some(period) = cpu.period().filter(|&period| period > 0) {
        all.push(set("cpu", CPUS, "cpu.cfs_period_us", period));
    }
    if let Some(quota) = cpu.quota().filter(|&quota| quota != 0) {
        all.push(set("cpu", CPUS, "cpu.cfs_quota_us", quota.max(-1)));
    }
    if let Some(burst) = cpu.burst() {
        all.push(set("cpu", CPU_BURST, "cpu.cfs_burst_us", burst));
    }
    if let Some(period) = cpu.realtime_period().filter(|&period| period > 0) {
        all.push(set("cpu", CPU_REAL_TIME, "cpu.rt_period_us", period));
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|&runtime| runtime != 0) {
        all.push(set("cpu", CPU_REAL_TIME, "cpu.rt_runtime_us", runtime));
    }
    if let Some(idle) = cpu.idle() {
        all.push(set("cpu", CPU_IDLE, "cpu.idle", idle));
    }
}

fn memory_settings(memory: &LinuxMemory, now: &Now<'_>, all: &mut Vec<Setting>) {
    let limit = memory
        .limit()
        .filter(|&limit| limit != 0)
        .map(|limit| set("memory", MEMORY, "memory.limit_in_bytes", limit.max(-1)));
    let swap = memory
        .swap()
        .filter(|&swap| swap != 0)
        // No limit where there is nothing that could limit: as wanted.
        .filter(|&swap| swap > 0 || (now.has)("memory", "memory.memsw.limit_in_bytes"))
        .map(|swap| set("memory", MEMORY_SWAP, "memory.memsw.limit_in_bytes", swap.max(-1)));
    let wanted = memory.limit().map_or(0, |limit| u64::try_from(limit).unwrap_or(u64::MAX));
    if swap.is_some() && memory_and_swap_first(wanted, now.memory_and_swap) {
        all.extend(swap);
        all.extend(limit);
    } else {
        all.extend(limit);
        all.extend(swap);
    }
    if let Some(reservation) = memory.reservation().filter(|&bytes| bytes != 0) {
        let value = reservation.max(-1);
        all.push(set("memory", MEMORY_RESERVATION, "memory.soft_limit_in_bytes", value));
    }
    if let Some(swappiness) = memory.swappiness() {
        all.push(set("memory", MEMORY_SWAPPINESS, "memory.swappiness", swappiness));
    }
    if let Some(tcp) = memory.kernel_tcp().filter(|&bytes| bytes != 0) {
        all.push(set("memory", KERNEL_MEMORY_TCP, "memory.kmem.tcp.limit_in_bytes", tcp));
    }
    if memory.disable_oom_killer() == Some(true) {
        all.push(set("memory", OOM_KILL_DISABLE, "memory.oom_control", 1));
    }
}

/// The kernel refuses every moment at which the limit of memory is above that of memory and swap
/// together. So a limit that grows beyond the present pair needs the pair to grow first; in a new
/// cgroup, and when lowering, memory comes first.
fn memory_and_swap_first(wanted_memory: u64, memory_and_swap_now: u64) -> bool {
    wanted_memory > memory_and_swap_now
}

fn block_settings(io: &LinuxBlockIo, now: &Now<'_>, all: &mut Vec<Setting>) {
    // The BFQ scheduler is the only one left with weights, and it brings its own files.
    let bfq = (now.has)("blkio", "blkio.bfq.weight");
    let (weight_file, device_file) = if bfq {
        ("blkio.bfq.weight", "blkio.bfq.weight_device")
    } else {
        ("blkio.weight", "blkio.weight_device")
    };
    if let Some(weight) = io.weight().filter(|&weight| weight > 0) {
        all.push(set("blkio", BLOCK_WEIGHT, weight_file, weight));
    }
    if let Some(weight) = io.leaf_weight().filter(|&weight| weight > 0) {
        all.push(set("blkio", BLOCK_WEIGHT, "blkio.leaf_weight", weight));
    }
    for device in io.weight_device().iter().flatten() {
        let number = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight() {
            all.push(set("blkio", BLOCK_WEIGHT, device_file, format!("{number} {weight}")));
        }
        if let Some(weight) = device.leaf_weight() {
            let value = format!("{number} {weight}");
            all.push(set("blkio", BLOCK_WEIGHT, "blkio.leaf_weight_device", value));
        }
    }
    let mut throttle = |file: &'static str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            all.push(set("blkio", BLOCK_RATE, file, value));
        }
    };
    throttle("blkio.throttle.read_bps_device", io.throttle_read_bps_device());
    throttle("blkio.throttle.write_bps_device", io.throttle_write_bps_device());
    throttle("blkio.throttle.read_iops_device", io.throttle_read_iops_device());
    throttle("blkio.throttle.write_iops_device", io.throttle_write_iops_device());
}

/// Gives a new cpuset the processors and memory nodes of its parent: it starts with none, and takes
/// no process until it has some. Source: `cgroup-v1/cpusets.rst`.
pub(super) fn fill_cpuset(directory: &Path) -> std::io::Result<()> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if files::read(directory, file)?.trim().is_empty() {
            files::write(directory, file, files::read(parent, file)?.trim())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(memory: &LinuxMemory, memory_and_swap: u64, has: bool) -> Vec<String> {
        let mut resources = LinuxResources::default();
        resources.set_memory(Some(*memory));
        settings(&resources, &Now { memory_and_swap, has: &|_, _| has })
            .iter()
            .map(|one| format!("{}={}", one.file, one.value))
            .collect()
    }

    #[test]
    fn memory_and_swap_in_an_order_the_kernel_takes() {
        let memory = "memory.limit_in_bytes";
        let both = "memory.memsw.limit_in_bytes";
        // wanted memory, wanted pair, pair now, order
        let cases = [
            (100, 200, u64::MAX, [memory, both]),
            (100, 200, 1000, [memory, both]),
            (300, 600, 200, [both, memory]),
            (150, 600, 200, [memory, both]),
            (-1, -1, 200, [both, memory]),
        ];
        for (limit, swap, now, order) in cases {
            let mut wanted = LinuxMemory::default();
            wanted.set_limit(Some(limit)).set_swap(Some(swap));
            let files = written(&wanted, now, true);
            let names: Vec<&str> =
                files.iter().map(|line| line.split('=').next().unwrap()).collect();
            assert_eq!(names, order, "{limit} {swap} {now}");
        }
    }

    #[test]
    fn no_swap_limit_needs_no_swap_accounting() {
        let mut wanted = LinuxMemory::default();
        wanted.set_limit(Some(100)).set_swap(Some(-1));
        assert_eq!(written(&wanted, u64::MAX, false), ["memory.limit_in_bytes=100"]);
        wanted.set_swap(Some(200));
        assert_eq!(written(&wanted, u64::MAX, false).len(), 2);
    }

    #[test]
    fn the_cpuset_comes_first_and_the_period_before_the_quota() {
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(Some(50_000))
            .set_period(Some(100_000))
            .set_shares(Some(512))
            .set_cpus(Some("0-1".into()));
        let mut resources = LinuxResources::default();
        resources.set_cpu(Some(cpu));
        let all = settings(&resources, &Now { memory_and_swap: 0, has: &|_, _| true });
        let lines: Vec<String> =
            all.iter().map(|one| format!("{} {}", one.file, one.value)).collect();
        assert_eq!(
            lines,
            [
                "cpuset.cpus 0-1",
                "cpu.shares 512",
                "cpu.cfs_period_us 100000",
                "cpu.cfs_quota_us 50000"
            ]
        );
    }
}
