//! The same command lines, given to `docker run` of a real Docker engine and to `rrun run`, on the
//! same images: exit status, standard output, what kind of thing is on standard error, and what the
//! container sees must agree, but for the differences that `docs/from-docker.md` lists. A difference
//! that is listed and is none any more fails as well.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use conformance::rrun::{self, Outcome, Rrun};
use conformance::world::World;

use crate::docker_table::cases::{CASES, Case};
use crate::docker_table::outcome::Seen;
use crate::docker_table::{docs, images};

/// The promise: so many lines at least.
const LINES_AT_LEAST: usize = 80;

#[test]
fn rrun_differs_from_docker_only_where_the_table_says() -> Result<()> {
    ensure!(CASES.len() >= LINES_AT_LEAST, "{} lines", CASES.len());
    let names: BTreeSet<&str> = CASES.iter().map(|c| c.name).collect();
    ensure!(names.len() == CASES.len(), "two lines have the same name");
    let mut listed = docs::listed("## Lines that answer differently")?;
    if root_has_every_capability()? {
        listed.remove("privileged");
    }

    let world = World::start()?;
    images::push(&world)?;
    let rrun = Rrun::under(conformance::bin("rrun")?, world.directory())?;
    for tag in images::TAGS {
        rrun.out(["pull", &world.reference(&format!("table:{tag}"))])?;
    }

    let mut differing = BTreeSet::new();
    let mut details = String::new();
    for case in CASES {
        let docker = Seen::by_docker(&with_docker(&world, case)?);
        let ours = Seen::by_rrun(&with_rrun(&world, &rrun, case)?);
        if docker != ours {
            differing.insert(case.name.to_owned());
            details += &format!("--- {}\n{}", case.name, docker.compare(&ours));
        }
        println!("{:<5} {}", if docker == ours { "same" } else { "DIFF" }, case.name);
    }
    println!("{details}");
    rrun.expect_nothing_left()?;
    println!("{} lines, {} of them differ", CASES.len(), differing.len());
    docs::verdict(&differing, &listed)
}

/// Whether this host's root has all that the kernel knows: the engine refuses `--privileged` where
/// it has not.
fn root_has_every_capability() -> Result<bool> {
    let last: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap")?.trim().parse()?;
    let status = fs::read_to_string("/proc/self/status")?;
    let bounding =
        status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("CapBnd")?;
    Ok(u64::from_str_radix(bounding.trim(), 16)? == (1 << (last + 1)) - 1)
}

fn with_docker(world: &World, case: &Case) -> Result<Outcome> {
    let line = arguments(world, case)?;
    finish(world.engine().docker(&line), case)
}

fn with_rrun(world: &World, rrun: &Rrun, case: &Case) -> Result<Outcome> {
    let line = arguments(world, case)?;
    finish(rrun.command(&line), case)
}

/// `run --rm --network none FLAGS IMAGE COMMAND`; files that a flag names are made anew.
fn arguments(world: &World, case: &Case) -> Result<Vec<String>> {
    let files = world.directory().join("files");
    let _ = fs::remove_dir_all(&files);
    fs::create_dir_all(files.join("directory"))?;
    fs::write(files.join("directory/file"), "from outside\n")?;
    fs::write(files.join("env-file"), "# a comment\nFILE_A=1\nFILE_B=two words\n\nFILE_C=\n")?;
    let here = files.to_str().context("a strange temporary directory")?;
    let mut line = vec!["run".to_owned(), "--rm".to_owned()];
    if !case.flags.contains(&"--network") {
        line.push("--network=none".to_owned());
    }
    line.extend(case.flags.iter().map(|f| f.replace('@', &format!("{here}/"))));
    line.push(world.reference(&format!("table:{}", case.image)));
    line.extend(case.command.iter().map(|word| (*word).to_owned()));
    Ok(line)
}

/// The command as the case's surroundings start it.
fn surrounded(command: Command, case: &Case) -> Command {
    let [program, words @ ..] = case.around else { return command };
    let mut outer = Command::new(program);
    outer.args(words).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

fn finish(command: Command, case: &Case) -> Result<Outcome> {
    let mut command = surrounded(command, case);
    command.env("TABLE_SECRET", "from the caller").env_remove("TABLE_UNSET");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("no pipe")?;
    // A command that does not read, or has ended, breaks the pipe: that is no failure.
    let _ = stdin.write_all(case.stdin.as_bytes());
    drop(stdin);
    rrun::wait_for(child, Duration::from_secs(60)).with_context(|| case.name.to_owned())
}
