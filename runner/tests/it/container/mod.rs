//! Containers through the built program, on the real kernel: what they see, how they end, and the
//! holes of other runtimes. Needs root, and the static shell of the package `busybox-static`.

mod answers;
mod bounds;
mod cve;
mod flags;
mod host;
mod ids;
mod life;
mod recovery;
mod sees;
pub(crate) mod support;
mod users;
