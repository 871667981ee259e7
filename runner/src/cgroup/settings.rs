//! A limit as the file and value that it becomes.

use std::borrow::Cow;

/// One value for one file of one controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub controller: &'static str,
    /// Flags any of which asks for it; the first one names it in messages.
    pub flags: &'static [&'static str],
    pub file: Cow<'static, str>,
    pub value: String,
    /// Set when this version of cgroups has no such thing, or the values contradict each other:
    /// in words. Nothing is written then.
    pub impossible: Option<&'static str>,
}

pub(super) const MEMORY: &[&str] = &["memory"];
pub(super) const MEMORY_SWAP: &[&str] = &["memory-swap"];
pub(super) const MEMORY_RESERVATION: &[&str] = &["memory-reservation"];
pub(super) const MEMORY_SWAPPINESS: &[&str] = &["memory-swappiness"];
pub(super) const OOM_KILL_DISABLE: &[&str] = &["oom-kill-disable"];
pub(super) const KERNEL_MEMORY_TCP: &[&str] = &["kernel-memory-tcp"];
pub(super) const CPUS: &[&str] = &["cpus", "cpu-quota", "cpu-period"];
pub(super) const CPU_SHARES: &[&str] = &["cpu-shares"];
pub(super) const CPU_BURST: &[&str] = &["cpu-burst"];
pub(super) const CPU_IDLE: &[&str] = &["cpu-idle"];
pub(super) const CPU_REAL_TIME: &[&str] = &["cpu-rt-runtime", "cpu-rt-period"];
pub(super) const CPUSET_CPUS: &[&str] = &["cpuset-cpus"];
pub(super) const CPUSET_MEMS: &[&str] = &["cpuset-mems"];
pub(super) const PIDS: &[&str] = &["pids-limit"];
pub(super) const BLOCK_WEIGHT: &[&str] = &["blkio-weight", "blkio-weight-device"];
pub(super) const BLOCK_RATE: &[&str] =
    &["device-read-bps", "device-write-bps", "device-read-iops", "device-write-iops"];
pub(super) const HUGE_PAGES: &[&str] = &["hugepage-limit"];
pub(super) const NETWORK: &[&str] = &["net-class", "net-priority"];

pub(super) fn set(
    controller: &'static str,
    flags: &'static [&'static str],
    file: impl Into<Cow<'static, str>>,
    value: impl ToString,
) -> Setting {
    let value = value.to_string();
    Setting { controller, flags, file: file.into(), value, impossible: None }
}

pub(super) fn impossible(
    controller: &'static str,
    flags: &'static [&'static str],
    why: &'static str,
) -> Setting {
    let (file, value) = (Cow::Borrowed(""), String::new());
    Setting { controller, flags, file, value, impossible: Some(why) }
}

/// A number where anything below zero is no limit.
pub(super) fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}
