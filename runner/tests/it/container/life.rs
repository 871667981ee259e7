//! How containers begin, run and end, and what is left of them.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::container::support::{Host, end_of, until};

/// Promised of a monitor, in KiB of private anonymous memory.
const MONITOR_KIB_MAX: u64 = 1024;

fn kill(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn is_there(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

#[test]
fn exit_codes_are_dockers() {
    let host = Host::new();
    let cases: [(&[&str], i32); 6] = [
        (&["true"], 0),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "exec sh -c 'ulimit -c 0; kill -SEGV $$; sleep 1'"], 0),
        (&["no-such-command"], 127),
        (&["/no/such/path"], 127),
        (&["/etc/passwd"], 126),
    ];
    for (command, code) in cases {
        // Process 1 is immune to signals that it does not handle, from inside: so the third.
        let run = host.run(&[], command);
        assert_eq!(run.code, code, "{command:?}: {run:?}");
    }
    let run = host.run(&["--no-such-flag"], &["true"]);
    assert_eq!(run.code, 125, "{run:?}");
    let run = host.shell(&["--init"], "kill -SEGV $$");
    assert_eq!(run.code, 139, "{run:?}");
    host.assert_clean(None);
}

#[test]
fn input_arrives_whole_and_ends() {
    let host = Host::new();
    let mut command = host.command(&host.words(&["--rm", "-i"], &[], &["sha256sum"]));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number * 7 % 251) as u8).collect();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let run = end_of(child);
    assert_eq!(run.code, 0, "{run:?}");
    let sum = shared::Digest::sha256(&bytes).hex();
    assert!(run.out.starts_with(&sum), "{run:?}");
    // Without -i there is nothing to read.
    assert_eq!(host.run(&[], &["cat"]).code, 0);
}

#[test]
fn output_arrives_whole() {
    let host = Host::new();
    let script = "seq 1 200000; seq 1 100000 >&2";
    let run = host.shell(&[], script);
    let expect = |last: u32| (1..=last).map(|number| format!("{number}\n")).collect::<String>();
    assert!(run.out == expect(200_000) && run.err == expect(100_000), "{}", run.code);
}

#[test]
fn a_detached_one_outlives_its_command_and_is_stopped() {
    let host = Host::new();
    let script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    host.detached("box", &[], script);
    until("the first line", || (host.ok(&["logs", "box"]) == "up\n").then_some(()));
    let state = host.state();
    assert_eq!(host.ok(&["inspect", "-f", "{{json .Config.Env}}", "box"]), "[\"PATH=/bin\"]\n");
    let hosts = host.ok(&["inspect", "-f", "{{.HostsPath}}", "box"]);
    assert!(std::fs::read_to_string(hosts.trim()).unwrap().contains("localhost"), "{hosts}");
    let listed = host.ok(&["ps", "--no-trunc", "--format", "{{.Command}}"]);
    assert!(listed.starts_with("\"sh -c 'trap 'echo bye; "), "{listed}");
    let again = host.rrun(&["start", "box"]);
    assert!(again.code == 0, "already running is no error: {again:?}");
    host.ok(&["stop", "box"]);
    assert_eq!(host.ok(&["logs", "box"]), "up\nbye\n");
    let format = "{{.State.Status}} {{.State.ExitCode}}";
    assert_eq!(host.ok(&["inspect", "--format", format, "box"]), "exited 3\n");
    host.ok(&["start", "box"]);
    until("the second run", || host.ok(&["logs", "box"]).ends_with("up\n").then_some(()));
    host.ok(&["kill", "box"]);
    assert_eq!(host.ok(&["wait", "box"]), "137\n");
    host.ok(&["rm", "box"]);
    host.assert_clean(Some(&state));
}

#[test]
fn what_does_not_stop_is_killed() {
    let host = Host::new();
    host.detached("box", &[], "trap '' TERM; echo up; while :; do sleep 0.05; done");
    until("the first line", || (host.ok(&["logs", "box"]) == "up\n").then_some(()));
    let started = Instant::now();
    host.ok(&["stop", "-t", "1", "box"]);
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(host.ok(&["inspect", "--format", "{{.State.ExitCode}}", "box"]), "137\n");
    host.ok(&["rm", "box"]);
}

#[test]
fn further_processes() {
    let host = Host::new();
    host.detached("box", &["-e", "A=1", "-w", "/tmp"], "sleep 60");
    let state = host.state();
    let run =
        host.rrun(&["exec", "-e", "B=2", "box", "sh", "-c", "echo $A$B; pwd; echo e >&2; exit 9"]);
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (9, "12\n/tmp\n", "e\n"), "{run:?}");
    assert_eq!(host.rrun(&["exec", "box", "no-such-command"]).code, 127);
    assert_eq!(host.rrun(&["exec", "box", "/etc/passwd"]).code, 126);
    let cgroups = host.ok(&["exec", "box", "cat", "/proc/self/cgroup"]);
    assert!(cgroups.lines().all(|line| line.ends_with(":/")), "{cgroups}");
    host.ok(&["exec", "-d", "box", "sh", "-c", "echo 1 > /tmp/done"]);
    until("the detached one", || {
        (host.rrun(&["exec", "box", "cat", "/tmp/done"]).out == "1\n").then_some(())
    });
    let tty = host.rrun(&["exec", "-t", "box", "tty"]);
    assert_eq!(tty.out.trim(), "/dev/pts/0", "{tty:?}");
    host.ok(&["rm", "-f", "box"]);
    assert_ne!(host.rrun(&["exec", "box", "true"]).code, 0);
    host.assert_clean(Some(&state));
}

#[test]
fn an_exec_that_hangs_holds_nobody_up() {
    let host = Host::new();
    // Root in the container stops whatever comes from outside, before it is its program.
    let script = "trap 'exit 7' TERM; echo up; while :; do for d in /proc/[0-9]*; do \
                  read -r name < $d/comm; [ \"$name\" = rrun ] && kill -STOP ${d#/proc/} && \
                  echo caught; done 2> /dev/null; done";
    host.detached("box", &[], script);
    until("the trap", || (host.ok(&["logs", "box"]) == "up\n").then_some(()));
    let mut tried = Vec::new();
    until("an exec in the trap", || {
        let mut command = host.command(&["exec", "box", "true"]);
        tried.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        std::thread::sleep(Duration::from_millis(100));
        host.ok(&["logs", "box"]).contains("caught").then_some(())
    });
    // Whoever waits for it can give up, and takes it along.
    let mut last = tried.pop().unwrap();
    kill(last.id().cast_signed(), rustix::process::Signal::INT);
    assert_eq!(until("the end of the exec", || last.try_wait().unwrap()).code(), Some(130));
    let started = Instant::now();
    host.ok(&["stop", "-t", "15", "box"]);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!(host.ok(&["inspect", "-f", "{{.State.ExitCode}}", "box"]), "7\n");
    tried.into_iter().for_each(|child| drop(end_of(child)));
    host.ok(&["rm", "box"]);
    host.assert_clean(None);
}

#[test]
fn a_replaced_null_device_keeps_nobody_out() {
    let host = Host::new();
    host.detached(
        "box",
        &[],
        "rm /dev/null; mkfifo /dev/null; : > /ready; while :; do sleep 1; done",
    );
    until("the fifo", || {
        (host.rrun(&["exec", "-i", "box", "ls", "/ready"]).code == 0).then_some(())
    });
    let mut command = host.command(&["exec", "box", "sh", "-c", "cat; echo read"]);
    let run = end_of(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    // Neither the fifo's content nor the host's device, whose mode it could change.
    assert_eq!((run.code, run.out.as_str()), (0, "read\n"), "{run:?}");
    let run = host.rrun(&["exec", "box", "stat", "-Lc", "%F", "/proc/self/fd/0"]);
    assert_eq!(run.out, "fifo\n", "{run:?}");
    host.ok(&["rm", "-f", "box"]);
}

#[test]
fn paused_and_resumed() {
    let host = Host::new();
    host.detached("box", &[], "while :; do echo x; sleep 0.02; done");
    host.ok(&["pause", "box"]);
    let lines = || host.ok(&["logs", "box"]).lines().count();
    let before = lines();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(lines(), before);
    assert_ne!(host.rrun(&["exec", "box", "true"]).code, 0);
    host.ok(&["unpause", "box"]);
    until("more lines", || (lines() > before).then_some(()));
    host.ok(&["pause", "box"]);
    host.ok(&["rm", "-f", "box"]);
    host.assert_clean(None);
}

#[test]
fn orphans_are_buried_with_init() {
    let host = Host::new();
    let script = "for i in 1 2 3; do (sleep 0.05 &); done; sleep 0.5; \
                  grep -l 'State:.Z' /proc/[0-9]*/status | wc -l";
    let run = host.shell(&["--init"], script);
    assert_eq!(run.out, "0\n", "{run:?}");
}

#[test]
fn init_tells_nothing_of_the_host() {
    let host = Host::new();
    let script = "tr '\\0' ' ' < /proc/1/cmdline; echo; cat /proc/1/comm; cat /proc/1/environ; \
                  readlink /proc/1/exe; cat /proc/2/cmdline | tr '\\0' ' '";
    let run = host.shell(&["--init"], script);
    let lines: Vec<&str> = run.out.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("/sbin/docker-init -- sh -c tr"), "{run:?}");
    assert_eq!(lines[1], "docker-init", "{run:?}");
    assert_eq!(lines[2], "/rrun", "{run:?}");
    assert!(lines[3].starts_with("sh -c tr"), "{run:?}");
    assert!(!run.out.contains(host.path().to_str().unwrap()), "{run:?}");
}

#[test]
fn a_killed_command_takes_its_container_along() {
    let host = Host::new();
    let mut command = host.command(&host.words(&["--rm"], &[], &["sleep", "60"]));
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let state = host.state();
    let init = host.pid("init");
    child.kill().unwrap();
    child.wait().unwrap();
    // `sleep` as process 1 ignores TERM: it is killed when its time is over.
    let _ = host.rrun(&["stop", "-t", "0", state["id"].as_str().unwrap()]);
    until("the end of the container", || (!is_there(init)).then_some(()));
    host.assert_clean(Some(&state));
}

#[test]
fn a_killed_monitor_leaves_nothing_after_the_next_command() {
    let host = Host::new();
    host.detached("box", &[], "sleep 60");
    let (state, init) = (host.state(), host.pid("init"));
    kill(host.pid("monitor"), rustix::process::Signal::KILL);
    until("the end of the container", || (!is_there(init)).then_some(()));
    let listed = host.ok(&["ps", "-a", "--format", "{{.State}}"]);
    assert_eq!(listed, "exited\n");
    assert_eq!(host.ok(&["inspect", "--format", "{{.State.ExitCode}}", "box"]), "137\n");
    host.ok(&["rm", "box"]);
    host.assert_clean(Some(&state));
}

#[test]
fn a_monitor_needs_little_memory() {
    let host = Host::new();
    host.detached("box", &[], "seq 1 50000; sleep 60");
    until("all output", || host.ok(&["logs", "box"]).ends_with("50000\n").then_some(()));
    let rollup =
        std::fs::read_to_string(format!("/proc/{}/smaps_rollup", host.pid("monitor"))).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib <= MONITOR_KIB_MAX, "{kib} KiB:\n{rollup}");
    host.ok(&["rm", "-f", "box"]);
}

#[test]
fn a_name_is_free_when_its_container_has_ended() {
    let host = Host::new();
    for _ in 0..3 {
        let run = host.run(&["--name", "same"], &["true"]);
        assert_eq!(run.code, 0, "{run:?}");
    }
    host.detached("same", &[], "sleep 60");
    let run = host.run(&["--name", "same"], &["true"]);
    assert_eq!(run.code, 125, "{run:?}");
    host.ok(&["rm", "-f", "same"]);
    host.assert_clean(None);
}

#[test]
fn many_at_once_leave_nothing() {
    let host = Host::new();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let host = &host;
            scope.spawn(move || {
                for round in 0..5 {
                    let text = format!("{worker}-{round}");
                    let run = host.run(&[], &["echo", &text]);
                    assert_eq!((run.code, run.out.trim()), (0, text.as_str()), "{run:?}");
                }
            });
        }
    });
    host.assert_clean(None);
}

/// What a power cut does to a layer that was not written through: it is of another boot.
#[test]
fn a_container_starts_again_whose_layers_a_power_cut_took() {
    let host = Host::new();
    host.ok(&["create", "--name", "box", &host.image, "echo", "whole"]);
    let layers = host.path().join("root/layers");
    for layer in std::fs::read_dir(layers).unwrap().flatten() {
        let facts = layer.path().join("layer.json");
        until("the layer is durable", || layer.path().join("durable").exists().then_some(()));
        std::fs::remove_file(layer.path().join("durable")).unwrap();
        std::fs::remove_file(layer.path().join("fs/bin/busybox")).unwrap();
        let text = std::fs::read_to_string(&facts).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value["boot_id"] = json!("another");
        std::fs::write(facts, value.to_string()).unwrap();
    }
    let start = host.rrun(&["start", "-a", "box"]);
    assert_eq!((start.code, start.out.as_str()), (0, "whole\n"), "{start:?}");
    host.ok(&["rm", "box"]);
}
