//! What a container can do to its host, its neighbours and its operator: nothing, whatever it
//! exchanges under the runner's hands and whoever it watches.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::container::support::{Host, field};

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
    ]);
}
