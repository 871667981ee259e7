//! Roadstead's registry: an OCI Distribution server.
//!
//! `http → content → {store, records}`; nothing points back.

pub mod admin;
pub mod auth;
pub mod config;
pub mod content;
#[doc(hidden)]
pub mod edge;
mod failpoint;
mod files;
pub mod http;
pub mod observe;
mod open;
mod pool;
pub mod privileges;
pub mod records;
mod serve;
mod service;
pub mod store;
mod sys;
pub mod tls;

pub use open::OpenError;
pub use serve::{ServeError, Started, serve, start};
