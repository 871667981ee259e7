#![no_main]
//! Heads of requests.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    registry::edge::read_head(bytes);
});
