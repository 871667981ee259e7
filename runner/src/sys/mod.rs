//! System calls that neither rustix nor nix wraps, and the calls of a process that has just been
//! cloned. Every `unsafe` block of the runner is in this folder.
#![expect(unsafe_code, reason = "raw system calls; each block says why it holds")]

pub mod bpf;
pub mod clone;
pub mod fs;
pub mod mount;
pub mod process;
pub mod seccomp;
pub mod surroundings;
pub mod time;
