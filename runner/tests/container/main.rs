//! Containers through the built program, on the real kernel: what they see, how they end, and the
//! holes of other runtimes. Needs root, and the static shell of the package `busybox-static`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod cve;
mod flags;
#[cfg(feature = "known-bad")]
#[path = "../known_bad/mod.rs"]
mod known_bad;
mod life;
mod recovery;
mod sees;
mod support;
