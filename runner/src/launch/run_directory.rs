//! `$RUN/c/<id>`: what is known of a container in this boot, and the lock that says whether
//! anybody answers for it.
//!
//! A directory of that name appears with its lock held and goes by a rename, both in one step. So
//! one whose lock is free belongs to somebody who was killed, at once and without a doubt. The
//! command that starts a container takes the lock and hands it down to the launcher.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use super::state;
use crate::dirs::Dirs;

const LOCK: &str = "monitor.lock";

/// A directory that is being made, and one that is being removed; an id does not begin so.
const MAKING: &str = ".new-";
const REMOVING: &str = ".old-";

/// Somebody else makes, removes or looks at the same directory each time: this does not happen.
const TRIES_MAX: u32 = 1000;

/// A container's run directory, locked: nobody else starts, ends or removes the container. The
/// directory goes when this is dropped.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// `None`: handed over.
    lock: Option<File>,
}

/// What the lock was found on.
#[derive(Debug)]
pub(super) enum Found {
    New(RunDirectory),
    /// Its owner was killed.
    Orphan(RunDirectory),
    /// The container runs, or is about to, or has ended just now.
    Taken,
}

impl RunDirectory {
    /// Takes the directory of container `id`, and makes it where there is none.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub(super) fn take(dirs: &Dirs, id: &str) -> io::Result<Found> {
        let path = state::run_directory(&dirs.runroot, id);
        for _ in 0..TRIES_MAX {
            match File::open(path.join(LOCK)) {
                Ok(lock) => {
                    if !lock_alone(&lock)? {
                        return Ok(Found::Taken);
                    }
                    // Its last owner may have removed it between the two steps.
                    if is_lock_of(&lock, &path)? {
                        return Ok(Found::Orphan(Self { path, lock: Some(lock) }));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if let Some(lock) = make(&path)? {
                        return Ok(Found::New(Self { path, lock: Some(lock) }));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("{} never stands still", path.display())))
    }

    /// The directory whose lock was handed down as `lock`.
    ///
    /// # Errors
    /// When it is not that one's.
    pub(super) fn adopt(dirs: &Dirs, id: &str, lock: OwnedFd) -> io::Result<Self> {
        let path = state::run_directory(&dirs.runroot, id);
        let lock = File::from(lock);
        if !is_lock_of(&lock, &path)? {
            return Err(io::Error::other(format!("{} is another one by now", path.display())));
        }
        Ok(Self { path, lock: Some(lock) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the directory away; nobody answers for the container any more.
    pub(super) fn remove(&mut self) {
        let Some(_lock) = self.lock.take() else { return };
        let gone = beside(&self.path, REMOVING);
        // Where this fails it looks as after a kill, and is put right as then.
        if fs::rename(&self.path, &gone).is_ok() {
            let _ = fs::remove_dir_all(&gone);
        }
    }

    /// The lock, to be inherited. Whoever has it owns the directory, once this one has been let go
    /// of by [`Self::hand_over`].
    pub(super) fn lock(&self) -> io::Result<OwnedFd> {
        Ok(self.lock.as_ref().ok_or(io::ErrorKind::NotFound)?.try_clone()?.into())
    }

    /// Leaves the directory to those who have its lock too, and to recovery where nobody has.
    pub(super) fn hand_over(mut self) {
        self.lock = None;
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The containers that have a directory. On the way, what was being made or removed by somebody
/// who was killed is taken away.
pub(super) fn ids(dirs: &Dirs) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dirs.runroot.join("c")) else { return Vec::new() };
    let mut ids = Vec::new();
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with(MAKING) || name.starts_with(REMOVING) {
            sweep(&entry.path(), name.starts_with(MAKING));
        } else {
            ids.push(name);
        }
    }
    ids
}

/// Takes a leftover away, and leaves what somebody is busy with.
fn sweep(directory: &Path, is_made: bool) {
    match File::open(directory.join(LOCK)) {
        // Held meanwhile: its maker could make it public under our hands.
        Ok(lock) => {
            if lock_alone(&lock).unwrap_or(false) {
                let _ = fs::remove_dir_all(directory);
            }
        }
        // Its maker has not come to the lock, and begins anew when the directory goes: while it is
        // empty, which the kernel looks at.
        Err(_) if is_made => drop(fs::remove_dir(directory)),
        // The lock goes with the other files; nobody makes this one public again.
        Err(_) => drop(fs::remove_dir_all(directory)),
    }
}

/// Whether somebody answers for the container of this directory.
pub(super) fn is_locked(directory: &Path) -> io::Result<bool> {
    let lock = match File::open(directory.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// A new directory at `path`, which appears with its lock held. `None`: somebody was faster.
fn make(path: &Path) -> io::Result<Option<File>> {
    let staging = beside(path, MAKING);
    fs::DirBuilder::new().mode(0o700).create(&staging)?;
    let lock = match File::create_new(staging.join(LOCK)) {
        // Swept away.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !lock_alone(&lock)? {
        // It is being swept away.
        return Ok(None);
    }
    match rustix::fs::renameat_with(CWD, &staging, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(Some(lock)),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let _ = fs::remove_dir_all(&staging);
    // Not by us, where it is empty: one of ours has its lock from the beginning to the end.
    let _ = fs::remove_dir(path);
    Ok(None)
}

/// Takes the lock unless somebody owns it. Those who only look at it hold it for a moment, and
/// shared; they are waited for.
fn lock_alone(lock: &File) -> io::Result<bool> {
    for _ in 0..TRIES_MAX {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {}
            other => return Ok(other.map(|()| true)?),
        }
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => return Ok(false),
            other => other?,
        }
        rustix::fs::flock(lock, FlockOperation::Unlock)?;
        std::thread::yield_now();
    }
    Ok(false)
}

fn is_lock_of(lock: &File, directory: &Path) -> io::Result<bool> {
    let ours = lock.metadata()?;
    match fs::metadata(directory.join(LOCK)) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A name beside `path` that nobody else has.
fn beside(path: &Path, prefix: &str) -> PathBuf {
    let random: String = crate::random::id().chars().take(16).collect();
    path.with_file_name(format!("{prefix}{random}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs() -> (tempfile::TempDir, Dirs) {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = Dirs { root: temporary.path().join("root"), runroot: temporary.path().into() };
        dirs.make_runroot().unwrap();
        (temporary, dirs)
    }

    fn count(dirs: &Dirs) -> usize {
        fs::read_dir(dirs.runroot.join("c")).unwrap().count()
    }

    #[test]
    fn one_owner_at_a_time_and_nothing_left() {
        let (_temporary, dirs) = dirs();
        let Ok(Found::New(first)) = RunDirectory::take(&dirs, "a") else { panic!() };
        assert!(matches!(RunDirectory::take(&dirs, "a"), Ok(Found::Taken)));
        assert!(is_locked(first.path()).unwrap());
        assert!(matches!(RunDirectory::take(&dirs, "b"), Ok(Found::New(_))));
        drop(first);
        assert_eq!(count(&dirs), 0);
    }

    #[test]
    fn one_whose_owner_was_killed_is_known_at_once() {
        let (_temporary, dirs) = dirs();
        let Ok(Found::New(first)) = RunDirectory::take(&dirs, "a") else { panic!() };
        let path = first.path().to_owned();
        first.hand_over();
        assert!(path.exists());
        // A child that another thread is making has a copy of the lock for a moment.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while is_locked(&path).unwrap() {
            assert!(std::time::Instant::now() < until);
            std::thread::yield_now();
        }
        let Ok(Found::Orphan(second)) = RunDirectory::take(&dirs, "a") else { panic!() };
        // Who only looks does not take it away.
        drop(second);
        assert_eq!(count(&dirs), 0);
    }

    #[test]
    fn a_lock_that_was_handed_down_is_checked() {
        let (_temporary, dirs) = dirs();
        let Ok(Found::New(first)) = RunDirectory::take(&dirs, "a") else { panic!() };
        let lock = first.lock().unwrap();
        first.hand_over();
        assert!(RunDirectory::adopt(&dirs, "b", lock.try_clone().unwrap()).is_err());
        drop(RunDirectory::adopt(&dirs, "a", lock).unwrap());
        assert_eq!(count(&dirs), 0);
    }

    #[test]
    fn many_who_take_and_look_agree() {
        let (_temporary, dirs) = dirs();
        let owned = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20_000).for_each(|_| drop(ids(&dirs))));
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let _ = is_locked(&state::run_directory(&dirs.runroot, "a"));
                        match RunDirectory::take(&dirs, "a").unwrap() {
                            Found::New(one) | Found::Orphan(one) => {
                                use std::sync::atomic::Ordering::SeqCst;
                                assert_eq!(owned.fetch_add(1, SeqCst), 0);
                                std::thread::yield_now();
                                let lock = one.lock.as_ref().unwrap();
                                assert!(is_lock_of(lock, one.path()).unwrap());
                                owned.fetch_sub(1, SeqCst);
                                drop(one);
                            }
                            Found::Taken => {}
                        }
                    }
                });
            }
        });
        ids(&dirs);
        assert_eq!(count(&dirs), 0);
    }
}
