//! The command line of the registry.

mod explain;
mod healthcheck;
mod manual;
mod user;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use registry::admin::AdminCommand;
use registry::auth::Accounts;
use registry::config::{Config, ConfigError, Loaded, Storage};
use registry::tls::{self, Tls};
use registry::{OpenError, ServeError, observe};

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
    /// Serve a directory of images, until SIGTERM. SIGHUP reads the log's level and the certificate
    /// again
    #[command(after_help = "`registry config print` shows every setting, with its default.")]
    Serve(ServeArgs),
    /// Ask a running registry whether it is ready; exit 0 if so
    Healthcheck(healthcheck::Args),
    /// Look at a configuration; `config print` shows every setting, with its default
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Add and remove those who may log in (auth.htpasswd)
    User {
        #[command(subcommand)]
        command: user::Command,
    },
    /// Explain who may do what (access)
    Access {
        #[command(subcommand)]
        command: explain::Command,
    },
    #[command(flatten)]
    Admin(AdminCommand),
    /// Print a script with which a shell completes the registry's words
    Completion { shell: clap_complete::Shell },
    /// Write the manual's pages into a directory
    Man {
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print the version
    Version,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with a configuration; exit 78 if anything is
    Check(ConfigArgs),
    /// Print what is in effect with this file and environment, defaults included, as a file
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
    /// Certificate to show, with those between it and its authority (PEM); makes it HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

fn main() -> ExitCode {
    match Cli::parse_from(arguments(std::env::args_os())).command {
        Command::Serve(args) => serve(args),
        Command::Healthcheck(args) => healthcheck(&args),
        Command::Config { command } => config(command),
        Command::User { command } => users(&command),
        Command::Access { command } => access(&command),
        Command::Admin(command) => admin(command),
        Command::Completion { shell } => manual::completion(Cli::command(), shell),
        Command::Man { directory } => manual::pages(Cli::command(), &directory),
        Command::Version => {
            println!("registry {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

/// The command line, with the verb that `registry config.yml` leaves out: distribution's image is
/// told its file so.
fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<_> = given.collect();
    let file = words.get(1).map(Path::new).and_then(Path::extension);
    if file.is_some_and(|extension| extension == "yml" || extension == "yaml") {
        words.insert(1, "serve".into());
    }
    words
}

/// Where the configuration lies in images, which know nothing else of how they are started.
const PLACES: [&str; 2] = ["/etc/distribution/config.yml", "/etc/registry/config.yml"];

/// Asks the address on the command line, else the registry that is configured here.
fn healthcheck(args: &healthcheck::Args) -> ExitCode {
    if let Some(url) = &args.url {
        return healthcheck::run(args, url);
    }
    let named = std::env::var_os("REGISTRY_CONFIGURATION_PATH").map(PathBuf::from);
    let placed = || PLACES.into_iter().map(PathBuf::from).find(|path| path.is_file());
    match load(&ConfigArgs { file: named.or_else(placed) }) {
        Ok(loaded) => healthcheck::run(args, &healthcheck::url(&loaded.config)),
        Err(code) => code,
    }
}

/// By the rules of the configuration.
fn access(command: &explain::Command) -> ExitCode {
    let explain::Command::Explain { config, .. } = command;
    match load(&ConfigArgs { file: configuration(config.as_deref()) }) {
        Ok(loaded) => explain::run(command, &loaded.config),
        Err(code) => code,
    }
}

/// The file that a command's words name, else that of the server.
fn configuration(named: Option<&Path>) -> Option<PathBuf> {
    let variable = || std::env::var_os("REGISTRY_CONFIGURATION_PATH").map(PathBuf::from);
    let placed = || PLACES.into_iter().map(PathBuf::from).find(|path| path.is_file());
    named.map(Path::to_owned).or_else(variable).or_else(placed)
}

/// On the file that is named, else the one of the configuration.
fn users(command: &user::Command) -> ExitCode {
    let file = match command.file() {
        Some(file) => file.to_owned(),
        None => {
            match load(&ConfigArgs { file: configuration(command.config()) })
                .map(|loaded| loaded.config.accounts)
            {
                Ok(Some(accounts)) => accounts.path,
                Ok(None) => {
                    eprintln!("registry: auth.htpasswd.path is not configured");
                    eprintln!("hint: name the file: --file PATH");
                    return ExitCode::from(EXIT_CONFIG);
                }
                Err(code) => return code,
            }
        }
    };
    user::run(command, &file)
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
                print!("{}", loaded.effective);
                return ExitCode::SUCCESS;
            }
            check_files(loaded.config)
        }
        Err(code) => code,
    }
}

/// What a start would find out before it listens.
fn check_files(config: Config) -> ExitCode {
    let users = config.accounts.map(Accounts::open).transpose();
    let users = users.map(|users| users.iter().flat_map(Accounts::warnings).collect::<Vec<_>>());
    let tls = config.tls.map(Tls::new).transpose();
    let tls = tls.map(|tls| tls.iter().flat_map(Tls::warnings).collect::<Vec<_>>());
    let mut code = ExitCode::SUCCESS;
    for found in [users.map_err(|error| error.to_string()), tls.map_err(|error| error.to_string())]
    {
        match found {
            Ok(warnings) => warnings.iter().for_each(|warning| eprintln!("registry: {warning}")),
            Err(error) => {
                eprintln!("registry: {error}");
                code = ExitCode::from(EXIT_CONFIG);
            }
        }
    }
    code
}

fn admin(command: AdminCommand) -> ExitCode {
    let file = command.config_file().map(Path::to_owned);
    let file = file.or_else(|| std::env::var_os("REGISTRY_CONFIGURATION_PATH").map(PathBuf::from));
    let Loaded { mut config, .. } = match load(&ConfigArgs { file }) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Some(root) = &command.place().root {
        config.storage = Storage::Directory;
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
        if config.storage != Storage::Directory {
            eprintln!(
                "registry: --root: the configuration keeps everything in memory \
                 (storage.inmemory): leave one of them out"
            );
            return ExitCode::from(EXIT_CONFIG);
        }
        config.root = root;
    }
    if let (Some(certificate), Some(key)) = (args.tls_cert, args.tls_key) {
        let configured = config.tls.take();
        let defaults = tls::Settings::new(certificate.clone(), key.clone());
        config.tls = Some(tls::Settings { certificate, key, ..configured.unwrap_or(defaults) });
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
    let file = args.config.file.clone();
    let reload = move || {
        let read = Config::load(file.as_deref()).map_err(|error| error.to_string())?;
        // A level on the command line wins here as it did at the start.
        let wanted = args.log_level.as_ref().unwrap_or(&read.config.log.level);
        level.set(wanted).map_err(|error| error.to_string())
    };
    match registry::serve(&config, args.config.file.as_deref(), reload) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("registry: {error}");
            match error {
                ServeError::Privileges(_)
                | ServeError::Accounts(_)
                | ServeError::Tls(_)
                | ServeError::Open(OpenError::Store(_) | OpenError::Records(_)) => {
                    ExitCode::from(EXIT_CONFIG)
                }
                ServeError::Open(OpenError::Io(_))
                | ServeError::Server(_)
                | ServeError::Runtime(_) => ExitCode::FAILURE,
            }
        }
    }
}
