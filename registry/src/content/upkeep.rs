//! What only a store of files and a database needs: being swept, and being copied as it lies there.

use std::sync::Arc;

use crate::records::sqlite::SqliteRecords;
use crate::store::disk::Disk;

/// See the module. Empty where bytes and facts lie elsewhere.
#[derive(Clone, Default)]
pub struct Upkeep(Option<(Arc<Disk>, Arc<SqliteRecords>)>);

impl Upkeep {
    /// Of a directory.
    pub fn directory(disk: Arc<Disk>, records: Arc<SqliteRecords>) -> Self {
        Self(Some((disk, records)))
    }

    pub(super) fn disk(&self) -> Option<&Arc<Disk>> {
        self.0.as_ref().map(|(disk, _)| disk)
    }

    pub(super) fn both(&self) -> Option<&(Arc<Disk>, Arc<SqliteRecords>)> {
        self.0.as_ref()
    }
}
