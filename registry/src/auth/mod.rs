//! Who asks, and who may do what. No HTTP and no storage in here.

mod accounts;
mod checker;
mod htpasswd;
mod pattern;
mod rules;

pub use accounts::{Accounts, AccountsError, Settings};
pub use checker::Busy;
pub use htpasswd::{COST_NEW, Htpasswd, InvalidHtpasswd, is_user, with_user, without_user};
pub use pattern::{InvalidPattern, Pattern};
pub use rules::{Decision, Grants, Rule, Rules, Who, decide, grants};

/// What can be granted in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Read what is there, and its lists.
    Pull,
    /// Add blobs, manifests and tags that are not there.
    Create,
    /// Have a tag name something else.
    Overwrite,
    /// Remove blobs, manifests and tags.
    Delete,
}

impl Action {
    /// As a sentence says it: `ann may pull from web/shop, not push`.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Create => "push",
            Self::Overwrite => "move a tag",
            Self::Delete => "delete",
        }
    }

    /// What stands between the verb and the repository.
    fn preposition(self) -> &'static str {
        match self {
            Self::Pull | Self::Delete => "from",
            Self::Create => "to",
            Self::Overwrite => "in",
        }
    }
}

/// Whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Anonymous,
    /// Of the htpasswd file.
    User(String),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::User(name) => f.write_str(name),
        }
    }
}
