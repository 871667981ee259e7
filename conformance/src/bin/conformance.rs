//! `conformance`: the demonstration, and what tests and benchmarks start.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use conformance::torture::disk::FileSystem;
use conformance::torture::report;

#[derive(Parser)]
#[command(
    about = "Roadstead from outside: demonstration, checks, benchmarks",
    disable_version_flag = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Install the Debian packages and build the Go programs that tests and benchmarks need (root)
    Install,
    /// Start a registry, push an image, run it with rrun, clean up
    Demo,
    /// Measure beside the peers and print Markdown
    #[command(subcommand)]
    Bench(Bench),
    /// Power cuts, kills and collection at full speed under load, beside Debian's docker-registry (root)
    Torture(Torture),
    /// Check that rrun works on this host, with a Debian image from a registry
    CheckRunner {
        /// An image like localhost:5000/debian:1 that the tests pushed
        reference: String,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Pushes and pulls beside Debian's docker-registry and nginx (root)
    Registry {
        /// Rounds
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Warm starts beside runc, crun, podman and docker; pulls beside docker and podman
    Runner {
        /// Rounds of starts; 0 leaves them out
        #[arg(long, default_value_t = 30)]
        rounds: usize,
        /// Rounds of pulls; 0 leaves them out
        #[arg(long, default_value_t = 3)]
        pulls: usize,
    },
}

#[derive(Args)]
struct Torture {
    /// Power cuts on each file system
    #[arg(long, default_value_t = 100)]
    cuts: usize,
    /// Kills of the process
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// How long clients push while collection runs; 0 leaves it out
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The first store's seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// File systems whose power is cut
    #[arg(long, value_delimiter = ',', default_value = "ext4,xfs")]
    fs: Vec<FileSystem>,
    /// The same with Debian's docker-registry
    #[arg(long)]
    peer: bool,
    /// Builds with a step left out as well, which must be noticed (`make failpoints`)
    #[arg(long)]
    known_bad: bool,
    /// Write the page about it here, not to stdout
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn torture(arguments: Torture) -> anyhow::Result<()> {
    let results = report::run(report::Plan {
        cuts: arguments.cuts,
        kills: arguments.kills,
        race: Duration::from_secs(arguments.seconds),
        seed: arguments.seed,
        file_systems: arguments.fs,
        peer: arguments.peer,
        known_bad: arguments.known_bad,
    })?;
    match &arguments.report {
        Some(path) => report::write(&results, path)?,
        None => print!("{}", report::page(&results)?),
    }
    let failures = results.failures();
    anyhow::ensure!(failures.is_empty(), "promises were broken:\n{}", failures.join("\n"));
    Ok(())
}

fn bench_registry(rounds: usize) -> anyhow::Result<()> {
    println!("## Registry\n\n{}", conformance::bench::registry::measure(rounds)?);
    Ok(())
}

fn bench_runner(rounds: usize, pulls: usize) -> anyhow::Result<()> {
    println!("## Runner");
    if rounds > 0 {
        print!("\n{}", conformance::bench::start::measure(rounds)?);
    }
    if pulls > 0 {
        print!("\n{}", conformance::bench::pull::measure(pulls)?);
    }
    Ok(())
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Action::Install => conformance::install::install(),
        Action::Demo => conformance::demo::run(),
        Action::Bench(Bench::Registry { rounds }) => bench_registry(rounds),
        Action::Bench(Bench::Runner { rounds, pulls }) => bench_runner(rounds, pulls),
        Action::Torture(arguments) => torture(arguments),
        Action::CheckRunner { reference } => conformance::basics::check_host(&reference),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}
