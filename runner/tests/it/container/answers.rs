//! What a command answers is so: nothing that was asked for is passed over, nothing of the host's is
//! changed, and whoever hears "done" finds it done.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::container::support::{Entry, Host, Said, end_of, said, until};

/// `/dev/full`: every write to it fails.
fn full() -> Stdio {
    Stdio::from(File::options().write(true).open("/dev/full").unwrap())
}

/// A host whose image comes from a builder that makes nothing but what is needed: no `/run` behind
/// the link to it, and a home that is its owner's alone.
fn scratch() -> Host {
    let extra = [
        Entry::Directory("var", 0o755),
        Entry::Link("var/run", "/run"),
        Entry::Link("etc/deep", "../a/b/c"),
        Entry::Link("etc/resolv.conf", "../run/resolver/stub.conf"),
        Entry::Directory("home", 0o700),
    ];
    Host::with(&extra, &json!({ "Env": ["PATH=/bin"], "Entrypoint": [""], "Cmd": ["echo", "own"] }))
}

#[test]
fn output_that_is_lost_is_the_exit_code() {
    let host = Host::new();
    host.detached("box", &[], "echo out; echo err >&2; exec sleep 1000");
    until("its words", || (host.rrun(&["logs", "box"]).err == "err\n").then_some(()));
    let script = "echo x; sleep 0.1; exit 3";
    let run = host.words(&["--rm"], &[], &["sh", "-c", script]);
    for words in [
        &run[..],
        &["ps"],
        &["ps", "-q"],
        &["logs", "box"],
        &["exec", "box", "echo", "x"],
        &["inspect", "box"],
        &["images"],
        &["doctor"],
        &["--help"],
        &["help", "run"],
        &["completion", "bash"],
        &["volume", "create", "vol"],
    ] {
        let told = said(host.command(words).stdout(full()).output().unwrap());
        assert!(told.code == 125 && told.err.contains("No space left"), "{words:?}: {told:?}");
    }
    let run = host.words(&["--rm"], &[], &["sh", "-c", "echo x >&2"]);
    for words in [&run[..], &["logs", "box"], &["rm", "nosuch"], &["nosuch-image"], &["--nosuch"]] {
        let told = said(host.command(words).stderr(full()).output().unwrap());
        assert_eq!(told.code, 125, "{words:?}: {told:?}");
    }
    // A reader that has left is none of it.
    let words = host.words(&["--rm"], &[], &["sh", "-c", "echo one; echo two; exit 4"]);
    let mut command = host.command(&words);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let told = said(child.wait_with_output().unwrap());
    // (The program may notice it.)
    assert!(told.code != 125 && !told.err.contains("rrun"), "{told:?}");
    host.ok(&["kill", "box"]);
}

#[test]
fn names_of_the_host_are_left_alone() {
    let host = Host::new();
    let names = || {
        ["hostname", "domainname"]
            .map(|name| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap())
    };
    let before = names();
    for flags in [["--uts=host", "--hostname=rrun-x"], ["--uts=host", "--domainname=rrun-y"]] {
        let run = host.run(&flags, &["true"]);
        let after = names();
        for (name, value) in ["hostname", "domainname"].iter().zip(&before) {
            std::fs::write(format!("/proc/sys/kernel/{name}"), value.trim()).unwrap();
        }
        assert_eq!(after, before);
        assert!(run.code == 125 && run.err.contains("the host's"), "{run:?}");
    }
    let run = host.run(&["--ipc=host", "--shm-size=1m"], &["true"]);
    assert!(run.code == 125 && run.err.contains("--shm-size"), "{run:?}");
}

#[test]
fn the_hosts_network_shows_nothing_else_of_the_host() {
    let host = Host::new();
    let run = host.shell(&["--network=host", "-m=64m"], "cat /proc/self/mountinfo");
    for line in run.out.lines().filter(|line| line.contains(" /sys") && !line.contains(" - proc "))
    {
        let (place, kind) = line.split_once(" - ").unwrap();
        let root = place.split(' ').nth(3).unwrap();
        assert!(!kind.starts_with("debugfs") && !kind.starts_with("tracefs"), "{line}");
        // A namespace's own view: the host's would show where the container's lies in it.
        assert_eq!(root, "/", "{line}");
    }
    let limits = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max";
    let run = host.shell(&["--network=host", "-m=64m"], &format!("{limits} 2>/dev/null"));
    assert_eq!(run.out.trim(), (64 << 20).to_string(), "{run:?}");
    let run = host.shell(&["--network=host"], "ls /sys/class/net");
    let own = std::fs::read_dir("/sys/class/net").unwrap().count();
    assert_eq!(run.out.lines().count(), own, "{run:?}");
}

#[test]
fn a_killed_container_has_ended() {
    let host = Host::new();
    host.detached("box", &[], "trap '' TERM; while :; do sleep 0.05; done");
    for _ in 0..5 {
        host.ok(&["kill", "box"]);
        let state = host.ok(&["inspect", "-f", "{{.State.Running}} {{.State.ExitCode}}", "box"]);
        assert_eq!(state.trim(), "false 137");
        host.ok(&["start", "box"]);
        let state = host.ok(&["inspect", "-f", "{{.State.Running}}", "box"]);
        assert_eq!(state.trim(), "true");
    }
    // Its program has ended, and its monitor has not come to say so.
    let pid = |of| rustix::process::Pid::from_raw(host.pid(of)).unwrap();
    let (init, monitor) = (pid("init"), pid("monitor"));
    rustix::process::kill_process(monitor, rustix::process::Signal::STOP).unwrap();
    rustix::process::kill_process(init, rustix::process::Signal::KILL).unwrap();
    until("its end", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", init.as_raw_nonzero()));
        stat.unwrap().contains(") Z ").then_some(())
    });
    let start = host.command(&["start", "box"]).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    rustix::process::kill_process(monitor, rustix::process::Signal::CONT).unwrap();
    assert_eq!(end_of(start).code, 0);
    assert_eq!(host.ok(&["ps", "-q"]).lines().count(), 1);
    host.ok(&["kill", "box"]);
    host.ok(&["rm", "box"]);
    host.detached("other", &["--pid=host"], "sleep 1000 & wait");
    host.ok(&["kill", "-s", "9", "other"]);
    host.ok(&["rm", "other"]);
    host.assert_clean(None);
}

#[test]
fn links_that_lead_to_nothing_are_made_whole() {
    let host = scratch();
    let directory = host.path().join("from");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("file"), "here").unwrap();
    let bind = |target: &str| format!("-v={}:{target}", directory.display());
    let file = format!("-v={}/file:/var/run/file", directory.display());
    for (flags, script, want) in [
        (vec![bind("/var/run/app")], "cat /run/app/file", "here"),
        (vec![bind("/etc/deep")], "cat /a/b/c/file", "here"),
        (vec![bind("/etc/deep/er")], "cat /a/b/c/er/file", "here"),
        (vec![file], "cat /run/file", "here"),
        (vec!["--tmpfs=/var/run".into()], "grep -c ' /run tmpfs' /proc/mounts", "1"),
        (vec!["-w=/var/run/work".into()], "pwd", "/run/work"),
        (vec!["--device=/dev/null:/var/run/null".into()], "test -c /run/null && echo yes", "yes"),
        (vec![], "grep -c . /run/resolver/stub.conf >/dev/null; ls /run/resolver", "stub.conf"),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let run = host.shell(&flags, script);
        assert!(run.code == 0 && run.out.trim() == want, "{flags:?}: {run:?}");
    }
}

#[test]
fn a_tmpfs_has_the_mode_of_what_it_covers() {
    let host = scratch();
    for (flag, target, want) in [
        ("--tmpfs=/home", "/home", "700"),
        ("--tmpfs=/tmp", "/tmp", "1777"),
        ("--tmpfs=/new", "/new", "1777"),
        ("--tmpfs=/home:mode=750", "/home", "750"),
        ("--mount=type=tmpfs,target=/home", "/home", "700"),
    ] {
        let run = host.run(&[flag], &["stat", "-c", "%a", target]);
        assert_eq!(run.out.trim(), want, "{flag}: {run:?}");
    }
    // Its entrypoint is the empty word, which is none.
    assert_eq!(host.run(&[], &[]).out, "own\n");
    assert_eq!(host.run(&[], &["echo", "given"]).out, "given\n");
}

/// A directory with a mount of its own, away at the end.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(propagation: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        mount(&["-t", "tmpfs", "rrun-test", place.path()]);
        mount(&[propagation, place.path()]);
        place
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", self.path()]).output();
    }
}

fn mount(words: &[&str]) {
    let done = said(Command::new("mount").args(words).output().unwrap());
    assert_eq!(done.code, 0, "{words:?}: {done:?}");
}

#[test]
fn what_is_mounted_travels_as_was_asked() {
    let host = Host::new();
    let shared = Mounted::new("--make-shared");
    let volume = format!("-v={}:/x:rshared", shared.path());
    let script = "mkdir /x/sub && mount -t tmpfs t /x/sub && echo done";
    let run = host.shell(&[&volume, "--cap-add=SYS_ADMIN"], script);
    assert_eq!(run.out, "done\n", "{run:?}");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(mounts.contains(&format!("{}/sub ", shared.path())), "{mounts}");
    // The default takes and gives nothing.
    let volume = format!("-v={}:/x", shared.path());
    let script = "mkdir /x/own && mount -t tmpfs t /x/own && echo done";
    let run = host.shell(&[&volume, "--cap-add=SYS_ADMIN"], script);
    assert_eq!(run.out, "done\n", "{run:?}");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&format!("{}/own ", shared.path())), "{mounts}");

    let private = Mounted::new("--make-private");
    for (option, words) in
        [("rshared", "is not a shared mount"), ("rslave", "is not a shared or slave mount")]
    {
        let volume = format!("-v={}:/x:{option}", private.path());
        let run = host.run(&[&volume], &["true"]);
        let told = format!("path {0} is mounted on {0} but it {words}", private.path());
        assert!(run.code == 125 && run.err.contains(&told), "{run:?}");
    }
}

#[test]
fn a_network_is_shared_with_its_names() {
    let host = Host::new();
    let names = ["-h=harbour", "--add-host=db:10.0.0.7", "--dns=9.9.9.9"];
    host.detached("one", &names, "exec sleep 1000");
    let script = "hostname; cat /etc/hostname; grep db /etc/hosts; grep name /etc/resolv.conf; \
                  echo $HOSTNAME; echo '10.0.0.8 late' >> /etc/hosts";
    let run = host.shell(&["--network=container:one"], script);
    let want = "harbour\nharbour\n10.0.0.7\tdb\nnameserver 9.9.9.9\nharbour\n";
    assert!(run.code == 0 && run.out == want, "{run:?}");
    // They are the same files.
    assert_eq!(host.ok(&["exec", "one", "tail", "-n1", "/etc/hosts"]), "10.0.0.8 late\n");
    // Also of one who has them from a third, and when the first is gone.
    host.detached("two", &["--network=container:one"], "exec sleep 1000");
    host.ok(&["rm", "-f", "one"]);
    let run = host.run(&["--network=container:two"], &["grep", "late", "/etc/hosts"]);
    assert_eq!(run.out, "10.0.0.8 late\n", "{run:?}");
    for flag in ["-h=x", "--add-host=a:1.1.1.1", "--dns=1.1.1.1", "--dns-search=x"] {
        let run = host.run(&["--network=container:two", flag], &["true"]);
        assert!(run.code == 125 && run.err.contains("the other container's"), "{flag}: {run:?}");
    }
    host.ok(&["rm", "-f", "two"]);
}

#[test]
fn a_list_is_narrowed_as_was_asked() {
    let host = Host::new();
    for (name, label) in [("web-1", "tier=front"), ("web-2", "tier=back"), ("db", "x.y=z")] {
        host.ok(&["create", "--name", name, "-l", label, host.image()]);
    }
    let ps = |filters: &[&str]| -> Said {
        let flags = filters.iter().flat_map(|filter| ["--filter", filter]);
        let words = ["ps", "-a", "--format", "{{.Names}}"];
        host.rrun(&words.into_iter().chain(flags).collect::<Vec<_>>())
    };
    let id = host.ok(&["inspect", "-f", "{{.Id}}", "db"]);
    let middle = format!("id={}", &id[20..40]);
    for (filters, want) in [
        (&["name=web-[0-9]$"][..], "web-2 web-1"),
        (&["name=^(db|web-1)$"], "db web-1"),
        (&["name=^/db$"], "db"),
        (&["name=.b"], "db web-2 web-1"),
        (&["label=tier", "label=tier=back"], "web-2"),
        (&["before=web-2"], "web-1"),
        (&["since=web-2"], "db"),
        (&["status=created", "name=db"], "db"),
        (&["status=running"], ""),
        (&[middle.as_str()], "db"),
        (&["ancestor=nosuch"], ""),
        (&[format!("ancestor={}", host.image()).as_str()], "db web-2 web-1"),
    ] {
        let got = ps(filters);
        let names: Vec<&str> = got.out.lines().collect();
        assert!(got.code == 0 && names.join(" ") == want, "{filters:?}: {got:?}");
    }
    for (filter, code) in [
        ("name=[", 1),
        ("status=nonsense", 1),
        ("exited=x", 1),
        ("nosuch=x", 1),
        ("name", 125),
        ("before=nosuch", 1),
    ] {
        let got = ps(&[filter]);
        assert!(got.code == code && got.out.is_empty() && !got.err.is_empty(), "{got:?}");
    }
    let format = "table {{.Names}}\t{{.Label \"x.y\"}}";
    let table = host.ok(&["ps", "-a", "--filter", "name=db", "--format", format]);
    assert_eq!(table, "NAMES     y\ndb        z\n");
    let json = host.ok(&["ps", "-a", "--format", "{{json .}}"]);
    assert!(!json.contains("\"Label\":"), "{json}");
    host.ok(&["rm", "web-1", "web-2", "db"]);
}

#[test]
fn small_things_are_as_with_docker() {
    let host = Host::new();
    host.detached(
        "box",
        &["-e", "HOME=", "--init"],
        "echo $HOME > /proc/1/fd/1; sleep 1000 & wait",
    );
    until("its word", || (host.rrun(&["logs", "box"]).out == "/root\n").then_some(()));
    host.ok(&["pause", "box"]);
    let start = host.rrun(&["start", "box"]);
    assert!(start.code == 1 && start.err.contains("rrun unpause"), "{start:?}");
    host.ok(&["unpause", "box"]);
    for flags in [["-w", "/missing"], ["-u", "nosuch"], ["-w", "relative"]] {
        let exec = host.rrun(&["exec", flags[0], flags[1], "box", "true"]);
        assert!(exec.code == 126 && exec.err.contains(flags[1]), "{flags:?}: {exec:?}");
    }
    host.ok(&["kill", "box"]);
    let wait = host.rrun(&["wait", "nosuch", "box"]);
    assert_eq!((wait.code, wait.out.as_str()), (1, "137\n"), "{wait:?}");
    let prune = host.ok(&["container", "prune", "-f"]);
    assert!(prune.ends_with("\n\nTotal reclaimed space: 0B\n"), "{prune}");
    assert_eq!(host.ok(&["container", "prune", "-f"]), "Total reclaimed space: 0B\n");

    let create = host.rrun(&["create", "--cpuset-cpus=4000", host.image()]);
    assert!(create.code == 125 && create.err.contains("4000"), "{create:?}");
    let twice = ["-v=/tmp:/x", "-v=/tmp:/x", "--tmpfs=/y", "--tmpfs=/y:size=64k"];
    let run = host.shell(&twice, "df -k /y | tail -n1 | awk '{ print $2 }'");
    assert_eq!(run.out, "64\n", "{run:?}");
    let run = host.run(&["-v=/tmp:/x", "-v=/tmp/.:/x"], &["true"]);
    assert_eq!(run.code, 125, "{run:?}");
}

#[test]
fn the_words_of_one_in_the_foreground_are_heard_elsewhere() {
    let host = Host::new();
    let words = host.words(&["--rm", "--name=box"], &[], &["sh", "-c", "echo hi; sleep 1000"]);
    let mut command = host.command(&words);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("its log", || (host.rrun(&["logs", "box"]).out == "hi\n").then_some(()));
    // By the caller's clock, three hours ahead of UTC.
    let logs = |since: &str| {
        said(host.command(&["logs", "--since", since, "box"]).env("TZ", "XYZ-3").output().unwrap())
    };
    let at = |hours: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seconds = i64::try_from(now.as_secs()).unwrap() + hours * 3600;
        let when = format!("@{seconds}");
        let shown = Command::new("date").args(["-u", "+%FT%T", "-d", &when]).output().unwrap();
        String::from_utf8(shown.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(logs(&at(2)).out, "hi\n");
    assert_eq!(logs(&at(4)).out, "");
    assert_eq!(logs("1.5h").out, "hi\n");
    assert_eq!(logs("1ns").out, "");
    host.ok(&["kill", "box"]);
    drop(child.wait_with_output());
    host.assert_clean(None);
}

#[test]
fn a_value_that_is_no_text_arrives_byte_for_byte() {
    let host = Host::new();
    let value = std::ffi::OsStr::from_bytes(b"a\xffb");
    let run = |words: &[&str]| host.command(words).env("ODD", value).output().unwrap();
    let show = "printf %s \"$ODD\" | od -An -tx1";
    let words = host.words(&["--rm", "-e", "ODD=x", "-e", "ODD"], &[], &["sh", "-c", show]);
    assert_eq!(said(run(&words)).out, " 61 ff 62\n");
    let last = host.words(&["--rm", "-e", "ODD", "-e", "ODD=x"], &[], &["sh", "-c", show]);
    assert_eq!(said(run(&last)).out, " 78\n");
    let words = host.words(&["-d", "--name=box", "-e", "ODD"], &[], &["sleep", "1000"]);
    assert_eq!(said(run(&words)).code, 0);
    assert_eq!(host.ok(&["exec", "box", "sh", "-c", show]), " 61 ff 62\n");
    assert_eq!(said(run(&["exec", "-e", "ODD", "box", "sh", "-c", show])).out, " 61 ff 62\n");
    let inspected = host.ok(&["inspect", "-f", "{{.Config.Env}}", "box"]);
    assert!(inspected.contains("ODD=a\u{fffd}b"), "{inspected}");
    let words = host.words(&["--dry-run", "-e", "ODD"], &[], &["true"]);
    let refused = said(run(&words));
    assert!(refused.code == 125 && refused.err.contains("ODD"), "{refused:?}");
    host.ok(&["rm", "-f", "box"]);
}

/// What a real engine (20.10) answered about a container that was asked many things of.
const DOCKERS: &str = include_str!("docker_inspect.json");

/// Keys that current Docker has no more.
const GONE: [&str; 2] = [".HostConfig.KernelMemory", ".HostConfig.KernelMemoryTCP"];

/// Keys of maps whose words are anybody's, and of what only some have.
const OF_ITS_OWN: [&str; 6] = [
    ".Config.ExposedPorts.",
    ".Config.Labels.",
    ".Config.Volumes.",
    ".HostConfig.Mounts",
    ".HostConfig.Sysctls.",
    ".HostConfig.Tmpfs./t",
];

/// Paths of Docker's keys that `ours` lacks, or where another type of value stands.
fn lacking(dockers: &Value, ours: Option<&Value>, path: &str, found: &mut Vec<String>) {
    let is_gone = GONE.contains(&path) || OF_ITS_OWN.iter().any(|own| path.starts_with(own));
    let kind = std::mem::discriminant::<Value>;
    match (dockers, ours) {
        _ if is_gone => {}
        (_, None) => found.push(path.to_owned()),
        (Value::Object(dockers), Some(ours)) if ours.is_object() => {
            for (key, value) in dockers {
                lacking(value, ours.get(key), &format!("{path}.{key}"), found);
            }
        }
        // Nothing to say may be nothing.
        (_, Some(Value::Null)) | (Value::Null, _) => {}
        (dockers, Some(ours)) if kind(dockers) != kind(ours) => {
            found.push(format!("{path}: {ours} and not {dockers}"));
        }
        _ => {}
    }
}

#[test]
fn everything_is_told_under_dockers_keys() {
    let host = Host::new();
    host.ok(&["create", "--name=plain", host.image()]);
    host.detached("box", &["--device=/dev/null:/dev/x:r", "--expose=80"], "exec sleep 1000");
    let dockers: Value = serde_json::from_str(DOCKERS).unwrap();
    for name in ["plain", "box"] {
        let ours: Value = serde_json::from_str(&host.ok(&["inspect", name])).unwrap();
        let mut found = Vec::new();
        lacking(&dockers, Some(&ours[0]), "", &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }
    // What scripts ask that were written for Docker.
    for (template, want) in [
        ("{{range $p, $conf := .NetworkSettings.Ports}}{{$p}}{{end}}", ""),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", ""),
        ("{{.NetworkSettings.IPAddress}}", ""),
        ("{{.Config.ExposedPorts}} {{.Config.Volumes}}", "map[80/tcp:map[]] map[]"),
        ("{{json .HostConfig.PortBindings}}", "{}"),
        ("{{range .Mounts}}{{.Source}}:{{.Destination}}{{end}}", ""),
        ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
        ("{{.State.Status}} {{.State.Running}} {{.State.ExitCode}}", "running true 0"),
        ("{{if eq .State.Status \"running\"}}up{{end}}", "up"),
        ("{{if eq .State.ExitCode \"0\"}}well{{end}}", "well"),
        ("{{.HostConfig.Sysctls}} {{.HostConfig.Init}} {{.Config.Shell}}", "map[] <nil> []"),
        ("{{.HostConfig.RestartPolicy.Name}} {{.RestartCount}}", "no 0"),
        ("{{index .Config.Labels \"com.example\"}}|", "|"),
        ("{{.Name}} {{slice .Name 1}} {{upper .Name}}", "/box box /BOX"),
        ("{{join .Config.Cmd \",\"}}", "sh,-c,exec sleep 1000"),
        ("{{range .Config.Env}}{{println .}}{{end}}", "PATH=/bin\n"),
        ("{{(index .HostConfig.Devices 0).PathOnHost}}", "/dev/null"),
        ("{{(index .HostConfig.Devices 0).CgroupPermissions}}", "r"),
        ("{{.HostConfig.Binds}} {{.HostConfig.CapAdd}}", "[] []"),
        ("{{with .HostConfig.LogConfig}}{{.Type}}{{end}}", "json-file"),
        ("{{.HostConfig.NetworkMode}} {{len .Mounts}}", "none 0"),
        ("{{printf \"%.3s|%5d\" .Path .State.ExitCode}}", "sh|    0"),
        ("{{.GraphDriver.Name}} {{.Driver}} {{.Platform}}", "overlay2 overlay2 linux"),
    ] {
        let told = host.rrun(&["inspect", "-f", template, "box"]);
        assert_eq!((told.code, told.out), (0, format!("{want}\n")), "{template}: {}", told.err);
    }
    let merged = host.ok(&["inspect", "-f", "{{.GraphDriver.Data.MergedDir}}", "box"]);
    assert!(std::path::Path::new(merged.trim()).join("bin/busybox").is_file(), "{merged}");
    for template in ["{{.Nope}}", "{{if eq .State.Running \"x\"}}x{{end}}", "{{nope .Id}}", "{{"] {
        let told = host.rrun(&["inspect", "-f", template, "box"]);
        assert!(told.code == 1 && told.out.trim().is_empty(), "{template}: {told:?}");
    }
    let image =
        host.ok(&["inspect", "-f", "{{.Config.ExposedPorts}} {{.Config.User}}", host.image()]);
    assert_eq!(image, "map[] \n");
    host.ok(&["rm", "-f", "box", "plain"]);
}

/// A command as it runs in a shell that is unusual in every respect that a process hands down.
fn in_a_strange_shell(host: &Host, words: &[&str]) -> Said {
    let shell = "ulimit -Sn 777; ulimit -Sc 0; ulimit -Ss 1024; ulimit -Sl 64; umask 077; trap '' USR1; \
                 echo 0x7f > /proc/self/coredump_filter; exec \"$@\"";
    let around = [
        "taskset", "-c", "0", "nice", "-n", "7", "ionice", "-c", "3", "choom", "-n", "300", "--",
        "setarch", "-R", "sh", "-c", shell, "sh",
    ];
    let rrun = host.command(words);
    let mut command = Command::new(around[0]);
    host.environment(&mut command);
    command.args(&around[1..]).arg(rrun.get_program()).args(rrun.get_args());
    said(command.output().unwrap())
}

#[test]
fn a_container_is_the_same_from_every_shell() {
    let host = Host::new();
    let script = "grep Cpus_allowed_list /proc/self/status; grep Sig[IB] /proc/self/status; \
                  cut -d' ' -f18,19,40,41 /proc/self/stat; cat /proc/self/oom_score_adj; \
                  cat /proc/self/coredump_filter /proc/self/timerslack_ns /proc/self/personality; \
                  umask; sed -n '/Limit/d; p' /proc/self/limits; ionice -p 1";
    let words = host.words(&["--rm"], &[], &["sh", "-c", script]);
    let (usual, strange) = (host.rrun(&words), in_a_strange_shell(&host, &words));
    assert_eq!((usual.code, usual.err.as_str()), (0, ""));
    assert_eq!(strange.out, usual.out);
    assert!(usual.out.contains("Max open files            1024 "), "{usual:?}");
    assert!(usual.out.contains("Max core file size        unlimited "), "{usual:?}");
    // Those of exec have it from the monitor, and a limit that was asked for is that one.
    let started = in_a_strange_shell(
        &host,
        &host.words(&["-d", "--name=box"], &["--ulimit=nofile=99"], &["sleep", "1000"]),
    );
    assert_eq!(started.code, 0, "{started:?}");
    let exec = host.ok(&["exec", "box", "sh", "-c", script]);
    let (exec, usual) = (exec.lines(), usual.out.lines());
    let differ: Vec<_> = exec.zip(usual).filter(|(exec, usual)| exec != usual).collect();
    assert!(
        matches!(differ[..], [(exec, _)] if exec.starts_with("Max open files            99 ")),
        "{differ:?}"
    );
    host.ok(&["rm", "-f", "box"]);
}

#[test]
fn each_measure_is_missed() {
    crate::known_bad::are_missed(&[
        ("names-of-its-own", "container::answers::names_of_the_host_are_left_alone"),
        ("surroundings", "container::answers::a_container_is_the_same_from_every_shell"),
        ("limits-of-its-own", "container::answers::a_container_is_the_same_from_every_shell"),
    ]);
}

#[test]
fn several_are_stopped_and_removed_at_once() {
    let host = Host::new();
    let names: Vec<String> = (0..6).map(|number| format!("box-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let script = "trap '' TERM; echo; while :; do sleep 0.1; done";
    for name in &names {
        host.detached(name, &[], script);
        until("the trap", || (!host.ok(&["logs", name]).is_empty()).then_some(()));
    }
    // None of them ends by itself: one after the other they would take their time each.
    let started = std::time::Instant::now();
    let stopped = host.ok(&[&["stop", "-t", "3"], &names[..]].concat());
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    assert_eq!(stopped.lines().collect::<Vec<_>>(), names);
    host.ok(&[&["start"], &names[..]].concat());
    let words = [&["rm", "-f", "no-such-one"], &names[..3], &["box-0"], &names[3..]].concat();
    assert_eq!(host.rrun(&words).code, 0);
    host.assert_clean(None);
}
