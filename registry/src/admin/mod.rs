//! What operators do to a store: the same commands on a live server, through its socket, and on a
//! stopped directory, in the command's own process.
//!
//! A command is data ([`Command`]), run where the store is open ([`run`]), and answers in lines
//! ([`Line`]): what to print, and the exit code last.

mod cli;
mod run;
mod socket;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::{RepoName, Tag};

pub use cli::{AdminCommand, execute};
pub use run::{Store, run};
pub use socket::serve;

/// Exit code for damage found. Source: fsck(8), "errors left uncorrected".
pub const EXIT_DAMAGE: u8 = 4;

/// Something to do to a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    GarbageCollect {
        dry_run: bool,
        delete_untagged: bool,
        /// `None`: the configured one.
        grace: Option<Duration>,
        quiet: bool,
    },
    Fsck {
        repair: bool,
        quick: bool,
        json: bool,
    },
    Du {
        repositories: Vec<RepoName>,
        json: bool,
    },
    RepoList,
    RepoRemove {
        repositories: Vec<RepoName>,
    },
    TagList {
        repository: RepoName,
    },
    TagRemove {
        repository: RepoName,
        tags: Vec<Tag>,
    },
    /// The directory is absolute.
    Backup {
        directory: PathBuf,
    },
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// Data, for standard output.
    Out(String),
    /// Talk, for standard error.
    Err(String),
    /// The end: the exit code.
    Exit(u8),
}
