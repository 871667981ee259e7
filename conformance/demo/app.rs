//! The program inside the demonstration's image: it reports what a process sees of the machine.
//!
//! Compiled on its own by `rustc -C target-feature=+crt-static`, so that an image of one file is
//! enough; the standard library is all that it uses.

use std::fs;

fn main() {
    println!("  process id       {}", std::process::id());
    println!("  processes        {}", processes());
    println!("  host name        {}", read("/proc/sys/kernel/hostname"));
    println!("  user, group      {}", user());
    println!("  namespaces");
    for name in ["pid", "net", "mnt", "uts", "ipc", "user", "cgroup"] {
        let link = fs::read_link(format!("/proc/self/ns/{name}"));
        let inode = link.map(|l| l.display().to_string()).unwrap_or_else(|e| e.to_string());
        println!("    {name:<14} {}", inode.trim_start_matches(name).trim_matches([':', '[', ']']));
    }
    println!("  network          {}", interfaces());
    println!("  limits");
    println!("    memory         {}", limit("memory", "memory.limit_in_bytes", "memory.max", mebibytes));
    println!("    cpus           {}", cpus());
    println!("    processes      {}", limit("pids", "pids.max", "pids.max", str::to_owned));
    println!("  capabilities     {}", capabilities());
    println!("  system calls     {}", seccomp());
    println!("  mounts");
    for (target, kind, options) in mounts() {
        println!("    {target:<32} {kind:<9} {options}");
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_else(|e| format!("({path}: {e})"))
}

/// A line of `/proc/self/status`, without its name.
fn status(field: &str) -> String {
    let status = read("/proc/self/status");
    let line = status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or("?").trim().to_owned()
}

fn processes() -> String {
    let Ok(entries) = fs::read_dir("/proc") else { return "no /proc".into() };
    let count = entries
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .count();
    format!("{count} visible")
}

fn user() -> String {
    let first = |field| status(field).split_whitespace().next().unwrap_or("?").to_owned();
    format!("{}, {}", first("Uid"), first("Gid"))
}

fn interfaces() -> String {
    let table = read("/proc/self/net/dev");
    let names: Vec<&str> = table.lines().skip(2).filter_map(|l| Some(l.split_once(':')?.0.trim())).collect();
    names.join(", ")
}

/// A limit as cgroup v1 or v2 tells it, wherever the container mounts it.
fn limit(controller: &str, v1: &str, v2: &str, show: fn(&str) -> String) -> String {
    let places = [format!("/sys/fs/cgroup/{controller}/{v1}"), format!("/sys/fs/cgroup/{v2}")];
    match places.iter().find_map(|p| fs::read_to_string(p).ok()) {
        Some(text) => show(text.trim()),
        None => "not visible".into(),
    }
}

fn mebibytes(bytes: &str) -> String {
    bytes.parse::<u64>().map_or_else(|_| bytes.to_owned(), |b| format!("{} MiB", b >> 20))
}

fn cpus() -> String {
    let v1 = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/cpu/{name}")).ok();
    let pair = match (v1("cpu.cfs_quota_us"), v1("cpu.cfs_period_us")) {
        (Some(quota), Some(period)) => format!("{} {}", quota.trim(), period.trim()),
        _ => fs::read_to_string("/sys/fs/cgroup/cpu.max").unwrap_or_default(),
    };
    let mut numbers = pair.split_whitespace().map(|n| n.parse::<f64>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(quota), Some(period)) if quota > 0.0 => format!("{:.2}", quota / period),
        _ => "unlimited".into(),
    }
}

/// Names by bit number, capabilities(7).
const CAPABILITIES: [&str; 41] = [
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
    "setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw",
    "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct",
    "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod",
    "lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog",
    "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
];

fn capabilities() -> String {
    let Ok(bits) = u64::from_str_radix(&status("CapEff"), 16) else { return "?".into() };
    let names: Vec<&str> = CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, name)| *name)
        .collect();
    match names.len() {
        0 => "none".into(),
        41 => "all".into(),
        n => format!("{n} of 41: {}", names.join(" ")),
    }
}

fn seccomp() -> String {
    match status("Seccomp").as_str() {
        "0" => "unfiltered".into(),
        "2" => "filtered by seccomp".into(),
        other => format!("seccomp mode {other}"),
    }
}

/// Target, filesystem type and whether it can be written, from `/proc/self/mountinfo`.
fn mounts() -> Vec<(String, String, String)> {
    let parse = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(4);
        let (target, options) = (fields.next()?, fields.next()?);
        let kind = filesystem.split(' ').next()?;
        let access = if options.split(',').any(|o| o == "ro") { "read-only" } else { "read-write" };
        Some((target.to_owned(), kind.to_owned(), access.to_owned()))
    };
    read("/proc/self/mountinfo").lines().filter_map(parse).collect()
}
