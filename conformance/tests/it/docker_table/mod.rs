//! What `run_docker_table` compares, and what the documentation says of it.

pub(crate) mod cases;
pub(crate) mod docs;
pub(crate) mod images;
pub(crate) mod outcome;
