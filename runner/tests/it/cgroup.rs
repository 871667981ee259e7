//! Cgroups against the kernel: hybrid as it stands, v1 alone and v2 alone by hiding the other in a
//! mount namespace of the test's own. Needs root.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxHugepageLimit, LinuxMemory, LinuxPids,
    LinuxResources,
};
use runner::cgroup::{Cgroup, CgroupError};
use runner::failure::Failure;

const SOON: Duration = Duration::from_secs(10);
const MIB: i64 = 1 << 20;

/// A cgroup that does not outlive its test, whatever becomes of it.
struct Held(Cgroup);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.thaw();
        let _ = self.0.kill_all(SOON);
        let _ = self.0.remove(SOON);
    }
}

fn id(name: &str) -> String {
    format!("test-{name}-{}", std::process::id())
}

fn create(name: &str, resources: &LinuxResources, asked_for: &[&str]) -> Held {
    let asked_for: Vec<String> = asked_for.iter().map(|&flag| flag.to_owned()).collect();
    let (cgroup, notices) = Cgroup::create(&id(name), None, resources, &asked_for).unwrap();
    assert_eq!(notices, [""; 0]);
    assert!(!cgroup.paths().is_empty(), "this test needs root and a writable cgroup file system");
    Held(cgroup)
}

/// The value of the first file that there is.
fn value(cgroup: &Cgroup, files: &[&str]) -> String {
    let paths = cgroup.paths();
    let all = files.iter().flat_map(|file| paths.iter().map(move |path| path.join(file)));
    let text = all.filter_map(|path| fs::read_to_string(path).ok()).next();
    text.unwrap_or_else(|| panic!("no {files:?}")).trim().to_owned()
}

/// Runs a script in the cgroup, which it enters as a container's first process does: `0` to each
/// `tasks`. The unified hierarchy is entered by a write: the shell has no `CLONE_INTO_CGROUP`.
fn spawn(cgroup: &Cgroup, script: &str) -> Child {
    let entry = cgroup.entry().unwrap();
    let inherit = |fd: &OwnedFd| rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    let mut enter = String::new();
    for fd in &entry.v1_tasks {
        inherit(fd);
        enter += &format!("echo 0 >&{0}; exec {0}>&-; ", fd.as_raw_fd());
    }
    if let Some(fd) = &entry.unified {
        inherit(fd);
        enter += &format!("echo 0 > /proc/self/fd/{0}/cgroup.procs; exec {0}<&-; ", fd.as_raw_fd());
    }
    Command::new("bash")
        .args(["-c", &format!("set -e; {enter}set +e; {script}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn output(cgroup: &Cgroup, script: &str) -> String {
    let output = spawn(cgroup, script).wait_with_output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs one test again where only one version of cgroups is mounted; true in that second run, and
/// at once where the host is like that.
fn is_alone(hide: &str, test: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    if !mounts.lines().any(|line| line.split(' ').nth(2) == Some(hide)) {
        return true;
    }
    again(test, &["--mount"], &format!("{} | xargs umount", mounted(hide)));
    false
}

/// A command that prints where file systems of this type are mounted.
fn mounted(kind: &str) -> String {
    format!("grep -E '^[^ ]+ [^ ]+ {kind} ' /proc/self/mounts | cut -d' ' -f2")
}

/// Runs one test of this program again, in namespaces of its own, after a script.
fn again(test: &str, namespaces: &[&str], script: &str) {
    let script = format!("set -e; {script}\nexec \"$0\" --exact cgroup::{test} --nocapture");
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(namespaces)
        .args(["bash", "-c", &script])
        .arg(program)
        .env("ROADSTEAD_TEST_AGAIN", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
}

fn is_again() -> bool {
    std::env::var_os("ROADSTEAD_TEST_AGAIN").is_some()
}

fn limits() -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(64 * MIB)).set_swap(Some(64 * MIB));
    memory.set_reservation(Some(32 * MIB));
    let mut cpu = LinuxCpu::default();
    cpu.set_quota(Some(50_000)).set_period(Some(100_000)).set_shares(Some(1024));
    cpu.set_cpus(Some("0".into()));
    let mut pids = LinuxPids::default();
    pids.set_limit(77);
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory)).set_cpu(Some(cpu)).set_pids(Some(pids));
    resources
}

fn memory(bytes: i64) -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(bytes)).set_swap(Some(bytes));
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory));
    resources
}

#[test]
fn limits_are_written_and_changed() {
    let asked =
        ["memory", "memory-swap", "memory-reservation", "cpus", "cpu-shares", "cpuset-cpus"];
    let held = create("limits", &limits(), &[&asked[..], &["pids-limit"]].concat());
    let cgroup = &held.0;
    let is_v1 = cgroup.paths().iter().any(|path| path.join("memory.limit_in_bytes").exists());
    let read = |files: &[&str]| value(cgroup, files);
    assert_eq!(read(&["memory.limit_in_bytes", "memory.max"]), "67108864");
    assert_eq!(read(&["memory.soft_limit_in_bytes", "memory.low"]), "33554432");
    assert_eq!(read(&["pids.max"]), "77");
    assert_eq!(read(&["cpuset.cpus"]), "0");
    if is_v1 {
        assert_eq!(read(&["memory.memsw.limit_in_bytes"]), "67108864");
        assert_eq!(read(&["cpu.cfs_quota_us"]), "50000");
        assert_eq!(read(&["cpu.shares"]), "1024");
        assert_ne!(read(&["cpuset.mems"]), "");
    } else {
        assert_eq!(read(&["memory.swap.max"]), "0");
        assert_eq!(read(&["cpu.max"]), "50000 100000");
        assert_eq!(read(&["cpu.weight"]), "100");
    }
    assert_eq!(cgroup.stats().memory_limit, Some(64 << 20));
    assert_eq!(cgroup.stats().pids_limit, Some(77));
    // Up and down: the pair of memory and swap has to be written in either order.
    for mib in [256, 16, 128] {
        cgroup.update(&memory(mib * MIB)).unwrap();
        let now = read(&["memory.limit_in_bytes", "memory.max"]);
        assert_eq!(now, (mib * MIB).to_string());
    }
}

#[test]
fn a_child_is_in_every_hierarchy_and_is_counted() {
    let name = "entry";
    let held = create(name, &LinuxResources::default(), &[]);
    let text = output(&held.0, "cat /proc/self/cgroup");
    let mut hierarchies = 0;
    for line in text.lines() {
        let path = line.splitn(3, ':').nth(2).unwrap();
        if path.contains(&id(name)) {
            assert!(path.ends_with(&format!("/roadstead/{}", id(name))), "{text}");
            hierarchies += 1;
        }
    }
    assert_eq!(hierarchies, held.0.paths().len(), "{text}");
    until("empty", || !held.0.is_populated().unwrap());
    let stats = held.0.stats();
    assert!(stats.cpu.is_some_and(|time| time > 0), "{stats:?}");
    assert_eq!(stats.pids, Some(0), "{stats:?}");
    assert!(stats.memory_peak.is_some_and(|peak| peak > 0), "{stats:?}");
}

#[test]
fn the_monitor_leaves_its_callers_cgroup() {
    let held = create("monitor", &LinuxResources::default(), &[]);
    held.0.join_monitor().unwrap();
    let own = fs::read_to_string("/proc/thread-self/cgroup").unwrap();
    let ours = own.lines().filter(|line| line.contains(":/roadstead")).count();
    assert_eq!(ours, held.0.paths().len(), "{own}");
    assert!(!own.contains(&id("monitor")), "it is no part of the container: {own}");
}

#[test]
fn opened_again_from_its_paths_everything_is_killed_and_removed() {
    let held = create("kill", &LinuxResources::default(), &[]);
    let again = Cgroup::open(&held.0.paths()).unwrap();
    let mut child = spawn(&again, "for i in 1 2 3 4; do sleep 100 & done; wait");
    until("five processes", || again.processes().unwrap().len() == 5);
    assert!(again.is_populated().unwrap());
    assert_eq!(again.remove(Duration::ZERO).unwrap_err().raw_os_error(), Some(libc_ebusy()));
    again.kill_all(SOON).unwrap();
    assert!(!again.is_populated().unwrap());
    assert_eq!(again.processes().unwrap(), [0_i32; 0]);
    child.wait().unwrap();
    // What the container made itself goes, too.
    for path in again.paths() {
        fs::create_dir_all(path.join("inner/most")).unwrap();
    }
    again.remove(SOON).unwrap();
    assert!(again.paths().iter().all(|path| !path.exists()));
    again.remove(SOON).unwrap();
}

fn libc_ebusy() -> i32 {
    rustix::io::Errno::BUSY.raw_os_error()
}

fn freeze_and_kill(name: &str) {
    let held = create(name, &LinuxResources::default(), &[]);
    let mut child = spawn(&held.0, "while :; do :; done");
    until("running", || held.0.processes().unwrap().len() == 1);
    held.0.freeze().unwrap();
    let used = || held.0.stats().cpu.unwrap();
    let before = used();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(used(), before, "a frozen process uses no time");
    held.0.thaw().unwrap();
    until("it goes on", || used() > before);
    held.0.freeze().unwrap();
    held.0.kill_all(SOON).unwrap();
    assert!(!held.0.is_populated().unwrap());
    child.wait().unwrap();
    held.0.remove(SOON).unwrap();
}

#[test]
fn what_is_frozen_can_be_killed() {
    freeze_and_kill("freeze");
}

#[test]
fn v1_alone_kills_by_freezing() {
    if fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
        .all(|line| !line.contains(" cgroup rw"))
    {
        // A host that is purely v2 has nothing to show here.
        assert!(Path::new("/sys/fs/cgroup/cgroup.controllers").exists());
        return;
    }
    if is_alone("cgroup2", "v1_alone_kills_by_freezing") {
        let held = create("v1", &LinuxResources::default(), &[]);
        assert!(held.0.entry().unwrap().unified.is_none());
        let mut child = spawn(&held.0, "for i in 1 2 3 4; do sleep 100 & done; wait");
        until("five processes", || held.0.processes().unwrap().len() == 5);
        held.0.kill_all(SOON).unwrap();
        assert_eq!(held.0.processes().unwrap(), [0_i32; 0]);
        child.wait().unwrap();
        freeze_and_kill("v1-freeze");
    }
}

#[test]
fn the_last_process_is_told_by_the_events_file() {
    let held = create("events", &LinuxResources::default(), &[]);
    let Some(events) = held.0.events_fd().unwrap() else {
        let hierarchies = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!hierarchies.contains(" cgroup2 "), "{hierarchies}");
        return;
    };
    let mut child = spawn(&held.0, "read -t 0.2 < <(sleep 100 & echo $! >&2; exec sleep 0.1)");
    until("populated", || held.0.is_populated().unwrap());
    // Reading takes note of the present state; poll tells of the next one.
    let mut text = String::new();
    std::io::Read::read_to_string(&mut &events, &mut text).unwrap();
    held.0.kill_all(SOON).unwrap();
    let mut polled = [rustix::event::PollFd::new(&events, rustix::event::PollFlags::PRI)];
    let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut polled, Some(&limit)).unwrap(), 1);
    child.wait().unwrap();
}

#[test]
fn running_out_of_memory_is_told_with_limit_and_peak() {
    let held = create("oom", &memory(16 * MIB), &["memory"]);
    assert_eq!(held.0.oom(), None);
    let mut child = spawn(&held.0, "head -c 200M /dev/zero | tail > /dev/null");
    child.wait().unwrap();
    let oom = held.0.oom().expect("tail keeps everything in memory");
    assert_eq!(oom.limit, Some(16 << 20));
    assert!(oom.peak.is_some_and(|peak| (8 << 20..=16 << 20).contains(&peak)), "{oom:?}");
}

#[test]
fn forks_meet_their_limit() {
    let mut pids = LinuxPids::default();
    pids.set_limit(5);
    let mut resources = LinuxResources::default();
    resources.set_pids(Some(pids));
    let held = create("pids", &resources, &["pids-limit"]);
    let mut child = spawn(&held.0, "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done 2>&1; sleep 100");
    until("five", || held.0.stats().pids == Some(5));
    held.0.kill_all(SOON).unwrap();
    child.wait().unwrap();
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    number: Option<(i64, i64)>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_typ(Some(kind)).set_access(Some(access.to_owned()));
    rule.set_major(number.map(|(major, _)| major)).set_minor(number.map(|(_, minor)| minor));
    rule
}

fn check_devices(name: &str) -> PathBuf {
    use LinuxDeviceType::{A, C};
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![
        rule(false, A, None, "rwm"),
        rule(true, C, Some((1, 3)), "rwm"),
        rule(true, C, Some((1, 7)), "w"),
        rule(true, C, Some((1, 8)), "rwm"),
        rule(false, C, Some((1, 8)), "w"),
    ]));
    let held = create(name, &resources, &["device-cgroup-rule"]);
    assert!(held.0.confines_devices());
    let directory = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}
         try() {{ \"$@\" 2>&1 >/dev/null | grep -o 'Operation not permitted' || echo fine; }}
         try head -c1 /dev/zero
         try sh -c 'echo > /dev/null'
         try sh -c 'cat /dev/null'
         try sh -c 'head -c1 < /dev/full'
         try sh -c ': > /dev/full'
         try head -c1 /dev/urandom
         try head -c1 /dev/random
         try sh -c ': > /dev/random'
         try mknod zero c 1 5
         try mknod null c 1 3
         try mknod disk b 8 0",
        directory.path().display()
    );
    let (no, yes) = ("Operation not permitted", "fine");
    let expected = [no, yes, yes, no, yes, no, yes, no, no, yes, no];
    let text = output(&held.0, &script);
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    held.0.paths().into_iter().next().unwrap()
}

#[test]
fn only_the_devices_that_are_allowed() {
    check_devices("devices");
}

#[test]
fn v2_alone_confines_devices_by_a_program() {
    if is_alone("cgroup", "v2_alone_confines_devices_by_a_program") {
        check_devices("devices-v2");
    }
}

#[test]
fn what_was_asked_for_and_cannot_be_is_an_error_and_a_default_is_a_notice() {
    let mut cpu = LinuxCpu::default();
    cpu.set_cpus(Some("4000".into()));
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu));
    let name = id("impossible");
    let error = Cgroup::create(&name, None, &resources, &["cpuset-cpus".into()]).unwrap_err();
    assert!(matches!(&error, CgroupError::Limit { flag, .. } if flag == "cpuset-cpus"));
    let failure = Failure::from(error).to_string();
    assert!(failure.starts_with("rrun: cannot apply --cpuset-cpus: "), "{failure}");
    assert!(failure.contains("\nhint: what there is: cat /"), "{failure}");

    let (cgroup, notices) = Cgroup::create(&name, None, &resources, &["memory".into()]).unwrap();
    let held = Held(cgroup);
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].starts_with("the default of --cpuset-cpus cannot be applied: "));

    // Nothing is left of the one that failed, and a cgroup without processes is replaced.
    let paths = held.0.paths();
    held.0.remove(SOON).unwrap();
    Cgroup::create(&name, None, &resources, &["cpuset-cpus".into()]).unwrap_err();
    assert!(paths.iter().all(|path| !path.exists()));
}

#[test]
fn what_a_crash_left_is_replaced_unless_it_lives() {
    let name = "twice";
    let old = create(name, &memory(32 * MIB), &["memory"]);
    let new = create(name, &LinuxResources::default(), &[]);
    assert_eq!(new.0.stats().memory_limit, None, "nothing of the old limits");
    let mut child = spawn(&new.0, "exec sleep 100");
    until("running", || new.0.is_populated().unwrap());
    let error = Cgroup::create(&id(name), None, &LinuxResources::default(), &[]).unwrap_err();
    assert!(matches!(error, CgroupError::Occupied(_)), "{error}");
    assert!(new.0.is_populated().unwrap(), "it was left alone");
    drop(old);
    child.wait().unwrap();
}

#[test]
fn below_a_parent_of_ones_own() {
    let parent = format!("/test-parent-{}/inner", std::process::id());
    let name = id("child");
    let nothing = LinuxResources::default();
    let (cgroup, _) = Cgroup::create(&name, Some(&parent), &nothing, &[]).unwrap();
    let held = Held(cgroup);
    let text = output(&held.0, "cat /proc/self/cgroup");
    assert_eq!(text.matches(&format!("{parent}/{name}")).count(), held.0.paths().len(), "{text}");
    let paths = held.0.paths();
    held.0.remove(SOON).unwrap();
    for path in paths {
        let inner = path.parent().unwrap();
        fs::remove_dir(inner).unwrap();
        fs::remove_dir(inner.parent().unwrap()).unwrap();
    }
    assert!(Cgroup::create(&name, Some("../x"), &nothing, &[]).is_err());
}

#[test]
fn where_nothing_can_be_written_a_default_is_a_notice() {
    if !is_again() {
        let mounts = mounted("cgroup2?");
        let script = format!("{mounts} | xargs -n1 mount -o remount,bind,ro");
        again("where_nothing_can_be_written_a_default_is_a_notice", &["--mount"], &script);
        return;
    }
    let name = id("read-only");
    let (cgroup, notices) = Cgroup::create(&name, None, &LinuxResources::default(), &[]).unwrap();
    assert!(cgroup.paths().is_empty());
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("Read-only file system"), "{notices:?}");
    // Nothing to do is done.
    assert!(cgroup.entry().unwrap().v1_tasks.is_empty());
    cgroup.join_monitor().unwrap();
    cgroup.kill_all(SOON).unwrap();
    cgroup.remove(SOON).unwrap();

    let error = Cgroup::create(&name, None, &memory(MIB), &["memory".into()]).unwrap_err();
    let failure = Failure::from(error).to_string();
    assert!(failure.starts_with("rrun: cannot apply --memory: "), "{failure}");
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![rule(false, LinuxDeviceType::A, None, "rwm")]));
    let (cgroup, notices) = Cgroup::create(&name, None, &resources, &[]).unwrap();
    assert!(!cgroup.confines_devices());
    assert_eq!(notices.len(), 2, "{notices:?}");
}

/// In a container, the root that is seen is a cgroup like others, and holds the processes that
/// started us: it cannot hand controllers down.
#[test]
fn a_root_that_holds_processes_is_named_with_the_way_out() {
    let name = "a_root_that_holds_processes_is_named_with_the_way_out";
    if !is_again() {
        let top = format!("test-busy-{}", std::process::id());
        let script = format!(
            "unified=$({} | head -n1); [ -n \"$unified\" ]; mkdir \"$unified/{top}\"
             echo 0 > \"$unified/{top}/cgroup.procs\"
             echo +hugetlb > \"$unified/cgroup.subtree_control\"
             exec unshare --cgroup --mount bash -c 'umount \"$1\"; mount -t cgroup2 none \"$1\" &&
                 exec \"$0\" --exact cgroup::{name} --nocapture' \"$0\" \"$unified\"",
            mounted("cgroup2")
        );
        again(name, &["--mount"], &script);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let unified = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
        let unified = unified.and_then(|line| line.split(' ').nth(1)).unwrap();
        let top = Path::new(unified).join(top);
        fs::remove_dir(top.join("roadstead")).unwrap();
        fs::remove_dir(top).unwrap();
        return;
    }
    let mut limit = LinuxHugepageLimit::default();
    limit.set_page_size("2MB".into()).set_limit(4 * MIB);
    let mut resources = LinuxResources::default();
    resources.set_hugepage_limits(Some(vec![limit]));
    let error =
        Cgroup::create(&id("busy"), None, &resources, &["hugepage-limit".into()]).unwrap_err();
    let failure = Failure::from(error).to_string();
    assert!(
        failure.contains("which holds processes itself\nhint: move them one down"),
        "{failure}"
    );
}
