//! What a container can do to its host, its neighbours and its operator: nothing, whatever it
//! exchanges under the runner's hands and whoever it watches.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::container::support::{Entry, Host, end_of, field, said};

/// Looks, without pause and with all rights, at every process that shows in the procfs of the
/// container whose first process has the number `init`, and tells what one of them had that the
/// container does not have.
struct Watch<'a> {
    /// `/proc` as the container sees it.
    procfs: PathBuf,
    init: PathBuf,
    /// Most capabilities that a process of the container may hold.
    held: u64,
    stop: &'a AtomicBool,
}

impl Watch<'_> {
    fn run(&self) -> (usize, BTreeSet<String>) {
        let (mut looks, mut found) = (0, BTreeSet::new());
        while !self.stop.load(Ordering::Relaxed) {
            for process in processes(&self.procfs) {
                looks += 1;
                self.look(&process, &mut found);
            }
        }
        (looks, found)
    }

    fn look(&self, process: &Path, found: &mut BTreeSet<String>) {
        let name = || std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        for kind in ["mnt", "net", "ipc", "uts", "cgroup", "pid"] {
            let of = |process: &Path| std::fs::read_link(process.join("ns").join(kind)).ok();
            if let (Some(its), Some(own)) = (of(process), of(&self.init))
                && its != own
            {
                found.insert(format!("{} in another {kind} namespace", name().trim()));
            }
        }
        let inode = |path: PathBuf| std::fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
        if let (Some(its), Some(own)) = (inode(process.join("root")), inode(self.init.join("root")))
            && its != own
        {
            found.insert(format!("{} with another root", name().trim()));
        }
        let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
        let set = |line: &str| line.strip_prefix("CapPrm:\t").map(str::to_owned);
        let held = status.lines().find_map(set).map(|set| u64::from_str_radix(&set, 16).unwrap());
        if held.is_some_and(|held| held & !self.held != 0) {
            found.insert(format!("{} with capabilities {:x}", name().trim(), held.unwrap()));
        }
        for fd in std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            let Ok(what) = std::fs::read_link(fd.path()) else { continue };
            let what = what.to_string_lossy().into_owned();
            // Pipes of its streams, and the socket on which it tells that it has begun.
            let is_own = what.starts_with("pipe:") || fd.file_name() == "3" || what == "/dev/null";
            if !is_own && name().trim() == "rrun" {
                found.insert(format!("rrun with {what} as {}", fd.file_name().display()));
            }
        }
    }
}

/// Ends a neighbour, also where the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The processes of a procfs.
fn processes(procfs: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(procfs).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let numbers = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    numbers.map(|name| procfs.join(name)).collect()
}

#[test]
fn a_joining_process_has_nothing_of_the_host_when_it_is_seen() {
    let host = Host::new();
    host.detached("box", &["--cap-add", "SYS_PTRACE"], "exec sleep 60");
    let init = PathBuf::from(format!("/proc/{}", host.pid("init")));
    let status = host.ok(&["exec", "box", "cat", "/proc/self/status"]);
    let stop = AtomicBool::new(false);
    let watch = Watch {
        procfs: init.join("root/proc"),
        init,
        held: u64::from_str_radix(field(&status, "CapPrm"), 16).unwrap(),
        stop: &stop,
    };
    let (looks, found) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch.run());
        let end = End(&stop);
        for _ in 0..25 {
            host.ok(&["exec", "box", "true"]);
        }
        drop(end);
        watching.join().unwrap()
    });
    assert!(looks > 100, "it was watched: {looks}");
    assert!(found.is_empty(), "{found:?}");
    host.ok(&["rm", "-f", "box"]);
    host.assert_clean(None);
}

#[test]
fn one_that_enters_anothers_processes_has_nothing_of_the_host_either() {
    let host = Host::new();
    host.detached("box", &["--cap-add", "SYS_PTRACE"], "exec sleep 60");
    let procfs = PathBuf::from(format!("/proc/{}/root/proc", host.pid("init")));
    let stop = AtomicBool::new(false);
    let host_root = std::fs::metadata("/").unwrap();
    let seen = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                for process in processes(&procfs) {
                    let Ok(root) = std::fs::metadata(process.join("root")) else { continue };
                    let root_is_hosts =
                        (root.dev(), root.ino()) == (host_root.dev(), host_root.ino());
                    let own = std::fs::read_link("/proc/self/ns/mnt").ok();
                    let mounts = std::fs::read_link(process.join("ns/mnt")).ok();
                    seen.0 += 1;
                    if root_is_hosts || mounts == own {
                        seen.1.push(process);
                    }
                }
            }
            seen
        });
        let end = End(&stop);
        // So that there is something to see, if it can be seen.
        let source = host.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let source = source.display();
        let sources: Vec<String> = (0..40).map(|number| format!("{source}:/v{number}")).collect();
        let sources = sources.iter().flat_map(|source| ["-v", source]);
        let flags: Vec<&str> = ["--pid", "container:box"].into_iter().chain(sources).collect();
        for _ in 0..10 {
            let run = host.run(&flags, &["sh", "-c", "echo $$; ls /proc"]);
            assert_eq!(run.code, 0, "{run:?}");
            // Its own number is among those that its procfs has, which is the other one's.
            let mut lines = run.out.lines();
            let own = lines.next().unwrap().to_owned();
            assert!(own != "1" && lines.clone().any(|line| line == own), "{run:?}");
            assert!(lines.any(|line| line == "1"), "{run:?}");
        }
        drop(end);
        watching.join().unwrap()
    });
    assert!(seen.0 > 100 && seen.1.is_empty(), "{seen:?}");
    // The other one's masks stay behind, and its own are there.
    let script = "head -c 1 /proc/kcore; umount /proc/kcore; head -c 1 /proc/kcore; \
                  echo 1 > /proc/sys/kernel/panic && echo written";
    let run = host.shell(&["--pid", "container:box"], script);
    assert_eq!(run.out, "", "{run:?}");
    host.ok(&["rm", "-f", "box"]);
    host.assert_clean(None);
}

/// Neighbours that share volumes with containers: they exchange what lies in them for links that
/// lead to a file and a directory of the host, without pause.
struct Neighbours<'a> {
    /// The content of the volumes that are filled at each start, and of one that is not.
    filled: Vec<PathBuf>,
    shared: PathBuf,
    /// What the links name.
    bait: &'a Path,
    stop: &'a AtomicBool,
}

/// In the shared volume: a mount's target, a device, a working directory, files of `/etc`.
const SHARED: [&str; 5] = ["sub", "device", "work", "hosts", "resolv.conf"];

/// Pipes in the image, where the other volume is mounted.
const PIPES: usize = 40;

impl Neighbours<'_> {
    fn exchange(directory: &Path, name: &str, target: &Path) {
        let (name, link) = (directory.join(name), directory.join(format!(".{name}")));
        let _ = std::os::unix::fs::symlink(target, &link);
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let cwd = rustix::fs::CWD;
        let _ = rustix::fs::renameat_with(cwd, &name, cwd, &link, flags);
    }

    /// The volume is filled while it is empty: nothing is put there before the first entry shows.
    fn beside_the_filled(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            for filled in &self.filled {
                for number in 0..PIPES {
                    let name = format!("pipe{number}");
                    if std::fs::symlink_metadata(filled.join(&name)).is_ok() {
                        Self::exchange(filled, &name, &self.bait.join("file"));
                    }
                }
            }
        }
    }

    fn beside_the_shared(&self) {
        for round in 0_usize.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            for name in SHARED {
                let target = match (round % 3, name) {
                    (0, _) => self.bait.join("file"),
                    (1, _) => self.bait.join("directory"),
                    _ => PathBuf::from("/proc/sys/kernel"),
                };
                Self::exchange(&self.shared, name, &target);
                if round % 64 < 2 {
                    // Missing, so that it is made.
                    for name in [name.to_owned(), format!(".{name}")] {
                        let path = self.shared.join(name);
                        let _ = std::fs::remove_file(&path);
                        let _ = std::fs::remove_dir_all(&path);
                    }
                }
            }
        }
    }
}

/// Everything about the bait that somebody could have changed.
fn facts(bait: &Path) -> String {
    let mut facts = String::new();
    for path in [bait.to_owned(), bait.join("file"), bait.join("directory")] {
        let it = std::fs::symlink_metadata(&path).unwrap();
        facts.push_str(&format!(
            "{} {:o} {} {} {}\n",
            path.display(),
            it.mode(),
            it.uid(),
            it.size(),
            it.ctime_nsec()
        ));
    }
    facts + &std::fs::read_to_string(bait.join("file")).unwrap()
}

/// Containers that start beside each other, each with a volume of its own to fill.
const LANES: usize = 3;

#[test]
fn names_exchanged_while_containers_start_lead_nowhere() {
    let starts = std::env::var("RRUN_EXCHANGES").map_or(300, |text| text.parse().unwrap());
    exchanged_while_starting(starts);
}

/// What is done where the kernel has no fchmodat2(2): before Linux 6.6.
#[test]
fn the_way_of_older_kernels_leads_nowhere_either() {
    let test = "container::host::names_exchanged_while_containers_start_lead_nowhere";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env("RRUN_KNOWN_BAD", "fchmodat2")
        .env("RRUN_EXCHANGES", "45")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("1 passed; 0 failed"), "{told}");
    // And that it does what it is there for.
    let host = Host::with(
        &[Entry::Directory("data", 0o2751), Entry::Fifo("data/pipe")],
        &json!({ "Env": ["PATH=/bin"] }),
    );
    let script = "stat -c %a /data /data/pipe /dev/null";
    let words = host.words(&["--rm"], &["-v", "vol:/data"], &["sh", "-c", script]);
    let mut command = host.command(&words);
    let run = said(command.env("RRUN_KNOWN_BAD", "fchmodat2").output().unwrap());
    assert_eq!((run.code, run.out.as_str()), (0, "2751\n644\n666\n"), "{run:?}");
}

fn exchanged_while_starting(starts: usize) {
    let bait = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    std::fs::create_dir(bait.path().join("directory")).unwrap();
    std::fs::write(bait.path().join("file"), "of the host").unwrap();
    let pipes: Vec<String> = (0..PIPES).map(|number| format!("data/pipe{number}")).collect();
    let mut entries = vec![
        Entry::Directory("data", 0o755),
        Entry::Directory("shared", 0o755),
        Entry::Link("etc/hosts", "/shared/hosts"),
        Entry::Link("etc/resolv.conf", "/shared/resolv.conf"),
    ];
    entries.extend(pipes.iter().map(|name| Entry::Fifo(name)));
    let host = Host::with(&entries, &json!({ "Env": ["PATH=/bin"] }));
    let stop = AtomicBool::new(false);
    let content = |name: &str| host.path().join("root/volumes").join(name).join("_data");
    host.ok(&["volume", "create", "shared"]);
    let filled: Vec<String> = (0..LANES).map(|lane| format!("filled{lane}")).collect();
    filled.iter().for_each(|name| drop(host.ok(&["volume", "create", name])));
    let neighbours = Neighbours {
        filled: filled.iter().map(|name| content(name)).collect(),
        shared: content("shared"),
        bait: bait.path(),
        stop: &stop,
    };
    let target = format!("{}:/shared/sub/deep", source.path().display());
    let before = facts(bait.path());
    let lane = |lane: usize| {
        let filled = format!("filled{lane}:/data");
        let flags = ["-v", &filled, "-v", "shared:/shared:nocopy", "-v", &target];
        let more = ["--device", "/dev/null:/shared/device", "-w", "/shared/work"];
        let mut ran = 0;
        for start in (lane..starts).step_by(LANES) {
            // Filled alone, too: what is refused for the other volume comes later than that.
            let all = [&flags[..], &more[..]].concat();
            let flags = if (start / LANES).is_multiple_of(2) { flags[..2].to_vec() } else { all };
            let run = host.run(&flags, &["true"]);
            assert_eq!(facts(bait.path()), before, "start {start}: {run:?}");
            let is_told = run.code == 125 && run.err.starts_with("rrun: cannot ");
            assert!(run.code == 0 || is_told, "start {start}: {run:?}");
            ran += usize::from(run.code == 0);
            for entry in std::fs::read_dir(&neighbours.filled[lane]).unwrap().flatten() {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        ran
    };
    let ran: usize = std::thread::scope(|scope| {
        scope.spawn(|| neighbours.beside_the_filled());
        scope.spawn(|| neighbours.beside_the_shared());
        let _end = End(&stop);
        let lane = &lane;
        let lanes: Vec<_> = (0..LANES).map(|at| scope.spawn(move || lane(at))).collect();
        lanes.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert!(ran >= starts / 2, "{ran} of {starts} ran");
    host.assert_clean(None);
}

#[test]
fn a_lock_on_a_volume_holds_nobody_up() {
    let host = Host::with(
        &[Entry::Directory("data", 0o755), Entry::Directory("data/x", 0o755)],
        &json!({ "Env": ["PATH=/bin"] }),
    );
    host.ok(&["volume", "create", "vol"]);
    // As somebody does in a container that has the volume.
    let data = std::fs::File::open(host.path().join("root/volumes/vol/_data")).unwrap();
    rustix::fs::flock(&data, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut command = host.command(&host.words(&["--rm"], &["-v", "vol:/data"], &["ls", "/data"]));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let started = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > std::time::Duration::from_secs(10) {
            child.kill().unwrap();
            panic!("it waits for the container's lock");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let run = end_of(child);
    assert_eq!((run.code, run.out.as_str()), (0, "x\n"), "{run:?}");
}

#[test]
fn a_volume_that_could_not_be_filled_is_filled_by_the_next_start() {
    let large = vec![b'x'; 100_000];
    let entries = [
        Entry::Directory("data", 0o755),
        Entry::File("data/a", b"small"),
        Entry::Directory("data/b", 0o755),
        Entry::File("data/b/large", &large),
    ];
    let host = Host::with(&entries, &json!({ "Env": ["PATH=/bin"] }));
    // As if the disk were full in the middle.
    let run = host.shell(&["-v", "vol:/data", "--ulimit", "fsize=1000"], "true");
    assert_eq!(run.code, 125, "{run:?}");
    assert!(run.err.contains("cannot fill a volume from the image /data"), "{run:?}");
    let run = host.run(&["-v", "vol:/data"], &["wc", "-c", "/data/a", "/data/b/large"]);
    let words: Vec<&str> = run.out.split_whitespace().collect();
    assert_eq!(words[..4], ["5", "/data/a", "100000", "/data/b/large"], "{run:?}");
    let volume = host.path().join("root/volumes/vol");
    let mut names: Vec<_> =
        std::fs::read_dir(volume).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["_data", "meta.json"]);
}

#[test]
fn nothing_of_the_runner_is_mounted_over_proc() {
    for (link, target) in [
        ("etc/hosts", "/proc/sys/kernel/core_pattern"),
        ("etc/resolv.conf", "/proc/self/attr/current"),
        ("etc/hostname", "/proc/version"),
    ] {
        let host = Host::with(&[Entry::Link(link, target)], &json!({ "Env": ["PATH=/bin"] }));
        let run = host.shell(&[], "grep /proc /proc/mounts");
        assert_eq!((run.code, run.out.as_str()), (125, ""), "{link}: {run:?}");
        assert!(run.err.contains(&format!("/{link}")), "{run:?}");
        host.assert_clean(None);
    }
}

#[test]
fn a_device_takes_the_place_of_nothing() {
    let host = Host::with(&[Entry::File("tmp/x", b"a file")], &json!({ "Env": ["PATH=/bin"] }));
    let run = host.run(&["--device", "/dev/null:/tmp/x"], &["cat", "/tmp/x"]);
    assert_eq!((run.code, run.out.as_str()), (125, ""), "{run:?}");
    // At its second start a container has its own already.
    let flags = ["--name", "box", "--device", "/dev/null:/tmp/null"];
    let words = host.words(&flags, &[], &["stat", "-c", "%t:%T %a", "/tmp/null"]);
    assert_eq!(host.ok(&words), "1:3 666\n");
    assert_eq!(host.ok(&["start", "-a", "box"]), "1:3 666\n");
    host.ok(&["rm", "box"]);
}

/// A program of 64 bits that makes the 32-bit call `socketcall(SYS_SOCKET, {AF_VSOCK, 1, 0})` and
/// exits with its errno.
fn socketcall_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let code: &[u8] = &[
        0xb8, 102, 0, 0, 0, // mov eax, 102
        0xbb, 1, 0, 0, 0, // mov ebx, 1
        0xb9, 0, 0, 0, 0, // mov ecx, ARGUMENTS
        0xcd, 0x80, // int 0x80
        0xf7, 0xd8, // neg eax
        0x89, 0xc7, // mov edi, eax
        0xb8, 60, 0, 0, 0, // mov eax, 60
        0x0f, 0x05, // syscall
    ];
    let mut code = code.to_vec();
    let arguments = (BASE + HEADERS + code.len() as u64) as u32;
    code[11..15].copy_from_slice(&arguments.to_le_bytes());
    for word in [40_u32, 1, 0] {
        code.extend(word.to_le_bytes());
    }
    let length = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, BASE, BASE, length, length, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_strict_profile_opens_no_virtual_machine_socket() {
    let program = socketcall_program();
    let host =
        Host::with(&[Entry::File("bin/socketcall", &program)], &json!({ "Env": ["PATH=/bin"] }));
    let strict = host.run(&["--security-opt", "profile=strict"], &["socketcall"]);
    assert_eq!(strict.code, libc_enosys(), "{strict:?}");
}

fn libc_enosys() -> i32 {
    rustix::io::Errno::NOSYS.raw_os_error()
}

#[test]
fn what_a_flag_opens() {
    let host = Host::new();
    let source = host.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let bind = format!("{}:/v", source.display());
    let run = host.shell(&["-v", &bind], ": > /v/f; chmod 4755 /v/f");
    assert_eq!(run.code, 0, "{run:?}");
    let left = std::fs::metadata(source.join("f")).unwrap();
    assert_eq!((left.mode() & 0o7777, left.uid()), (0o4755, 0));

    host.detached("box", &["-v", "shared:/v"], "echo from one > /v/f; exec sleep 60");
    let run = host.shell(&["-v", "shared:/v"], "until cat /v/f 2> /dev/null; do sleep 0.1; done");
    assert_eq!(run.out, "from one\n", "{run:?}");

    let own = std::process::id();
    let sees = format!("test -d /proc/{own} && kill -0 {own} && echo reached");
    assert_eq!(host.shell(&["--pid", "host"], &sees).out, "reached\n");
    assert_eq!(host.shell(&["--pid", "container:box"], &sees).out, "");
    let run =
        host.shell(&["--pid", "container:box"], "cat /proc/1/comm; kill -0 1 && echo reached");
    assert_eq!(run.out, "sleep\nreached\n", "{run:?}");
    host.ok(&["rm", "-f", "box"]);
}

/// `SECURITY.md` names the test of each of its sentences about containers.
#[test]
fn every_promise_names_its_test() {
    let text = include_str!("../../../../SECURITY.md");
    let (_, section) = text.split_once("\n## What a container may do\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let listed = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let tests: BTreeSet<&str> =
        listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let promises: Vec<&str> = section.split("\n- ").skip(1).collect();
    assert!(promises.len() > 20, "{}", promises.len());
    for promise in promises {
        let quoted = promise.split('`').skip(1).step_by(2);
        let named: Vec<&str> = quoted.filter(|word| word.contains("::")).collect();
        assert!(!named.is_empty(), "no test is named by: {promise}");
        for name in named {
            assert!(tests.contains(name), "there is no test {name}");
        }
    }
}

#[test]
fn known_bad_measures_are_missed() {
    crate::known_bad::are_missed(&[
        (
            "entered-last",
            "container::host::a_joining_process_has_nothing_of_the_host_when_it_is_seen",
        ),
        (
            "entered-last",
            "container::host::one_that_enters_anothers_processes_has_nothing_of_the_host_either",
        ),
        ("by-descriptor", "container::host::names_exchanged_while_containers_start_lead_nowhere"),
        ("lock-out-of-reach", "container::host::a_lock_on_a_volume_holds_nobody_up"),
        (
            "filled-apart",
            "container::host::a_volume_that_could_not_be_filled_is_filled_by_the_next_start",
        ),
        ("proc-kept-free", "container::host::nothing_of_the_runner_is_mounted_over_proc"),
        ("null-replaced", "container::life::a_replaced_null_device_keeps_nobody_out"),
        ("ids-of-31-bits", "container::cve::cve_2026_30892_a_user_is_who_it_says_or_nobody"),
        (
            "socketcall-denied",
            "container::host::the_strict_profile_opens_no_virtual_machine_socket",
        ),
    ]);
}
