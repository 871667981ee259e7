//! `ids/<slot>`: which container has which ids of the host. A link's making is the allocation: the
//! kernel lets one of two have it. It is made under `lock`, held shared, together with the record,
//! and goes with the record, under `lock`, held exclusively.

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::{Store, StoreError, files};
use crate::container::Record;
use crate::known_bad::left_out;
use crate::userns::{self, IdMap, SLOTS};

impl Store {
    /// The record with the ids that the container is to have, where it has its own.
    pub(super) fn with_ids(&self, record: &Record) -> Result<Record, StoreError> {
        let mut record = record.clone();
        if let (Some(ids), Some(linux)) = (self.ids(), record.spec.linux_mut()) {
            linux.set_uid_mappings(Some(ids.uids().to_vec()));
            linux.set_gid_mappings(Some(ids.gids().to_vec()));
            return Ok(record);
        }
        let id = record.id.clone();
        let Some(linux) = record.spec.linux_mut() else { return Ok(record) };
        let asked = linux.uid_mappings().as_ref().and_then(|all| all.first());
        let Some(count) = asked.map(|range| range.size()) else { return Ok(record) };
        let first = self.take_ids(&id, count)?;
        linux.set_uid_mappings(Some(userns::mapping(first, count)));
        linux.set_gid_mappings(Some(userns::mapping(first, count)));
        Ok(record)
    }

    /// The first of `count` ids that nobody has, now this container's.
    fn take_ids(&self, id: &str, count: u32) -> Result<u32, StoreError> {
        let what = || StoreError::io(format!("find {count} ids for container {id:.12}"));
        files::make_dir(self.dir(), "ids", Mode::RWXU).map_err(what())?;
        if left_out("ids-disjoint") {
            return Ok(userns::first_of_slot(0));
        }
        let width = count.div_ceil(userns::SLOT_IDS);
        let places = SLOTS.saturating_sub(width) + 1;
        // Anywhere, so that ids that were somebody's are not at once the next one's.
        let start = id.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0);
        for offset in 0..places {
            let slot = (start % places + offset) % places;
            if self.take_slots(id, slot..slot + width).map_err(what())? {
                return Ok(userns::first_of_slot(slot));
            }
        }
        Err(what()(Errno::NOSPC))
    }

    /// All of these slots, or none.
    fn take_slots(&self, id: &str, slots: std::ops::Range<u32>) -> rustix::io::Result<bool> {
        for slot in slots.clone() {
            match rustix::fs::symlinkat(id, self.dir(), format!("ids/{slot}")) {
                Ok(()) => {}
                Err(error) => {
                    self.release_slots(id, slots.start..slot);
                    return if error == Errno::EXIST { Ok(false) } else { Err(error) };
                }
            }
        }
        Ok(true)
    }

    fn release_slots(&self, id: &str, slots: std::ops::Range<u32>) {
        for slot in slots {
            let path = format!("ids/{slot}");
            let owner = rustix::fs::readlinkat(self.dir(), &path, Vec::new());
            if owner.is_ok_and(|owner| owner.to_bytes() == id.as_bytes()) {
                // One that stays is met by the next sweep.
                let _ = rustix::fs::unlinkat(self.dir(), &path, AtFlags::empty());
            }
        }
    }

    /// Gives back what [`Self::with_ids`] took.
    pub(super) fn release_ids(&self, record: &Record) {
        let ids = IdMap::of(&record.spec).filter(|_| self.ids.is_none());
        if let Some((first, count)) = ids.and_then(|ids| ids.range()) {
            self.release_slots(&record.id, userns::slots_of(first, count));
        }
    }

    /// Gives back the ids of containers that are no more. `lock` is held exclusively.
    pub(super) fn sweep_ids(&self) -> rustix::io::Result<()> {
        for slot in files::names(self.dir(), "ids")? {
            let path = format!("ids/{slot}");
            let owner = rustix::fs::readlinkat(self.dir(), &path, Vec::new())?;
            let owner = owner.to_string_lossy();
            if !files::exists(self.dir(), &format!("containers/{owner}")) {
                rustix::fs::unlinkat(self.dir(), &path, AtFlags::empty())?;
            }
        }
        Ok(())
    }
}
