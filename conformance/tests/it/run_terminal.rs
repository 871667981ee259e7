//! `rrun` under a person's hands: terminals, keys that detach, signals, input and its end.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use conformance::image;
use conformance::registry::{Options, Registry};
use conformance::rrun::{self, Outcome, Rrun};
use conformance::terminal::Terminal;
use conformance::wait;

const PATIENCE: Duration = Duration::from_secs(20);

/// ctrl-p, ctrl-q.
const LEAVE: &str = "\x10\x11";

struct Person {
    rrun: Rrun,
    image: String,
}

impl Person {
    fn new() -> Result<Self> {
        conformance::require_root()?;
        let registry = Registry::start(Options::default())?;
        image::push_image(&registry, "busybox", "1", &image::busybox()?)?;
        let image = format!("{}/busybox:1", registry.localhost());
        let rrun = Rrun::new(conformance::bin("rrun")?)?;
        rrun.out(["pull", "--quiet", &image])?;
        Ok(Self { rrun, image })
    }

    fn terminal(&self, words: &[&str]) -> Result<Terminal> {
        Terminal::start(&self.rrun.command(words), 33, 99)
    }

    fn piped(&self, words: &[&str]) -> Result<Child> {
        let mut command = self.rrun.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("starting rrun")
    }

    fn state(&self, name: &str) -> Result<String> {
        let state =
            self.rrun.out(["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name])?;
        Ok(state.trim().to_owned())
    }

    fn until_state(&self, name: &str, wanted: &str) -> Result<()> {
        wait::until(wanted, PATIENCE, || Ok((self.state(name)? == wanted).then_some(())))
    }

    fn until_logged(&self, name: &str, wanted: &str) -> Result<()> {
        wait::until(wanted, PATIENCE, || {
            // It may not be there yet.
            Ok(self.rrun.run(["logs", name])?.stdout.contains(wanted).then_some(()))
        })
    }

    fn gone(&self, name: &str) -> Result<()> {
        self.rrun.out(["rm", "--force", name])?;
        self.rrun.expect_nothing_left()
    }
}

fn signal(child: &Child, name: &str) -> Result<()> {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status()?;
    ensure!(status.success(), "kill -s {name}: {status}");
    Ok(())
}

/// Until the command takes signals for somebody else: it has blocked them for itself.
fn until_listening(child: &Child) -> Result<()> {
    const USR1: u64 = 1 << 9;
    wait::until("the command to listen", PATIENCE, || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t"));
        let blocked = u64::from_str_radix(blocked.context("no SigBlk")?, 16)?;
        Ok((blocked & USR1 != 0).then_some(()))
    })
}

fn end(child: Child) -> Result<Outcome> {
    rrun::wait_for(child, PATIENCE)
}

#[test]
fn left_by_keys_and_come_back_to() -> Result<()> {
    let person = Person::new()?;
    let mut terminal = person.terminal(&[
        "run",
        "-it",
        "--name",
        "box",
        &person.image,
        "sh",
        "-c",
        "PS1='> ' sh; exit 4",
    ])?;
    terminal.expect("> ")?;
    terminal.send("a=kept; stty size\r")?;
    terminal.expect("33 99")?;
    // The first of the keys alone is a key like others.
    terminal.send(LEAVE)?;
    let (code, screen) = terminal.end()?;
    ensure!(code == 0, "{code}: {screen}");
    ensure!(person.state("box")? == "running 0");

    let mut terminal = Terminal::start(&person.rrun.command(["attach", "box"]), 21, 77)?;
    terminal.send("\rstty size; echo $a\r")?;
    terminal.expect("21 77")?;
    terminal.expect("kept")?;
    terminal.resize(40, 120)?;
    terminal.send("stty size\r")?;
    terminal.expect("40 120")?;
    terminal.send("exit\r")?;
    let (code, screen) = terminal.end()?;
    ensure!(code == 4, "{code}: {screen}");
    person.gone("box")
}

#[test]
fn other_keys_detach_where_asked_for() -> Result<()> {
    let person = Person::new()?;
    let image = &person.image;
    let mut terminal = person.terminal(&[
        "run",
        "-it",
        "--name",
        "box",
        "--detach-keys",
        "ctrl-x,x",
        image,
        "cat",
        "-v",
    ])?;
    terminal.send("one\x10two\r")?;
    // To the process the default ones are keys like others: `cat -v` shows them so.
    terminal.expect("\none^Ptwo")?;
    terminal.send("\x18x")?;
    ensure!(terminal.end()?.0 == 0);
    ensure!(person.state("box")? == "running 0");
    person.gone("box")
}

#[test]
fn exec_has_a_terminal_and_signals_of_its_own() -> Result<()> {
    let person = Person::new()?;
    let rrun = &person.rrun;
    rrun.out(["run", "-d", "--name", "box", &person.image, "sleep", "1000"])?;
    let mut terminal = person.terminal(&["exec", "-it", "box", "sh"])?;
    terminal.send("PS1='> '; tty; stty size\r")?;
    terminal.expect("/dev/pts/0")?;
    terminal.expect("33 99")?;
    terminal.resize(40, 120)?;
    terminal.send("stty size\r")?;
    terminal.expect("40 120")?;
    // Keys go to what runs in front, not to the container's first process.
    terminal.send("trap 'echo cau''ght' INT; sleep 100\r")?;
    wait::until("the command in front", PATIENCE, || {
        Ok(rrun.out(["exec", "box", "ps"])?.contains("sleep 100\n").then_some(()))
    })?;
    terminal.send("\x03")?;
    terminal.expect("caught")?;
    terminal.send("exit 6\r")?;
    ensure!(terminal.end()?.0 == 6);
    ensure!(person.state("box")? == "running 0");

    // Without a terminal a signal to the command is one to its process.
    let script = "trap 'echo told; exit 9' TERM; echo up; while :; do sleep 0.05; done";
    let child = person.piped(&["exec", "box", "sh", "-c", script])?;
    wait::until("the process", PATIENCE, || {
        Ok(rrun.out(["exec", "box", "ps"])?.contains("trap 'echo told").then_some(()))
    })?;
    until_listening(&child)?;
    signal(&child, "TERM")?;
    let outcome = end(child)?;
    ensure!((outcome.code, outcome.stdout.as_str()) == (9, "up\ntold\n"), "{outcome:?}");
    ensure!(person.state("box")? == "running 0");

    // One that is left goes on.
    let mut terminal = person.terminal(&["exec", "-it", "box", "sh"])?;
    // Before that it is not raw, and keeps ctrl-q to itself.
    terminal.expect("# ")?;
    terminal.send("sleep 54321\r")?;
    terminal.expect("54321")?;
    terminal.send(LEAVE)?;
    ensure!(terminal.end()?.0 == 0);
    wait::until("the process that was left", PATIENCE, || {
        Ok(rrun.out(["exec", "box", "ps"])?.contains("sleep 54321").then_some(()))
    })?;
    person.gone("box")
}

#[test]
fn signals_pass_unless_they_are_not_to() -> Result<()> {
    let person = Person::new()?;
    let image = &person.image;
    let script = "for s in INT TERM HUP USR1; do trap \"echo $s\" $s; done; trap 'echo QUIT; exit 3' QUIT; \
                  echo up; while :; do sleep 0.05; done";
    let child = person.piped(&["run", "--name", "box", image, "sh", "-c", script])?;
    person.until_logged("box", "up\n")?;
    for name in ["INT", "TERM", "HUP", "USR1", "QUIT"] {
        signal(&child, name)?;
        person.until_logged("box", &format!("{name}\n"))?;
    }
    let outcome = end(child)?;
    ensure!(outcome.code == 3, "{outcome:?}");

    // Attached later, it is the same.
    person.rrun.out(["start", "box"])?;
    person.until_state("box", "running 0")?;
    person.until_logged("box", "QUIT\nup\n")?;
    let child = person.piped(&["attach", "box"])?;
    until_listening(&child)?;
    signal(&child, "USR1")?;
    wait::until("the signal to arrive", PATIENCE, || {
        Ok(person.rrun.out(["logs", "box"])?.ends_with("USR1\n").then_some(()))
    })?;
    signal(&child, "QUIT")?;
    ensure!(end(child)?.code == 3);
    person.rrun.out(["rm", "box"])?;

    let child =
        person.piped(&["run", "--name", "box", "--sig-proxy=false", image, "sh", "-c", script])?;
    person.until_logged("box", "up\n")?;
    signal(&child, "TERM")?;
    let outcome = end(child)?;
    ensure!(outcome.code != 0, "{outcome:?}");
    ensure!(person.state("box")? == "running 0");
    ensure!(person.rrun.out(["logs", "box"])? == "up\n");
    person.gone("box")
}

#[test]
fn input_ends_where_it_should() -> Result<()> {
    let person = Person::new()?;
    let (rrun, image) = (&person.rrun, &person.image);
    let mut child = person.piped(&["run", "--rm", "-i", image, "sh", "-c", "cat; echo end"])?;
    child.stdin.take().context("no pipe")?.write_all(b"words\n")?;
    ensure!(end(child)?.stdout == "words\nend\n");

    // A container that was made to run on its own keeps its input for whoever comes next.
    rrun.out(["run", "-di", "--name", "box", image, "cat"])?;
    for word in ["one", "two"] {
        let mut child = person.piped(&["attach", "box"])?;
        child.stdin.take().context("no pipe")?.write_all(format!("{word}\n").as_bytes())?;
        person.until_logged("box", word)?;
        child.kill()?;
        end(child)?;
        ensure!(person.state("box")? == "running 0", "the end of {word} ended the container");
    }
    rrun.out(["rm", "-f", "box"])?;

    // `start -ai` of one that has run: nothing of its output is missed, its code is the answer.
    rrun.out(["create", "-i", "--name", "box", image, "sh", "-c", "echo up; cat; exit 5"])?;
    for _ in 0..2 {
        let mut child = person.piped(&["start", "-ai", "box"])?;
        child.stdin.take().context("no pipe")?.write_all(b"in\n")?;
        let outcome = end(child)?;
        ensure!((outcome.code, outcome.stdout.as_str()) == (5, "up\nin\n"), "{outcome:?}");
    }
    person.gone("box")
}

#[test]
fn job_control_of_the_command_itself() -> Result<()> {
    let person = Person::new()?;
    let binary = person.rrun.binary().display().to_string();
    let mut shell = Command::new("bash");
    person.rrun.prepare(&mut shell);
    // Without its line editor, whose escapes would stand among what is looked for.
    shell.args(["--norc", "--noediting", "-i"]);
    let mut terminal = Terminal::start(&shell, 33, 99)?;
    // What is typed before it reads is not shown where it stands.
    terminal.expect("# ")?;
    terminal.send("PS1='$ '\r")?;
    terminal.expect("\n$ ")?;
    // Without -t the terminal's keys are signals to rrun: ctrl-z stops it, and not the container.
    let line = format!("{binary} run --name box {} sh -c 'echo u''p; sleep 1000'\r", person.image);
    terminal.send(&line)?;
    terminal.expect("\nup")?;
    terminal.send("\x1a")?;
    terminal.expect("Stopped")?;
    ensure!(person.state("box")? == "running 0");
    terminal.send("fg\r")?;
    terminal.expect("run --name box")?;
    person.rrun.out(["kill", "box"])?;
    terminal.expect("$ ")?;
    terminal.send("echo code $?\r")?;
    terminal.expect("code 137")?;
    terminal.send("exit\r")?;
    terminal.end()?;
    person.gone("box")
}
