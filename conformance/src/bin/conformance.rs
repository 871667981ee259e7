//! `conformance`: the demonstration, and what tests and benchmarks start.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use conformance::ship::{self, build::Platform};
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
    /// Write the registry's image, which docker, podman, skopeo and ctr load
    Image {
        /// Directory to write to
        directory: PathBuf,
        /// Cargo's profile; people get `dist`
        #[arg(long, default_value = "dist")]
        profile: String,
        /// Fail when a platform cannot be built for on this host
        #[arg(long, conflicts_with = "host_only")]
        all_platforms: bool,
        /// This machine's platform alone
        #[arg(long)]
        host_only: bool,
    },
    /// Write the Debian packages of both programs, for this machine's platform
    Packages {
        /// Directory to write to
        directory: PathBuf,
        /// Cargo's profile; people get `dist`
        #[arg(long, default_value = "dist")]
        profile: String,
    },
    /// Write all that people install, for every platform, into one directory
    Release {
        /// Directory to write to
        directory: PathBuf,
    },
    /// Pack the chart
    Chart {
        /// Directory to write to
        directory: PathBuf,
    },
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
    /// Builds with a step left out as well, which must be noticed (the debug build)
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

fn image(
    directory: &Path,
    profile: &str,
    all_platforms: bool,
    host_only: bool,
) -> anyhow::Result<()> {
    let mut binaries = Vec::new();
    let mut missing = Vec::new();
    // This machine's first: it is the one that `docker load` takes.
    let host = Platform::host()?;
    let others = Platform::ALL.into_iter().filter(|platform| *platform != host && !host_only);
    for platform in std::iter::once(host).chain(others) {
        match platform.obstacle() {
            Some(why) => missing.push(format!("without {}: {why}", platform.architecture())),
            None => binaries.push((platform, ship::build::build("registry", platform, profile)?)),
        }
    }
    anyhow::ensure!(missing.is_empty() || !all_platforms, "{}", missing.join("; "));
    let image = ship::image::write(directory, &binaries)?;
    println!("{} {} {}", image.path.display(), image.reference, image.digest);
    for line in missing {
        eprintln!("conformance: the image is {line}");
    }
    Ok(())
}

/// Gives the packages' paths.
fn packages(directory: &Path, profile: &str) -> anyhow::Result<Vec<PathBuf>> {
    let host = Platform::host()?;
    let registry = ship::build::build("registry", host, profile)?;
    let rrun = ship::build::build("rrun", host, profile)?;
    let packages = ship::deb::write(directory, [&registry, &rrun], host)?;
    for package in &packages {
        println!("{}", package.display());
    }
    Ok(packages)
}

fn release(directory: &Path) -> anyhow::Result<()> {
    image(directory, "dist", true, false)?;
    println!("{}", ship::chart::package(directory)?.display());
    packages(directory, "dist")?;
    println!("{}", ship::deb::checksums(directory)?.display());
    Ok(())
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Action::Install => conformance::install::install(),
        Action::Image { directory, profile, all_platforms, host_only } => {
            image(&directory, &profile, all_platforms, host_only)
        }
        Action::Packages { directory, profile } => packages(&directory, &profile).map(drop),
        Action::Release { directory } => release(&directory),
        Action::Chart { directory } => {
            ship::chart::package(&directory).map(|path| println!("{}", path.display()))
        }
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
