//! Flags of `run` whose effect only the kernel or a second command shows.

use std::process::Stdio;

use serde_json::json;

use crate::container::support::{Entry, Host, end_of, field, until};

#[test]
fn the_strict_profile_is_the_hardened_set() {
    let host = Host::new();
    let run = host.shell(&["--security-opt", "profile=strict"], "cat /proc/self/status");
    // Docker's without NET_RAW, MKNOD and AUDIT_WRITE.
    assert_eq!(field(&run.out, "CapBnd"), "00000000800405fb");
    assert_eq!(field(&run.out, "CapEff"), "00000000800405fb");
    assert_eq!(field(&run.out, "NoNewPrivs"), "1");
    let limit = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null";
    let run = host.shell(&["--security-opt", "profile=strict"], limit);
    assert_eq!(run.out.trim(), "1024", "{run:?}");
    let own = ["--security-opt", "profile=strict", "--pids-limit", "77"];
    assert_eq!(host.shell(&own, limit).out.trim(), "77");
}

#[test]
fn a_seccomp_profile_of_ones_own() {
    let host = Host::new();
    let profile = host.path().join("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#;
    std::fs::write(&profile, text).unwrap();
    let option = format!("seccomp={}", profile.display());
    let run = host.run(&["--security-opt", &option], &["mkdir", "/x"]);
    assert!(run.code == 1 && run.err.contains("Function not implemented"), "{run:?}");
    let run = host.shell(&["--security-opt", "seccomp=unconfined"], "cat /proc/self/status");
    assert_eq!(field(&run.out, "Seccomp"), "0");
    std::fs::write(&profile, "{}x").unwrap();
    let run = host.run(&["--security-opt", &option], &["true"]);
    assert_eq!((run.code, run.out.as_str()), (125, ""), "{run:?}");
}

/// The last calls of a process that joins are made under the container's own policy.
#[test]
fn a_seccomp_profile_that_forbids_the_last_calls_of_exec_is_named() {
    let host = Host::new();
    let profile = host.path().join("profile.json");
    let option = format!("seccomp={}", profile.display());
    for (action, name, code) in
        [("SCMP_ACT_ERRNO", "refused", 126), ("SCMP_ACT_KILL_PROCESS", "killed", 125)]
    {
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {{"names":["clone","clone3"],"action":"{action}"}}]}}"#
        );
        std::fs::write(&profile, text).unwrap();
        host.detached(name, &["--security-opt", &option], "exec sleep 60");
        let run = host.rrun(&["exec", name, "true"]);
        assert_eq!(run.code, code, "{run:?}");
        let hint = "its seccomp policy has to allow what a start ends with: capset, clone";
        assert!(run.err.contains(hint), "{run:?}");
        // The container has lost nothing by it.
        assert_eq!(host.ok(&["inspect", "-f", "{{.State.Running}}", name]).trim(), "true");
        host.ok(&["rm", "-f", name]);
    }
    host.assert_clean(None);
}

#[test]
fn a_program_of_another_machine_is_named_as_one() {
    // The head of a 64-bit program for a machine that nobody has (EM_S370).
    let mut alien = b"\x7fELF\x02\x01\x01".to_vec();
    alien.resize(16, 0);
    alien.extend([2, 0, 9, 0, 1, 0, 0, 0]);
    alien.resize(120, 0);
    let host = Host::with(&[Entry::File("bin/alien", &alien)], &json!({ "Env": ["PATH=/bin"] }));
    let run = host.run(&[], &["alien"]);
    assert_eq!(run.code, 126, "{run:?}");
    let hint = "it is not a program of this machine's kind, or a script without a #! line";
    assert!(run.err.contains("cannot execute \"alien\"") && run.err.contains(hint), "{run:?}");
}

#[test]
fn stopping_waits_as_long_as_was_said() {
    let host = Host::new();
    let file = host.path().join("id");
    let cidfile = format!("--cidfile={}", file.display());
    let flags = [&cidfile, "--stop-timeout=1", "--cgroup-parent=/rrun-test-parent"];
    host.detached("box", &flags, "trap '' TERM; echo; while :; do sleep 0.1; done");
    let id = std::fs::read_to_string(&file).unwrap();
    assert_eq!(host.ok(&["inspect", "-f", "{{.Id}}", "box"]).trim(), id);
    until("the trap", || (!host.ok(&["logs", "box"]).is_empty()).then_some(()));
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", host.pid("init"))).unwrap();
    assert!(cgroups.contains(&format!("/rrun-test-parent/{id}")), "{cgroups}");
    let started = std::time::Instant::now();
    host.ok(&["stop", "box"]);
    // Docker's ten seconds are for those that said nothing.
    assert!(started.elapsed() >= std::time::Duration::from_millis(900));
    assert!(started.elapsed() < std::time::Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!(host.ok(&["inspect", "-f", "{{.State.ExitCode}}", "box"]).trim(), "137");
    let again = host.rrun(&host.words(&[&cidfile, "--rm"], &[], &["true"]));
    assert!(again.code == 125 && again.err.contains("the file exists"), "{again:?}");
    host.ok(&["rm", "box"]);
    // The parent is whoever's who named it; nobody needs this one.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = std::fs::remove_dir(hierarchy.path().join("rrun-test-parent"));
    }
    let _ = std::fs::remove_dir("/sys/fs/cgroup/rrun-test-parent");
}

#[test]
fn signals_are_handed_on_unless_they_are_not_to_be() {
    let host = Host::new();
    let script = "trap 'exit 7' TERM; echo; while :; do sleep 0.1; done";
    for (name, flag) in [("proxied", "--sig-proxy"), ("alone", "--sig-proxy=false")] {
        let words = host.words(&["--name", name, flag], &[], &["sh", "-c", script]);
        let mut command = host.command(&words);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        until("the trap", || (!host.rrun(&["logs", name]).out.is_empty()).then_some(()));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let code = end_of(child).code;
        let status = host.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name]);
        let seen = (code, status.trim());
        if name == "proxied" {
            assert_eq!(seen, (7, "exited 7"));
        } else {
            // The command is gone by the signal, its container goes on.
            assert!(code == -1 || code == 143, "{code}");
            assert_eq!(seen.1, "running 0");
        }
        host.ok(&["rm", "-f", name]);
    }
}
