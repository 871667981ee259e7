//! What must hold of `rrun` on every kind of host: the same list runs here and in the guest.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::checks::Checks;
use crate::rrun::{self, Outcome, Rrun};
use crate::terminal::Terminal;

/// Runs the whole list on an image of a Debian system, `reference`, that a registry on this host
/// has, and which holds a file `/layers` that several of its layers wrote to.
pub fn all(rrun: &Rrun, reference: &str, checks: &mut Checks) {
    pull(rrun, reference, checks);
    view(rrun, reference, checks);
    exit_codes(rrun, reference, checks);
    limits(rrun, reference, checks);
    surroundings(rrun, reference, checks);
    host_network(rrun, reference, checks);
    terminal(rrun, reference, checks);
    confinement(rrun, reference, checks);
    streams(rrun, reference, checks);
    signals(rrun, reference, checks);
    checks.check("nothing is left behind", || rrun.expect_nothing_left());
}

/// The whole list on this host, with a store of its own.
///
/// # Errors
/// If a check fails.
pub fn check_host(reference: &str) -> Result<()> {
    let rrun = Rrun::new(crate::bin("rrun")?)?;
    let mut checks = Checks::default();
    all(&rrun, reference, &mut checks);
    checks.finish()
}

fn pull(rrun: &Rrun, reference: &str, checks: &mut Checks) {
    checks.check("pull names the digest", || {
        let pulled = rrun.run(["pull", reference])?.expect_code(0)?;
        let said = format!("{}{}", pulled.stdout, pulled.stderr);
        ensure!(said.contains("sha256:"), "no digest in\n{said}");
        Ok(())
    });
    checks.check("images lists it", || {
        let listed = rrun.out(["images"])?;
        let (repository, tag) = reference.rsplit_once(':').context("a reference with a tag")?;
        let row = listed.lines().find(|l| l.contains(repository) && l.contains(tag));
        ensure!(row.is_some(), "{reference} is not in\n{listed}");
        Ok(())
    });
}

/// What a process in the container sees.
fn view(rrun: &Rrun, reference: &str, checks: &mut Checks) {
    checks.check("cat /etc/os-release", || {
        let text = rrun.out([reference, "cat", "/etc/os-release"])?;
        ensure!(text.contains("ID=debian"), "{text}");
        Ok(())
    });
    checks.check("every layer is there, in order", || {
        let text = rrun.out([reference, "cat", "/layers"])?;
        ensure!(text == "one\ntwo\nthree\n", "{text:?}");
        Ok(())
    });
    checks.check("ps shows the container's own processes only", || {
        let text = rrun.out([reference, "ps", "aux"])?;
        let rows: Vec<&str> = text.lines().collect();
        ensure!(rows.len() == 2, "{} rows:\n{text}", rows.len());
        let pid = rows[1].split_whitespace().nth(1);
        ensure!(pid == Some("1") && rows[1].ends_with("ps aux"), "{text}");
        Ok(())
    });
    checks.check("the host name is the short id", || {
        let name = rrun.out([reference, "hostname"])?;
        let name = name.trim_end();
        let hex = name.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
        ensure!(name.len() == 12 && hex, "{name:?}");
        let given = rrun.out(["-h", "harbour", reference, "hostname"])?;
        ensure!(given == "harbour\n", "{given:?}");
        Ok(())
    });
    checks.check("six namespaces differ from the host's", || {
        for namespace in ["pid", "net", "mnt", "uts", "ipc", "cgroup"] {
            let path = format!("/proc/self/ns/{namespace}");
            let inside = rrun.out([reference, "readlink", &path])?;
            let outside = fs::read_link(&path)?;
            ensure!(inside.trim_end() != outside.to_string_lossy(), "{namespace} is the host's");
        }
        Ok(())
    });
    checks.check("writes stay in the container", || {
        rrun.out([reference, "sh", "-c", "echo gone > /layers; rm -r /usr/share"])?;
        let text = rrun.out([reference, "cat", "/layers"])?;
        ensure!(text == "one\ntwo\nthree\n", "{text:?}");
        rrun.out([reference, "test", "-d", "/usr/share"])?;
        Ok(())
    });
    checks.check("--read-only", || {
        let tried = rrun.run(["--read-only", reference, "sh", "-c", "echo x > /x"])?;
        ensure!(tried.code != 0 && tried.stderr.contains("Read-only file system"), "{tried:?}");
        Ok(())
    });
    checks.check("-v binds a directory, :ro stays read-only", || {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("in"), "from outside\n")?;
        let bind = |suffix: &str| format!("{}:/mnt/here{suffix}", directory.path().display());
        let script = "cat /mnt/here/in; echo from inside > /mnt/here/out";
        let text = rrun.out(["-v", &bind(""), reference, "sh", "-c", script])?;
        ensure!(text == "from outside\n", "{text:?}");
        ensure!(fs::read_to_string(directory.path().join("out"))? == "from inside\n");
        let tried = rrun.run(["-v", &bind(":ro"), reference, "touch", "/mnt/here/no"])?;
        ensure!(tried.code == 1, "{tried:?}");
        Ok(())
    });
    checks.check("-e, -w, -u, --entrypoint", || {
        let text = rrun.out([
            "-e",
            "COLOUR=red",
            "-w",
            "/var",
            "-u",
            "1000:1001",
            "--entrypoint",
            "sh",
            reference,
            "-c",
            "echo $COLOUR $PWD $(id -u) $(id -g) $HOME",
        ])?;
        ensure!(text == "red /var 1000 1001 /\n", "{text:?}");
        Ok(())
    });
    checks.check("--network none has loopback only, host has the host's", || {
        let inside = |network: &str| {
            rrun.out(["--network", network, reference, "cat", "/proc/net/dev"])
                .map(|t| interfaces(&t))
        };
        ensure!(inside("none")? == ["lo"], "{:?}", inside("none")?);
        let outside = interfaces(&fs::read_to_string("/proc/net/dev")?);
        ensure!(inside("host")? == outside, "{:?} instead of {outside:?}", inside("host")?);
        Ok(())
    });
}

/// Names of the interfaces in the text of `/proc/net/dev`, sorted.
fn interfaces(table: &str) -> Vec<String> {
    let name = |line: &str| Some(line.split_once(':')?.0.trim().to_owned());
    let mut names: Vec<String> = table.lines().skip(2).filter_map(name).collect();
    names.sort();
    names
}

fn exit_codes(rrun: &Rrun, reference: &str, checks: &mut Checks) {
    let table: [(&str, &[&str], i32, &str); 7] = [
        ("the program's own", &["sh", "-c", "exit 3"], 3, ""),
        ("0", &["true"], 0, ""),
        ("126 for a directory", &["/etc"], 126, "/etc"),
        ("126 for a file that is not executable", &["/etc/passwd"], 126, "/etc/passwd"),
        (
            "127 for a command that is not in PATH",
            &["nosuch"],
            127,
            "\"nosuch\" is not in the container's PATH",
        ),
        ("127 for a path that does not exist", &["/no/such"], 127, "/no/such"),
        ("128+11 after a segmentation fault", &["perl", "-e", "unpack 'p', pack 'J', 1"], 139, ""),
    ];
    for (name, command, code, says) in table {
        checks.check(&format!("exit status: {name}"), || {
            let mut line = vec![reference];
            line.extend(command);
            let outcome = rrun.run(line)?.expect_code(code)?;
            ensure!(outcome.stderr.contains(says), "stderr lacks {says:?}: {}", outcome.stderr);
            if says.is_empty() && code != 139 {
                ensure!(
                    !outcome.stderr.contains("rrun: "),
                    "an error of rrun's: {}",
                    outcome.stderr
                );
            }
            Ok(())
        });
    }
    checks.check("exit status: 125 for rrun's own errors", || {
        for line in
            [vec!["--nosuch-flag", reference], vec!["run"], vec!["-m", "lots", reference, "true"]]
        {
            let outcome = rrun.run(&line)?.expect_code(125)?;
            ensure!(
                !outcome.stderr.is_empty() && outcome.stdout.is_empty(),
                "{line:?}: {outcome:?}"
            );
        }
        Ok(())
    });
}

fn limits(rrun: &Rrun, reference: &str, checks: &mut Checks) {
    checks.check("a memory hog is killed at its limit", || {
        let outcome =
            rrun.run(["--memory", "64m", reference, "tail", "/dev/zero"])?.expect_code(137)?;
        ensure!(outcome.stderr.contains("out of memory"), "{}", outcome.stderr);
        ensure!(outcome.stderr.contains("limit 64 MiB"), "{}", outcome.stderr);
        let peak = outcome.stderr.split("peak ").nth(1).and_then(|s| s.split(' ').next());
        let peak: f64 = peak.and_then(|p| p.parse().ok()).context("no peak in the message")?;
        ensure!((50.0..=64.5).contains(&peak), "peak {peak}: {}", outcome.stderr);
        Ok(())
    });
    checks.check("the memory limit does not touch the modest", || {
        rrun.out(["--memory", "64m", reference, "head", "-c", "20m", "/dev/zero"]).map(drop)
    });
    checks.check("two busy loops under --cpus 0.5 take half a core", || {
        let share = cpu_share(rrun, reference)?;
        ensure!((0.40..=0.58).contains(&share), "{share:.3} of a core");
        Ok(())
    });
    checks.check("--pids-limit counts exactly", || {
        let script = "my $n = 0; while (defined(my $p = fork)) { if (!$p) { sleep 60; exit } $n++ } print $n";
        let forks = rrun.out(["--pids-limit", "32", reference, "perl", "-e", script])?;
        ensure!(forks == "31", "{forks} forks beside process 1");
        Ok(())
    });
    checks.check("a fork bomb meets its limit", || {
        let script = "$SIG{ALRM} = sub { exit 7 }; alarm 2; while (1) { fork }";
        let started = Instant::now();
        rrun.run(["--pids-limit", "64", reference, "perl", "-e", script])?.expect_code(7)?;
        ensure!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
        Ok(())
    });
    checks.check("the limits are visible inside", || {
        let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max; \
                      cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max";
        let text = rrun.out(["-m", "48m", "--pids-limit", "77", reference, "sh", "-c", script])?;
        ensure!(text == "50331648\n77\n", "{text:?}");
        Ok(())
    });
}

/// CPU time over wall time of two loops that never sleep, read from the container's cgroup.
/// Whatever the caller has: a guest's root may set them all, which that of this host may not.
fn surroundings(rrun: &Rrun, reference: &str, checks: &mut Checks) {
    checks.check("limits are the same from every shell", || {
        let words = "ulimit -Sn 777; ulimit -Hn 4000; ulimit -c 0; ulimit -Su 999; exec \"$@\"";
        let inner = "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Su; ulimit -Ss";
        let rrun_command = rrun.command([reference, "bash", "-c", inner]);
        let mut command = Command::new("sh");
        rrun.prepare(&mut command);
        command.args(["-c", words, "sh"]).arg(rrun_command.get_program());
        command.args(rrun_command.get_args());
        let outcome = rrun::finish(command, Duration::from_secs(60))?.expect_code(0)?;
        // CAP_SYS_RESOURCE: without it a hard limit can only be lowered.
        let wanted = match has_capability(24)? {
            true => "1024\n524288\nunlimited\nunlimited\n8192\n",
            false => "1024\n4000\n",
        };
        ensure!(outcome.stdout.starts_with(wanted), "{}", outcome.stdout);
        Ok(())
    });
}

/// On each version of cgroups what a program sizes itself by is its own, and nothing of the host's is
/// mounted in `/sys`.
fn host_network(rrun: &Rrun, reference: &str, checks: &mut Checks) {
    checks.check("the host's network shows nothing else of the host", || {
        let script = "cat /sys/fs/cgroup/memory.max \
            /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; \
            grep ' /sys' /proc/self/mountinfo | grep -v ' - proc '";
        let flags = ["run", "--rm", "--network=host", "-m", "64m", reference, "sh", "-c", script];
        let told = rrun.out(flags)?;
        ensure!(told.starts_with("67108864\n"), "{told}");
        for line in told.lines().skip(1) {
            let root = line.split(' ').nth(3).context("no mountinfo")?;
            let is_hosts = ["debugfs", "tracefs", "securityfs", "bpf"]
                .iter()
                .any(|kind| line.contains(&format!(" - {kind} ")));
            ensure!(root == "/" && !is_hosts, "{line}");
        }
        Ok(())
    });
}

/// Whether this process has a capability, by its number.
fn has_capability(number: u32) -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("CapEff")?;
    Ok(u64::from_str_radix(line.trim(), 16)? >> number & 1 == 1)
}

fn cpu_share(rrun: &Rrun, reference: &str) -> Result<f64> {
    let script =
        "hostname; (while :; do :; done) & (while :; do :; done) & sleep 6; kill %1 %2; exit 0";
    let mut command = rrun.command(["--cpus", "0.5", reference, "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().context("no pipe")?);
    std::io::BufRead::read_line(&mut stdout, &mut line)?;
    // The first period may be longer: the loops start with a full quota.
    std::thread::sleep(Duration::from_secs(1));
    let measured: Result<f64> = (|| {
        let cgroup = rrun.cgroup_of("cpuacct", line.trim_end())?;
        let (before, started) = (cpu_seconds(&cgroup)?, Instant::now());
        std::thread::sleep(Duration::from_secs(4));
        Ok((cpu_seconds(&cgroup)? - before) / started.elapsed().as_secs_f64())
    })();
    let outcome = rrun::wait_for(child, Duration::from_secs(60))?;
    measured.with_context(|| format!("the container said {line:?} {:?}", outcome.stderr))
}

/// CPU time that a cgroup has used: `cpuacct.usage` (ns) or v2's `cpu.stat` (µs).
fn cpu_seconds(cgroup: &Path) -> Result<f64> {
    if let Ok(text) = fs::read_to_string(cgroup.join("cpuacct.usage")) {
        return Ok(text.trim().parse::<f64>()? / 1e9);
    }
    let stat = fs::read_to_string(cgroup.join("cpu.stat"))?;
    let usage = stat.lines().find_map(|l| l.strip_prefix("usage_usec "));
    Ok(usage.context("cpu.stat has no usage_usec")?.parse::<f64>()? / 1e6)
}

fn terminal(rrun: &Rrun, reference: &str, checks: &mut Checks) {
    checks.check("-it sh is a working terminal", || {
        let mut terminal = Terminal::start(&rrun.command(["-it", reference, "sh"]), 33, 99)?;
        terminal.expect("# ")?;
        terminal.send("PS1='ready> '\r")?;
        terminal.expect("ready> '")?;
        terminal.expect("ready> ")?;
        terminal.send("tty; stty size\r")?;
        terminal.expect("/dev/pts/0")?;
        terminal.expect("33 99")?;
        terminal.resize(40, 120)?;
        terminal.send("sleep 0.3; stty size\r")?;
        terminal.expect("40 120")?;
        // Ctrl-C ends what runs in the foreground, not the shell, nor rrun.
        terminal.send("sleep 1000\r")?;
        terminal.expect("sleep 1000")?;
        std::thread::sleep(Duration::from_millis(500));
        terminal.send("\x03")?;
        terminal.expect("ready> ")?;
        terminal.send("echo status $?\r")?;
        terminal.expect("status 130")?;
        // Ctrl-Z and job control.
        terminal.send("cat\r")?;
        std::thread::sleep(Duration::from_millis(500));
        terminal.send("\x1a")?;
        terminal.expect("Stopped")?;
        terminal.expect("ready> ")?;
        terminal.send("fg\r")?;
        terminal.expect("fg")?;
        terminal.expect("cat")?;
        // The shell says the job's name before the job is in front.
        std::thread::sleep(Duration::from_millis(500));
        terminal.send("\x03")?;
        terminal.expect("ready> ")?;
        terminal.send("exit 9\r")?;
        let (code, screen) = terminal.end()?;
        ensure!(code == 9, "exit status {code}; the screen:\n{screen}");
        Ok(())
    });
    checks.check("the terminal is given back as it was", || {
        let shell = format!(
            "before=$(stty -g); {} -it {reference} true; [ \"$before\" = \"$(stty -g)\" ] && echo same",
            rrun.binary().display()
        );
        let mut command = Command::new("sh");
        rrun.prepare(&mut command);
        let mut terminal = Terminal::start(command.args(["-c", &shell]), 24, 80)?;
        terminal.expect("same")?;
        terminal.end().map(drop)
    });
    checks.check("-i without a terminal passes bytes both ways", || {
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect();
        let output = piped(rrun, &["-i", reference, "cat"], &bytes)?;
        ensure!(output == bytes, "{} bytes of {} came back", output.len(), bytes.len());
        Ok(())
    });
}

/// Feeds bytes to a command's standard input; what it writes to its standard output.
fn piped(rrun: &Rrun, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    use std::io::Write as _;
    let mut command = rrun.command(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no pipe")?;
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("the writing thread panicked"))??;
    ensure!(output.status.success(), "{}", output.status);
    Ok(output.stdout)
}

fn confinement(rrun: &Rrun, reference: &str, checks: &mut Checks) {
    checks.check("Docker's fourteen capabilities, none of them ambient", || {
        let status = rrun.out([reference, "cat", "/proc/self/status"])?;
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            ensure!(field(set) == Some("00000000a80425fb"), "{set} {:?}", field(set));
        }
        for set in ["CapInh:", "CapAmb:"] {
            ensure!(field(set) == Some("0000000000000000"), "{set} {:?}", field(set));
        }
        ensure!(field("NoNewPrivs:") == Some("0"), "no_new_privs is {:?}", field("NoNewPrivs:"));
        ensure!(field("Seccomp:") == Some("2"), "seccomp is {:?}", field("Seccomp:"));
        Ok(())
    });
    let refused = [
        ("mount a file system", "mount -t tmpfs none /mnt"),
        ("write a host's sysctl", "echo 1 > /proc/sys/kernel/panic"),
        ("trigger sysrq", "echo h > /proc/sysrq-trigger"),
        ("read kernel memory", "test -s /proc/kcore"),
        ("write to /sys", "echo 1 > /sys/kernel/profiling"),
        ("make a user namespace", "unshare -U true"),
        ("read the host's disk", "mknod /disk b 254 0 && head -c 1 /disk"),
        ("make a cgroup", "cd /sys/fs/cgroup; [ -d pids ] && cd pids; mkdir x"),
    ];
    for (what, script) in refused {
        checks.check(&format!("the container cannot {what}"), || {
            let outcome = rrun.run([reference, "sh", "-c", script])?;
            ensure!(!matches!(outcome.code, 0 | 125 | 126 | 127), "{outcome:?}");
            Ok(())
        });
    }
    checks.check("/dev has Docker's devices and no others", || {
        let text = rrun.out([reference, "ls", "/dev"])?;
        // `core` stands for /proc/kcore, which not every kernel has.
        let names: Vec<&str> = text.split_whitespace().filter(|name| *name != "core").collect();
        let expected = [
            "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
            "stdout", "tty", "urandom", "zero",
        ];
        ensure!(names == expected, "{names:?}");
        Ok(())
    });
    checks.check("no descriptor of the host's is open", || {
        let text = rrun.out([reference, "sh", "-c", "ls /proc/1/fd; exit"])?;
        let open: Vec<&str> = text.split_whitespace().collect();
        ensure!(open == ["0", "1", "2"], "{open:?}");
        Ok(())
    });
    checks.check("signals are at their defaults", || {
        let text = rrun.out([reference, "grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"])?;
        ensure!(text.lines().all(|l| l.ends_with("0000000000000000")), "{text}");
        Ok(())
    });
}

fn streams(rrun: &Rrun, reference: &str, checks: &mut Checks) {
    checks.check("stdout and stderr stay apart, nothing is added to stdout", || {
        let outcome =
            rrun.run([reference, "sh", "-c", "echo out; echo err >&2"])?.expect_code(0)?;
        ensure!(outcome.stdout == "out\n", "stdout {:?}", outcome.stdout);
        ensure!(outcome.stderr.lines().any(|l| l == "err"), "stderr {:?}", outcome.stderr);
        Ok(())
    });
    checks.check("a hundred megabytes pass whole", || {
        let line = [reference, "sh", "-c", "head -c 100m /dev/zero"];
        let outcome = rrun.run(line)?.expect_code(0)?;
        ensure!(outcome.stdout.len() == 100 << 20, "{} bytes", outcome.stdout.len());
        Ok(())
    });
    checks.check("a user who is not root may open /dev/stdout and /dev/stderr", || {
        let script = "echo a > /dev/stdout; echo b > /dev/stderr";
        let outcome = rrun.run(["-u", "33", reference, "sh", "-c", script])?.expect_code(0)?;
        ensure!(outcome.stdout == "a\n" && outcome.stderr.contains("b\n"), "{outcome:?}");
        Ok(())
    });
    checks.check("a reader that stops early is no hang", || {
        let shell = format!("{} {reference} yes | head -n 1", rrun.binary().display());
        let mut command = Command::new("sh");
        rrun.prepare(&mut command);
        command.args(["-c", &shell]);
        let outcome = rrun::finish(command, Duration::from_secs(30))?.expect_code(0)?;
        ensure!(outcome.stdout == "y\n", "{:?}", outcome.stdout);
        rrun.expect_nothing_left()
    });
}

fn signals(rrun: &Rrun, reference: &str, checks: &mut Checks) {
    checks.check("SIGTERM is passed on", || {
        let script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
        let outcome = signalled(rrun, &[reference, "sh", "-c", script], "TERM")?.expect_code(5)?;
        ensure!(outcome.stdout == "caught\n", "{:?}", outcome.stdout);
        Ok(())
    });
    checks.check("a foreground rrun that is killed takes its container along", || {
        let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done";
        let outcome = signalled(rrun, &[reference, "sh", "-c", script], "KILL")?;
        ensure!(outcome.code == 137, "{outcome:?}");
        rrun.expect_nothing_left()
    });
}

/// Sends a signal to `rrun` once its container has written a line; that line is not in the outcome.
fn signalled(rrun: &Rrun, arguments: &[&str], signal: &str) -> Result<Outcome> {
    use std::io::BufRead as _;
    let mut command = rrun.command(arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = child.id().to_string();
    let mut stdout = std::io::BufReader::with_capacity(1, child.stdout.take().context("no pipe")?);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    if line != "ready\n" {
        let outcome = rrun::wait_for(child, Duration::from_secs(20))?;
        bail!("the container said {line:?} {:?}", outcome.stderr);
    }
    Command::new("kill").arg(format!("-{signal}")).arg(&pid).status()?;
    child.stdout = Some(stdout.into_inner());
    rrun::wait_for(child, Duration::from_secs(30))
}
