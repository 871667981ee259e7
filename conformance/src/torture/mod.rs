//! Power cuts, `kill -9` and collection at full speed, under a mixed load, with a log on the
//! clients' side of everything that was acknowledged.
//!
//! ```text
//! load  ->  crash at a random moment  ->  journal replay, fsck, restart  ->  read everything, judge
//! ```
//! The same runs try Debian's `docker-registry`, and builds of the registry with a sync left out,
//! which must be noticed: a number of crashes survived says nothing otherwise.

pub mod disk;
pub mod load;
pub mod oracle;
pub mod race;
pub mod report;
pub mod verify;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::image::Random;
use crate::process::{self, Server};
use crate::registry::{Options, Program, Registry};
use disk::{CutDisk, FileSystem};
use load::{Abilities, Client, Round};
use oracle::{Acknowledged, Breach, Oracle};
use verify::{Seen, Uploads};

/// Clients at once.
const CLIENTS: usize = 6;
/// Crashes on one file system, before a fresh one: what is stored grows, and all of it is read
/// after each crash.
const ROUNDS_PER_STORE: usize = 10;
/// How long collection leaves alone what nobody names; many rounds are shorter.
const GRACE: Duration = Duration::from_secs(3);

/// What ends the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The disk is gone in the middle of writes, and the process after it.
    PowerCut,
    /// `kill -9` of the process.
    Kill,
}

/// What is tried.
#[derive(Clone, Debug)]
pub struct Target {
    pub program: Program,
    /// A build with points that fail on purpose, and which of them do.
    pub known_bad: Option<(PathBuf, String)>,
}

impl Target {
    pub fn roadstead() -> Self {
        Self { program: Program::Roadstead, known_bad: None }
    }

    pub fn docker_registry() -> Self {
        Self { program: Program::DockerRegistry, known_bad: None }
    }

    /// Our registry with a step left out (see `registry/src/failpoint.rs`).
    ///
    /// # Errors
    /// When that build does not exist.
    pub fn known_bad(failpoints: &str) -> Result<Self> {
        let build = crate::failpoints_bin()?;
        Ok(Self { program: Program::Roadstead, known_bad: Some((build, failpoints.to_owned())) })
    }

    fn has_collection(&self) -> bool {
        self.program == Program::Roadstead
    }

    fn binary(&self) -> Result<PathBuf> {
        match &self.known_bad {
            Some((binary, _)) => Ok(binary.clone()),
            None => crate::bin("registry"),
        }
    }

    /// Collection as fast as it can be set, and every whole block past the page cache.
    fn options(&self) -> Result<Options> {
        let mut options = Options::default().program(self.program);
        if self.has_collection() {
            options = options
                .binary(self.binary()?)
                .env("REGISTRY_GC_GRACE", &format!("{}s", GRACE.as_secs()))
                .env("REGISTRY_GC_REVIEWDELAY", "300ms")
                .env("REGISTRY_GC_INTERVAL", "100ms")
                .env("REGISTRY_STORAGE_FILESYSTEM_DIRECTFROM", "0");
        }
        if let Some((_, failpoints)) = &self.known_bad {
            options = options.env("REGISTRY_FAILPOINTS", failpoints);
        }
        Ok(options)
    }
}

/// A number of crashes.
#[derive(Clone, Debug)]
pub struct Campaign {
    pub target: Target,
    pub crash: Crash,
    pub file_system: FileSystem,
    pub crashes: usize,
    pub seed: u64,
    /// For what is known to be bad: one loss is enough, and the clients' log must see it, not the
    /// registry's own checker.
    pub until_loss: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub crashes: usize,
    pub acknowledged: Acknowledged,
    pub uploads: Seen,
    pub breaches: BTreeMap<Breach, usize>,
    /// What the first breaches were, each with the seed of its store and the crash's number.
    pub examples: Vec<String>,
    pub took: Duration,
}

impl Tally {
    pub fn broken(&self) -> usize {
        self.breaches.values().sum()
    }

    /// Promises about what was acknowledged that the clients' log saw broken.
    pub fn losses(&self) -> usize {
        let losses = self.breaches.iter().filter(|(breach, _)| breach.is_loss());
        losses.map(|(_, count)| count).sum()
    }

    fn add_breaches(&mut self, seed: u64, crash: usize, breaches: Vec<(Breach, String)>) {
        for (breach, text) in breaches {
            *self.breaches.entry(breach).or_default() += 1;
            if self.examples.len() < 20 {
                self.examples.push(format!("store {seed}, crash {crash}: {breach:?}: {text}"));
            }
        }
    }
}

/// Crashes so many times; each store's seed is the campaign's plus its number.
///
/// # Errors
/// When the rig itself fails. Breaches are in the tally.
pub fn run(campaign: &Campaign) -> Result<Tally> {
    crate::require_root()?;
    let began = Instant::now();
    let mut tally = Tally::default();
    let mut seed = campaign.seed;
    while tally.crashes < campaign.crashes && !(campaign.until_loss && tally.losses() > 0) {
        let rounds = ROUNDS_PER_STORE.min(campaign.crashes - tally.crashes);
        one_store(campaign, seed, rounds, &mut tally)
            .with_context(|| format!("store {seed}, {:?}", campaign.target))?;
        seed += 1;
    }
    tally.took = began.elapsed();
    Ok(tally)
}

fn one_store(campaign: &Campaign, seed: u64, rounds: usize, tally: &mut Tally) -> Result<()> {
    let mut random = Random::new(seed);
    let disk = CutDisk::new(campaign.file_system)?;
    let has_collection = campaign.target.has_collection();
    let oracle = Oracle::new(has_collection.then_some(GRACE));
    let boot = Boot::new(campaign)?;
    let options = boot.wrap(campaign.target.options()?.data(disk.path().join("data")));
    boot.next(&mut random)?;
    let mut store = Store { campaign, registry: Registry::start(options)?, disk, boot };
    let round = Round::default();
    let abilities = Abilities { deletes_tags: campaign.target.program == Program::Roadstead };
    let address = store.registry.address();
    let mut clients: Vec<Client<'_>> = (0..CLIENTS)
        .map(|n| Client::new(address, &oracle, &round, abilities, n, CLIENTS, seed))
        .collect();
    for crash in 1..=rounds {
        round.over.store(false, Ordering::Release);
        thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| client.work());
            }
            store.crash(&round, &mut random);
        });
        store.recover(&oracle, &mut random)?;
        let seen = verify::check(&store.registry, &oracle, campaign.crash.uploads())?;
        tally.crashes += 1;
        tally.uploads.resumed += seen.resumed;
        tally.uploads.started_over += seen.started_over;
        if has_collection && !campaign.until_loss && random.below(4) == 0 {
            store.fsck(&oracle)?;
        }
        tally.add_breaches(seed, crash, oracle.take_breaches());
        if campaign.until_loss && tally.losses() > 0 {
            break;
        }
    }
    drop(clients);
    if has_collection && !campaign.until_loss {
        store.end(&oracle)?;
        tally.add_breaches(seed, rounds, oracle.take_breaches());
    }
    add(&mut tally.acknowledged, oracle.acknowledged());
    Ok(())
}

fn add(sum: &mut Acknowledged, more: Acknowledged) {
    sum.blobs += more.blobs;
    sum.mounts += more.mounts;
    sum.manifests += more.manifests;
    sum.tags += more.tags;
    sum.deletes += more.deletes;
}

impl Crash {
    fn uploads(self) -> Uploads {
        match self {
            Self::PowerCut => Uploads::MayStartOver,
            Self::Kill => Uploads::GoOn,
        }
    }
}

/// After a power cut the registry must not believe what it believes within one boot, so it is
/// shown another boot id: in a mount namespace of its own, over the kernel's file.
struct Boot(Option<crate::janitor::Scratch>);

impl Boot {
    fn new(campaign: &Campaign) -> Result<Self> {
        let power = campaign.crash == Crash::PowerCut;
        let ours = campaign.target.program == Program::Roadstead;
        Ok(Self((power && ours).then(|| crate::janitor::Scratch::new("boot")).transpose()?))
    }

    fn wrap(&self, options: Options) -> Options {
        let Some(scratch) = &self.0 else { return options };
        let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let file = scratch.join("boot_id");
        let mut words = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script]
            .map(std::ffi::OsString::from)
            .to_vec();
        words.push(file.into());
        options.wrapper(words)
    }

    fn next(&self, random: &mut Random) -> Result<()> {
        let Some(scratch) = &self.0 else { return Ok(()) };
        let (high, low) = (random.next_u64(), random.next_u64());
        let id = format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}\n",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            low >> 48 & 0xfff,
            low & 0xffff_ffff_ffff
        );
        Ok(fs::write(scratch.join("boot_id"), id)?)
    }
}

/// A registry on its disk.
struct Store<'c> {
    campaign: &'c Campaign,
    registry: Registry,
    disk: CutDisk,
    boot: Boot,
}

impl Store<'_> {
    /// Lets the load go on for a random time, then ends it.
    fn crash(&mut self, round: &Round, random: &mut Random) {
        // Some crashes come during the work that a start leaves for later.
        let bound = if random.below(8) == 0 { 30 } else { 1200 };
        let moment = Instant::now() + Duration::from_millis(random.below(bound) as u64);
        if random.below(3) == 0 {
            // Part of what nobody asked to be synced is on the disk as well.
            let early = Duration::from_millis(random.below(200) as u64);
            thread::sleep(moment.saturating_duration_since(Instant::now()).saturating_sub(early));
            sync_all(&self.disk.path());
        }
        thread::sleep(moment.saturating_duration_since(Instant::now()));
        // Before, so that no failure that follows counts; what is acknowledged all the same does.
        round.over.store(true, Ordering::Release);
        if self.campaign.crash == Crash::PowerCut {
            self.disk.cut();
        }
        self.registry.server().kill();
    }

    fn recover(&mut self, oracle: &Oracle, random: &mut Random) -> Result<()> {
        self.revive(random)?;
        if self.campaign.target.has_collection() && random.below(4) == 0 {
            self.crash_in_recovery(random)?;
        }
        let has_checker = self.campaign.target.has_collection() && !self.campaign.until_loss;
        if has_checker && random.below(2) == 0 {
            self.fsck(oracle)?;
        }
        self.registry.restart().context("start after the crash")
    }

    fn revive(&mut self, random: &mut Random) -> Result<()> {
        if self.campaign.crash == Crash::PowerCut {
            self.disk.revive()?;
            self.boot.next(random)?;
        }
        Ok(())
    }

    /// Crashes once more while the first crash is being put right: the log is read, removals are
    /// finished, files without a record are swept.
    fn crash_in_recovery(&mut self, random: &mut Random) -> Result<()> {
        let mut command = Command::new(self.campaign.target.binary()?);
        command.args(["garbage-collect", "--quiet", "--root"]).arg(self.registry.data());
        command.env("REGISTRY_GC_GRACE", format!("{}s", GRACE.as_secs()));
        let mut recovery = Server::start(&mut command, &self.registry.log())?;
        thread::sleep(Duration::from_millis(random.below(60) as u64));
        if self.campaign.crash == Crash::PowerCut {
            self.disk.cut();
        }
        recovery.kill();
        self.revive(random)
    }

    /// The registry's own checker, on the stopped directory or through the live server.
    fn fsck(&self, oracle: &Oracle) -> Result<serde_json::Value> {
        let mut command = Command::new(self.campaign.target.binary()?);
        command.args(["fsck", "--json", "--root"]).arg(self.registry.data());
        let output = process::run_for(Duration::from_secs(120), &mut command)?;
        if !output.status.success() {
            let text = format!("{}: {} {}", output.status, output.stdout, output.stderr);
            oracle.breach(Breach::Fsck, text);
        }
        Ok(serde_json::from_str(&output.stdout).unwrap_or_default())
    }

    /// The end of a store: what the crashes left behind comes back.
    fn end(&mut self, oracle: &Oracle) -> Result<()> {
        self.registry.server().stop(Duration::from_secs(60))?;
        let mut command = Command::new(self.campaign.target.binary()?);
        command.args(["garbage-collect", "--quiet", "--grace", "0", "--root"]);
        process::run(command.arg(self.registry.data()))?;
        let report = self.fsck(oracle)?;
        if report["leftovers"] != 0 {
            oracle.breach(Breach::Fsck, format!("left over after collection: {report}"));
        }
        Ok(())
    }
}

/// Asks the file system to write everything; it may be gone meanwhile.
fn sync_all(path: &Path) {
    if let Ok(directory) = fs::File::open(path) {
        let _ = rustix::fs::syncfs(&directory);
    }
}
