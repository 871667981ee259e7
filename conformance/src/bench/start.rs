//! A whole warm `rrun run --rm IMAGE true` beside `runc run` and `crun run` of the same root
//! filesystem, prepared in advance, and beside `docker run`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::samples::{Samples, children_cpu, load};
use crate::janitor::Scratch;
use crate::rrun::{self, Rrun};
use crate::world::World;

/// Back-to-back starts hide the kernel's grace periods (`cgroup.procs`, namespaces); a person
/// leaves more time than this between two commands.
const GAP: Duration = Duration::from_millis(150);

/// Same tool twice in one run: beyond this the machine was too noisy for a ratio.
const NOISE: std::ops::RangeInclusive<f64> = 0.9..=1.1;

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
    let (crun_flags, crun_note) = usable_crun(crun_bundle.path())?;

    let ours = || rrun.command(["run", "--rm", "--network", "none", &reference, "true"]);
    let docker = || world.engine().docker(["run", "--rm", "--network", "none", &reference, "true"]);
    let mut tools = vec![
        tool("rrun", |_| ours()),
        tool("rrun, again", |_| ours()),
        tool("runc run", |n| oci_run("runc", &[], bundle.path(), n)),
        tool("crun run", |n| oci_run("crun", &crun_flags, crun_bundle.path(), n)),
        tool("docker run", |_| docker()),
    ];
    let before = load();
    for round in 0..=rounds {
        for place in 0..tools.len() {
            // Each tool follows each other one.
            let index = (place + round) % tools.len();
            one(&mut tools[index], round)?;
        }
    }
    rrun.expect_nothing_left()?;
    Ok(report(&tools, rounds, &before, &crun_note))
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
    let ours = tools[0].samples.median();
    let noise = tools[1].samples.median() / ours;
    let mut text = format!(
        "### A whole warm `rrun run --rm IMAGE true`\n\n\
         {rounds} rounds, interleaved, {} ms idle before each start; load average {load_before} before, {} \
         after. Wall time from outside; CPU is that of the command's own processes (Docker's engine \
         does its share elsewhere).\n\n\
         | command | median ms | min ms | max ms | CPU ms | median / rrun |\n|---|---|---|---|---|---|\n",
        GAP.as_millis(),
        load()
    );
    for tool in tools {
        let s = &tool.samples;
        let ratio = if NOISE.contains(&noise) {
            format!("{:.2}", s.median() / ours)
        } else {
            "–".to_owned()
        };
        text += &format!(
            "| {} | {:.1} | {:.1} | {:.1} | {:.1} | {ratio} |\n",
            tool.name,
            s.median(),
            s.min(),
            s.max(),
            s.cpu()
        );
    }
    if !NOISE.contains(&noise) {
        text += &format!(
            "\nNo ratios: the same command twice differed by {noise:.2}; the machine was too busy.\n"
        );
    }
    text + &format!("\n{crun_note}\n")
}

/// One static program in one layer: what is measured is the runtime, not the image.
fn push_busybox(world: &World) -> Result<String> {
    let context = world.directory().join("busybox-context");
    fs::create_dir_all(&context)?;
    fs::copy("/bin/busybox", context.join("busybox")).context("busybox-static: make install")?;
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\n\
                      RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n";
    let reference = world.build("start:1", &context, dockerfile)?;
    world.engine().docker_ok(&["push", "--quiet", &reference])?;
    Ok(reference)
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

fn oci_run(runtime: &str, flags: &[String], bundle: &Path, round: usize) -> Command {
    let program = crate::tool(runtime).unwrap_or_else(|_| runtime.into());
    let mut command = Command::new(program);
    command.arg("--root").arg(bundle.join("state")).args(flags);
    command
        .arg("run")
        .arg("--bundle")
        .arg(bundle)
        .arg(format!("bench-{}-{round}", std::process::id()));
    command
}

/// crun refuses hosts with hybrid cgroups; without cgroups it works everywhere. The flags that it
/// needs here, and what to say about it.
fn usable_crun(bundle: &Path) -> Result<(Vec<String>, String)> {
    let try_with = |flags: &[String]| {
        rrun::finish(oci_run("crun", flags, bundle, 9_999), Duration::from_secs(20))
    };
    let plain = try_with(&[])?;
    if plain.code == 0 {
        return Ok((Vec::new(), "crun ran as it is.".to_owned()));
    }
    let without = vec!["--cgroup-manager=disabled".to_owned()];
    let second = try_with(&without)?;
    ensure!(second.code == 0, "crun does not run here at all: {}{}", plain.stderr, second.stderr);
    let note = format!(
        "crun ran with `--cgroup-manager=disabled`, which spares it all work on cgroups: as it is it \
         refuses this host ({}).",
        plain.stderr.trim()
    );
    Ok((without, note))
}
