//! What a container has used, and whether memory ran out.

use serde::{Deserialize, Serialize};

use super::files;
use super::{Cgroup, Leaf};

/// Limits of v1 at and above this are "no limit", rounded down to pages of any size.
const V1_UNLIMITED: u64 = i64::MAX as u64 - (1 << 20);

/// Time is counted in these in v1's `cpuacct.stat`, whatever the kernel's own ticks are. Source:
/// `USER_HZ`, times(2).
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// The memory limit that was met, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oom {
    /// `None`: no limit of the container's own; the host was short of memory.
    pub limit: Option<u64>,
    pub peak: Option<u64>,
}

/// What has been used. `None` where this kernel does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// In bytes, page cache included.
    pub memory: Option<u64>,
    /// The part of `memory` that is cache nobody has used for a while; Docker's command subtracts
    /// it from what it shows.
    pub memory_inactive_file: Option<u64>,
    pub memory_limit: Option<u64>,
    pub memory_peak: Option<u64>,
    /// Processor time in nanoseconds.
    pub cpu: Option<u64>,
    pub cpu_user: Option<u64>,
    pub cpu_system: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    pub pids_limit: Option<u64>,
    /// Bytes of disk traffic.
    pub read: Option<u64>,
    pub written: Option<u64>,
}

impl Cgroup {
    /// Whether the kernel has killed for want of memory in this cgroup or below it. To be asked
    /// before [`Self::remove`].
    pub fn oom(&self) -> Option<Oom> {
        let leaf = self.holder("memory")?;
        let directory = &leaf.directory;
        let kills = if leaf.unified {
            files::keyed(directory, "memory.events", "oom_kill")
        } else {
            files::keyed(directory, "memory.oom_control", "oom_kill")
        };
        let (limit, peak) = memory_limit_and_peak(leaf);
        kills.filter(|&kills| kills > 0).map(|_| Oom { limit, peak })
    }

    /// What the container has used until now.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        if let Some(leaf) = self.holder("memory") {
            memory(leaf, &mut stats);
        }
        if let Some(leaf) = self.holder("pids") {
            stats.pids = files::number(&leaf.directory, "pids.current");
            stats.pids_limit = files::number(&leaf.directory, "pids.max");
        }
        self.cpu(&mut stats);
        self.disk(&mut stats);
        stats
    }

    fn cpu(&self, stats: &mut Stats) {
        if let Some(Leaf { directory, .. }) = self.v1("cpuacct") {
            let ticks = |key| files::keyed(directory, "cpuacct.stat", key);
            stats.cpu = files::number(directory, "cpuacct.usage");
            stats.cpu_user = ticks("user").map(|ticks| ticks * NANOSECONDS_PER_TICK);
            stats.cpu_system = ticks("system").map(|ticks| ticks * NANOSECONDS_PER_TICK);
        } else if let Some(Leaf { directory, .. }) = self.leaves.iter().find(|leaf| leaf.unified) {
            // cpu.stat is there without the controller, too.
            let time = |key| files::keyed(directory, "cpu.stat", key).map(|time| time * 1000);
            stats.cpu = time("usage_usec");
            stats.cpu_user = time("user_usec");
            stats.cpu_system = time("system_usec");
        }
    }

    fn disk(&self, stats: &mut Stats) {
        if let Some(Leaf { directory, .. }) = self.v1("blkio") {
            let Ok(text) = files::read(directory, "blkio.throttle.io_service_bytes") else {
                return;
            };
            let sum = |operation: &str| {
                sum(text.lines().filter_map(|line| {
                    let (_, rest) = line.split_once(' ')?;
                    rest.strip_prefix(operation)?.trim().parse().ok()
                }))
            };
            (stats.read, stats.written) = (Some(sum("Read ")), Some(sum("Write ")));
        } else if let Some(Leaf { directory, .. }) = self.holder("io") {
            let Ok(text) = files::read(directory, "io.stat") else { return };
            let sum = |key: &str| {
                sum(text
                    .split_whitespace()
                    .filter_map(|field| field.strip_prefix(key)?.parse().ok()))
            };
            (stats.read, stats.written) = (Some(sum("rbytes=")), Some(sum("wbytes=")));
        }
    }
}

fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

fn memory(leaf: &Leaf, stats: &mut Stats) {
    let directory = &leaf.directory;
    (stats.memory_limit, stats.memory_peak) = memory_limit_and_peak(leaf);
    (stats.memory, stats.memory_inactive_file) = if leaf.unified {
        (
            files::number(directory, "memory.current"),
            files::keyed(directory, "memory.stat", "inactive_file"),
        )
    } else {
        (
            files::number(directory, "memory.usage_in_bytes"),
            files::keyed(directory, "memory.stat", "total_inactive_file"),
        )
    };
}

/// `memory.peak` exists since Linux 5.19.
fn memory_limit_and_peak(leaf: &Leaf) -> (Option<u64>, Option<u64>) {
    let (limit, peak) = if leaf.unified {
        ("memory.max", "memory.peak")
    } else {
        ("memory.limit_in_bytes", "memory.max_usage_in_bytes")
    };
    let limit = files::number(&leaf.directory, limit).filter(|&limit| limit < V1_UNLIMITED);
    (limit, files::number(&leaf.directory, peak))
}
