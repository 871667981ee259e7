#![no_main]
//! Names, tags, digests, references.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    registry::edge::read_names(text);
});
