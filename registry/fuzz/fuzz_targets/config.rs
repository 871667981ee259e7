#![no_main]
//! Configuration files.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    registry::edge::read_config(text);
});
