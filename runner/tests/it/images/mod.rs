//! Images, from the registry to the tree that a container sees. Needs root and overlayfs.

mod bounds;
mod host;
mod island;
mod logins;
mod network;
mod power;
mod pulling;
mod registry;
mod removing;
mod tree;
mod unpacking;
