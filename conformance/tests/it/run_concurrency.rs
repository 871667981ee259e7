//! Eight processes pull, run and remove the same images at once, and a fourth of them is killed
//! with SIGKILL somewhere in the middle: the command itself, its unpack worker, or its monitor.
//! Whoever was not killed must get the right answer; afterwards nothing is left and all works.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use conformance::image::Random;
use conformance::rrun::{self, Outcome, Rrun};
use conformance::world::World;

const WORKERS: u64 = 8;

/// Two minutes, or what `ROADSTEAD_CONCURRENCY_SECONDS` says.
const SECONDS: u64 = 120;

/// The first worker's seed; the others follow.
const SEED: u64 = 0x0520_1123;

/// Marks the processes of one command; a container's environment is its own, so it has no mark.
const MARK: &str = "CONFORMANCE_COMMAND";

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(90);

const IMAGES: usize = 6;

#[test]
fn killed_neighbours_hurt_nobody() -> Result<()> {
    let world = World::start()?;
    let references = push_images(&world)?;
    let rrun = Rrun::under(conformance::bin("rrun")?, world.directory())?;
    let seconds = match std::env::var("ROADSTEAD_CONCURRENCY_SECONDS") {
        Ok(text) => text.parse().context("ROADSTEAD_CONCURRENCY_SECONDS")?,
        Err(_) => SECONDS,
    };
    println!("{WORKERS} workers for {seconds} s, seeds from {SEED:#x}");
    let (done, killed) = storm(&rrun, &references, Duration::from_secs(seconds))?;
    println!("{done} commands answered, {killed} were killed");
    ensure!(done > 50 && killed > 20, "too few to mean anything");
    settle(&rrun)?;
    everything_works(&rrun, &references)?;
    nothing_is_kept(&rrun, &references)
}

/// Images of several small layers; some layers are shared by all, some are each image's own.
fn push_images(world: &World) -> Result<Vec<String>> {
    let context = world.directory().join("storm-context");
    fs::create_dir_all(&context)?;
    fs::copy("/bin/busybox", context.join("busybox")).context("busybox-static: make install")?;
    let base = "FROM scratch\nCOPY busybox /bin/busybox\n\
        RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
        RUN for i in $(seq 300); do mkdir -p /tree/$((i % 20)); echo $i > /tree/$((i % 20))/$i; done\n";
    let mut references = Vec::new();
    for number in 0..IMAGES {
        let own = format!(
            "RUN echo image {number} > /marker && head -c 3000000 /dev/urandom > /random\n\
             RUN rm -rf /tree/{number} && mkdir /tree/{number} && echo new > /tree/{number}/new\n\
             RUN cd /tree && sha256sum $(find . /random -type f | sort) > /sums\n"
        );
        let reference =
            world.build(&format!("storm{number}:1"), &context, &format!("{base}{own}"))?;
        world.engine().docker_ok(&["push", "--quiet", &reference])?;
        references.push(reference);
    }
    Ok(references)
}

/// How many commands answered, how many were killed.
fn storm(rrun: &Rrun, references: &[String], length: Duration) -> Result<(usize, usize)> {
    let end = Instant::now() + length;
    let (done, killed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (done, killed) = (&done, &killed);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                scope.spawn(move || -> Result<()> {
                    let mut worker = Worker {
                        rrun,
                        references,
                        number,
                        dice: Random::new(SEED + number),
                        commands: 0,
                    };
                    while Instant::now() < end {
                        let counter = if worker.one_command()? { done } else { killed };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        for (number, worker) in workers.into_iter().enumerate() {
            let result = worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
            result.with_context(|| format!("worker {number}"))?;
        }
        Ok((done.load(Ordering::Relaxed), killed.load(Ordering::Relaxed)))
    })
}

struct Worker<'a> {
    rrun: &'a Rrun,
    references: &'a [String],
    number: u64,
    dice: Random,
    commands: u32,
}

impl Worker<'_> {
    /// Whether the command was left to answer.
    fn one_command(&mut self) -> Result<bool> {
        self.commands += 1;
        let image = self.dice.below(self.references.len());
        let reference = &self.references[image];
        let line: Vec<&str> = match self.dice.below(10) {
            0..=4 => vec![
                "run",
                "--rm",
                reference,
                "sh",
                "-c",
                "cat /marker; cd /tree; sha256sum -c -s /sums; exit $?",
            ],
            5..=6 => vec!["pull", "--quiet", reference],
            7..=8 => vec!["rmi", reference],
            _ => vec!["images"],
        };
        let doomed = self.dice.below(4) == 0;
        let mark = format!("{}-{}", self.number, self.commands);
        let mut command = self.rrun.command(&line);
        command.env(MARK, &mark).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn()?;
        if doomed {
            std::thread::sleep(Duration::from_millis(self.dice.below(150) as u64));
            self.kill_one(&format!("{MARK}={mark}"));
        }
        let outcome = rrun::wait_for(child, PATIENCE)
            .with_context(|| format!("{line:?}, killed: {doomed}"))?;
        if !doomed {
            judge(&line, &outcome, image).with_context(|| format!("command {mark}: {line:?}"))?;
        }
        Ok(!doomed)
    }

    /// One of the processes of the command, any.
    fn kill_one(&mut self, variable: &str) {
        let pids = processes_with(variable);
        if !pids.is_empty() {
            let victim = pids[self.dice.below(pids.len())];
            let _ = Command::new("kill")
                .args(["-KILL", &victim.to_string()])
                .stderr(Stdio::null())
                .status();
        }
    }
}

fn judge(line: &[&str], outcome: &Outcome, image: usize) -> Result<()> {
    let stderr = &outcome.stderr;
    match line[0] {
        "run" => ensure!(
            outcome.code == 0 && outcome.stdout == format!("image {image}\n"),
            "{outcome:?}"
        ),
        "pull" | "images" => ensure!(outcome.code == 0, "{outcome:?}"),
        // Somebody may run it, or have removed it already.
        "rmi" if outcome.code != 0 => {
            let expected = ["in use", "being used", "o such image", "not found", "using"];
            ensure!(expected.iter().any(|e| stderr.contains(e)), "{outcome:?}");
        }
        "rmi" => {}
        other => bail!("{other}?"),
    }
    Ok(())
}

fn processes_with(variable: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let has = |path: &PathBuf| {
        fs::read(path.join("environ"))
            .is_ok_and(|e| e.split(|b| *b == 0).any(|v| v == variable.as_bytes()))
    };
    entries
        .map(|e| e.path())
        .filter(has)
        .filter_map(|p| p.file_name()?.to_str()?.parse().ok())
        .collect()
}

/// After a kill, what is left goes with the next commands: that is the promise.
fn settle(rrun: &Rrun) -> Result<()> {
    let rest = rrun.out(["ps", "--all", "--quiet"])?;
    for id in rest.split_whitespace() {
        rrun.run(["rm", "--force", id])?;
    }
    rrun.out(["images"])?;
    rrun.expect_nothing_left()
}

fn everything_works(rrun: &Rrun, references: &[String]) -> Result<()> {
    for (image, reference) in references.iter().enumerate() {
        let line =
            ["run", "--rm", reference, "sh", "-c", "cat /marker; cd /tree; sha256sum -c -s /sums"];
        let text = rrun.out(line).with_context(|| reference.clone())?;
        ensure!(text == format!("image {image}\n"), "{text:?}");
    }
    Ok(())
}

/// With the last image, the last layer and blob go.
fn nothing_is_kept(rrun: &Rrun, references: &[String]) -> Result<()> {
    for reference in references {
        rrun.out(["rmi", reference])?;
    }
    // A command that finds rubbish takes a little of it away.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        rrun.out(["images"])?;
        let count = |name: &str| fs::read_dir(rrun.root().join(name)).map_or(0, Iterator::count);
        let left: Vec<(&str, usize)> =
            ["images", "layers", "fixups", "leases", "work", "containers", "trash"]
                .map(|name| (name, count(name)))
                .into_iter()
                .filter(|(_, n)| *n > 0)
                .collect();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "still in the store: {left:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
