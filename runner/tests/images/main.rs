//! Images, from the registry to the tree that a container sees. Needs root and overlayfs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../corpus/mod.rs"]
mod corpus;
mod host;
mod pulling;
mod registry;
mod removing;
mod tree;
mod unpacking;
