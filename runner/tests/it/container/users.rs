//! Containers of ordinary users: with the ids that `/etc/subuid` grants, and with one id alone.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use crate::container::support::{Entry, Said, field, layer, said, serve, until};

/// An ordinary user of this host with a home and a program of his own to run.
struct User {
    dir: tempfile::TempDir,
    uid: u32,
    gid: u32,
    /// Of an account that this test has made.
    name: Option<String>,
    image: String,
}

impl User {
    /// One whom `/etc/subuid` grants ids.
    fn with_ids() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rrun{}x{count}", std::process::id());
        let made = Command::new("useradd").args(["-M", "-N", "-F", &name]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let number = |kind: &str| {
            let id = Command::new("id").args([kind, &name]).output().unwrap();
            String::from_utf8(id.stdout).unwrap().trim().parse().unwrap()
        };
        Self::new(number("-u"), number("-g"), Some(name.clone()))
    }

    /// One whom no table knows.
    fn with_one_id() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let uid = 2_000_000 + std::process::id() % 100_000 * 8 + count;
        Self::new(uid, uid, None)
    }

    fn new(uid: u32, gid: u32, name: Option<String>) -> Self {
        let dir = tempfile::Builder::new().prefix("rrun-user-").tempdir().unwrap();
        let open = |path: &Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        open(dir.path());
        std::fs::create_dir(dir.path().join("home")).unwrap();
        chown(dir.path().join("home"), Some(uid), Some(gid)).unwrap();
        let program = dir.path().join("rrun");
        std::fs::copy(env!("CARGO_BIN_EXE_rrun"), &program).unwrap();
        open(&program);
        let extra = [Entry::Directory("data", 0o755), Entry::File("data/first", b"image\n")];
        let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"] });
        let user = Self { dir, uid, gid, name, image: serve(layer(&extra), &config) };
        let pulled = user.rrun(&["pull", "-q", &user.image]);
        assert_eq!(pulled.code, 0, "{pulled:?}");
        user
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn store(&self) -> PathBuf {
        self.home().join(".local/share/roadstead")
    }

    fn rrun(&self, words: &[&str]) -> Said {
        let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &uid, "--regid", &gid, "--clear-groups", "--inh-caps=-all", "--"])
            .arg(self.dir.path().join("rrun"))
            .args(words)
            .current_dir(self.home())
            .env_clear()
            .env("HOME", self.home());
        if let Some(bad) = std::env::var_os("RRUN_KNOWN_BAD") {
            command.env("RRUN_KNOWN_BAD", bad);
        }
        said(command.output().unwrap())
    }

    fn shell(&self, flags: &[&str], script: &str) -> Said {
        let image = [self.image.as_str(), "sh", "-c", script];
        self.rrun(&[&["run", "--rm", "--network", "none"], flags, &image].concat())
    }

    fn ok(&self, words: &[&str]) -> String {
        let said = self.rrun(words);
        assert_eq!(said.code, 0, "{words:?}: {said:?}");
        said.out
    }

    /// What a container says that must have nothing to complain about.
    fn says(&self, flags: &[&str], script: &str) -> String {
        let said = self.shell(flags, script);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{flags:?} {script}: {said:?}");
        said.out
    }

    /// Nothing is left of any container: record, process, mount.
    fn assert_clean(&self) {
        until("the end of everything", || {
            let count =
                |path: &str| std::fs::read_dir(self.store().join(path)).map_or(0, Iterator::count);
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let is_clean = count("containers") + count("names") == 0
                && !mounts.contains(self.dir.path().to_str().unwrap())
                && !self.has_processes();
            is_clean.then_some(())
        });
    }

    /// Those that only wait to be buried, by whoever does so on this host, are none.
    fn has_processes(&self) -> bool {
        let is_his = |status: &str| {
            field(status, "Uid").starts_with(&format!("{}\t", self.uid))
                && !field(status, "State").starts_with('Z')
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let mut statuses =
            entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("status")).ok());
        statuses.any(|status| status.starts_with("Name:") && is_his(&status))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ids = self.rrun(&["ps", "-aq"]).out;
            ids.lines().for_each(|id| drop(self.rrun(&["rm", "-f", id])));
        }
        if let Some(name) = &self.name {
            let _ = Command::new("userdel").arg(name).output();
        }
    }
}

/// What holds for whoever is not root, with many ids and with one.
fn a_container_is_whole(user: &User) {
    assert_eq!(user.says(&[], "id -u; id -g; stat -c %u:%g /bin/busybox /"), "0\n0\n0:0\n0:0\n");
    assert_eq!(user.says(&[], "echo out > /dev/stdout; echo x > /dev/null; echo $$"), "out\n1\n");
    assert_eq!(
        user.says(&["-h", "me"], "hostname; grep -c me /etc/hosts; echo x >> /etc/hosts"),
        "me\n0\n"
    );
    assert_eq!(
        user.says(&[], "ip -o link | wc -l; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"),
        "1\n0\n"
    );
    assert_eq!(
        user.says(&["--read-only", "--tmpfs", "/t"], "touch /x 2> /dev/null || touch /t/x; ls /t"),
        "x\n"
    );
    assert_eq!(user.shell(&[], "exit 7").code, 7);
    assert_eq!(user.shell(&["--init"], "kill -KILL $$").code, 137);
    let bound = user.home().join("bound");
    std::fs::create_dir_all(&bound).unwrap();
    chown(&bound, Some(user.uid), Some(user.uid)).unwrap();
    let bind = format!("{}:/bound", bound.display());
    assert_eq!(user.says(&["-v", &bind], "echo mine > /bound/file; stat -c %u /bound/file"), "0\n");
    assert_eq!(bound.join("file").metadata().unwrap().uid(), user.uid);
    assert_eq!(
        user.says(&["-v", "named:/data"], "cat /data/first; echo more >> /data/first"),
        "image\n"
    );
    assert_eq!(user.says(&["-v", "named:/data:ro"], "cat /data/first"), "image\nmore\n");
    user.ok(&["volume", "rm", "named"]);
    let said = user.rrun(&["run", "--rm", "--network", "host", &user.image, "sh", "-c",
        "ls /sys/class/net | grep -c lo; ls /sys/kernel/debug /sys/kernel/tracing /sys/fs/bpf 2> /dev/null | grep -v : | tr -d '\\n'; cat /etc/hostname > /dev/null"]);
    assert_eq!((said.code, said.out.as_str()), (0, "1\n"), "{said:?}");
    let terminal = user.rrun(&["run", "--rm", "-t", "--network", "none", &user.image, "tty"]);
    assert!(terminal.code == 0 && terminal.out.starts_with("/dev/pts/0"), "{terminal:?}");
}

/// A container's life, from its making to its removal.
fn it_lives_and_ends(user: &User) {
    let image = user.image.as_str();
    let script = "echo said; echo kept > /kept; trap 'exit 3' TERM; while :; do sleep 0.1; done";
    user.ok(&["run", "-d", "--name", "box", "--network", "none", image, "sh", "-c", script]);
    until("the file", || {
        Some(user.rrun(&["exec", "box", "cat", "/kept"])).filter(|it| it.code == 0)
    });
    assert_eq!(user.ok(&["exec", "box", "sh", "-c", "id -u; echo x > /dev/stdout"]), "0\nx\n");
    assert!(user.ok(&["ps", "-s"]).contains("5B (virtual"), "{}", user.ok(&["ps", "-s"]));
    assert_eq!(user.ok(&["logs", "box"]), "said\n");
    user.ok(&["stop", "box"]);
    assert_eq!(user.ok(&["inspect", "-f", "{{.State.ExitCode}}", "box"]), "3\n");
    user.ok(&["start", "box"]);
    assert_eq!(user.ok(&["exec", "box", "cat", "/kept"]), "kept\n");
    // Its monitor is killed: the container goes with it, and the next command tells.
    let state = std::fs::read_dir(user.store()).unwrap().flatten();
    let run = state
        .map(|entry| entry.path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("run-"));
    let directory = std::fs::read_dir(run.unwrap().join("c")).unwrap().flatten().next().unwrap();
    let state = std::fs::read(directory.path().join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let number = |of: &str| state[of]["pid"].as_i64().unwrap().to_string();
    let killed = Command::new("kill").args(["-KILL", &number("monitor")]).status().unwrap();
    assert!(killed.success());
    until("the exit code", || {
        Some(user.ok(&["inspect", "-f", "{{.State.ExitCode}}", "box"]))
            .filter(|code| code == "137\n")
    });
    let init = std::fs::read_to_string(format!("/proc/{}/status", number("init")));
    assert!(init.is_err() || init.is_ok_and(|init| field(&init, "State").starts_with('Z')));
    user.ok(&["rm", "box"]);
    // Files of other ids are gone too.
    assert_eq!(std::fs::read_dir(user.store().join("trash")).unwrap().count(), 0);
    user.assert_clean();
}

/// What its root is not: anybody else on the host, or the host's root.
fn it_reaches_nobody_else(user: &User) {
    let bound = user.dir.path().join("bound");
    std::fs::create_dir(&bound).unwrap();
    for (name, mode) in [("closed", 0o600), ("open", 0o644)] {
        std::fs::write(bound.join(name), "host\n").unwrap();
        std::fs::set_permissions(bound.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let bind = format!("{}:/bound", bound.display());
    let script = "stat -c %u /bound/open; for try in 'cat /bound/closed' 'touch /bound/new' \
        'chown 0 /bound/open' 'chmod 666 /bound/open' 'mknod /node b 8 0' 'mknod /mem c 1 1' \
        'nice -n -5 true'; do $try > /dev/null 2>&1 && echo done: $try; done; \
        (echo h > /proc/sysrq-trigger) 2> /dev/null && echo sysrq; \
        p=/proc/sys/kernel/panic; (cat $p > $p) 2> /dev/null && echo panic; true";
    for flags in [&["-v", &bind][..], &["--privileged", "-v", &bind]] {
        assert_eq!(user.says(flags, script), "65534\n", "{flags:?}");
    }
}

#[test]
fn with_subordinate_ids() {
    let user = User::with_ids();
    a_container_is_whole(&user);
    it_reaches_nobody_else(&user);
    // Other users than root, with files of theirs that nobody out here can read, and that go.
    let script = "id -u; umask 077; mkdir /tmp/d; echo x > /tmp/d/x; stat -c %u /tmp/d/x";
    assert_eq!(user.says(&["-u", "web"], script), "1000\n1000\n");
    assert_eq!(user.says(&["-u", "1000:1000"], "echo out > /dev/stdout; id -G"), "out\n1000\n");
    let own = user.says(&[], "cat /proc/self/uid_map");
    assert_eq!(own.split_whitespace().nth(1).unwrap(), user.uid.to_string(), "{own}");
    it_lives_and_ends(&user);
    let doctor = user.ok(&["doctor"]);
    assert!(doctor.contains("not root, with 65537 ids"), "{doctor}");
}

#[test]
fn with_one_id() {
    let user = User::with_one_id();
    a_container_is_whole(&user);
    it_reaches_nobody_else(&user);
    let told = user.rrun(&["run", "--rm", &user.image, "ip", "-o", "link"]);
    assert!(told.code == 0 && told.err.contains("no network"), "{told:?}");
    assert_eq!(told.out.lines().count(), 1, "{told:?}");
    let refused = user.shell(&["-u", "1000"], "true");
    assert!(refused.code == 125 && refused.err.contains("no subordinate ids"), "{refused:?}");
    it_lives_and_ends(&user);
    let doctor = user.ok(&["doctor"]);
    assert!(doctor.contains("not root, with one id"), "{doctor}");
}

#[test]
fn what_an_ordinary_user_cannot_have_is_refused_by_name() {
    let user = User::with_one_id();
    for (flags, why) in [
        (&["--userns", "auto"][..], "--userns=auto: it needs idmapped layers"),
        (&["--userns", "keep-id"], "--userns=keep-id: it is not supported yet"),
        (&["-p", "8080:80"], "--publish=8080:80: "),
        (&["--network", "bridge"], "--network=bridge: "),
        (&["-m", "64m"], "--memory"),
        (&["--cpus", "1"], "--cpus"),
        (&["--pid", "host"], "--pid=host with a user namespace"),
        (&["--ipc", "host"], "--ipc=host with a user namespace"),
    ] {
        let words = [&["run", "--rm"], flags, &[&user.image, "true"]].concat();
        let said = user.rrun(&words);
        assert!(said.code == 125 && said.err.contains(why), "{flags:?}: {said:?}");
        assert!(said.err.contains("hint:"), "{flags:?}: {said:?}");
    }
    user.assert_clean();
}
