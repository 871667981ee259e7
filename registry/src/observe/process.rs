//! What the process itself takes, under the names that every Prometheus client library gives it.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Read from `/proc/self` when somebody asks. Source: proc_pid_stat(5), proc_pid_limits(5).
#[derive(Debug, Default)]
pub(super) struct Process {
    cpu: Counter<f64, AtomicU64>,
    resident: Gauge<u64, AtomicU64>,
    virtual_memory: Gauge<u64, AtomicU64>,
    started: Gauge<f64, AtomicU64>,
    descriptors: Gauge<u64, AtomicU64>,
    descriptors_max: Gauge<u64, AtomicU64>,
}

impl Process {
    pub(super) fn register(&self, registry: &mut Registry) {
        let root = registry.sub_registry_with_prefix("process");
        root.register("cpu_seconds", "Processor time, user and system", self.cpu.clone());
        root.register("resident_memory_bytes", "Memory in use", self.resident.clone());
        root.register("virtual_memory_bytes", "Addresses in use", self.virtual_memory.clone());
        root.register("start_time_seconds", "Start, in Unix time", self.started.clone());
        root.register("open_fds", "Open descriptors", self.descriptors.clone());
        root.register("max_fds", "Descriptors at most", self.descriptors_max.clone());
    }

    /// Leaves alone what cannot be read.
    pub(super) fn read(&self) {
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the directory's own.
            self.descriptors.set((open.count() as u64).saturating_sub(1));
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        self.descriptors_max.set(limit.current.unwrap_or(u64::MAX));
        let Some(stat) = std::fs::read_to_string("/proc/self/stat").ok() else { return };
        // The second field is a name in brackets, which may hold spaces.
        let Some((_, rest)) = stat.rsplit_once(") ") else { return };
        let field = |number: usize| -> Option<u64> {
            rest.split(' ').nth(number.checked_sub(3)?)?.parse().ok()
        };
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        if let (Some(user), Some(system)) = (field(14), field(15)) {
            let seconds = (user + system) as f64 / ticks;
            let before = self.cpu.get();
            self.cpu.inc_by((seconds - before).max(0.0));
        }
        if let (Some(started), Some(booted)) = (field(22), booted()) {
            self.started.set(booted + started as f64 / ticks);
        }
        if let (Some(bytes), Some(pages)) = (field(23), field(24)) {
            self.virtual_memory.set(bytes);
            self.resident.set(pages.saturating_mul(rustix::param::page_size() as u64));
        }
    }
}

/// Unix time of the boot.
fn booted() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}
