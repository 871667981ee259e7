#![no_main]
//! Manifests that somebody pushes.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    registry::edge::read_manifest(bytes);
});
