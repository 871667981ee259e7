//! Who asks, and who may do what. No HTTP and no storage in here.

mod accounts;
mod checker;
mod htpasswd;

pub use accounts::{Accounts, AccountsError, Settings};
pub use checker::Busy;
pub use htpasswd::{COST_NEW, Htpasswd, InvalidHtpasswd, is_user, with_user, without_user};

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
