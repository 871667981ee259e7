//! The official conformance suite, in both of the registry's settings for manifests whose content
//! is missing: nothing may fail, and nothing may be skipped. A registry that is known to fail shows
//! that failures would be seen.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use conformance::janitor::Scratch;
use conformance::process::run_for;
use conformance::registry::{Options, Program, Registry};

#[test]
fn official_suite_by_default() -> Result<()> {
    official(Options::default(), false)
}

#[test]
fn official_suite_with_missing_content_accepted() -> Result<()> {
    let options = Options::default().env("REGISTRY_VALIDATION_MANIFESTS_MISSING", "accept");
    official(options, true)
}

/// Debian's docker-registry 2.8.2 knows no referrers and takes chunks in any order.
#[test]
fn official_suite_finds_what_another_registry_lacks() -> Result<()> {
    let outcome = run(Options::default().program(Program::DockerRegistry), false)?;
    println!("docker-registry\n  {:?}", outcome.tests);
    ensure!(outcome.tests.passed > 100, "the suite did not get through: {:?}", outcome.tests);
    let failed = |counts: &Counts| counts.others.iter().filter(|l| l.ends_with(": FAIL")).count();
    ensure!(failed(&outcome.tests) > 0, "no failure was read: {:?}", outcome.tests);
    ensure!(failed(&outcome.kinds) > 0, "no failure was read: {:?}", outcome.kinds);
    ensure!(outcome.check(false).is_err(), "it would have passed");
    Ok(())
}

fn official(options: Options, sparse: bool) -> Result<()> {
    let outcome = run(options, sparse)?;
    println!("official suite, missing content accepted: {sparse}\n  {outcome:?}");
    outcome.check(sparse)
}

/// What the suite has found.
#[derive(Debug)]
struct Outcome {
    /// Kinds of requests and of data.
    kinds: Counts,
    tests: Counts,
    succeeded: bool,
}

impl Outcome {
    /// Whether everything passed that is not switched off.
    fn check(&self, sparse: bool) -> Result<()> {
        let Self { kinds, tests, succeeded } = self;
        ensure!(tests.passed > 900 && kinds.passed > 40, "fewer tests than expected: {tests:?}");
        ensure!(tests.others.is_empty(), "did not pass:\n{}", tests.others.join("\n"));
        let disabled = kinds.others.iter().filter(|line| line.ends_with(": Disabled")).count();
        ensure!(disabled == kinds.others.len(), "did not pass:\n{}", kinds.others.join("\n"));
        // What is switched off is named: only the content that this setting refuses.
        ensure!(disabled == usize::from(!sparse), "switched off: {:?}", kinds.others);
        ensure!(*succeeded, "the suite ended with an error");
        Ok(())
    }
}

fn run(options: Options, sparse: bool) -> Result<Outcome> {
    let registry = Registry::start(options)?;
    let scratch = Scratch::new("official")?;
    let results = scratch.join("results");
    fs::create_dir(&results)?;
    let mut suite = Command::new(conformance::tool("conformance")?);
    suite
        // Its own configuration file would be read from here.
        .current_dir(scratch.path())
        .env("OCI_REGISTRY", registry.host())
        .env("OCI_TLS", "disabled")
        .env("OCI_VERSION", "dev")
        .env("OCI_DATA_SPARSE", sparse.to_string())
        .env("OCI_RESULTS_DIR", &results);
    let output = run_for(Duration::from_secs(300), &mut suite)?;
    // A suite that could not read its configuration exits 0 as well: only what it wrote just now
    // counts. The report has one line for each kind of request and of data, the output one for
    // each test; a skip shows in the latter alone.
    let report = fs::read_to_string(results.join("results.yaml")).with_context(|| {
        format!("the suite left no results\n{}\n{}", output.stdout, output.stderr)
    })?;
    let kinds = report.split_once("\napis:\n").map_or("", |(_, kinds)| kinds);
    let kinds = Counts::of(kinds.lines().filter(|line| line.starts_with("  ")))?;
    let tests = Counts::of(
        output.stdout.lines().filter(|line| line.trim_start().starts_with("OCI Conformance Test")),
    )?;
    Ok(Outcome { kinds, tests, succeeded: output.status.success() })
}

/// How many passed, and the lines of all others.
#[derive(Debug, Default)]
struct Counts {
    passed: usize,
    others: Vec<String>,
}

impl Counts {
    fn of<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut counts = Self::default();
        for line in lines {
            match line.rsplit_once(": ").map(|(_, status)| status.trim()) {
                Some("Pass") => counts.passed += 1,
                Some("Skip" | "FAIL" | "Error" | "Disabled") => {
                    counts.others.push(line.trim().to_owned());
                }
                _ => bail!("no status of a test: {line:?}"),
            }
        }
        Ok(counts)
    }
}
