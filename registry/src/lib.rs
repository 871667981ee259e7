//! Roadstead's registry: an OCI Distribution server.
