//! What is left of a machine that was switched off, and of commands that were killed at the worst
//! moment: nothing that the next command does not put right.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::container::support::{Host, Said, said, until};

fn kill(pid: &Value) {
    let pid = i32::try_from(pid["pid"].as_i64().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Takes from the machine what the loss of its power takes: processes, cgroups, what lies in
/// `/run`. The next boot has another number.
struct NextBoot<'a> {
    host: &'a Host,
    number: PathBuf,
}

impl<'a> NextBoot<'a> {
    fn of(host: &'a Host) -> Self {
        let states = host.states();
        states.iter().for_each(|state| kill(&state["monitor"]));
        for directory in states.iter().flat_map(|state| state["cgroups"].as_array().unwrap()) {
            let directory = Path::new(directory.as_str().unwrap());
            until("an empty cgroup", || {
                fs::remove_dir(directory)
                    .is_ok()
                    .then_some(())
                    .or((!directory.exists()).then_some(()))
            });
        }
        fs::remove_dir_all(host.path().join("run")).unwrap();
        let number = host.path().join("boot_id");
        fs::write(&number, "11111111-2222-3333-4444-555555555555\n").unwrap();
        Self { host, number }
    }

    fn rrun(&self, words: &[&str]) -> Said {
        let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", script]).arg(&self.number);
        command.arg(env!("CARGO_BIN_EXE_rrun")).args(words);
        self.host.environment(&mut command);
        said(command.output().unwrap())
    }

    fn ok(&self, words: &[&str]) -> String {
        let said = self.rrun(words);
        assert_eq!(said.code, 0, "{words:?}: {said:?}");
        said.out
    }
}

fn record_of(host: &Host, name: &str) -> PathBuf {
    fs::canonicalize(host.path().join("root/names").join(name)).unwrap()
}

#[test]
fn after_a_power_cut() {
    let host = Host::new();
    host.detached("kept", &["-v", "/data"], "echo once more; exec sleep 60");
    host.detached("ended", &[], "exit 3");
    host.ok(&["wait", "ended"]);
    host.detached("rm", &["--rm", "-v", "/data"], "exec sleep 60");
    host.detached("torn", &["--rm"], "exec sleep 60");
    host.ok(&["create", "--name", "new", host.image(), "true"]);
    until("the log", || (host.ok(&["logs", "kept"]) == "once more\n").then_some(()));
    // Not durable, so it may be there without its content.
    fs::write(record_of(&host, "torn").join("config.json"), "").unwrap();
    fs::write(record_of(&host, "kept").join("started.json"), "").unwrap();
    let next = NextBoot::of(&host);

    // The names are free for the very first command.
    let image = host.image();
    for name in ["rm", "torn"] {
        assert_eq!(next.ok(&["run", "--rm", "--name", name, image, "echo", "hi"]), "hi\n");
    }
    let format = "{{.Names}} {{.State}} {{.Status}}";
    let listed = next.ok(&["ps", "-a", "--format", format]);
    let mut lines: Vec<&str> = listed.lines().collect();
    lines.sort_unstable();
    assert!(lines[0].starts_with("ended exited Exited (3)"), "{listed}");
    assert!(lines[1].starts_with("kept exited Exited (255)"), "{listed}");
    assert_eq!(lines[2..], ["new created Created"], "{listed}");
    let format = "{{.State.ExitCode}} {{.State.Running}} {{.State.Pid}} {{.State.Error}}";
    assert_eq!(next.ok(&["inspect", "-f", format, "kept"]), "255 false 0 the host was restarted\n");
    assert_eq!(next.ok(&["wait", "kept"]), "255\n");
    assert_eq!(next.ok(&["volume", "ls", "-q"]).lines().count(), 1, "the other was --rm's");
    // It is usable as any other.
    next.ok(&["start", "kept"]);
    until("the second run", || {
        (next.ok(&["logs", "kept"]) == "once more\nonce more\n").then_some(())
    });
    next.ok(&["rm", "-f", "-v", "kept", "ended", "new"]);
    next.ok(&["rmi", image]);
    host.assert_clean(None);
}

#[test]
fn a_torn_note_of_the_end_hides_nothing() {
    let host = Host::new();
    host.detached("box", &[], "exit 3");
    host.ok(&["wait", "box"]);
    fs::write(record_of(&host, "box").join("exit.json"), "").unwrap();
    assert_eq!(host.ok(&["inspect", "-f", "{{.State.ExitCode}}", "box"]), "255\n");
    assert!(host.ok(&["ps", "-a"]).contains("Exited (255)"));
    host.ok(&["rm", "box"]);
    host.assert_clean(None);
}

#[test]
fn killed_before_anything_ran() {
    let host = Host::new();
    let image = host.image();
    let gone = host.ok(&["create", "--rm", "--name", "gone", image, "true"]);
    let kept = host.ok(&["create", "--name", "kept", image, "true"]);
    for id in [&gone, &kept] {
        // As it is left by a launcher that was killed at once: the lock is there, and free.
        let directory = host.path().join("run/c").join(id.trim());
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("monitor.lock"), "").unwrap();
    }
    // One that was being made, and one that was being removed.
    fs::create_dir(host.path().join("run/c/.new-0123456789abcdef")).unwrap();
    fs::create_dir(host.path().join("run/c/.old-0123456789abcdef")).unwrap();
    fs::write(host.path().join("run/c/.old-0123456789abcdef/state.json"), "{}").unwrap();
    host.ok(&["images"]);
    assert_eq!(fs::read_dir(host.path().join("run/c")).unwrap().count(), 0);
    assert_eq!(host.ok(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]), "kept created\n");
    host.ok(&["start", "-a", "kept"]);
    host.ok(&["rm", "kept"]);
    host.assert_clean(None);
}

#[test]
fn the_end_that_was_noted_stays() {
    let host = Host::new();
    host.detached("box", &[], "exec sleep 60");
    let state = host.states().remove(0);
    // The monitor is killed after it has noted the end and before it has cleaned up.
    let note = "{\"exit\":{\"code\":5,\"signal\":null,\"oom\":null},\"started\":null,\
                \"finished\":\"2026-01-01T00:00:00Z\",\"error\":null}";
    fs::write(record_of(&host, "box").join("exit.json"), note).unwrap();
    kill(&state["monitor"]);
    until("the end", || (!host.ok(&["ps", "-a"]).contains("Up")).then_some(()));
    assert_eq!(host.ok(&["inspect", "-f", "{{.State.ExitCode}}", "box"]), "5\n");
    host.ok(&["rm", "box"]);
    host.assert_clean(Some(&state));
}

#[test]
fn another_runroot_does_no_harm() {
    let host = Host::new();
    host.detached("box", &["--rm"], "exec sleep 60");
    let state = host.states().remove(0);
    let mut other = host.command(&["ps", "-a"]);
    let other = said(other.env("RRUN_RUNROOT", host.path().join("other")).output().unwrap());
    assert_eq!(other.code, 0, "{other:?}");
    assert_eq!(host.ok(&["ps", "--format", "{{.Names}}"]), "box\n");
    host.ok(&["rm", "-f", "box"]);
    host.assert_clean(Some(&state));
}

#[test]
fn started_and_removed_at_once() {
    let host = Host::new();
    let image = host.image();
    for round in 0..8 {
        host.ok(&["create", "--name", "box", image, "sleep", "60"]);
        let start = || {
            let mut command = host.command(&["start", "box"]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let (start, again) = (start(), start());
        std::thread::sleep(std::time::Duration::from_millis(4 * round));
        host.ok(&["rm", "-f", "box"]);
        // They may have been faster or not; what counts is that nothing runs on.
        for mut child in [start, again] {
            until("the end of a command", || child.try_wait().unwrap());
        }
        assert_eq!(host.ok(&["ps", "-aq"]), "");
        host.assert_clean(None);
    }
}
