//! Images, from the registry to the tree that a container sees. Needs root and overlayfs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../corpus/mod.rs"]
mod corpus;
mod host;
mod island;
#[cfg(feature = "known-bad")]
#[path = "../known_bad/mod.rs"]
mod known_bad;
mod network;
mod power;
mod pulling;
mod registry;
mod removing;
mod tree;
mod unpacking;
