//! A whole warm `rrun run --rm IMAGE true` beside `runc run` and `crun run` of the same root
//! filesystem, prepared in advance, and beside `podman run` and `docker run`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::samples::{Samples, aims, children_cpu, load};
use crate::image;
use crate::janitor::Scratch;
use crate::process::Server;
use crate::rrun::{self, Rrun};
use crate::wait;
use crate::world::World;

/// Back-to-back starts hide the kernel's grace periods (`cgroup.procs`, namespaces); a person
/// leaves more time than this between two commands.
const GAP: Duration = Duration::from_millis(150);

/// Same tool twice in one run: beyond this the machine was too noisy for a ratio.
const NOISE: std::ops::RangeInclusive<f64> = 0.9..=1.1;

/// Runs of which the phases of the fastest are shown.
const PHASE_RUNS: usize = 5;

/// For what must only work.
const PATIENCE: Duration = Duration::from_secs(20);

struct Tool<'a> {
    name: &'static str,
    command: Box<dyn Fn(usize) -> Command + 'a>,
    samples: Samples,
}

/// Measures and returns a Markdown section.
///
/// # Errors
/// If a tool is missing or does not run its container.
pub fn measure(rounds: usize) -> Result<String> {
    let world = World::start()?;
    let reference = push_busybox(&world)?;
    let rrun = Rrun::under(crate::bin("rrun")?, world.directory())?;
    rrun.out(["pull", &reference])?;
    world.engine().docker_ok(&["pull", "--quiet", &reference])?;
    let bundle = Scratch::new("bundle")?;
    let crun_bundle = Scratch::new("crun-bundle")?;
    for directory in [bundle.path(), crun_bundle.path()] {
        prepare_bundle(directory, &world, &reference)?;
    }
    let crun = Crun::prepare(crun_bundle.path())?;
    let nothing = Command::new(crate::tool("true")?);
    let podman = Podman::prepare(world.directory(), &reference)?;

    let words = ["run", "--rm", "--network", "none", &reference, "true"];
    let mut tools = vec![
        tool("rrun", |_| rrun.command(words)),
        tool("rrun, again", |_| rrun.command(words)),
        tool("runc run", |n| oci_run("runc", bundle.path(), n)),
        tool("crun run", |n| crun.command(crun_bundle.path(), n)),
        tool("nsenter alone", |_| crun.inside(&nothing)),
        tool("podman run", |_| podman.run(&reference)),
        tool("docker run", |_| world.engine().docker(words)),
    ];
    let before = load();
    for round in 0..=rounds {
        for place in 0..tools.len() {
            // Each tool follows each other one.
            let index = (place + round) % tools.len();
            one(&mut tools[index], round)?;
        }
    }
    let phases = phases(&rrun, &reference)?;
    rrun.expect_nothing_left()?;
    Ok(report(&tools, rounds, &before, &crun.note) + &phases)
}

/// What `--timings` says of the fastest of a few runs.
fn phases(rrun: &Rrun, reference: &str) -> Result<String> {
    let mut runs = Vec::new();
    for _ in 0..PHASE_RUNS {
        std::thread::sleep(GAP);
        let run = rrun.run(["run", "--rm", "--timings", "--network", "none", reference, "true"])?;
        let lines = run.expect_code(0)?.stderr;
        let total = lines.lines().last().and_then(|line| line.split_whitespace().next());
        let total: f64 = total.context("--timings says nothing")?.parse()?;
        runs.push((total, lines));
    }
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let fastest = runs.into_iter().next().map(|(_, lines)| lines).unwrap_or_default();
    Ok(format!(
        "\nThe phases of the fastest of {PHASE_RUNS} runs with `--timings`:\n\n```text\n{fastest}```\n"
    ))
}

fn tool<'a>(name: &'static str, command: impl Fn(usize) -> Command + 'a) -> Tool<'a> {
    Tool { name, command: Box::new(command), samples: Samples::default() }
}

fn one(tool: &mut Tool<'_>, round: usize) -> Result<()> {
    std::thread::sleep(GAP);
    let mut command = (tool.command)(round);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (cpu, started) = (children_cpu(), Instant::now());
    let status = command.status().with_context(|| format!("starting {}", tool.name))?;
    let (wall, cpu) = (started.elapsed(), children_cpu() - cpu);
    ensure!(status.success(), "{}: {status} from {command:?}", tool.name);
    // The first round warms up.
    if round > 0 {
        tool.samples.add(wall, cpu);
    }
    Ok(())
}

fn report(tools: &[Tool<'_>], rounds: usize, load_before: &str, crun_note: &str) -> String {
    let median = |name: &str| {
        let tool = tools.iter().find(|tool| tool.name == name);
        tool.map_or(0.0, |tool| tool.samples.median())
    };
    let ours = median("rrun");
    let mut text = format!(
        "### A whole warm `rrun run --rm IMAGE true`\n\n\
         {rounds} rounds, interleaved, {} ms idle before each start; load average {load_before} before, {} \
         after. Wall time from outside; CPU is that of the processes that the command waits for \
         (rrun's monitor, podman's and Docker's engine do their share elsewhere).\n\n\
         | command | median ms | min ms | max ms | CPU ms | median / rrun |\n|---|---|---|---|---|---|\n",
        GAP.as_millis(),
        load()
    );
    for tool in tools {
        let s = &tool.samples;
        text += &format!(
            "| {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} |\n",
            tool.name,
            s.median(),
            s.min(),
            s.max(),
            s.cpu(),
            s.median() / ours
        );
    }
    let crun = median("crun run") - median("nsenter alone");
    let aim = |text: &str, wanted, reached| (text.to_owned(), wanted, reached);
    text += "\n";
    text += &aims(&[
        aim("no slower than `runc run`: runc / rrun ≥ 1", 1.0, median("runc run") / ours),
        aim("no slower than `crun run`: (crun − nsenter) / rrun ≥ 1", 1.0, crun / ours),
        aim("`docker run` / rrun ≥ 15", 15.0, median("docker run") / ours),
    ]);
    let noise = median("rrun, again") / ours;
    if !NOISE.contains(&noise) {
        text += &format!(
            "\nThe same command twice differed by a factor of {noise:.2}: the machine was busy, and the \
             ratios say little.\n"
        );
    }
    text + &format!("\n{crun_note}\n")
}

/// One static program in one layer: what is measured is the runtime, not the image.
fn push_busybox(world: &World) -> Result<String> {
    image::push_image(world.registry(), "start", "1", &image::busybox()?)?;
    Ok(world.reference("start:1"))
}

/// The image's files and a configuration that asks for what `docker run` would: `runc spec` with
/// `true` as the program.
fn prepare_bundle(directory: &Path, world: &World, reference: &str) -> Result<()> {
    let created = world.engine().docker_ok(&["create", reference, "true"])?.stdout;
    let archive = directory.join("root.tar");
    world.engine().docker_ok(&[
        "export",
        "--output",
        &archive.to_string_lossy(),
        created.trim(),
    ])?;
    world.engine().docker_ok(&["rm", created.trim()])?;
    crate::process::shell(
        "mkdir \"$1\"/rootfs; tar xf \"$1\"/root.tar -C \"$1\"/rootfs",
        &[directory],
    )?;
    let mut spec = Command::new(crate::tool("runc")?);
    crate::process::run(spec.arg("spec").current_dir(directory))?;
    let path = directory.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["args"] = json!(["/bin/true"]);
    config["process"]["terminal"] = json!(false);
    config["root"]["readonly"] = json!(false);
    Ok(fs::write(&path, serde_json::to_vec(&config)?)?)
}

fn oci_run(runtime: &str, bundle: &Path, round: usize) -> Command {
    let program = crate::tool(runtime).unwrap_or_else(|_| runtime.into());
    let mut command = Command::new(program);
    command.arg("--root").arg(bundle.join("state"));
    command
        .arg("run")
        .arg("--bundle")
        .arg(bundle)
        .arg(format!("bench-{}-{round}", std::process::id()));
    command
}

/// podman with a store of its own, which has the image. Its default runtime refuses hosts with
/// hybrid cgroups and its default limits those without CAP_SYS_RESOURCE, so both are given.
struct Podman {
    directory: PathBuf,
}

impl Podman {
    fn prepare(parent: &Path, reference: &str) -> Result<Self> {
        let podman = Self { directory: parent.join("podman") };
        let mut pull = podman.command()?;
        pull.args(["pull", "--quiet", "--tls-verify=false", reference]);
        crate::process::run(&mut pull)?;
        Ok(podman)
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(crate::tool("podman")?);
        command.arg("--root").arg(self.directory.join("root"));
        command.arg("--runroot").arg(self.directory.join("run"));
        command.args(["--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--runtime"]);
        command.arg(crate::tool("runc")?);
        Ok(command)
    }

    fn run(&self, reference: &str) -> Command {
        let mut command = self.command().unwrap_or_else(|_| Command::new("podman"));
        command.args(["run", "--rm", "--network=none", "--ulimit=nofile=1024:1024"]);
        command.args(["--ulimit=nproc=1000:1000", reference, "true"]);
        command
    }
}

/// Where crun runs. It refuses hosts with hybrid cgroups, so that on those it gets a mount
/// namespace without the unified hierarchy, which makes them plain v1 in its eyes.
struct Crun {
    /// Holds the namespace.
    namespace: Option<Server>,
    note: String,
}

impl Crun {
    fn prepare(bundle: &Path) -> Result<Self> {
        let mut crun = Self { namespace: None, note: "crun ran as it is.".to_owned() };
        let plain = rrun::finish(crun.command(bundle, 9_998), PATIENCE)?;
        if plain.code == 0 {
            return Ok(crun);
        }
        let mut holder = Command::new("unshare");
        holder.args([
            "--mount",
            "sh",
            "-ec",
            "umount /sys/fs/cgroup/unified; echo ready; exec sleep infinity",
        ]);
        let log = bundle.join("namespace.log");
        crun.namespace = Some(Server::start(&mut holder, &log)?);
        wait::until("a mount namespace for crun", PATIENCE, || {
            Ok(fs::read_to_string(&log)?.contains("ready").then_some(()))
        })?;
        rrun::finish(crun.command(bundle, 9_999), PATIENCE)?.expect_code(0).context("crun")?;
        crun.note = format!(
            "As it is crun refuses this host ({}), so it ran where the unified cgroup hierarchy is not \
             mounted, by way of `nsenter`; the row of `nsenter` alone is to be taken off.",
            plain.stderr.trim()
        );
        Ok(crun)
    }

    fn command(&self, bundle: &Path, round: usize) -> Command {
        self.inside(&oci_run("crun", bundle, round))
    }

    /// The command, in crun's namespace if it has one.
    fn inside(&self, command: &Command) -> Command {
        let mut entering = Command::new("nsenter");
        match &self.namespace {
            Some(holder) => entering.args(["--mount", "--target", &holder.pid().to_string()]),
            None => entering.args(["--mount=/proc/self/ns/mnt"]),
        };
        entering.arg(command.get_program()).args(command.get_args());
        entering
    }
}
