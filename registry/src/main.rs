//! The command line of the registry.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use registry::admin::AdminCommand;
use registry::config::{Config, ConfigError, Loaded};
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
    /// Serve a directory of images, until SIGTERM. SIGHUP reads the log's level again
    Serve(ServeArgs),
    /// Ask a running registry whether it is ready; exit 0 if so
    Healthcheck {
        /// Where it listens
        #[arg(default_value = "http://127.0.0.1:5000/readyz")]
        url: String,
    },
    /// Look at a configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    #[command(flatten)]
    Admin(AdminCommand),
    /// Print the version
    Version,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with a configuration; exit 78 if anything is
    Check(ConfigArgs),
    /// Print the configuration that file and environment give together, secrets hidden
    Print(ConfigArgs),
}

#[derive(Args)]
struct ConfigArgs {
    /// Configuration file (YAML, distribution's keys); REGISTRY_* variables override it
    #[arg(value_name = "CONFIG", env = "REGISTRY_CONFIGURATION_PATH")]
    file: Option<PathBuf>,
}

#[derive(Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
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
        Command::Healthcheck { url } => healthcheck(&url),
        Command::Config { command } => config(command),
        Command::Admin(command) => admin(command),
        Command::Version => {
            println!("registry {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

fn load(args: &ConfigArgs) -> Result<Loaded, ExitCode> {
    Config::load(args.file.as_deref()).map_err(|error| {
        eprintln!("registry: {error}");
        if matches!(error, ConfigError::Read { .. }) {
            eprintln!("hint: without a file, leave the argument out");
        }
        ExitCode::from(EXIT_CONFIG)
    })
}

fn config(command: ConfigCommand) -> ExitCode {
    let (args, print) = match &command {
        ConfigCommand::Check(args) => (args, false),
        ConfigCommand::Print(args) => (args, true),
    };
    match load(args) {
        Ok(loaded) => {
            for note in &loaded.notes {
                eprintln!("registry: {note}");
            }
            if print {
                println!("{}", loaded.effective);
            }
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

fn admin(command: AdminCommand) -> ExitCode {
    let file = command.config_file().map(Path::to_owned);
    let file = file.or_else(|| std::env::var_os("REGISTRY_CONFIGURATION_PATH").map(PathBuf::from));
    let Loaded { mut config, .. } = match load(&ConfigArgs { file }) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Some(root) = &command.place().root {
        config.root.clone_from(root);
    }
    registry::admin::execute(command, &config)
}

fn serve(args: ServeArgs) -> ExitCode {
    let Loaded { mut config, notes, .. } = match load(&args.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Some(addr) = args.addr {
        config.addr = addr;
    }
    if let Some(root) = args.root {
        config.root = root;
    }
    if let Some(level) = &args.log_level {
        config.log.level.clone_from(level);
    }
    let level = match observe::init(&config.log) {
        Ok(level) => level,
        Err(error) => {
            eprintln!("registry: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    for note in notes {
        tracing::warn!("{note}");
    }
    let file = args.config.file;
    let reload = move || {
        let read = Config::load(file.as_deref()).map_err(|error| error.to_string())?;
        // A level on the command line wins here as it did at the start.
        let wanted = args.log_level.as_ref().unwrap_or(&read.config.log.level);
        level.set(wanted).map_err(|error| error.to_string())
    };
    match registry::serve(&config, reload) {
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

/// How long a health check waits for anything.
const HEALTHCHECK_WAIT: Duration = Duration::from_secs(5);

/// Asks over plain HTTP; an image without curl has nothing else to ask with.
fn healthcheck(url: &str) -> ExitCode {
    match ask(url) {
        Ok(status) if status.starts_with("200") => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!("registry: {url} answers {status}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("registry: {url}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The status of a GET: code and reason.
fn ask(url: &str) -> std::io::Result<String> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let rest = url.strip_prefix("http://").ok_or_else(invalid)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, "readyz"));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let address = address.to_socket_addrs()?.next().ok_or_else(invalid)?;
    let mut tcp = TcpStream::connect_timeout(&address, HEALTHCHECK_WAIT)?;
    tcp.set_read_timeout(Some(HEALTHCHECK_WAIT))?;
    write!(tcp, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.take(64 << 10).read_to_string(&mut answer)?;
    let status = answer.lines().next().and_then(|line| line.split_once(' '));
    Ok(status.map_or_else(|| "nothing".to_owned(), |(_, status)| status.to_owned()))
}
