//! What can go wrong in the store, told apart where a caller acts differently.

use std::io;
use std::path::PathBuf;

use shared::{DiffId, Digest};

use crate::dirs::OtherStore;

/// Why an operation on the store failed. `Display` never repeats the source.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {what}")]
    Io { what: String, source: io::Error },
    #[error("the store {} has format {found}, and this program knows {known}", root.display(), known = super::FORMAT)]
    UnknownFormat { root: PathBuf, found: String },
    #[error("the store {} was made {made}, and this process is {now}", root.display())]
    OtherOwner { root: PathBuf, made: &'static str, now: &'static str },
    #[error("the store {} cannot hold layers: {why}", root.display())]
    Unfit { root: PathBuf, why: String },
    #[error("{what} is damaged: {why}")]
    Damaged { what: String, why: String },
    #[error("the record of image {id:.12} is damaged: {why}")]
    DamagedImage { id: String, why: String },
    #[error("the record of container {id:.12} is damaged: {why}")]
    DamagedContainer { id: String, why: String },
    #[error("no such image: {0}")]
    NoSuchImage(String),
    #[error("{text} is the beginning of {count} image ids")]
    AmbiguousImage { text: String, count: usize },
    #[error("no such container: {0}")]
    NoSuchContainer(String),
    #[error("{text} is the beginning of {count} container ids")]
    AmbiguousContainer { text: String, count: usize },
    #[error("the container name \"/{name}\" is already in use by container \"{id}\"")]
    NameInUse { name: String, id: String },
    #[error("layer {0} is not in the store")]
    NoSuchLayer(DiffId),
    #[error("{0} is not in the store")]
    NoSuchBlob(Digest),
    #[error(transparent)]
    InUse(#[from] InUse),
}

/// Why an image may not be removed now, in Docker's words.
#[derive(Debug, thiserror::Error)]
pub enum InUse {
    #[error(
        "conflict: unable to remove repository reference \"{reference}\" (must force) - \
         container {container} is using its referenced image {image}"
    )]
    ByContainer { reference: String, container: String, image: String },
    #[error(
        "conflict: unable to delete {image} (must be forced) - \
         image is being used by stopped container {container}"
    )]
    IdByContainer { image: String, container: String },
    #[error(
        "conflict: unable to delete {image} (must be forced) - \
         image is referenced in multiple repositories"
    )]
    ManyRepositories { image: String },
}

/// Root and every other user have stores of their own, which is easily forgotten with `sudo`.
fn with_other_store(hint: &str) -> Vec<String> {
    let other = crate::dirs::other_store().map(|other| match other {
        OtherStore::Root => "root has a store of its own: sudo rrun …".to_owned(),
        OtherStore::User(name) => format!("{name} has another store: rrun … without sudo"),
    });
    std::iter::once(hint.to_owned()).chain(other).collect()
}

impl StoreError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let what = what.into();
        move |errno| Self::Io { what, source: errno.into() }
    }

    /// What to do about it: lines for `hint:`.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                vec!["sudo rrun …, or another place: RRUN_ROOT=DIR RRUN_RUNROOT=DIR".into()]
            }
            Self::UnknownFormat { .. } | Self::OtherOwner { .. } => {
                vec!["use another directory: rrun --root DIR …".into()]
            }
            Self::Unfit { .. } => {
                vec!["put the store on a local disk: rrun --root DIR …, or RRUN_ROOT=DIR".into()]
            }
            Self::DamagedImage { id, .. } => vec![format!("rrun rmi {id:.12}")],
            Self::DamagedContainer { id, .. } => vec![format!("rrun rm {id:.12}")],
            Self::NameInUse { name, .. } => {
                vec![format!("rrun rm {name}, or choose another --name")]
            }
            Self::NoSuchImage(_) => with_other_store("rrun images lists what is here"),
            Self::NoSuchContainer(_) => with_other_store("rrun ps -a lists them"),
            _ => Vec::new(),
        }
    }

    /// Whether the disk is full (or a quota of it).
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ))
    }
}
