//! Black-box tests.

pub mod checks;
pub mod cpio;
pub mod guest;
pub mod rootfs;
pub mod rrun;
pub mod terminal;
