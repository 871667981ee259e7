#![no_main]
//! Bodies in chunks.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    registry::edge::read_chunks(bytes);
});
