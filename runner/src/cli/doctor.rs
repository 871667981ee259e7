//! `doctor`: what this host offers to containers, what it lacks, and one remedy for each gap.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::{Globals, Verb, print, print_line};
use crate::failure::Failure;
use crate::sys;
use crate::userns::IdMap;

pub(super) const VERBS: &[Verb] = &[Verb {
    names: &["doctor"],
    operands: "",
    operands_min: 0,
    operands_max: 0,
    about: "Tell what this host offers to containers, what it lacks, and what helps",
    details: "The exit code is 1 where containers cannot run.",
    flags: &[Flag::one("format", "table|json", "how it is shown")],
    flags_end: FlagsEnd::AtDashes,
    run,
}];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is there.
    Good,
    /// Something works less well, or not at all, without it.
    Limited,
    /// Containers do not run without it.
    Missing,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Limited => "limited",
            Self::Missing => "MISSING",
        }
    }
}

#[derive(Debug)]
struct Finding {
    subject: &'static str,
    verdict: Verdict,
    found: String,
    remedy: Option<String>,
}

impl Finding {
    fn good(subject: &'static str, found: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Good, found: found.into(), remedy: None }
    }

    fn limited(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { subject, verdict: Verdict::Limited, found: found.into(), remedy }
    }

    fn missing(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { subject, verdict: Verdict::Missing, found: found.into(), remedy }
    }
}

fn run(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let findings = examine(globals);
    match arguments.value("format").unwrap_or("table") {
        "table" | "" => print(&table(&findings))?,
        "json" => {
            for finding in &findings {
                print_line(&to_json(finding).to_string())?;
            }
        }
        other => return Err(Failure::new(format!("--format={other}: it is table or json"))),
    }
    Ok(u8::from(findings.iter().any(|finding| finding.verdict == Verdict::Missing)))
}

fn to_json(finding: &Finding) -> Value {
    json!({
        "Subject": finding.subject,
        "Verdict": finding.verdict.word(),
        "Found": finding.found,
        "Remedy": finding.remedy,
    })
}

fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let verdict = finding.verdict.word();
        text.push_str(&format!("{verdict:<8} {:<17} {}\n", finding.subject, finding.found));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("{:<26} -> {remedy}\n", ""));
        }
    }
    text
}

fn examine(globals: &Globals) -> Vec<Finding> {
    let filesystems = read("/proc/filesystems");
    let mounts = read("/proc/self/mountinfo");
    let status = read("/proc/self/status");
    let mut all = vec![
        user(),
        kernel(rustix::system::uname().release().to_str().unwrap_or_default()),
        match rustix::process::geteuid().is_root() {
            true => rights(&status),
            false => {
                Finding::good("capabilities", "none are needed: those of its own namespace do")
            }
        },
        namespaces(),
        overlay(&filesystems),
        store(&globals.dirs.root, &mounts),
    ];
    all.extend(cgroups(&mounts));
    all.extend([
        seccomp(&read("/proc/sys/kernel/seccomp/actions_avail")),
        security_modules(&read("/sys/kernel/security/lsm")),
        limits(&status),
        user_namespaces(),
        subordinate_ids(),
        erofs(&filesystems),
        programs(),
        kvm(),
    ]);
    all
}

/// What cannot be read counts as empty: then the finding says what is missing.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn user() -> Finding {
    if rustix::process::geteuid().is_root() {
        Finding::good("user", "root")
    } else {
        ordinary_user(&IdMap::of_user())
    }
}

/// Tried, not read: what forbids user namespaces has many names.
fn ordinary_user(ids: &IdMap) -> Finding {
    if let Err(error) = ids.for_mounts() {
        return Finding::missing(
            "user",
            format!("not root, and cannot have a user namespace: {error}"),
            "sysctl -w user.max_user_namespaces=15000, apt install uidmap, or sudo rrun …",
        );
    }
    if ids.is_single() {
        return Finding::limited(
            "user",
            "not root, with one id: every file is yours, and -u is root alone",
            "apt install uidmap; usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER",
        );
    }
    let found = format!("not root, with {} ids; networks: none and host", ids.count());
    Finding::limited("user", found, "sudo rrun … for published ports and networks")
}

/// Source: the oldest kernel whose mount interface is relied on.
fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = format!("Linux {release}");
    if version >= (5, 15) {
        Finding::good("kernel", found)
    } else {
        Finding::missing("kernel", found, "5.15 is the oldest that works: update the kernel")
    }
}

fn rights(status: &str) -> Finding {
    const NEEDED: [(u32, &str); 4] =
        [(21, "CAP_SYS_ADMIN"), (27, "CAP_MKNOD"), (7, "CAP_SETUID"), (18, "CAP_SYS_CHROOT")];
    const WANTED: [(u32, &str); 2] = [(24, "CAP_SYS_RESOURCE"), (12, "CAP_NET_ADMIN")];
    let mask = capabilities_of(status);
    let lacking = |list: &[(u32, &'static str)]| {
        let lacks = list.iter().filter(|(bit, _)| mask >> bit & 1 == 0);
        lacks.map(|(_, name)| *name).collect::<Vec<_>>()
    };
    let (needed, wanted) = (lacking(&NEEDED), lacking(&WANTED));
    if !needed.is_empty() {
        let found = format!("without {}", needed.join(", "));
        return Finding::missing(
            "capabilities",
            found,
            "inside of a container: give it these (docker run --privileged, or --cap-add)",
        );
    }
    if !wanted.is_empty() {
        let found = format!("without {}", wanted.join(", "));
        return Finding::limited(
            "capabilities",
            found,
            "limits cannot be raised above this process's own: leave such --ulimit away",
        );
    }
    Finding::good("capabilities", "all that are needed")
}

fn namespaces() -> Finding {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let lacking: Vec<&str> =
        kinds.into_iter().filter(|kind| !Path::new("/proc/self/ns").join(kind).exists()).collect();
    if lacking.is_empty() {
        return Finding::good("namespaces", kinds.join(" "));
    }
    Finding::missing(
        "namespaces",
        format!("without {}", lacking.join(" ")),
        "use a kernel that is built with them (CONFIG_NAMESPACES)",
    )
}

fn has_filesystem(filesystems: &str, name: &str) -> bool {
    filesystems.lines().any(|line| line.split_whitespace().next_back() == Some(name))
}

fn overlay(filesystems: &str) -> Finding {
    if has_filesystem(filesystems, "overlay") {
        return Finding::good("overlayfs", "in the kernel");
    }
    // A module that is not loaded yet is loaded by the first mount.
    let release = rustix::system::uname();
    let modules = format!("/lib/modules/{}/modules.dep", release.release().to_string_lossy());
    if read(&modules).contains("overlay.ko") {
        return Finding::good("overlayfs", "a module");
    }
    Finding::missing("overlayfs", "not in this kernel", "modprobe overlay")
}

/// What the store lies on: an overlay's writable layer cannot lie on an overlay or on the network.
fn store(root: &Path, mounts: &str) -> Finding {
    // The nearest directory that is there: the store may not have been made yet.
    let there = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    let kind = filesystem_of(there, mounts).unwrap_or_else(|| "unknown".to_owned());
    let free = rustix::fs::statvfs(there).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    let found = format!("{} on {kind}, {} MiB free", root.display(), free >> 20);
    let unfit = ["overlay", "nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "ramfs", "vfat", "exfat"];
    if unfit.iter().any(|name| kind == *name || kind.starts_with(&format!("{name}."))) {
        return Finding::missing(
            "store",
            found,
            "put it on a local disk: RRUN_ROOT=DIR (in a container: on a volume)",
        );
    }
    const SCARCE_BYTES: u64 = 1 << 30;
    if free < SCARCE_BYTES {
        return Finding::limited("store", found, "rrun image prune -a, rrun container prune");
    }
    Finding::good("store", found)
}

/// The type of the file system at `path`. Source: proc_pid_mountinfo(5).
fn filesystem_of(path: &Path, mounts: &str) -> Option<String> {
    let mut best: Option<(usize, String)> = None;
    for line in mounts.lines() {
        let (before, after) = line.split_once(" - ")?;
        let target = before.split(' ').nth(4)?;
        let kind = after.split(' ').next()?;
        let longer = best.as_ref().is_none_or(|(length, _)| target.len() >= *length);
        if path.starts_with(target) && longer {
            best = Some((target.len(), kind.to_owned()));
        }
    }
    best.map(|(_, kind)| kind)
}

/// Where control groups are mounted: the unified hierarchy, and version 1's by controller.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hierarchies {
    unified: Option<String>,
    /// Controller, mount point, whether it can be written.
    v1: Vec<(String, String, bool)>,
}

fn hierarchies(mounts: &str) -> Hierarchies {
    let mut found = Hierarchies::default();
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let before: Vec<&str> = before.split(' ').collect();
        let after: Vec<&str> = after.split(' ').collect();
        let ([_, _, _, _, target, options, ..], [kind, _, superblock, ..]) =
            (&before[..], &after[..])
        else {
            continue;
        };
        let writable = options.split(',').any(|option| option == "rw");
        match *kind {
            "cgroup2" if found.unified.is_none() => found.unified = Some((*target).to_owned()),
            "cgroup" => {
                let plain = ["rw", "ro", "xattr", "noprefix", "clone_children"];
                for controller in superblock.split(',').filter(|word| !plain.contains(word)) {
                    let controller = controller.to_owned();
                    found.v1.push((controller, (*target).to_owned(), writable));
                }
            }
            _ => {}
        }
    }
    found
}

const CONTROLLERS: [(&str, &str, &str); 6] = [
    ("memory", "memory", "-m"),
    ("cpu", "cpu", "--cpus"),
    ("pids", "pids", "--pids-limit"),
    ("cpuset", "cpuset", "--cpuset-cpus"),
    ("blkio", "io", "--blkio-weight"),
    ("devices", "", "device rules"),
];

fn cgroups(mounts: &str) -> Vec<Finding> {
    let found = hierarchies(mounts);
    let Some(unified) = &found.unified else {
        if found.v1.is_empty() {
            return vec![Finding::missing(
                "cgroups",
                "no hierarchy is mounted",
                "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
            )];
        }
        return vec![
            Finding::limited(
                "cgroups",
                "version 1 only",
                "mkdir /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
            ),
            controllers(&found, ""),
        ];
    };
    let available = read(&format!("{unified}/cgroup.controllers"));
    let kind = if found.v1.is_empty() {
        "version 2".to_owned()
    } else {
        format!("version 1 and 2 (hybrid; version 2 at {unified})")
    };
    vec![Finding::good("cgroups", kind), controllers(&found, &available)]
}

fn controllers(found: &Hierarchies, unified: &str) -> Finding {
    let is_v2_only = found.v1.is_empty();
    let mut there = Vec::new();
    let mut lacking = Vec::new();
    for (v1, v2, flag) in CONTROLLERS {
        let on_v1 = found.v1.iter().any(|(name, _, writable)| name == v1 && *writable);
        // Device rules on version 2 are a program of ours, not a controller.
        let on_v2 =
            unified.split_whitespace().any(|name| name == v2) || (is_v2_only && v1 == "devices");
        if on_v1 || on_v2 {
            there.push(if on_v1 || v2.is_empty() { v1 } else { v2 });
        } else {
            lacking.push(format!("{v1} ({flag})"));
        }
    }
    if lacking.is_empty() {
        return Finding::good("controllers", there.join(" "));
    }
    Finding::limited(
        "controllers",
        format!("{}; without {}", there.join(" "), lacking.join(", ")),
        "these limits are errors here; enable the controllers where cgroups are set up",
    )
}

fn seccomp(actions: &str) -> Finding {
    let has = |name: &str| actions.split_whitespace().any(|action| action == name);
    if has("errno") && has("kill_process") {
        Finding::good("seccomp", "filters")
    } else {
        Finding::missing(
            "seccomp",
            "no filters in this kernel",
            "use a kernel with CONFIG_SECCOMP_FILTER, or --security-opt seccomp=unconfined",
        )
    }
}

fn security_modules(list: &str) -> Finding {
    let list = list.trim();
    if list.split(',').any(|name| name == "apparmor") {
        return Finding::limited(
            "security modules",
            list,
            "containers are not confined by an AppArmor profile here, as Docker's are",
        );
    }
    Finding::good("security modules", if list.is_empty() { "none" } else { list })
}

/// The limits that containers usually have, and this process cannot give them.
fn limits(status: &str) -> Finding {
    const SYS_RESOURCE: u32 = 24;
    const NAMES: [(u32, &str); 5] = [
        (libc::RLIMIT_NOFILE, "open files"),
        (libc::RLIMIT_NPROC, "processes"),
        (libc::RLIMIT_CORE, "core files"),
        (libc::RLIMIT_STACK, "stack"),
        (libc::RLIMIT_MEMLOCK, "locked memory"),
    ];
    let mut lower = Vec::new();
    for (resource, name) in NAMES {
        let (_, usual) = sys::surroundings::usual_limit(resource);
        let (_, hard) = sys::process::limit(resource).unwrap_or((usual, usual));
        if hard < usual {
            lower.push(format!("{name} at most {hard}"));
        }
    }
    if lower.is_empty() || capabilities_of(status) >> SYS_RESOURCE & 1 == 1 {
        return Finding::good("limits", "containers get the usual ones, whatever this shell has");
    }
    Finding::limited(
        "limits",
        lower.join(", "),
        "containers get no more: raise the hard limits where rrun is started (ulimit -H, LimitNOFILE=)",
    )
}

/// Bits of `CapEff`. Source: capabilities(7), proc_pid_status(5).
fn capabilities_of(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
}

fn user_namespaces() -> Finding {
    let number = |path: &str| read(path).trim().parse::<u64>().ok();
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        return Finding::limited(
            "user namespaces",
            "switched off",
            "sysctl -w user.max_user_namespaces=15000",
        );
    }
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return Finding::limited(
            "user namespaces",
            "for root only",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        );
    }
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return Finding::limited(
            "user namespaces",
            "restricted by AppArmor",
            "install an AppArmor profile for rrun that has `userns,`",
        );
    }
    Finding::good("user namespaces", "for everybody")
}

fn subordinate_ids() -> Finding {
    let filled = |path: &str| read(path).lines().any(|line| !line.trim().is_empty());
    if filled("/etc/subuid") && filled("/etc/subgid") {
        return Finding::good("subordinate ids", "/etc/subuid and /etc/subgid");
    }
    Finding::limited(
        "subordinate ids",
        "none in /etc/subuid and /etc/subgid",
        "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER",
    )
}

fn erofs(filesystems: &str) -> Finding {
    if has_filesystem(filesystems, "erofs") {
        Finding::good("erofs", "in the kernel")
    } else {
        Finding::limited("erofs", "not loaded", "modprobe erofs")
    }
}

fn programs() -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin".into(), "/sbin".into()]);
    let there = |name: &str| places.iter().any(|place| place.join(name).exists());
    let (have, lack): (Vec<&str>, Vec<&str>) =
        ["newuidmap", "newgidmap", "nft"].into_iter().partition(|name| there(name));
    if lack.is_empty() {
        return Finding::good("programs", have.join(" "));
    }
    Finding::limited(
        "programs",
        format!("without {}", lack.join(" ")),
        "apt install uidmap nftables (ordinary users' containers and bridge networks need them)",
    )
}

fn kvm() -> Finding {
    if Path::new("/dev/kvm").exists() {
        Finding::good("kvm", "/dev/kvm")
    } else {
        Finding::limited("kvm", "no /dev/kvm", "containers do not need it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:1 / /sys/fs/cgroup rw - tmpfs cgroup rw
3 2 0:2 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
4 2 0:3 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
5 2 0:4 / /sys/fs/cgroup/pids ro - cgroup cgroup ro,pids
6 2 0:5 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
7 1 0:9 / /var/lib/data rw - overlay overlay rw
";

    #[test]
    fn hierarchies_of_a_hybrid_host() {
        let found = hierarchies(HYBRID);
        assert_eq!(found.unified.as_deref(), Some("/sys/fs/cgroup/unified"));
        let names: Vec<(&str, bool)> =
            found.v1.iter().map(|(name, _, writable)| (name.as_str(), *writable)).collect();
        assert_eq!(names, [("memory", true), ("cpu", true), ("cpuacct", true), ("pids", false)]);
        let finding = controllers(&found, "hugetlb");
        assert_eq!(finding.verdict, Verdict::Limited);
        assert!(finding.found.contains("pids (--pids-limit)"), "{}", finding.found);
    }

    #[test]
    fn pure_version_two_has_device_rules() {
        let found = hierarchies("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let finding = controllers(&found, "cpuset cpu io memory pids");
        assert_eq!(finding.verdict, Verdict::Good, "{}", finding.found);
    }

    #[test]
    fn the_store_needs_a_local_disk() {
        assert_eq!(filesystem_of(Path::new("/var/lib/data/x"), HYBRID).as_deref(), Some("overlay"));
        assert_eq!(filesystem_of(Path::new("/var/lib/database"), HYBRID).as_deref(), Some("ext4"));
    }

    #[test]
    fn kernels_and_rights() {
        for (release, verdict) in [
            ("6.1.0-38-amd64", Verdict::Good),
            ("5.15.0", Verdict::Good),
            ("5.4.0-1", Verdict::Missing),
            ("", Verdict::Missing),
        ] {
            assert_eq!(kernel(release).verdict, verdict, "{release}");
        }
        assert_eq!(rights("CapEff:\t000001ffffffffff\n").verdict, Verdict::Good);
        assert_eq!(rights("CapEff:\t000001fffeffffff\n").verdict, Verdict::Limited);
        assert_eq!(rights("CapEff:\t0000000000000000\n").verdict, Verdict::Missing);
    }

    #[test]
    fn every_gap_has_a_remedy() {
        let dirs = crate::dirs::Dirs { root: "/nonexistent/x".into(), runroot: "/x".into() };
        for finding in examine(&Globals { dirs, debug: false }) {
            assert_eq!(finding.remedy.is_none(), finding.verdict == Verdict::Good, "{finding:?}");
            assert!(!finding.found.is_empty(), "{finding:?}");
        }
    }
}
