//! What `conformance torture` tries, and the page that it writes about it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::disk::{self, FileSystem};
use super::oracle::Breach;
use super::race::{self, Race};
use super::{Campaign, Crash, Tally, Target};
use crate::process;

/// Collection of its known-bad builds is noticed within seconds; this is the end of patience.
const KNOWN_BAD_RACE: Duration = Duration::from_secs(60);
/// The same for crashes.
const KNOWN_BAD_CRASHES: usize = 50;

/// What is tried.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Power cuts on each file system.
    pub cuts: usize,
    pub kills: usize,
    /// How long the race with collection lasts.
    pub race: Duration,
    pub seed: u64,
    pub file_systems: Vec<FileSystem>,
    /// The same with Debian's `docker-registry`.
    pub peer: bool,
    /// Builds with a step left out as well.
    pub known_bad: bool,
}

/// A row of the table of crashes.
struct Crashes {
    program: &'static str,
    what: String,
    tally: Tally,
}

/// What came of it.
pub struct Results {
    plan: Plan,
    host: String,
    crashes: Vec<Crashes>,
    races: Vec<(&'static str, Race)>,
    /// What was left out, how it was tried, after how many crashes or what time it was noticed.
    known_bad: Vec<(String, String, Option<String>)>,
}

impl Results {
    /// Promises that our registry broke, and known-bad builds that nobody noticed.
    pub fn failures(&self) -> Vec<String> {
        let ours = self.crashes.iter().filter(|row| row.program == OURS);
        let mut failures: Vec<String> =
            ours.flat_map(|row| row.tally.examples.iter().cloned()).collect();
        for (program, race) in &self.races {
            if *program == OURS && (race.broken + race.refused > 0 || race.left != Some(0)) {
                failures.push(format!("{race:?}"));
            }
        }
        let unnoticed = self.known_bad.iter().filter(|(_, _, noticed)| noticed.is_none());
        failures.extend(unnoticed.map(|(what, how, _)| format!("{what}: not noticed by {how}")));
        failures
    }
}

const OURS: &str = "registry";
const PEER: &str = "docker-registry";

/// Tries everything in the plan, with progress on stderr.
///
/// # Errors
/// When the rig fails. What the registries broke is in the results.
pub fn run(plan: Plan) -> Result<Results> {
    let file_systems = plan.file_systems.clone();
    file_systems.iter().try_for_each(|&kind| disk::control(kind))?;
    let mut results = Results {
        plan,
        host: host()?,
        crashes: Vec::new(),
        races: Vec::new(),
        known_bad: Vec::new(),
    };
    if results.plan.known_bad {
        known_bad(&mut results)?;
    }
    let mut targets = vec![(OURS, Target::roadstead())];
    if results.plan.peer {
        targets.push((PEER, Target::docker_registry()));
    }
    for (program, target) in targets {
        for &kind in &file_systems {
            let cuts = results.plan.cuts;
            crashes(&mut results, program, &target, Crash::PowerCut, kind, cuts)?;
        }
        let kills = results.plan.kills;
        crashes(&mut results, program, &target, Crash::Kill, FileSystem::Ext4, kills)?;
        if !results.plan.race.is_zero() {
            eprintln!("{program}: collection beside pushers, {:?}", results.plan.race);
            let race = race::run(&target, results.plan.race, results.plan.seed, false)?;
            results.races.push((program, race));
        }
    }
    Ok(results)
}

fn crashes(
    results: &mut Results,
    program: &'static str,
    target: &Target,
    crash: Crash,
    file_system: FileSystem,
    crashes: usize,
) -> Result<()> {
    if crashes == 0 {
        return Ok(());
    }
    let what = match crash {
        Crash::PowerCut => format!("power cut, {}", file_system.name()),
        Crash::Kill => format!("kill -9, {}", file_system.name()),
    };
    eprintln!("{program}: {what}, {crashes} times");
    let campaign = Campaign {
        target: target.clone(),
        crash,
        file_system,
        crashes,
        seed: results.plan.seed,
        until_loss: false,
    };
    let tally = super::run(&campaign)?;
    for example in &tally.examples {
        eprintln!("  {example}");
    }
    results.crashes.push(Crashes { program, what, tally });
    Ok(())
}

/// Each sync or step that is left out, and the crash that shows it.
pub const KNOWN_BAD_CRASH: [(&str, &str, Crash); 3] = [
    ("upload-sync=off", "the sync of a blob's bytes", Crash::PowerCut),
    ("log-sync=off", "the sync of the database's log", Crash::PowerCut),
    ("commit=off", "the commit before the answer", Crash::Kill),
];

/// Each part of collection's protocol that is left out.
pub const KNOWN_BAD_RACES: [(&str, &str); 2] =
    [("grace=off", "the grace"), ("rescue=off", "the rescue of what is found condemned")];

fn known_bad(results: &mut Results) -> Result<()> {
    for (failpoints, words, crash) in KNOWN_BAD_CRASH {
        let kinds = match crash {
            Crash::PowerCut => results.plan.file_systems.clone(),
            Crash::Kill => vec![FileSystem::Ext4],
        };
        for file_system in kinds {
            eprintln!("known to be bad: without {words}, {}", file_system.name());
            let campaign = Campaign {
                target: Target::known_bad(failpoints)?,
                crash,
                file_system,
                crashes: KNOWN_BAD_CRASHES,
                seed: results.plan.seed,
                until_loss: true,
            };
            let tally = super::run(&campaign)?;
            let noticed = (tally.losses() > 0).then(|| format!("crash {}", tally.crashes));
            let how = match crash {
                Crash::PowerCut => format!("power cuts, {}", file_system.name()),
                Crash::Kill => "kill -9".to_owned(),
            };
            results.known_bad.push((words.to_owned(), how, noticed));
        }
    }
    for (failpoints, words) in KNOWN_BAD_RACES {
        eprintln!("known to be bad: collection without {words}");
        let target = Target::known_bad(failpoints)?;
        let race = race::run(&target, KNOWN_BAD_RACE, results.plan.seed, true)?;
        let noticed =
            (race.broken + race.refused > 0).then(|| format!("{:.1} s", race.took.as_secs_f64()));
        results.known_bad.push((words.to_owned(), "collection race".to_owned(), noticed));
    }
    Ok(())
}

/// The page, in Markdown.
///
/// # Errors
/// When the host cannot be described.
pub fn page(results: &Results) -> Result<String> {
    let plan = &results.plan;
    let names: Vec<&str> = plan.file_systems.iter().map(|kind| kind.name()).collect();
    let mut text = format!("{HEAD}\n{}\n## Crashes\n\n{CRASHES}\n", results.host);
    table_of_crashes(&mut text, &results.crashes)?;
    if !results.races.is_empty() {
        write!(text, "\n## Collection beside pushers\n\n{RACES}\n")?;
        table_of_races(&mut text, &results.races)?;
    }
    if !results.known_bad.is_empty() {
        write!(text, "\n## Known to be bad\n\n{KNOWN_BAD}")?;
        for (what, how, noticed) in &results.known_bad {
            let noticed = noticed.as_deref().unwrap_or("**not noticed**");
            writeln!(text, "| {what} | {how} | {noticed} |")?;
        }
    }
    write!(
        text,
        "\n## Again\n\n```\nmake torture CUTS={} KILLS={} SECONDS={} SEED={} FS={}\n```\n\n{AGAIN}",
        plan.cuts,
        plan.kills,
        plan.race.as_secs(),
        plan.seed,
        names.join(",")
    )?;
    Ok(text)
}

const HEAD: &str = "# Reliability\n\n\
    Written by `make torture`; not edited by hand.\n";

const CRASHES: &str = "\
Six clients push blobs (from some bytes to 4 MiB; at once, in parts, as a stream) and manifests, \
mount across repositories, move tags, delete tags, manifests and blobs, and leave uploads half done, \
while collection runs with a grace of seconds. At a random moment, up to 1.2 s after the start, the \
disk goes away with everything that nobody had synced (*power cut*), or the process is killed \
(*kill -9*). Sometimes it happens again while the first crash is being put right. Then the journal \
is replayed, half of the times `registry fsck` checks the store, the registry starts, and everything \
that any client ever asked for is read and compared with what it was told: an acknowledged write must \
be there byte for byte, an acknowledged delete must stay, a request that was never answered may have \
happened or not, and whatever is served must match its digest. Uploads go on from the offset that the \
registry names; after a power cut, and only then, one may have to start over. Every tenth crash is \
followed by a collection after which nothing may be left over, and by a fresh file system.\n\n\
`docker-registry` gets the same load without what it does not have: deletes of tags, online \
collection, a checker. What stays unreadable, or a list of tags that stays wrong, is counted again \
after every crash.";

const RACES: &str = "\
Four clients push images that share layers, find layers present, mount them, move tags and delete \
images. The registry collects all the time, with a grace of 3 s; beside `docker-registry` its \
`garbage-collect` runs over and over, which its documentation forbids, because there is no other way \
to collect without stopping pushes. Every acknowledged image that nobody deleted is pulled whole.";

const KNOWN_BAD: &str = "\
A number of crashes survived says nothing if nobody would notice a loss. These builds of the registry \
leave a step out, and only the clients' log may notice it. (The sync of a blob's directory is left \
to the trace of system calls in `registry/tests/it/syncs`: as long as the database's log grows, its \
next sync commits the directory with it, on both file systems.) Before anything else the rig shows \
that it loses an unsynced rename and unsynced bytes, and keeps a synced file.\n\n\
| left out | tried by | noticed after |\n|---|---|---|\n";

const AGAIN: &str = "\
A store's seed decides what the clients do and when the crash comes, not how their requests meet, so \
a run repeats in kind and not request by request. Each breach names its store's seed.\n\n\
What the rig cannot show: a disk that loses or reorders what the file system had already sent to it. \
Here everything sent is kept.\n";

fn table_of_crashes(text: &mut String, rows: &[Crashes]) -> Result<()> {
    text.push_str("\n| program | crash | crashes | acknowledged writes |");
    for breach in Breach::ALL {
        write!(text, " {} |", breach.title())?;
    }
    text.push_str(" uploads gone on / started over | s |\n|---|---|---|---|");
    text.push_str(&"---|".repeat(Breach::ALL.len() + 2));
    text.push('\n');
    for Crashes { program, what, tally } in rows {
        let total = tally.acknowledged.total();
        write!(text, "| {program} | {what} | {} | {total} |", tally.crashes)?;
        for breach in Breach::ALL {
            write!(text, " {} |", tally.breaches.get(&breach).unwrap_or(&0))?;
        }
        let (on, over) = (tally.uploads.resumed, tally.uploads.started_over);
        writeln!(text, " {on} / {over} | {} |", tally.took.as_secs())?;
    }
    text.push_str("\nAcknowledged writes, by kind:\n\n");
    text.push_str("| program | crash | blobs | mounts | manifests | tags | deletes |\n");
    text.push_str("|---|---|---|---|---|---|---|\n");
    for Crashes { program, what, tally } in rows {
        let count = tally.acknowledged;
        writeln!(
            text,
            "| {program} | {what} | {} | {} | {} | {} | {} |",
            count.blobs, count.mounts, count.manifests, count.tags, count.deletes
        )?;
    }
    let examples: Vec<String> = rows
        .iter()
        .flat_map(|row| row.tally.examples.iter().take(3).map(move |example| (row, example)))
        .map(|(row, example)| {
            let short: String = example.chars().take(300).collect();
            format!("- {}, {}, {}", row.program, row.what, short.replace('\n', " "))
        })
        .collect();
    if !examples.is_empty() {
        write!(text, "\nThe first breaches:\n\n{}\n", examples.join("\n"))?;
    }
    Ok(())
}

fn table_of_races(text: &mut String, rows: &[(&str, Race)]) -> Result<()> {
    text.push_str(
        "\n| program | s | collections | images tried | acknowledged | deleted | layers reused | refused | \
         broken | broken of acknowledged | blobs left after deleting everything |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (program, race) in rows {
        let share = 100.0 * race.broken as f64 / race.acknowledged.max(1) as f64;
        writeln!(
            text,
            "| {program} | {} | {} | {} | {} | {} | {} | {} | {} | {share:.1} % | {} |",
            race.took.as_secs(),
            race.collections.map_or_else(|| "always".to_owned(), |count| count.to_string()),
            race.tried,
            race.acknowledged,
            race.deleted,
            race.reused,
            race.refused,
            race.broken,
            race.left.map_or_else(|| "-".to_owned(), |left| left.to_string()),
        )?;
    }
    Ok(())
}

/// What it ran on.
fn host() -> Result<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cores = std::thread::available_parallelism()?;
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty"]).current_dir(crate::workspace());
    let commit = process::run(&mut git).unwrap_or_else(|_| "of a copy without history".to_owned());
    let mut version = Command::new(crate::tool("docker-registry")?);
    let version = process::run(version.arg("--version"))?;
    let version = version.split_whitespace().last().context("a version")?.to_owned();
    Ok(format!(
        "Linux {}, {cores} processors; registry {}; docker-registry {version}.\n",
        kernel.trim(),
        commit.trim()
    ))
}

/// Writes the page, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write(results: &Results, path: &Path) -> Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, page(results)?)
        .with_context(|| format!("write {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("write {}", path.display()))
}
