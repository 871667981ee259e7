//! The verbs about images.

mod describe;
mod disk;
mod history;
pub(crate) mod inspect;
mod list;
pub(crate) mod pull;
mod remove;
mod tag;

use super::Verb;

/// Every verb about images.
pub(super) const VERBS: &[&Verb] = &[
    &pull::PULL,
    &list::IMAGES,
    &remove::RMI,
    &tag::TAG,
    &inspect::INSPECT,
    &history::HISTORY,
    &remove::PRUNE,
    &disk::DF,
];
