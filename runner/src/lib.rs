//! Roadstead's runner: pulls images and runs them.

pub mod cli;
pub mod container;
pub mod failure;
