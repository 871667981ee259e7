//! The verbs about images.

pub(crate) mod pull;

use super::Verb;

/// Every verb about images.
pub(super) const VERBS: &[&Verb] = &[&pull::PULL];
