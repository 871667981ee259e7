//! Every parser of text from outside, for the fuzz targets in `registry/fuzz`. Each reads its
//! input, checks what must hold of the result, and forgets it.

use std::path::Path;

use shared::Digest;

use crate::config::Config;
use crate::{content, http};

/// A request's path.
pub fn read_path(text: &str) {
    http::edge::read_path(text);
}

/// A request's query string.
pub fn read_query(text: &str) {
    http::edge::read_query(text);
}

/// `Range` and `Content-Range`.
pub fn read_ranges(text: &str) {
    http::edge::read_ranges(text);
}

/// A manifest of any type.
pub fn read_manifest(bytes: &[u8]) {
    content::read_manifest(bytes, &Digest::sha256(bytes));
}

/// A configuration file.
pub fn read_config(text: &str) {
    let _ = Config::parse(Path::new("config.yml"), text, &[]);
}
