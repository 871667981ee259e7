//! The command line from outside: exit code, standard output and standard error of the binary,
//! with a store of its own that is empty.

use std::path::Path;
use std::process::{Command, Output, Stdio};

struct Rrun {
    dir: tempfile::TempDir,
}

impl Rrun {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rrun"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").expect("PATH"))
            .env("RRUN_ROOT", self.dir.path().join("root"))
            .env("RRUN_RUNROOT", self.dir.path().join("run"))
            // Nothing of the machine's own network is changed; what is about networks says so.
            .env("RRUN_NETWORK", "none")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("rrun runs")
    }

    /// Runs a line and compares the exit code and both streams, whole.
    fn check(&self, line: &str, code: i32, stdout: &str, stderr: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.output(&words);
        assert_eq!(text(&output.stderr), stderr, "standard error of `rrun {line}`");
        assert_eq!(text(&output.stdout), stdout, "standard output of `rrun {line}`");
        assert_eq!(output.status.code(), Some(code), "exit code of `rrun {line}`");
    }

    /// Runs a line that has to fail with 125, and compares the first line of its error.
    fn fails(&self, line: &str, first: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.output(&words);
        let stderr = text(&output.stderr);
        assert_eq!(stderr.lines().next().unwrap_or_default(), first, "`rrun {line}`");
        assert_eq!(output.status.code(), Some(125), "exit code of `rrun {line}`");
        assert_eq!(text(&output.stdout), "", "standard output of `rrun {line}`");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn help_is_on_stdout_and_says_first_what_matters() {
    let rrun = Rrun::new();
    for line in [&[][..], &["--help"], &["-h"], &["help"]] {
        let output = rrun.output(line);
        let stdout = text(&output.stdout);
        assert!(stdout.starts_with("rrun REF [COMMAND…] pulls an image and runs it"), "{line:?}");
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{line:?}");
    }
    for verb in ["run", "ps", "exec", "logs", "volume create", "pull", "doctor"] {
        let mut line: Vec<&str> = verb.split(' ').collect();
        line.push("--help");
        let output = rrun.output(&line);
        assert!(text(&output.stdout).starts_with(&format!("rrun {verb}")), "{verb}");
        assert_eq!(output.status.code(), Some(0), "{verb}");
    }
    let of_ps = text(&rrun.output(&["ps", "-h"]).stdout);
    assert!(of_ps.contains("-a, --all"), "{of_ps}");
    let of_run = text(&rrun.output(&["run", "--help"]).stdout);
    assert!(of_run.contains("-h, --hostname NAME"), "{of_run}");
    assert!(!of_run.contains("-h, --help"), "{of_run}");
}

#[test]
fn usage_errors_are_125() {
    let rrun = Rrun::new();
    for (line, first) in [
        ("--nonsense app", "rrun: unknown flag --nonsense"),
        ("run", "rrun: run: it takes REF [COMMAND…], and got 0 words"),
        ("run --nonsense app", "rrun: unknown flag --nonsense"),
        ("run -m", "rrun: -m needs a value: SIZE"),
        ("ps extra", "rrun: ps: it takes no operands, and got 1 words"),
        ("-d", "rrun: name an image or a command"),
        ("-it ps", "rrun: --interactive stands before the command ps"),
        ("build .", "rrun: build is not supported"),
        ("swarm init", "rrun: swarm is not supported"),
        ("volume nonsense", "rrun: volume nonsense is not supported"),
        ("volume", "rrun: volume needs a command"),
        ("container commit x", "rrun: container commit is not supported"),
        (
            "logs --since soon x",
            "rrun: --since=soon: it is a time (2026-01-02T03:04:05Z, 2026-01-02) or an age (10m, 1.5h)",
        ),
        ("stop nonsense -t x", "rrun: --time=x: it takes a whole number"),
    ] {
        rrun.fails(line, first);
    }
}

#[test]
fn values_are_checked_before_anything_is_pulled() {
    let rrun = Rrun::new();
    for (flags, first) in [
        ("-m 5m", "rrun: --memory: the least is 6m"),
        ("-m lots", "rrun: --memory=lots: a size is a number with b, k, m or g: 512m, 1.5g"),
        (
            "-m 64m --memory-swap 32m",
            "rrun: --memory-swap is memory and swap together: it cannot be less than --memory",
        ),
        ("--memory-swap 32m", "rrun: --memory-swap counts memory and swap together"),
        ("--cpus 0", ""),
        ("--cpus x", "rrun: --cpus=x: it takes a number: 0.5, 2"),
        (
            "--ulimit nofile=2:1",
            "rrun: --ulimit=nofile=2:1: the soft limit lies above the hard one",
        ),
        (
            "--network ../x",
            "rrun: --network=../x: a name has letters, digits, and _ . - after the first one",
        ),
        (
            "-p 80:80/sctp",
            "rrun: --publish=80:80/sctp: sctp is not supported: there is tcp and udp",
        ),
        ("--expose 0", "rrun: --expose=0: a port is a number from 1 to 65535"),
        (
            "--restart always",
            "rrun: --restart=always is not supported: restart policies are not supported yet",
        ),
        ("--userns keep-id", "rrun: --userns=keep-id: it is for ordinary users: root's id is 0"),
        ("--network nonsense", "rrun: network nonsense not found"),
        ("--cap-add NONSENSE", "rrun: --cap-add=NONSENSE: there is no such capability"),
        ("--security-opt nonsense", "rrun: --security-opt=nonsense: there is no such option"),
        ("--stop-signal NONSENSE", "rrun: --stop-signal=NONSENSE: there is no signal \"NONSENSE\""),
        (
            "--name a/b",
            "rrun: \"a/b\" cannot be a name: it has letters, digits, _ . and -, at least two, a letter or digit first",
        ),
        (
            "-v a/b:/x",
            "rrun: \"a/b\" cannot be a volume: its name has letters, digits, _ . and -, at least two",
        ),
        ("-v /a:b", "rrun: --volume=/a:b: the target is not absolute"),
        (
            "--mount type=bind,src=/nonexistent,dst=/x",
            "rrun: --mount: the source /nonexistent does not exist",
        ),
        ("--tmpfs x", "rrun: --tmpfs=x: the mount target x is not absolute"),
        (
            "--hostname a..b",
            "rrun: --hostname=a..b: a host name has at most 64 letters, digits, - and dots between",
        ),
        ("--add-host x", "rrun: --add-host=x: it is NAME:ADDRESS"),
        ("--dns x", "rrun: --dns=x: it takes an IP address"),
        (
            "--device /nonexistent",
            "rrun: --device=/nonexistent: cannot use it: No such file or directory (os error 2)",
        ),
        ("--sysctl x", "rrun: --sysctl=x: it is NAME=VALUE"),
        ("--pull sometimes", ""),
        (
            "--env-file /nonexistent",
            "rrun: --env-file=/nonexistent: No such file or directory (os error 2)",
        ),
        ("--network container:nonsense", "rrun: no such container: nonsense"),
        (
            "--detach-keys nonsense",
            "rrun: --detach-keys=nonsense: it is a list of keys: ctrl-p,ctrl-q",
        ),
    ] {
        let line = format!("run --pull=never {flags} localhost:1/none true");
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = rrun.output(&words);
        assert_eq!(output.status.code(), Some(125), "{flags}");
        let stderr = text(&output.stderr);
        if !first.is_empty() {
            assert_eq!(stderr.lines().next(), Some(first), "{flags}");
        }
        assert!(stderr.starts_with("rrun: "), "{flags}: {stderr}");
    }
}

#[test]
fn an_image_that_is_not_there_is_named() {
    let rrun = Rrun::new();
    for line in [
        "run --pull=never localhost:1/none true",
        "--pull never localhost:1/none",
        "create --pull=never localhost:1/none",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = rrun.output(&words);
        let stderr = text(&output.stderr);
        assert!(stderr.contains("localhost:1/none"), "{line}: {stderr}");
        assert_eq!(output.status.code(), Some(125), "{line}");
    }
    // A failed command leaves neither a container nor the file that was to name it.
    let cid = rrun.dir.path().join("cid");
    let output =
        rrun.output(&["run", "--cidfile", cid.to_str().unwrap(), "--pull=never", "localhost:1/x"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(!cid.exists());
    rrun.check("ps -aq", 0, "", "");
    std::fs::write(&cid, "mine").unwrap();
    rrun.fails(
        "run --cidfile cid --pull=never localhost:1/x",
        "rrun: --cidfile=cid: the file exists",
    );
    assert_eq!(std::fs::read_to_string(&cid).unwrap(), "mine");
}

#[test]
fn containers_that_are_not_there() {
    let rrun = Rrun::new();
    for verb in ["start", "stop", "kill", "rm", "restart", "pause"] {
        let stderr = "rrun: no such container: none\nhint: rrun ps -a lists them\n";
        rrun.check(&format!("{verb} none"), 1, "", stderr);
    }
    for line in ["wait none", "logs none", "attach none", "exec none true"] {
        let stderr = "rrun: no such container: none\nhint: rrun ps -a lists them\n";
        rrun.check(line, 1, "", stderr);
    }
    rrun.check(
        "inspect nobody",
        1,
        "[]\n",
        "rrun: no such object: nobody\nhint: rrun ps -a, rrun images\n",
    );
}

#[test]
fn lists_of_nothing() {
    let rrun = Rrun::new();
    let header = "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n";
    rrun.check("ps", 0, header, "");
    rrun.check("container ls -a", 0, header, "");
    rrun.check("ps -q", 0, "", "");
    rrun.check("ps --format json", 0, "", "");
    rrun.check("ps --format {{.Nonsense}}", 0, "", "");
    rrun.check("volume ls", 0, "DRIVER    VOLUME NAME\n", "");
    rrun.check("container prune -f", 0, "Total reclaimed space: 0B\n", "");
}

#[test]
fn volumes_live_and_die() {
    let rrun = Rrun::new();
    rrun.check("volume create --label a=1 db", 0, "db\n", "");
    rrun.check("volume create db", 0, "db\n", "");
    rrun.check("volume ls -q", 0, "db\n", "");
    rrun.check("volume ls --filter label=a=1 --format {{.Name}}", 0, "db\n", "");
    rrun.check("volume ls --filter label=a=2 -q", 0, "", "");
    let place = rrun.dir.path().join("root/volumes/db/_data");
    let line = format!("{}\n", place.display());
    rrun.check("volume inspect -f {{.Mountpoint}} db", 0, &line, "");
    rrun.check("inspect --format {{.Driver}}/{{.Labels.a}} db", 0, "local/1\n", "");
    assert!(place.is_dir());
    rrun.check("volume prune -f", 0, "Total reclaimed space: 0B\n", "");
    assert!(place.is_dir(), "one with a name stays");
    rrun.check("volume rm db", 0, "db\n", "");
    assert!(!Path::new(&place).exists());
    rrun.check("volume rm db", 1, "", "rrun: no such volume: db\nhint: rrun volume ls\n");
    rrun.check("volume rm -f db", 0, "db\n", "");
    rrun.fails(
        "volume create ../x",
        "rrun: \"../x\" cannot be a volume: its name has letters, digits, _ . and -, at least two",
    );
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let rrun = Rrun::new();
    let mut child = rrun
        .command(&["run", "--help"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert!(matches!(output.status.code(), Some(0 | 141)), "{:?}", output.status);
}

#[test]
fn the_terminal_that_is_asked_for_has_to_be_there() {
    let rrun = Rrun::new();
    rrun.fails("run -it localhost:1/none", "rrun: the input device is not a TTY");
}

#[test]
fn version_and_info_can_be_read_by_programs() {
    let rrun = Rrun::new();
    let version = env!("CARGO_PKG_VERSION");
    rrun.check("--version", 0, &format!("rrun version {version}\n"), "");
    rrun.check("version -f {{.Client.Version}}", 0, &format!("{version}\n"), "");
    rrun.check("info -f {{.Containers}}/{{.Driver}}", 0, "0/overlayfs\n", "");
    let output = rrun.output(&["doctor", "--format", "json"]);
    for line in text(&output.stdout).lines() {
        let finding: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(finding["Subject"].is_string() && finding["Verdict"].is_string());
    }
}

#[test]
fn shells_complete_words_and_names() {
    let rrun = Rrun::new();
    for shell in ["zsh", "fish"] {
        let output = rrun.output(&["completion", shell]);
        assert!(text(&output.stdout).contains("rrun __complete"), "{shell}");
    }
    rrun.fails("completion tcsh", "rrun: completion: there is no script for tcsh");
    rrun.check("__complete volume i", 0, "inspect\tShow everything known of volumes\n", "");
    assert!(!rrun.dir.path().join("root").exists(), "asking makes no store");
    rrun.check("volume create data", 0, "data\n", "");
    let script = "source <(rrun completion bash); complete -p rrun; \
                  for line in 'sto' 'volume rm ' 'run --memory-sw'; do \
                  COMP_WORDS=(rrun); while IFS= read -r -d ' ' word; do COMP_WORDS+=(\"$word\"); \
                  done <<<\"$line \"; case $line in *' ') COMP_WORDS+=('') ;; esac; \
                  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _rrun; echo \"${COMPREPLY[@]}\"; done";
    let bin = Path::new(env!("CARGO_BIN_EXE_rrun")).parent().expect("a directory");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"));
    let mut command = Command::new("bash");
    command.args(["-c", script]).env_clear().env("PATH", path);
    command.env("RRUN_ROOT", rrun.dir.path().join("root"));
    let output = command.output().expect("bash runs");
    assert_eq!(
        text(&output.stdout),
        "complete -o bashdefault -o default -F _rrun rrun\n\
         stop\ndata\n--memory-swap --memory-swappiness\n",
        "{}",
        text(&output.stderr)
    );
}
