//! `conformance`: the demonstration, and what tests and benchmarks start.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
