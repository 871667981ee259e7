//! Roadstead's registry: an OCI Distribution server.
pub mod records;
