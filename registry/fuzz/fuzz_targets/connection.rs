#![no_main]
//! Whole connections: the byte 1 stands for 16 KiB.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    registry::edge::read_connection(bytes);
});
