//! Roadstead's runner: pulls images and runs them.

pub mod container;
