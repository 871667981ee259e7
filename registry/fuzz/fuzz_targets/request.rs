#![no_main]
//! Paths, queries and ranges of requests: one line each.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    registry::edge::read_path(text);
    registry::edge::read_query(text);
    registry::edge::read_ranges(text);
});
