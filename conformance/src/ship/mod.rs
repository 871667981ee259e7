//! What people install: the image (and, as tests need it, the chart's archive), made without a
//! daemon, the same bytes from the same commit wherever it is checked out.

pub mod build;
pub mod chart;
pub mod deb;
pub mod image;
