//! Starting containers, and talking to those that run.
//!
//! Every container has one launcher that becomes its monitor: this program, executed once more
//! from a copy that cannot be written to, single-threaded from birth. It makes the container,
//! relays its streams, keeps its log and its exit code, and cleans up.

pub mod protocol;
pub mod state;
