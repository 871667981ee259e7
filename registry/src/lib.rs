//! Roadstead's registry: an OCI Distribution server.
mod failpoint;
pub mod records;
