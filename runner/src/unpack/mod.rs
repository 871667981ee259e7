//! Layers become directories: decoded, parsed, checked and written by separate single-threaded
//! processes (`rrun unpack-worker`), chrooted into the staging directory.
//!
//! ```text
//! blob ─▶ unpack-worker decode ─▶ unpack-worker extract (sha256 = DiffID, tar, files) ─▶ Report
//! ```
//!
//! The two are one process for small blobs. A process boundary, because for an ordinary user the extractor
//! has to live in a mapped user namespace, and because a parser of foreign bytes is a smaller
//! target with a memory limit, no network and nothing but the layer's own directory in reach.

mod decode;
#[cfg(test)]
mod differential;
mod entry;
mod extract;
mod limits;
mod report;
mod spawn;
mod stream;
mod tree;
pub mod worker;

pub use self::limits::Limits;
pub use self::report::{Refusal, RefusalKind, Report, Unpacked};
pub(crate) use self::spawn::{Outcome, Workers, command as worker_command};
