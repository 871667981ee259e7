//! What Roadstead's two programs must spell identically: digests, names, media types, manifests,
//! error codes. Parsing and checking only; no IO, no async, no logging.
//!
//! A string from outside becomes one of these types once, at the edge; everything further in
//! takes the type. (The one exception to "no IO" is the `client` module, which is compiled only
//! with the feature of that name.)

pub mod digest;
pub mod error_code;
pub mod manifest;
pub mod media_type;
pub mod reference;

pub use digest::{Algorithm, DiffId, Digest, Hasher, InvalidDigest};
pub use error_code::ErrorCode;
pub use reference::{ImageRef, InvalidReference, Reference, RepoName, Tag};
