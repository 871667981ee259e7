//! The runner's corpus of odd images, each in a container of a real Docker engine and in one of
//! `rrun`: the tree that the container sees must be the same, entry by entry, but for the images
//! that `docs/from-docker.md` lists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use conformance::image;
use conformance::rrun::{self, Rrun};
use conformance::tree;
use conformance::world::World;
use serde_json::json;

use crate::corpus;
use crate::docker_table::docs;

/// The promise.
const IMAGES_AT_LEAST: usize = 60;

/// What both programs put into a container that needs it, or to mount something on.
const MADE_BY_THE_RUNTIME: [&str; 9] = [
    ".dockerenv",
    "busybox-keeper",
    "dev",
    "proc",
    "sys",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/mtab",
];

#[test]
fn a_container_sees_the_tree_that_dockers_sees() -> Result<()> {
    let world = World::start()?;
    let rrun = Rrun::under(conformance::bin("rrun")?, world.directory())?;
    let listed = docs::listed("## Images that look different")?;
    let mut differing = BTreeSet::new();
    let mut compared = 0;
    for case in corpus::cases() {
        let corpus::Expected::Tree(_) = case.expected else { continue };
        compared += 1;
        let reference = push(&world, &case)?;
        let docker = seen(&|line| Ok(world.engine().docker(line)), &reference);
        let ours = seen(&|line| Ok(rrun.command(line)), &reference);
        let difference = compare(docker, ours);
        if !difference.is_empty() {
            println!("DIFF  {} ({})\n{difference}", case.name, case.source);
            differing.insert(case.name.to_owned());
        }
    }
    println!("{compared} images, {} of them differ", differing.len());
    ensure!(compared >= IMAGES_AT_LEAST, "{compared} images");
    rrun.expect_nothing_left()?;
    ensure!(!Path::new(corpus::OUTSIDE).exists(), "a layer reached out of its root");
    docs::verdict(&differing, &listed)
}

/// Every layer as gzip, whatever the case says: how layers travel is another test's subject, and
/// the engine here is too old for zstd.
fn push(world: &World, case: &corpus::Case) -> Result<String> {
    let tars: Vec<Vec<u8>> = case.layers.iter().map(|(tar, _)| tar.clone()).collect();
    let image = image::image_of_tars(&tars, &json!({ "Cmd": ["/none"] }))?;
    image::push_image(world.registry(), case.name, "1", &image)?;
    Ok(world.reference(&format!("{}:1", case.name)))
}

/// The tree in a running container, read from outside through its first process.
fn seen(program: &dyn Fn(&[&str]) -> Result<Command>, reference: &str) -> Result<Vec<String>> {
    let patience = Duration::from_secs(60);
    let run = |line: &[&str]| -> Result<String> {
        let outcome = rrun::finish(program(line)?, patience)?;
        // What is said of the pull's progress comes before it.
        let why =
            outcome.stderr.lines().find(|l| l.starts_with("docker: ") || l.starts_with("rrun: "));
        ensure!(outcome.code == 0, "{}", why.unwrap_or(&outcome.stderr));
        Ok(outcome.stdout.trim().to_owned())
    };
    // The images have no program; one is mounted into them.
    let keeper = [
        "--network=none",
        "-v",
        "/bin/busybox:/busybox-keeper:ro",
        "--entrypoint",
        "/busybox-keeper",
    ];
    let mut line = vec!["run", "-d"];
    line.extend(keeper);
    line.extend([reference, "sleep", "120"]);
    let id = run(&line)?;
    let pid = run(&["inspect", "--format", "{{.State.Pid}}", &id]);
    let lines = pid.and_then(|pid| tree::lines(&PathBuf::from(format!("/proc/{pid}/root"))));
    run(&["rm", "--force", &id])?;
    run(&["rmi", "--force", reference])?;
    Ok(lines?.into_iter().filter(|line| is_of_the_image(line)).collect())
}

fn is_of_the_image(line: &str) -> bool {
    let path = tree::path_of(line);
    if MADE_BY_THE_RUNTIME.contains(&path) {
        return false;
    }
    // Directories that no entry names, and those in which the runtime made something, have the time
    // at which that happened.
    let (Some("t"), Some(time)) = (line.split(' ').next(), line.rsplit(' ').next()) else {
        return true;
    };
    let seconds: i64 = time.split('.').next().and_then(|s| s.parse().ok()).unwrap_or(0);
    let touched = [".", "etc"].contains(&path);
    !touched && seconds < corpus::tar::MTIME + 1_000_000
}

/// Lines that only one side has, `-` Docker's and `+` ours; an error is a line as well.
fn compare(docker: Result<Vec<String>>, ours: Result<Vec<String>>) -> String {
    let docker = docker.unwrap_or_else(|e| vec![format!("error: {e:#}")]);
    let ours = ours.unwrap_or_else(|e| vec![format!("error: {e:#}")]);
    let only = |mark: char, these: &[String], others: &[String]| -> String {
        let missing = these.iter().filter(|line| !others.contains(line));
        missing.map(|line| format!("  {mark} {line}\n")).collect()
    };
    only('-', &docker, &ours) + &only('+', &ours, &docker)
}
