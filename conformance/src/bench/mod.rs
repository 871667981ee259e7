//! Benchmarks beside the peers, in one interleaved run on one machine; the results are Markdown.

pub mod pull;
pub mod registry;
pub mod samples;
pub mod start;
