//! What a container cannot make grow, lock or end: the memory and the life of its monitor, the
//! host's run directory, the commands of its operator.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::container::support::{Host, Said, end_of, field, said, until};

/// Kilobytes, of `/proc/PID/status`.
fn kilobytes(pid: i32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    field(&status, name).trim_end_matches(" kB").parse().unwrap()
}

/// The processes of the one container, by the host's numbers.
fn pids(host: &Host) -> Vec<i32> {
    let cgroups = host.state()["cgroups"].clone();
    let folders = cgroups.as_array().unwrap().iter().filter_map(serde_json::Value::as_str);
    let procs = folders.map(|folder| std::fs::read_to_string(format!("{folder}/cgroup.procs")));
    procs
        .flatten()
        .flat_map(|text| text.lines().map(|line| line.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

/// A command whose end must come, with its streams in memory.
fn ends(mut command: Command) -> Said {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    end_of(child.spawn().unwrap())
}

#[test]
fn the_children_of_a_finished_exec_cost_their_monitor_nothing() {
    let host = Host::new();
    host.detached("box", &[], "sleep 600");
    let monitor = host.pid("monitor");
    let before = kilobytes(monitor, "VmHWM");
    // The writers hold the pipe, and go on when the shell that was executed has ended. It is as large
    // as they can make it, so that it does not run dry on a busy machine either.
    let script = "for i in 1 2 3 4 5 6; do dd if=/dev/zero bs=64k 2>/dev/null & done; \
                  until [ -e /tmp/go ]; do sleep 0.1; done; exit 7";
    let mut exec = host.command(&["exec", "box", "sh", "-c", script]);
    // Its output is read as slowly as it may be: not at all.
    let mut child = exec.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let pipe = until("a writer's pipe", || {
        let init = host.pid("init");
        let pid = pids(&host).into_iter().find(|pid| *pid != init)?;
        let stdout = std::fs::read_link(format!("/proc/{pid}/fd/1")).ok()?;
        stdout.to_str().filter(|name| name.starts_with("pipe:"))?;
        std::fs::File::options().write(true).open(format!("/proc/{pid}/fd/1")).ok()
    });
    rustix::pipe::fcntl_setpipe_size(&pipe, 1 << 20).unwrap();
    drop(pipe);
    // Whatever the scheduler does: while the monitor reads there is time to write again.
    let mut slowed = Command::new("strace");
    slowed.args(["-qq", "-o", "/dev/null", "-e", "trace=read"]);
    slowed.args(["-e", "inject=read:delay_exit=2000", "-p", &monitor.to_string()]);
    let mut slowed = slowed.spawn().unwrap();
    until("the tracer", || {
        let status = std::fs::read_to_string(format!("/proc/{monitor}/status")).ok()?;
        (field(&status, "TracerPid") != "0").then_some(())
    });
    host.ok(&["exec", "box", "touch", "/tmp/go"]);
    // It has ended, and nobody reads what it left: its monitor answers others.
    until("the end of the shell", || {
        (!host.ok(&["exec", "box", "ps"]).contains("until")).then_some(())
    });
    slowed.kill().unwrap();
    slowed.wait().unwrap();
    let mut out = child.stdout.take().unwrap();
    let read = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    assert_eq!(end_of(child).code, 7);
    // What was in the pipe at the end, and what the command and its monitor held until then.
    assert!(read.join().unwrap().unwrap() < 16 << 20);
    let grown = kilobytes(monitor, "VmHWM") - before;
    assert!(grown < 16 << 10, "the monitor has grown by {grown} kB");
    host.ok(&["rm", "-f", "box"]);
}

#[test]
fn a_monitor_has_a_wall_and_its_children_have_none() {
    let host = Host::new();
    host.detached("box", &[], "ulimit -d; sleep 600");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", host.pid("monitor"))).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max data size")).unwrap();
    let soft: u64 = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(u64::MAX);
    assert!((64 << 20..=128 << 20).contains(&soft), "{line}");
    assert_eq!(host.ok(&["exec", "box", "sh", "-c", "ulimit -d"]), "unlimited\n");
    until("the first process's word", || {
        (host.ok(&["logs", "box"]) == "unlimited\n").then_some(())
    });
    host.ok(&["rm", "-f", "box"]);
}

/// More than the pipes, the socket and the command hold, and less than would stop the container.
const UNREAD: usize = 1_200_000;

#[test]
fn a_reader_who_does_not_read_keeps_no_monitor_and_loses_nothing() {
    let host = Host::new();
    let write = format!("head -c {UNREAD} /dev/zero; echo > /tmp/done; exit 5");
    let words = host.words(&["--name", "box"], &[], &["sh", "-c", &write]);
    let run = host.command(&words).stdout(Stdio::piped()).spawn().unwrap();
    // The container comes to its end, and its monitor too, while nobody has read a byte.
    until("the end", || {
        let state = host.rrun(&["inspect", "-f", "{{.State.Status}}", "box"]);
        (state.out == "exited\n").then_some(())
    });
    let id = host.ok(&["inspect", "-f", "{{.Id}}", "box"]);
    until("the end of the monitor", || no_monitor_of(id.trim()).then_some(()));
    assert_read_whole(run);

    host.ok(&["start", "box"]);
    host.ok(&["rm", "-f", "box"]);
    host.detached("box", &[], "sleep 600");
    let exec = host.command(&["exec", "box", "sh", "-c", &write]);
    let exec = { exec }.stdout(Stdio::piped()).spawn().unwrap();
    until("the end of what was executed", || {
        let is_done = host.rrun(&["exec", "box", "ls", "/tmp/done"]).code == 0;
        (is_done && !host.ok(&["exec", "box", "ps"]).contains("head -c")).then_some(())
    });
    host.ok(&["rm", "-f", "box"]);
    assert_read_whole(exec);
}

fn assert_read_whole(mut command: std::process::Child) {
    let mut out = command.stdout.take().unwrap();
    let read = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    assert_eq!(end_of(command).code, 5);
    assert_eq!(read.join().unwrap().unwrap(), UNREAD as u64);
}

fn no_monitor_of(id: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    !processes.into_iter().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).starts_with(&format!("rrun\0monitor\0{id}"))
    })
}

/// A file system of one megabyte in the place of a directory, for as long as this lives.
struct Small(PathBuf);

impl Small {
    fn at(path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("size=1m")).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn what_a_container_writes_lies_in_the_store() {
    let host = Host::new();
    let _small = Small::at(&host.path().join("run"));
    let script = "for f in hosts hostname resolv.conf; do \
                  dd if=/dev/zero of=/etc/$f bs=1M count=4 2>/dev/null || exit 9; done; sleep 600";
    host.detached("box", &[], script);
    until("what it writes", || {
        let sizes = host.rrun(&["exec", "box", "sh", "-c", "stat -c %s /etc/resolv.conf"]);
        (sizes.out.trim() == "4194304").then_some(())
    });
    assert_eq!(host.run(&[], &["cat", "/etc/hostname"]).code, 0);
    // What an earlier run has written is not the next one's.
    host.ok(&["restart", "-t", "0", "box"]);
    host.ok(&["rm", "-f", "box"]);
}

#[test]
fn logs_are_followed_when_every_instance_of_inotify_is_taken() {
    let host = Host::new();
    host.detached("box", &[], "for i in 1 2 3 4 5; do echo $i; sleep 0.2; done");
    let mut follow = Command::new("strace");
    follow.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=inotify_init1"]);
    follow.args(["-e", "inject=inotify_init1:error=EMFILE", env!("CARGO_BIN_EXE_rrun")]);
    follow.args(["logs", "-f", "box"]);
    host.environment(&mut follow);
    let followed = ends(follow);
    assert_eq!((followed.code, followed.out.as_str()), (0, "1\n2\n3\n4\n5\n"), "{followed:?}");
    host.ok(&["rm", "-f", "box"]);
}

/// With few descriptors: what a container decides must not need many.
fn with_few_descriptors(host: &Host, words: &[&str]) -> Said {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_rrun")]);
    command.args(words).env_remove("LD_PRELOAD");
    host.environment(&mut command);
    said(command.output().unwrap())
}

#[test]
fn however_deep_a_containers_tree_is_it_is_removed() {
    let host = Host::new();
    let deep = "cd $1; i=0; while [ $i -lt 1500 ]; do mkdir d && cd d && echo x > f; \
                i=$((i+1)); done; echo made";
    let volume = ["-v", "deep:/volume"];
    let words = host.words(&["--name", "box"], &volume, &["sh", "-c", deep, "sh", "/tmp"]);
    assert_eq!(host.rrun(&words).out, "made\n");
    assert_eq!(host.run(&volume, &["sh", "-c", deep, "sh", "/volume"]).out, "made\n");
    assert!(host.ok(&["ps", "-as", "--format", "{{.Size}}"]).starts_with("3kB"));
    for words in [
        &["rm", "box"][..],
        &["container", "prune", "-f"],
        &["image", "prune", "-f"],
        &["pull", "-q", host.image()],
        &["volume", "rm", "deep"],
    ] {
        let removed = with_few_descriptors(&host, words);
        assert_eq!((removed.code, removed.err.as_str()), (0, ""), "{words:?}: {removed:?}");
    }
    for folder in ["root/trash", "root/volumes"] {
        let left = std::fs::read_dir(host.path().join(folder)).unwrap().count();
        assert_eq!(left, 0, "{folder}");
    }
}

#[test]
fn rubbish_that_cannot_be_removed_fails_nobody() {
    let host = Host::new();
    let words = host.words(&["--name", "box"], &[], &["true"]);
    assert_eq!(host.rrun(&words).code, 0);
    // Something of the host's that is mounted in what is to be deleted.
    let rubbish = host.path().join("root/trash/rubbish/below");
    let small = Small::at(&rubbish);
    std::fs::write(rubbish.join("kept"), "").unwrap();
    for words in [
        &["pull", "-q", host.image()][..],
        &["image", "prune", "-f"],
        &["container", "prune", "-f"],
        &["rmi", host.image()],
    ] {
        let said = host.rrun(words);
        assert_eq!(said.code, 0, "{words:?}: {said:?}");
    }
    assert!(rubbish.join("kept").exists(), "what is mounted there is not ours");
    drop(small);
    host.ok(&["container", "prune", "-f"]);
    assert_eq!(std::fs::read_dir(host.path().join("root/trash")).unwrap().count(), 0);
}

#[test]
fn what_is_exchanged_for_a_link_is_not_counted() {
    let outside = tempfile::tempdir().unwrap();
    let sparse = std::fs::File::create(outside.path().join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let place = tempfile::tempdir().unwrap();
    let (d, link) = (place.path().join("d"), place.path().join("link"));
    std::fs::create_dir(&d).unwrap();
    std::fs::write(d.join("own"), "1234567").unwrap();
    std::os::unix::fs::symlink(outside.path(), &link).unwrap();
    let ends = std::sync::atomic::AtomicBool::new(false);
    let largest = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (flags, at) = (rustix::fs::RenameFlags::EXCHANGE, rustix::fs::CWD);
            while !ends.load(std::sync::atomic::Ordering::Relaxed) {
                rustix::fs::renameat_with(at, &d, at, &link, flags).unwrap();
            }
        });
        let count = || {
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
            let top = rustix::fs::open(place.path(), flags, rustix::fs::Mode::empty()).unwrap();
            runner::images::tree_bytes(top)
        };
        let deadline = Instant::now() + std::time::Duration::from_secs(3);
        let mut largest = 0;
        while Instant::now() < deadline && largest < 1 << 40 {
            largest = largest.max(count());
        }
        ends.store(true, std::sync::atomic::Ordering::Relaxed);
        largest
    });
    // Both names may be met with the directory in their place.
    assert!(largest <= 14, "{largest} bytes");
}

#[test]
fn nobody_else_may_write_above_the_store() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = tempfile::tempdir().unwrap();
    let at = |name: &str| host.path().join(name);
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_rrun")]);
    command.arg("--root").arg(at("a/b/root")).arg("--runroot").arg(at("c/d/run"));
    command.args(["container", "prune", "-f"]);
    assert!(command.status().unwrap().success());
    for name in ["a", "a/b", "a/b/root"] {
        let mode = std::fs::metadata(at(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o022, 0, "{name}: {mode:o}");
    }
}

#[test]
fn known_bad_measures_are_missed() {
    crate::known_bad::are_missed(&[
        (
            "drain-bounded",
            "container::bounds::the_children_of_a_finished_exec_cost_their_monitor_nothing",
        ),
        ("monitor-wall", "container::bounds::a_monitor_has_a_wall_and_its_children_have_none"),
        (
            "rest-handed-over",
            "container::bounds::a_reader_who_does_not_read_keeps_no_monitor_and_loses_nothing",
        ),
        ("etc-in-store", "container::bounds::what_a_container_writes_lies_in_the_store"),
        (
            "watch-optional",
            "container::bounds::logs_are_followed_when_every_instance_of_inotify_is_taken",
        ),
        ("removal-bounded", "container::bounds::however_deep_a_containers_tree_is_it_is_removed"),
        ("rubbish-fails-nobody", "container::bounds::rubbish_that_cannot_be_removed_fails_nobody"),
        ("walks-follow-nothing", "container::bounds::what_is_exchanged_for_a_link_is_not_counted"),
        ("parents-closed", "container::bounds::nobody_else_may_write_above_the_store"),
    ]);
}
