//! Roadstead's runner: pulls images and runs them.

// They panic where the words cannot be written: `cli::tell` and `cli::print` say so instead.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod cgroup;
pub mod cli;
pub mod container;
pub mod credentials;
pub mod dirs;
pub mod failure;
pub mod images;
pub mod isolate;
mod known_bad;
pub mod launch;
pub mod net;
pub mod overlay;
pub mod path_text;
mod place;
pub mod pull;
mod random;
pub mod seccomp;
pub mod signal;
pub mod spec;
pub mod sys;
pub mod timestamp;
pub mod timings;
pub mod unpack;
pub mod userns;
mod visible;
pub mod volumes;
