//! What a worker tells the process that started it: one JSON value on a pipe.

use serde::{Deserialize, Serialize};
use shared::DiffId;

use crate::container::RootAttributes;

/// How unpacking went.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    Unpacked(Unpacked),
    Refused(Refusal),
    /// The decoder alone: everything went through.
    Decoded {
        bytes: u64,
    },
}

/// A layer that was written whole. Nothing of it is synced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unpacked {
    /// The digest of the tar as it came by, its padding included.
    pub diff_id: DiffId,
    pub tar_bytes: u64,
    pub entries: u64,
    /// Content of regular files, bytes.
    pub bytes: u64,
    /// Directories that have no entry of their own, as text ([`crate::path_text::to_text`]).
    pub implied: Vec<String>,
    /// Directories that hold whiteouts, as text.
    pub whiteouts_in: Vec<String>,
    /// The layer's own entry for `/`.
    pub root: Option<RootAttributes>,
    pub opaque_root: bool,
    /// The largest id of an owner.
    pub id_max: u32,
}

/// Why a layer was not written. What was written until then is to be thrown away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// The entry's path as text; empty where it is about the layer as a whole.
    pub entry: String,
    pub why: String,
    /// How far the tar had come, bytes.
    #[serde(default)]
    pub tar_bytes: u64,
}

/// Refusals that the caller treats differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The compressed bytes are not what they say.
    Compression,
    /// Not a tar, or one that ends too early.
    Format,
    /// An entry that reaches out of the layer, or speaks to overlayfs.
    Hostile,
    /// More than a limit allows.
    Limit,
    /// An entry that this program does not know how to make.
    Unsupported,
    /// The disk is full, or a quota of it.
    NoSpace,
    /// The kernel refused.
    System,
    /// The bytes stopped coming: whoever sends them knows why.
    Starved,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.entry.is_empty() {
            f.write_str(&self.why)
        } else {
            write!(f, "entry {}: {}", self.entry, self.why)
        }
    }
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, why: impl Into<String>) -> Self {
        Self { kind, entry: String::new(), why: why.into(), tar_bytes: 0 }
    }

    pub(crate) fn format(why: impl Into<String>) -> Self {
        Self::new(RefusalKind::Format, why)
    }

    pub(crate) fn hostile(why: impl Into<String>) -> Self {
        Self::new(RefusalKind::Hostile, why)
    }

    pub(crate) fn limit(why: impl Into<String>) -> Self {
        Self::new(RefusalKind::Limit, why)
    }

    pub(crate) fn system(what: &str, errno: rustix::io::Errno) -> Self {
        use rustix::io::Errno;
        let kind = match errno {
            Errno::NOSPC | Errno::DQUOT => RefusalKind::NoSpace,
            _ => RefusalKind::System,
        };
        let error = std::io::Error::from(errno);
        Self::new(kind, format!("cannot {what}: {error}"))
    }

    pub(crate) fn at(mut self, entry: &[u8]) -> Self {
        if self.entry.is_empty() {
            self.entry = crate::path_text::to_text(entry);
            if self.entry.is_empty() {
                self.entry = "./".into();
            }
        }
        self
    }
}
