//! Limits and device rules.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids,
    LinuxResources,
};

use super::request::{Limits, Request};
use crate::known_bad::left_out;

/// What `profile=strict` sets where `--pids-limit` does not.
const STRICT_PIDS: i64 = 1024;

pub(super) fn resources(request: &Request) -> LinuxResources {
    let limits = &request.limits;
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(device_rules(request)));
    resources.set_memory(memory(limits));
    resources.set_cpu(cpu(limits));
    let pids = limits.pids.or(if request.strict { Some(STRICT_PIDS) } else { None });
    if let Some(pids) = pids.filter(|&pids| pids > 0) {
        let mut limit = LinuxPids::default();
        limit.set_limit(pids);
        resources.set_pids(Some(limit));
    }
    if let Some(weight) = limits.blkio_weight {
        let mut io = LinuxBlockIo::default();
        io.set_weight(Some(weight));
        resources.set_block_io(Some(io));
    }
    resources
}

fn memory(limits: &Limits) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    // Docker's: as much swap as memory, unless something else was asked for.
    let double = limits.memory_bytes.map(|bytes| bytes.saturating_mul(2));
    memory
        .set_limit(limits.memory_bytes)
        .set_swap(limits.memory_swap_bytes.or(double))
        .set_reservation(limits.memory_reservation_bytes)
        .set_swappiness(limits.memory_swappiness)
        .set_disable_oom_killer(limits.oom_kill_disabled.then_some(true));
    Some(memory).filter(|memory| *memory != LinuxMemory::default())
}

fn cpu(limits: &Limits) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(limits.cpu_shares)
        .set_period(limits.cpu_period_us)
        .set_quota(limits.cpu_quota_us)
        .set_cpus(limits.cpuset_cpus.clone())
        .set_mems(limits.cpuset_mems.clone());
    Some(cpu).filter(|cpu| *cpu != LinuxCpu::default())
}

/// A rule of the device cgroup; `None` is any number.
pub(super) fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(kind))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// Nothing, then what every container has, then what was asked for. Nodes of any device may be
/// made (`m`): opening them is what counts.
fn device_rules(request: &Request) -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{A, B, C};
    if request.privileged || left_out("devices-denied") {
        return vec![rule(true, A, None, None, "rwm")];
    }
    let mut rules = vec![
        rule(false, A, None, None, "rwm"),
        rule(true, C, None, None, "m"),
        rule(true, B, None, None, "m"),
    ];
    // null, zero, full, random, urandom; tty, console, ptmx.
    let usual = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
    for (major, minor) in usual {
        rules.push(rule(true, C, Some(major), Some(minor), "rwm"));
    }
    // Pseudo-terminals of the container's own devpts.
    rules.push(rule(true, C, Some(136), None, "rwm"));
    for one in &request.devices {
        let device = &one.device;
        let (major, minor) = (Some(device.major()), Some(device.minor()));
        rules.push(rule(true, device.typ(), major, minor, &one.access));
    }
    rules.extend(request.device_rules.iter().cloned());
    rules
}
