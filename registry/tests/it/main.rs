//! The registry's tests that need a server: in this process (`api`), or the built program, which is
//! killed, traced and made to fail. One binary, so that it is linked once; one module per suite.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod access;
mod api;
mod connections;
mod crash;
#[cfg(target_arch = "x86_64")] // the tracer sets registers by their names
mod faults;
mod neighbours;
mod operators;
mod privileges;
mod rows;
mod rules;
mod service;
mod soak;
mod support;
mod syncs;
