//! What a container sees, and what it may use.

use std::os::fd::OwnedFd;
use std::path::Path;

use runner::overlay;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MoveMountFlags;
use serde_json::json;

use crate::container::support::{Entry, Host};

#[test]
fn its_own_of_everything() {
    let host = Host::new();
    let script = "echo $$; hostname; cat /etc/hostname; ls /proc | grep -c '^[0-9]'; \
                  ls /sys/class/net; cat /sys/class/net/lo/flags; \
                  for n in pid net mnt uts ipc cgroup; do readlink /proc/self/ns/$n; done";
    let run = host.shell(&["-h", "box"], script);
    let lines: Vec<&str> = run.out.lines().collect();
    assert_eq!(lines[..3], ["1", "box", "box"], "{run:?}");
    assert!(lines[3].parse::<u32>().unwrap() < 6, "{run:?}");
    assert_eq!(lines[4..6], ["lo", "0x9"], "{run:?}");
    for line in &lines[6..] {
        let kind = line.split(':').next().unwrap();
        let ours = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(*line, ours.to_str().unwrap());
    }
    assert_eq!(lines.len(), 12);
}

#[test]
fn shares_what_it_was_told_to_share() {
    let host = Host::new();
    let script = "for n in pid net uts ipc cgroup; do readlink /proc/self/ns/$n; done";
    let flags = ["--pid=host", "--network=host", "--uts=host", "--ipc=host", "--cgroupns=host"];
    let run = host.shell(&flags, script);
    let ours: Vec<String> = ["pid", "net", "uts", "ipc", "cgroup"]
        .iter()
        .map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap())
        .map(|link| link.to_str().unwrap().to_owned())
        .collect();
    assert_eq!(run.out.lines().collect::<Vec<_>>(), ours, "{run:?}");
}

#[test]
fn joins_the_network_and_the_processes_of_another() {
    let host = Host::new();
    host.detached("one", &[], "sleep 60");
    let pid = host.pid("init");
    let link = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        link.to_str().unwrap().to_owned()
    };
    let run = host.run(&["--network", "container:one"], &["readlink", "/proc/self/ns/net"]);
    assert_eq!(run.out.trim(), link("net"), "{run:?}");
    let run = host.run(&["--pid", "container:one"], &["readlink", "/proc/self/ns/pid"]);
    assert_eq!(run.out.trim(), link("pid"), "{run:?}");
    host.ok(&["rm", "-f", "one"]);
}

#[test]
fn shares_memory_and_queues_with_those_that_may() {
    let host = Host::new();
    host.detached("donor", &["--ipc", "shareable"], "echo hello > /dev/shm/x; sleep 60");
    host.detached("closed", &[], "sleep 60");
    host.ok(&[
        "run",
        "-d",
        "--name",
        "late",
        "--ipc",
        "container:donor",
        &host.image,
        "sleep",
        "60",
    ]);
    let script = "until test -s /dev/shm/x; do sleep 0.1; done; cat /dev/shm/x; echo too > /dev/shm/y; \
                  readlink /proc/self/ns/ipc";
    let run = host.shell(&["--ipc", "container:donor"], script);
    let own = host.ok(&["exec", "donor", "sh", "-c", "cat /dev/shm/y; readlink /proc/self/ns/ipc"]);
    assert_eq!(run.out.lines().next(), Some("hello"), "{run:?}");
    assert_eq!(run.out.lines().nth(1), own.lines().nth(1), "{run:?} {own}");
    assert_eq!(own.lines().next(), Some("too"));

    let run = host.shell(&["--ipc", "container:closed"], "echo ran");
    assert_eq!((run.code, run.out.as_str()), (125, ""), "{run:?}");
    assert!(
        run.err.contains("non-shareable IPC") && run.err.contains("--ipc shareable"),
        "{run:?}"
    );
    let run = host.shell(&["--ipc", "none"], "ls -d /dev/shm; readlink /proc/self/ns/ipc");
    assert!(run.err.contains("/dev/shm"), "{run:?}");
    assert_ne!(run.out.lines().last(), own.lines().last());
    for (name, mode) in [("donor", "shareable"), ("closed", "private")] {
        let told = host.ok(&["inspect", "-f", "{{.HostConfig.IpcMode}}", name]);
        assert_eq!(told.trim(), mode);
    }
    // What it shares is looked up whenever it starts: the donor's process is another one by then.
    host.ok(&["stop", "-t", "0", "late", "donor"]);
    let start = host.rrun(&["start", "late"]);
    assert!(start.err.contains("is not running, so its ipc cannot be shared"), "{start:?}");
    host.ok(&["start", "donor"]);
    host.ok(&["start", "late"]);
    host.ok(&["exec", "late", "sh", "-c", "until test -s /dev/shm/x; do sleep 0.1; done"]);
    host.ok(&["rm", "-f", "late", "closed", "donor"]);
}

#[test]
fn what_it_wrote_is_counted() {
    let host = Host::new();
    let script =
        "head -c 2000 /dev/zero > /root-file; head -c 3000 /dev/zero > /v/x; echo; sleep 60";
    host.detached("box", &["-v", "data:/v"], script);
    crate::container::support::until("the files", || {
        host.ok(&["logs", "box"]).contains('\n').then_some(())
    });
    let size = host.ok(&["ps", "-s", "--format", "{{.Size}}"]);
    assert!(size.starts_with("2kB (virtual "), "{size}");
    assert!(host.ok(&["ps", "-s"]).lines().next().unwrap().ends_with("SIZE"));
    assert!(!host.ok(&["ps"]).contains("SIZE"));
    let bytes = host.ok(&["inspect", "-s", "-f", "{{.SizeRw}}", "box"]);
    assert_eq!(bytes.trim(), "2000");
    let each = host.ok(&["system", "df", "-v"]);
    for words in [
        "Images space usage:",
        "UNIQUE SIZE",
        "Containers space usage:",
        "Local Volumes space usage:",
        "data          1         3kB",
        "Build cache usage: 0B",
    ] {
        assert!(each.contains(words), "no {words:?} in {each}");
    }
    host.ok(&["rm", "-f", "box"]);
}

#[test]
fn environment_directory_and_user() {
    let config = json!({
        "Env": ["PATH=/bin", "A=1", "B=2"], "WorkingDir": "/made/here", "User": "web",
    });
    let host = Host::with(&[], &config);
    let run = host.shell(&["-e", "B=3"], "echo $A $B $HOME $HOSTNAME; pwd; id -u; stat -c %u .");
    let lines: Vec<&str> = run.out.lines().collect();
    let words: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!(words[..3], ["1", "3", "/home/web"], "{run:?}");
    assert_eq!(words[3].len(), 12);
    // Made by root, as with Docker.
    assert_eq!(lines[1..], ["/made/here", "1000", "0"], "{run:?}");
    let run = host.shell(&["-u", "0", "-w", "/tmp"], "echo $HOME; pwd");
    assert_eq!(run.out, "/root\n/tmp\n", "{run:?}");
}

#[test]
fn a_server_that_is_not_root_opens_its_streams_anew() {
    let host = Host::new();
    let run = host.shell(&["-u", "web"], "echo out > /dev/stdout; echo err > /dev/stderr");
    assert_eq!((run.out.as_str(), run.err.as_str()), ("out\n", "err\n"), "{run:?}");
}

#[test]
fn hosts_and_resolver() {
    let host = Host::new();
    let flags = ["--add-host", "db:10.1.2.3", "--dns", "9.9.9.9", "--dns-search", "x.test"];
    let run = host
        .shell(&flags, "grep -w db /etc/hosts; grep -c localhost /etc/hosts; cat /etc/resolv.conf");
    assert!(run.out.starts_with("10.1.2.3\tdb\n2\n"), "{run:?}");
    assert!(run.out.contains("nameserver 9.9.9.9\n") && run.out.contains("search x.test\n"));
    let run = host.shell(&[], "grep 127.0.0 /etc/resolv.conf");
    assert_eq!(run.out, "", "{run:?}");
    let run = host.run(&[], &["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]);
    assert_eq!(run.out.trim(), "0", "{run:?}");
}

#[test]
fn a_root_and_binds_that_cannot_be_written() {
    let host = Host::new();
    let source = host.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("f"), "1").unwrap();
    let (source, target) = (source.display(), "/data");
    let write = |volume: &str, flags: &[&str]| {
        let flags = [&["-v", volume], flags].concat();
        host.shell(
            &flags,
            "echo 2 > /data/f; mount -o remount,rw /data; echo 3 > /data/f; cat /data/f",
        )
    };
    let run = write(&format!("{source}:{target}:ro"), &[]);
    assert_eq!(run.out, "1", "{run:?}");
    let run = write(&format!("{source}:{target}"), &["--read-only"]);
    assert_eq!(run.out, "3\n", "{run:?}");
    let run = host
        .shell(&["--read-only", "--tmpfs", "/run"], "echo 1 > /run/x && cat /run/x; echo 1 > /x");
    assert_eq!((run.code, run.out.as_str()), (1, "1\n"), "{run:?}");
    assert!(run.err.contains("Read-only file system"), "{run:?}");
}

#[test]
fn a_volume_is_filled_from_the_image_once() {
    let entries = [
        Entry::Directory("data", 0o751),
        Entry::File("data/seed", b"from the image"),
        Entry::Link("data/link", "seed"),
    ];
    let host = Host::with(&entries, &json!({ "Env": ["PATH=/bin"] }));
    let run = host
        .shell(&["-v", "vol:/data"], "cat /data/link; stat -c %a /data; echo mine > /data/seed");
    assert_eq!(run.out, "from the image751\n", "{run:?}");
    let run = host.shell(&["-v", "vol:/data"], "cat /data/seed");
    assert_eq!(run.out, "mine\n", "{run:?}");
    let run = host.shell(&["-v", "/data"], "cat /data/seed");
    assert_eq!(run.out, "from the image", "{run:?}");
    // The anonymous one went with its container.
    assert_eq!(host.ok(&["volume", "ls", "-q"]), "vol\n");
}

#[test]
fn limits_are_there_before_the_first_instruction() {
    let host = Host::new();
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; \
                  cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max; ulimit -n";
    let flags = ["-m", "64m", "--pids-limit", "7", "--ulimit", "nofile=123:456"];
    let run = host.shell(&flags, script);
    assert_eq!(run.out, "67108864\n7\n123\n", "{run:?}");
    let run = host.shell(&["--pids-limit", "7"], "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done");
    assert!(run.err.contains("can't fork"), "{run:?}");
}

#[test]
fn memory_that_runs_out_is_told() {
    let host = Host::new();
    let script = "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo survived";
    let run =
        host.shell(&["-m", "16m", "--memory-swap", "16m"], &format!("exec sh -c \"{script}\""));
    assert_eq!((run.code, run.out.as_str()), (137, ""), "{run:?}");
    assert!(run.err.contains("out of memory (limit 16 MiB, peak "), "{run:?}");
}

#[test]
fn privileged_and_capabilities() {
    let host = Host::new();
    let script = "grep CapEff /proc/self/status; test -e /dev/kmsg && echo kmsg; head -c 1 /proc/kcore | wc -c";
    let run = host.shell(&["--cap-drop", "ALL", "--cap-add", "CHOWN"], script);
    assert_eq!(run.out, "CapEff:\t0000000000000001\n0\n", "{run:?}");
    let run = host.shell(
        &["--privileged"],
        "grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp && echo mounted",
    );
    assert_eq!(run.out, "Seccomp:\t0\nmounted\n", "{run:?}");
    let run =
        host.shell(&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status");
    assert_eq!(run.out, "NoNewPrivs:\t1\n", "{run:?}");
}

/// Stacks as many layers as the kernel takes, each with a file of its own, and reads what is seen.
fn many_layers(stack: fn(&overlay::Layers, &Path) -> rustix::io::Result<OwnedFd>) {
    overlay::leave_mount_namespace().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(format!("of-{name}")), name).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).unwrap()
    };
    let lowers = (0..overlay::LAYERS_MAX).map(|at| place(&at.to_string())).collect();
    let layers = overlay::Layers {
        lowers,
        upper: place("upper"),
        work: place("w"),
        is_volatile: true,
        marks_of_user: false,
    };
    std::fs::remove_file(dir.path().join("w/of-w")).unwrap();
    let at = dir.path().join("at");
    std::fs::create_dir(&at).unwrap();
    let root = stack(&layers, &at).unwrap();
    let place = rustix::fs::open(&at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&root, "", &place, "", flags).unwrap();
    assert_eq!(std::fs::read_dir(&at).unwrap().count(), overlay::LAYERS_MAX + 1);
    assert_eq!(std::fs::read_to_string(at.join("of-499")).unwrap(), "499");
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
}

/// The kernel's 500 layers, also where it takes no descriptors for them (before Linux 6.13).
#[test]
fn as_many_layers_as_the_kernel_takes() {
    for stack in
        [|layers: &overlay::Layers, _: &Path| overlay::stack(layers), overlay::stack_by_name]
    {
        std::thread::scope(|scope| scope.spawn(move || many_layers(stack)).join().unwrap());
    }
}
