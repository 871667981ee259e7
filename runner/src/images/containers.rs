//! `containers/<id>` and `names/<name>`: the record of a container roots its layers, across
//! reboots too.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Store, StoreError, files, layer, lock, to_json};
use crate::container::{RECORD_FORMAT, Record};
use crate::known_bad::left_out;
use crate::userns::IdMap;

/// A container's directory: `config.json`, `rw/{u,w}`, `log/`, and what the monitor adds.
#[derive(Debug)]
pub struct ContainerDir {
    pub id: String,
    path: PathBuf,
    dir: OwnedFd,
}

impl ContainerDir {
    /// Absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The record that was written when the container was created.
    pub fn record(&self) -> Result<Record, StoreError> {
        let what = format!("the record of container {:.12}", self.id);
        let bytes = files::read(self.dir(), "config.json")
            .map_err(StoreError::io(format!("read {what}")))?
            .ok_or_else(|| StoreError::NoSuchContainer(self.id.clone()))?;
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|error| self.damaged(error.to_string()))?;
        if record.format != RECORD_FORMAT {
            let why = format!("it has format {}, known is {RECORD_FORMAT}", record.format);
            return Err(self.damaged(why));
        }
        Ok(record)
    }

    fn damaged(&self, why: String) -> StoreError {
        StoreError::DamagedContainer { id: self.id.clone(), why }
    }
}

impl Store {
    /// Makes `containers/<id>` with `config.json`, `rw/u` (with the root's attributes), `rw/w` and
    /// `log`, and `names/<name>`. One shared hold covers "all layers are here" and the record, so
    /// from its return on the record itself keeps the layers. Durable when it returns, unless the
    /// container is removed on exit.
    ///
    /// # Errors
    /// [`StoreError::NameInUse`]; [`StoreError::NoSuchLayer`] where a layer went away since the
    /// image was read (the caller pulls again).
    pub fn create_container(&self, record: &Record) -> Result<ContainerDir, StoreError> {
        let what = || StoreError::io(format!("create container {:.12}", record.id));
        let _hold = self.hold_shared()?;
        for layer in &record.image.layers {
            self.layer(layer)?;
        }
        if let Some(chain) = &record.image.fixups {
            self.fixups(chain)?;
        }
        let record = &self.with_ids(record)?;
        let work = format!("work/{}", crate::random::name());
        let (staging, file) = self.stage_container(&work, record).map_err(|error| {
            self.release_ids(record);
            self.discard(&work);
            what()(error)
        })?;
        let public = format!("containers/{}", record.id);
        let renamed = rustix::fs::renameat_with(
            self.dir(),
            &work,
            self.dir(),
            &public,
            RenameFlags::NOREPLACE,
        );
        if let Err(error) = renamed.map_err(what()) {
            self.release_ids(record);
            self.discard(&work);
            return Err(error);
        }
        if let Err(error) = self.take_name(&record.name, &record.id) {
            self.release_ids(record);
            self.discard(&public);
            return Err(error);
        }
        if !record.remove_on_exit {
            self.sync_container(&file, &staging).map_err(what())?;
        }
        Ok(ContainerDir { path: self.root().join(public), id: record.id.clone(), dir: staging })
    }

    /// The record, and every directory that leads to it. All at the end: journals that commit in
    /// order (ext4, XFS) write once then, where a sync between the steps would write each time. A
    /// power cut before it leaves a record that is whole, or none, or a torn one, which the first
    /// command after it takes away: nobody has been told of it yet.
    fn sync_container(&self, file: &OwnedFd, directory: &OwnedFd) -> rustix::io::Result<()> {
        if left_out("record-synced") {
            return Ok(());
        }
        rustix::fs::fdatasync(file)?;
        rustix::fs::fsync(directory)?;
        for folder in ["containers", "names"] {
            rustix::fs::fsync(files::open_dir(self.dir(), folder)?)?;
        }
        Ok(())
    }

    /// The directory, and the record in it. Neither is durable.
    fn stage_container(
        &self,
        work: &str,
        record: &Record,
    ) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        rustix::fs::mkdirat(self.dir(), work, Mode::RWXU)?;
        let staging = files::open_dir(self.dir(), work)?;
        // Unlocked work is abandoned work. The lock goes with the descriptor, which the caller
        // may keep: under its public name nobody asks for it.
        rustix::fs::flock(&staging, FlockOperation::NonBlockingLockExclusive)?;
        for folder in ["rw", "rw/u", "rw/w", "log"] {
            rustix::fs::mkdirat(&staging, folder, Mode::RWXU)?;
        }
        let upper = files::open_dir(staging.as_fd(), "rw/u")?;
        let mut attributes = record.image.root.clone();
        if self.ids.as_ref().is_some_and(IdMap::is_single) {
            (attributes.uid, attributes.gid) = (0, 0);
        }
        if let Some(ids) = IdMap::of(&record.spec) {
            let owner = ids.outside(attributes.uid, attributes.gid);
            (attributes.uid, attributes.gid) = owner.ok_or(Errno::OVERFLOW)?;
        }
        layer::set_attributes(&upper, &attributes)?;
        // Nobody sees it before the directory has its public name: no rename is needed.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&staging, "config.json", flags, mode)?;
        files::write_all(file.as_fd(), &to_json(record))?;
        Ok((staging, file))
    }

    /// Points `names/<name>` at the container. A dangling name is a leftover and is replaced.
    fn take_name(&self, name: &str, id: &str) -> Result<(), StoreError> {
        let what = || StoreError::io(format!("take the name {name}"));
        let names = files::open_dir(self.dir(), "names").map_err(what())?;
        lock::wait_for(&names, FlockOperation::LockExclusive).map_err(what())?;
        let target = format!("../containers/{id}");
        match rustix::fs::symlinkat(&target, &names, name) {
            Err(Errno::EXIST) => {}
            other => return other.map_err(what()),
        }
        if let Some(owner) = self.id_named(name)?
            && files::exists(self.dir(), &format!("containers/{owner}"))
        {
            return Err(StoreError::NameInUse { name: name.into(), id: owner });
        }
        rustix::fs::unlinkat(&names, name, AtFlags::empty()).map_err(what())?;
        rustix::fs::symlinkat(&target, &names, name).map_err(what())
    }

    fn id_named(&self, name: &str) -> Result<Option<String>, StoreError> {
        if name.contains('/') || name.is_empty() {
            return Ok(None);
        }
        match rustix::fs::readlinkat(self.dir(), format!("names/{name}"), Vec::new()) {
            Ok(target) => Ok(target
                .to_str()
                .ok()
                .and_then(|target| target.strip_prefix("../containers/"))
                .map(str::to_owned)),
            Err(Errno::NOENT | Errno::INVAL | Errno::NAMETOOLONG) => Ok(None),
            Err(error) => Err(StoreError::io(format!("read the name {name}"))(error)),
        }
    }

    /// The container that a person means by `text`: its name, its id, or the beginning of it.
    ///
    /// # Errors
    /// [`StoreError::NoSuchContainer`], [`StoreError::AmbiguousContainer`].
    pub fn container(&self, text: &str) -> Result<ContainerDir, StoreError> {
        let none = || StoreError::NoSuchContainer(text.to_owned());
        // Docker shows names with a slash in front, and takes them so.
        let text = text.strip_prefix('/').unwrap_or(text);
        if let Some(id) = self.id_named(text)?
            && let Some(found) = self.open_container(&id)?
        {
            return Ok(found);
        }
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(none());
        }
        let mut ids = self.container_ids()?;
        ids.retain(|id| id.starts_with(text));
        match &ids[..] {
            [] => Err(none()),
            [id] => self.open_container(id)?.ok_or_else(none),
            _ => Err(StoreError::AmbiguousContainer { text: text.into(), count: ids.len() }),
        }
    }

    /// The ids of all containers, ordered.
    pub fn container_ids(&self) -> Result<Vec<String>, StoreError> {
        files::names(self.dir(), "containers").map_err(StoreError::io("list containers"))
    }

    /// All containers. One that goes away meanwhile is left out.
    pub fn containers(&self) -> Result<Vec<ContainerDir>, StoreError> {
        let mut found = Vec::new();
        for id in self.container_ids()? {
            found.extend(self.open_container(&id)?);
        }
        Ok(found)
    }

    /// The container of exactly this id.
    pub fn open_container(&self, id: &str) -> Result<Option<ContainerDir>, StoreError> {
        let public = format!("containers/{id}");
        match files::open_dir(self.dir(), &public) {
            Ok(dir) => {
                Ok(Some(ContainerDir { id: id.to_owned(), path: self.root().join(public), dir }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(StoreError::io(format!("open {public}"))(error)),
        }
    }

    /// Takes away a container that has ended: its name is free and its record gone when this
    /// returns; its files are deleted by the next [`Store::empty_trash`].
    ///
    /// # Errors
    /// [`StoreError::NoSuchContainer`] where somebody else was faster.
    pub fn remove_container(&self, id: &str) -> Result<(), StoreError> {
        let what = || StoreError::io(format!("remove container {id:.12}"));
        let dir = self.open_container(id)?.ok_or(StoreError::NoSuchContainer(id.to_owned()))?;
        // A record that cannot be read must not keep its container from being removed.
        let record = dir.record().ok();
        let _hold = self.hold_exclusive()?;
        match self.to_trash(&format!("containers/{id}")) {
            Err(Errno::NOENT) => return Err(StoreError::NoSuchContainer(id.to_owned())),
            other => other.map_err(what())?,
        }
        record.iter().for_each(|record| self.release_ids(record));
        // Under EX nobody takes a name.
        if let Some(name) = record.map(|record| record.name)
            && self.id_named(&name)?.as_deref() == Some(id)
        {
            rustix::fs::unlinkat(self.dir(), format!("names/{name}"), AtFlags::empty())
                .map_err(what())?;
        }
        Ok(())
    }
}
