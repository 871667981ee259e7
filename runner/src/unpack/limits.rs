//! How much a layer may ask for. Everything from outside is bounded.

/// Longest path of an entry, bytes: Linux's PATH_MAX without its NUL. Nothing longer can be
/// opened by a program in the container either.
pub(crate) const PATH_BYTES_MAX: usize = 4095;

/// Directories within one another. Real trees (`node_modules`) stay below a hundred; each level
/// costs one descriptor when a tree is removed.
pub(crate) const DEPTH_MAX: usize = 512;

/// Bytes of one extended header (GNU long name), and of all PAX headers of one entry together.
/// Docker's reader allows 1 MiB.
pub(crate) const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// Fragments of one sparse file.
pub(crate) const SPARSE_FRAGMENTS_MAX: usize = 1 << 20;

/// Memory for the names of the layer's directories, bytes. A hundred thousand directories need 10.
pub(crate) const DIRECTORY_NAMES_BYTES_MAX: usize = 256 << 20;

/// What is written down of a layer's directories, as text, bytes: those without an entry of their
/// own, and those with whiteouts. It is read whole whenever the layer is used.
pub(crate) const LISTED_BYTES_MAX: usize = 16 << 20;

/// Address space of the worker, bytes: directories' names, one zstd window, buffers.
pub(crate) const WORKER_MEMORY_MAX: u64 = 1 << 30;

/// Largest zstd window, as a power of two: 128 MiB, what `zstd -d` accepts unasked.
pub(crate) const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What may come out of a small blob, and what every compressed byte adds to that. Honest layers
/// stay below 20 (zeros of a preallocated file: 1030, hence the allowance of its own).
pub(crate) const INFLATED_BYTES_FREE: u64 = 4 << 30;
pub(crate) const INFLATED_RATIO: u64 = 100;

/// The limits that a person can raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of one layer.
    pub entries: u64,
    /// Bytes of one layer: of its tar, and of its files with their holes.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 2_000_000, bytes: 1 << 40 }
    }
}

/// The environment variables that raise (or lower) them.
pub(crate) const ENTRIES_VARIABLE: &str = "RRUN_LAYER_ENTRIES_MAX";
pub(crate) const BYTES_VARIABLE: &str = "RRUN_LAYER_BYTES_MAX";

impl Limits {
    /// The defaults, with what the environment says otherwise.
    pub fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let default = Self::default();
        Self {
            entries: number(ENTRIES_VARIABLE).unwrap_or(default.entries),
            bytes: number(BYTES_VARIABLE).unwrap_or(default.bytes),
        }
    }
}

pub(crate) fn too_many_bytes(limit: u64) -> super::Refusal {
    super::Refusal::limit(format!(
        "the layer holds more than {limit} bytes; {BYTES_VARIABLE}=BYTES allows more"
    ))
}

pub(crate) fn too_many_entries(limit: u64) -> super::Refusal {
    super::Refusal::limit(format!(
        "the layer holds more than {limit} entries; {ENTRIES_VARIABLE}=NUMBER allows more"
    ))
}
