//! The operators' side of the command line.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};
use shared::{RepoName, Tag};
use tokio::sync::mpsc;

use super::run::{chain, run};
use super::{Command, EXIT_DAMAGE, Line, Store, socket, words};
use crate::config::{Config, Storage};
use crate::content::collect::Collector;
use crate::content::{Content, backup};
use crate::open::{OpenError, Opened, open};
use crate::records::{Records, sqlite};
use crate::store::disk::{self, Disk};

/// Exit code for a store that cannot be opened. Source: sysexits(3), `EX_CONFIG`.
const EXIT_CONFIG: u8 = 78;

/// Where the store is.
#[derive(Args, Clone, Debug, Default)]
pub struct Place {
    /// Directory that holds the images [default: the configuration's, else ./registry-data]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// What operators do. On a live server through its socket, on a stopped directory directly.
#[derive(Subcommand, Clone, Debug)]
pub enum AdminCommand {
    /// Free what nobody names. The server does so by itself, always; this is for now
    #[command(visible_alias = "gc")]
    GarbageCollect {
        // Like distribution's, the flags take a value as well: --delete-untagged=true.
        /// Say what would be freed, free nothing
        #[arg(short, long, num_args = 0..=1, require_equals = true,
              default_missing_value = "true", default_value = "false", value_name = "BOOL",
              action = ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
        dry_run: bool,
        /// Delete manifests first that no tag, no index and no existing subject keeps
        #[arg(short = 'm', long, num_args = 0..=1, require_equals = true,
              default_missing_value = "true", default_value = "false", value_name = "BOOL",
              action = ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
        delete_untagged: bool,
        /// How long something must have been unnamed, e.g. 2h; 0 frees at once what nobody names,
        /// and a push that is under way may have to be repeated [default: the server's, 24h]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        grace: Option<Duration>,
        /// Print nothing
        #[arg(short, long, num_args = 0..=1, require_equals = true,
              default_missing_value = "true", default_value = "false", value_name = "BOOL",
              action = ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
        quiet: bool,
        /// The server's configuration file
        #[arg(value_name = "CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Check everything that is stored. Exits with 4 if something is damaged
    Fsck {
        /// Put right what has one right answer; take rotten blobs out of service
        #[arg(long)]
        repair: bool,
        /// Do not read the blobs, look at their lengths only
        #[arg(long)]
        quick: bool,
        /// One JSON object instead of lines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Show what repositories take up
    Du {
        #[arg(value_name = "REPOSITORY")]
        repositories: Vec<RepoName>,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// List or remove repositories
    #[command(subcommand)]
    Repo(RepoCommand),
    /// List or remove tags
    #[command(subcommand)]
    Tag(TagCommand),
    /// Copy the whole store; a second time only what is new
    Backup {
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Make a store of a backup, in a directory that holds none
    Restore {
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Subcommand, Clone, Debug)]
pub enum RepoCommand {
    /// List repositories
    Ls {
        #[command(flatten)]
        place: Place,
    },
    /// Delete repositories with all their tags and manifests
    Rm {
        #[arg(value_name = "REPOSITORY", required = true)]
        repositories: Vec<RepoName>,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Subcommand, Clone, Debug)]
pub enum TagCommand {
    /// List a repository's tags and their digests
    Ls {
        #[arg(value_name = "REPOSITORY")]
        repository: RepoName,
        #[command(flatten)]
        place: Place,
    },
    /// Delete tags; their manifests stay
    Rm {
        #[arg(value_name = "REPOSITORY")]
        repository: RepoName,
        #[arg(value_name = "TAG", required = true)]
        tags: Vec<Tag>,
        #[command(flatten)]
        place: Place,
    },
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text)
        .ok_or_else(|| format!("{text:?} is not a duration such as 30s, 2h or 1h30m"))
}

impl AdminCommand {
    /// Where the command looks for the store.
    pub fn place(&self) -> &Place {
        match self {
            Self::GarbageCollect { place, .. }
            | Self::Fsck { place, .. }
            | Self::Du { place, .. }
            | Self::Repo(RepoCommand::Ls { place } | RepoCommand::Rm { place, .. })
            | Self::Tag(TagCommand::Ls { place, .. } | TagCommand::Rm { place, .. })
            | Self::Backup { place, .. }
            | Self::Restore { place, .. } => place,
        }
    }

    /// The configuration file that the command line names.
    pub fn config_file(&self) -> Option<&Path> {
        match self {
            Self::GarbageCollect { config, .. } => config.as_deref(),
            _ => None,
        }
    }

    /// The command as data; restoring has none, because no server can do it.
    fn command(self) -> io::Result<Result<Command, PathBuf>> {
        Ok(Ok(match self {
            Self::GarbageCollect { dry_run, delete_untagged, grace, quiet, .. } => {
                Command::GarbageCollect { dry_run, delete_untagged, grace, quiet }
            }
            Self::Fsck { repair, quick, json, .. } => Command::Fsck { repair, quick, json },
            Self::Du { repositories, json, .. } => Command::Du { repositories, json },
            Self::Repo(RepoCommand::Ls { .. }) => Command::RepoList,
            Self::Repo(RepoCommand::Rm { repositories, .. }) => {
                Command::RepoRemove { repositories }
            }
            Self::Tag(TagCommand::Ls { repository, .. }) => Command::TagList { repository },
            Self::Tag(TagCommand::Rm { repository, tags, .. }) => {
                Command::TagRemove { repository, tags }
            }
            // The server has another working directory.
            Self::Backup { directory, .. } => {
                Command::Backup { directory: std::path::absolute(directory)? }
            }
            Self::Restore { directory, .. } => return Ok(Err(directory)),
        }))
    }
}

/// Runs a command to its end; prints what it says.
pub fn execute(command: AdminCommand, config: &Config) -> ExitCode {
    let checking = matches!(command, AdminCommand::Fsck { .. });
    let done = actix_rt::System::new().block_on(async {
        match command.command()? {
            Ok(command) => anywhere(&command, config).await,
            Err(directory) => restore(&directory, config),
        }
    });
    match done {
        Ok(code) => ExitCode::from(code),
        // Whoever reads has enough: `registry repo ls | head`.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("registry: {}", chain(&error));
            match error {
                Failure::Open(OpenError::Records(error)) if checking && error.is_damage() => {
                    ExitCode::from(EXIT_DAMAGE)
                }
                Failure::Open(_) | Failure::NoStore(_) | Failure::InMemory => {
                    ExitCode::from(EXIT_CONFIG)
                }
                Failure::Io(_) | Failure::Restore(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// Why a command could not be run at all.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{} holds no registry's data: name its directory with --root", .0.display())]
    NoStore(PathBuf),
    #[error(
        "this configuration keeps everything in the server's memory (storage.inmemory), where no \
         command reaches it: name a directory with --root"
    )]
    InMemory,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Restore(#[from] backup::RestoreError),
}

fn print(line: Line) -> io::Result<()> {
    match line {
        Line::Out(text) => writeln!(io::stdout().lock(), "{text}"),
        Line::Err(text) => writeln!(io::stderr().lock(), "{text}"),
        Line::Exit(_) => Ok(()),
    }
}

/// On the live server if there is one, else here.
async fn anywhere(command: &Command, config: &Config) -> Result<u8, Failure> {
    if config.storage != Storage::Directory {
        return Err(Failure::InMemory);
    }
    if let Some(stream) = socket::connect(&config.root).await? {
        return Ok(socket::ask(stream, command, print).await?);
    }
    if !config.root.join(sqlite::DATABASE).exists() {
        return Err(Failure::NoStore(config.root.clone()));
    }
    let (store, records) = open_store(config)?;
    let (lines, mut receiver) = mpsc::channel(socket::LINES);
    let printing = async move {
        let mut exit = 1;
        while let Some(line) = receiver.recv().await {
            match line {
                Line::Exit(code) => exit = code,
                line => print(line)?,
            }
        }
        io::Result::Ok(exit)
    };
    let ((), exit) = tokio::join!(run(&store, command.clone(), lines), printing);
    if let Err(error) = records.close().await {
        eprintln!("registry: the records could not be closed: {error}");
    }
    Ok(exit?)
}

/// Opens the store as the server would; waits for nobody.
fn open_store(config: &Config) -> Result<(Store, Arc<dyn Records>), Failure> {
    let Opened { store, records, upkeep } = open(config, Duration::ZERO)?;
    let content = Content::new(store, Arc::clone(&records), upkeep, config.policy);
    let collector = Arc::new(Collector::new(content.clone(), config.gc));
    Ok((Store { content, collector }, records))
}

fn restore(directory: &Path, config: &Config) -> Result<u8, Failure> {
    if config.storage != Storage::Directory {
        return Err(Failure::InMemory);
    }
    let options = disk::Options { wait_for_lock: Duration::ZERO, ..config.store.clone() };
    let disk = Disk::open(&config.root, &options).map_err(OpenError::from)?;
    let mut said = std::time::Instant::now();
    let copied = backup::restore(directory, &disk, |copied| {
        if said.elapsed() > Duration::from_secs(5) {
            said = std::time::Instant::now();
            eprintln!("{} copied, {}", copied.blobs, words::bytes(copied.bytes));
        }
    })?;
    let (blobs, bytes) = (words::count(copied.blobs, "blob"), words::bytes(copied.bytes));
    print(Line::Out(format!("restored {blobs}, {bytes}, into {}", config.root.display())))?;
    for digest in &copied.rotten {
        eprintln!(
            "registry: {digest}: rotten in the backup, left out; `registry fsck` says who names it"
        );
    }
    Ok(if copied.rotten.is_empty() { 0 } else { EXIT_DAMAGE })
}
