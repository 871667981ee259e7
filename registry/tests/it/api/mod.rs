//! The registry's HTTP interface: raw bytes in, whole answers out, against a server in this
//! process. One module per section of the specification; each test names what it shows.

mod base;
mod blobs;
mod direct;
pub(crate) mod harness;
mod hostile;
mod inmemory;
mod lists;
mod manifests;
mod model;
mod pipelined;
mod referrers;
pub(crate) mod tls;
mod uploads;
