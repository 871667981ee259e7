//! A tar becomes a tree in the form that overlayfs stacks.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use shared::{Algorithm, DiffId};

use super::decode::Decoder;
use super::entry::{self, Entry, Kind, padding};
use super::limits::{
    DEPTH_MAX, LISTED_BYTES_MAX, Limits, PATH_BYTES_MAX, too_many_bytes, too_many_entries,
};
use super::report::{Refusal, RefusalKind, Unpacked};
use super::stream::Stream;
use super::tree::{self, Tree, split};
use crate::place::{self, Descriptors};
use crate::userns::IdMap;

/// Marks a name as removed. Source: image-spec layer.md, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory as opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bookkeeping of aufs (`.wh..wh.plnk`, `.wh..wh.aufs`), which old layers contain.
const AUFS: &[u8] = b".wh..wh.";

pub(crate) struct Extractor<R: Read> {
    stream: Stream<R>,
    tree: Tree,
    descriptors: Descriptors,
    limits: Limits,
    entries: u64,
    bytes: u64,
    id_max: u32,
    /// Those that owners may have; `None`: all.
    ids: Option<IdMap>,
}

impl<R: Read> Extractor<R> {
    /// Writes into `tree`, whose root is an empty directory.
    pub(crate) fn new(
        decoder: Decoder<R>,
        algorithm: Algorithm,
        tree: Tree,
        descriptors: Descriptors,
        limits: Limits,
        ids: Option<IdMap>,
    ) -> Self {
        Self {
            stream: Stream::new(decoder, algorithm, limits.bytes),
            tree,
            descriptors,
            limits,
            entries: 0,
            bytes: 0,
            id_max: 0,
            ids,
        }
    }

    /// Reads to the end of the bytes.
    pub(crate) fn run(mut self) -> Result<Unpacked, Refusal> {
        if let Err(mut refusal) = self.entries() {
            refusal.tar_bytes = self.stream.position();
            return Err(refusal);
        }
        let (digest, tar_bytes) = self.stream.finish()?;
        let finished = self.tree.finish()?;
        let listed = || finished.implied.iter().chain(&finished.whiteouts_in);
        // In JSON each is in quotes, and a byte is three letters at worst.
        let bytes: usize = listed().map(|path| crate::path_text::to_text(path).len() + 3).sum();
        if bytes > LISTED_BYTES_MAX {
            return Err(Refusal::limit(format!(
                "the names of its directories without an entry of their own, or with whiteouts, \
                 take {bytes} bytes (limit: {LISTED_BYTES_MAX})"
            )));
        }
        Ok(Unpacked {
            diff_id: DiffId(digest),
            tar_bytes,
            entries: self.entries,
            bytes: self.bytes,
            implied: texts(&finished.implied),
            whiteouts_in: texts(&finished.whiteouts_in),
            root: finished.root,
            opaque_root: finished.opaque_root,
            id_max: self.id_max,
        })
    }

    fn entries(&mut self) -> Result<(), Refusal> {
        while let Some(entry) = entry::next(&mut self.stream)? {
            let name = entry.path.clone();
            self.entry(entry).map_err(|refusal| refusal.at(&name))?;
        }
        Ok(())
    }

    /// With one id alone every file is the user's; with more, an owner without one is refused.
    fn settle_owner(&self, entry: &mut Entry) -> Result<(), Refusal> {
        let Some(ids) = &self.ids else { return Ok(()) };
        if ids.is_single() {
            (entry.uid, entry.gid) = (0, 0);
        }
        if ids.outside(entry.uid, entry.gid).is_some() {
            return Ok(());
        }
        let (owner, count) = (entry.uid.max(entry.gid), ids.count());
        Err(Refusal::limit(format!(
            "its owner is {owner}, and this user has ids up to {} to give (/etc/subuid, /etc/subgid)",
            count - 1
        )))
    }

    fn entry(&mut self, mut entry: Entry) -> Result<(), Refusal> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(too_many_entries(self.limits.entries));
        }
        self.id_max = self.id_max.max(entry.uid).max(entry.gid);
        self.settle_owner(&mut entry)?;
        let path = normal_path(&entry.path)?;
        let stored = entry.stored;
        // A file consumes its own content; whatever else has some is passed over.
        if !self.make(&path, entry)? {
            self.stream.skip(stored)?;
        }
        self.stream.skip(padding(stored))
    }

    /// Makes one entry; answers whether it consumed its content.
    fn make(&mut self, path: &[u8], entry: Entry) -> Result<bool, Refusal> {
        if let Some(done) = self.whiteout(path)? {
            return Ok(done);
        }
        if path.is_empty() && entry.kind != Kind::Directory {
            return Err(Refusal::hostile("the root of the layer must be a directory"));
        }
        match entry.kind {
            Kind::Directory => self.tree.give_directory(path, entry)?,
            Kind::Regular => return self.file(path, &entry).map(|()| true),
            Kind::HardLink => self.hard_link(path, &entry)?,
            Kind::Symlink => self.symlink(path, &entry)?,
            Kind::CharDevice if entry.device == (0, 0) => {
                return Err(Refusal::hostile(
                    "a character device 0:0, which overlayfs would take for a whiteout",
                ));
            }
            // Nobody but root can make one.
            Kind::CharDevice | Kind::BlockDevice if self.ids.is_some() => {}
            Kind::CharDevice => self.node(path, &entry, FileType::CharacterDevice)?,
            Kind::BlockDevice => self.node(path, &entry, FileType::BlockDevice)?,
            Kind::Fifo => self.node(path, &entry, FileType::Fifo)?,
            Kind::Other(letter) => {
                let letter = crate::path_text::to_text(&[letter]);
                let why = format!("entries of type '{letter}' have no meaning in a layer");
                return Err(Refusal::new(RefusalKind::Unsupported, why));
            }
        }
        Ok(false)
    }

    /// Acts on a name that is an instruction; none where it is an ordinary one.
    fn whiteout(&mut self, path: &[u8]) -> Result<Option<bool>, Refusal> {
        let (parent, name) = split(path);
        if name == OPAQUE {
            self.tree.make_opaque(parent)?;
        } else if path.split(|&byte| byte == b'/').any(|part| part.starts_with(AUFS)) {
            // Nothing of aufs' own shows in an image.
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(Refusal::hostile("a whiteout of no name"));
            }
            let hidden =
                if parent.is_empty() { hidden.to_vec() } else { [parent, b"/", hidden].concat() };
            self.tree.white_out(&hidden)?;
        } else {
            return Ok(None);
        }
        Ok(Some(false))
    }

    fn file(&mut self, path: &[u8], entry: &Entry) -> Result<(), Refusal> {
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.limits.bytes {
            return Err(too_many_bytes(self.limits.bytes));
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let fd = self.tree.place(path, |dir, name| rustix::fs::openat(dir, name, flags, mode))?;
        let write_failed = |error| Refusal::system("write it", error);
        match &entry.sparse {
            None => self.stream.copy(entry.stored, |bytes| {
                crate::images::write_all(fd.as_fd(), bytes).map_err(write_failed)
            })?,
            Some(map) => {
                for &(offset, length) in map {
                    let mut at = offset;
                    self.stream.copy(length, |bytes| {
                        write_at(&fd, bytes, at).map_err(write_failed)?;
                        at += bytes.len() as u64;
                        Ok(())
                    })?;
                }
                rustix::fs::ftruncate(&fd, entry.size).map_err(write_failed)?;
            }
        }
        // Owner first: a change of owner clears setuid and file capabilities.
        if entry.uid != 0 || entry.gid != 0 {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::fchown(&fd, Some(uid), Some(gid))
                .map_err(|error| Refusal::system("set its owner", error))?;
        }
        tree::set_xattrs(&fd, &entry.xattrs)?;
        if entry.mode & 0o7000 != 0 || !entry.xattrs.is_empty() {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(entry.mode))
                .map_err(|error| Refusal::system("set its mode", error))?;
        }
        rustix::fs::futimens(&fd, &tree::times(entry.mtime))
            .map_err(|error| Refusal::system("set its times", error))
    }

    fn symlink(&mut self, path: &[u8], entry: &Entry) -> Result<(), Refusal> {
        // Its target is data: it is never followed here, and inside the container it cannot lead
        // out of the root.
        self.tree.place(path, |dir, name| rustix::fs::symlinkat(&entry.link[..], dir, name))?;
        self.settle(path, entry, FileType::Symlink)
    }

    fn node(&mut self, path: &[u8], entry: &Entry, kind: FileType) -> Result<(), Refusal> {
        let device = match kind {
            FileType::Fifo => 0,
            _ => rustix::fs::makedev(entry.device.0, entry.device.1),
        };
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        self.tree.place(path, |dir, name| rustix::fs::mknodat(dir, name, kind, mode, device))?;
        self.settle(path, entry, kind)
    }

    /// Owner, mode, xattrs and times of something that cannot be opened for reading.
    fn settle(&mut self, path: &[u8], entry: &Entry, kind: FileType) -> Result<(), Refusal> {
        let (parent, name) = split(path);
        let dir = self.tree.directory(parent)?;
        let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice)
            .then_some(entry.device);
        let made = place::open_made(&dir, name, kind, device)
            .map_err(|error| Refusal::system("open what was made", error))?;
        if entry.uid != 0 || entry.gid != 0 {
            place::change_owner(&made, entry.uid, entry.gid).map_err(owner_failed)?;
        }
        for (xattr, value) in
            entry.xattrs.iter().filter(|(xattr, _)| !crate::overlay::speaks_to_overlay(xattr))
        {
            tree::xattr_set(xattr, self.descriptors.set_xattr(&made, xattr, value))?;
        }
        if kind != FileType::Symlink && entry.mode & 0o7000 != 0 {
            self.descriptors.change_mode(&made, entry.mode).map_err(mode_failed)?;
        }
        place::change_times(&made, &tree::times(entry.mtime)).map_err(times_failed)
    }

    fn hard_link(&mut self, path: &[u8], entry: &Entry) -> Result<(), Refusal> {
        let target = link_target(&entry.link)?;
        let shown = crate::path_text::to_text(&target);
        if target == path {
            return Err(Refusal::hostile("a hard link to itself"));
        }
        let absent = || {
            Refusal::new(
                RefusalKind::Unsupported,
                format!("a hard link to {shown}, which is not in this layer"),
            )
        };
        let (parent, target_name) = split(&target);
        let target_dir = self.tree.existing_parent(parent).map_err(|error| match error {
            Errno::LOOP => {
                Refusal::hostile(format!("a hard link to {shown} through a symbolic link"))
            }
            Errno::NOENT | Errno::NOTDIR => absent(),
            error => Refusal::system("find what it links to", error),
        })?;
        let stat = match rustix::fs::statat(&*target_dir, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(absent()),
            other => other.map_err(|error| Refusal::system("find what it links to", error))?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                return Err(Refusal::hostile(format!("a hard link to the directory {shown}")));
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => return Err(absent()),
            _ => {}
        }
        if target.len() > path.len() && target.starts_with(&[path, b"/"].concat()) {
            return Err(Refusal::hostile("a hard link to what it would replace"));
        }
        self.tree.place(path, |dir, name| {
            rustix::fs::linkat(&*target_dir, target_name, dir, name, AtFlags::empty())
        })?;
        self.settle_link(path, entry, &stat)
    }

    /// A link's header may name other attributes than its target's; the later one counts, as with
    /// Docker. What is the same already is left alone: a change of owner, even to the same one,
    /// takes setuid and file capabilities away.
    fn settle_link(
        &mut self,
        path: &[u8],
        entry: &Entry,
        stat: &rustix::fs::Stat,
    ) -> Result<(), Refusal> {
        let (parent, name) = split(path);
        let dir = self.tree.directory(parent)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let link = place::open_made(&dir, name, kind, None)
            .map_err(|error| Refusal::system("open what was made", error))?;
        let owner_differs = (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid);
        if owner_differs {
            place::change_owner(&link, entry.uid, entry.gid).map_err(owner_failed)?;
        }
        if kind == FileType::Symlink {
            return Ok(());
        }
        if owner_differs || stat.st_mode & 0o7777 != entry.mode {
            self.descriptors.change_mode(&link, entry.mode).map_err(mode_failed)?;
        }
        place::change_times(&link, &tree::times(entry.mtime)).map_err(times_failed)
    }
}

fn owner_failed(error: Errno) -> Refusal {
    Refusal::system("set its owner", error)
}

fn mode_failed(error: Errno) -> Refusal {
    Refusal::system("set its mode", error)
}

fn times_failed(error: Errno) -> Refusal {
    Refusal::system("set its times", error)
}

fn texts(paths: &[Vec<u8>]) -> Vec<String> {
    paths.iter().map(|path| crate::path_text::to_text(path)).collect()
}

fn write_at(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The path of an entry beneath the root, without empty and `.` parts, with or without a slash in
/// front; empty for the root.
fn normal_path(name: &[u8]) -> Result<Vec<u8>, Refusal> {
    if name.is_empty() {
        return Err(Refusal::format("an entry without a name"));
    }
    parts(name)
}

/// What a hard link points at: relative to the layer's root, with or without a slash in front, as
/// `tar` and Docker read it.
fn link_target(link: &[u8]) -> Result<Vec<u8>, Refusal> {
    let target = parts(link).map_err(|_| {
        Refusal::hostile(format!(
            "a hard link to {}, out of the layer's root",
            crate::path_text::to_text(link)
        ))
    })?;
    if target.is_empty() {
        return Err(Refusal::hostile("a hard link to the root of the layer"));
    }
    Ok(target)
}

fn parts(name: &[u8]) -> Result<Vec<u8>, Refusal> {
    if name.len() > PATH_BYTES_MAX {
        return Err(Refusal::limit(format!("its path is longer than {PATH_BYTES_MAX} bytes")));
    }
    let mut path = Vec::with_capacity(name.len());
    let mut depth = 0;
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(Refusal::hostile("its path leads upwards by '..'")),
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
        depth += 1;
    }
    if depth > DEPTH_MAX {
        return Err(tree::too_deep());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_normal_or_are_refused() {
        for (name, want) in [
            (&b"a"[..], Some(&b"a"[..])),
            (b"./a//b/./c/", Some(b"a/b/c")),
            (b".", Some(b"")),
            (b"./", Some(b"")),
            (b"/", Some(b"")),
            (b"/etc//passwd", Some(b"etc/passwd")),
            (b"/../a", None),
            (b"../a", None),
            (b"a/..", None),
            (b"a/../b", None),
            (b"", None),
            (b"..a/b..", Some(b"..a/b..")),
        ] {
            assert_eq!(normal_path(name).ok().as_deref(), want, "{name:?}");
        }
        assert!(normal_path(&[b'a'; PATH_BYTES_MAX + 1]).is_err());
        assert!(normal_path(&b"a/".repeat(DEPTH_MAX + 1)).is_err());
        assert_eq!(link_target(b"/a/b").unwrap(), b"a/b");
        assert!(link_target(b"../a").is_err());
        assert!(link_target(b"/").is_err());
    }
}
