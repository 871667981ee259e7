//! The runner's tests that need a kernel, a registry or the built program. One binary, so that it is
//! linked once; one module per suite. Needs root, overlayfs, and the static shell of the package
//! `busybox-static`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]
#![allow(clippy::disallowed_methods, reason = "nobody exchanges a test's own names")]

mod cgroup;
mod cli;
mod container;
mod corpus;
mod images;
mod known_bad;
mod net;
