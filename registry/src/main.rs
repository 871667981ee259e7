//! The command line of the registry.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use registry::config::Config;
use registry::{ServeError, observe};

/// Exit code for a configuration that cannot be served. Source: sysexits(3), `EX_CONFIG`.
const EXIT_CONFIG: u8 = 78;

#[derive(Parser)]
#[command(name = "registry", version, about = "A container image registry", long_about = None)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a directory of images
    Serve(ServeArgs),
    /// Print the version
    Version,
}

#[derive(Args)]
struct ServeArgs {
    /// Address to listen on [default: 127.0.0.1:5000]
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// Directory that holds the images [default: ./registry-data]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve(args),
        Command::Version => {
            println!("registry {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

fn serve(args: ServeArgs) -> ExitCode {
    let mut config = Config::default();
    let from = |flag: Option<String>, name: &str| flag.or_else(|| std::env::var(name).ok());
    if let Some(addr) = from(args.addr, "REGISTRY_HTTP_ADDR") {
        config.addr = addr;
    }
    let root = args.root.map(|root| root.to_string_lossy().into_owned());
    if let Some(root) = from(root, "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY") {
        config.root = root.into();
    }
    if let Some(level) = from(args.log_level, "REGISTRY_LOG_LEVEL") {
        config.log.level = level;
    }
    match log_format() {
        Ok(format) => config.log.format = format,
        Err(value) => {
            eprintln!("registry: REGISTRY_LOG_FORMATTER is {value:?}: it can be text or json");
            return ExitCode::from(EXIT_CONFIG);
        }
    }
    if let Err(error) = observe::init(&config.log) {
        eprintln!("registry: {error}");
        return ExitCode::from(EXIT_CONFIG);
    }
    match registry::serve(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("registry: {error}");
            match error {
                ServeError::Store(_) | ServeError::Records(_) => ExitCode::from(EXIT_CONFIG),
                ServeError::Server(_) | ServeError::Runtime(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// `REGISTRY_LOG_FORMATTER`, distribution's name for the form of the log; the error is its value.
fn log_format() -> Result<Option<observe::Format>, String> {
    match std::env::var("REGISTRY_LOG_FORMATTER") {
        Err(_) => Ok(None),
        Ok(value) => match value.as_str() {
            "text" => Ok(Some(observe::Format::Text)),
            "json" | "logstash" => Ok(Some(observe::Format::Json)),
            _ => Err(value),
        },
    }
}
