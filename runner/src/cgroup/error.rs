//! What can go wrong with a cgroup, and what a person can do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::settings::Setting;
use crate::failure::Failure;

/// Why a container cannot have its cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("{0:?} is no place for a cgroup: it is a path without `..` below the root cgroup")]
    Parent(String),
    /// A limit that was asked for by name.
    #[error("cannot apply --{flag}: {why}")]
    Limit { flag: String, why: String, hint: Option<String> },
    #[error("the cgroup {} still holds processes of this container's last run", .0.display())]
    Occupied(PathBuf),
    #[error("cannot make a cgroup {}", .path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot find out about cgroups")]
    Detect(#[source] io::Error),
}

impl CgroupError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Parent(_) => Some("for example --cgroup-parent /batch".to_owned()),
            Self::Limit { hint, .. } => hint.clone(),
            Self::Occupied(path) => Some(format!("cat {}", path.join("cgroup.procs").display())),
            Self::Make { path, .. } => Some(format!(
                "this needs root and a writable cgroup file system: grep cgroup /proc/mounts, \
                 ls -ld {}",
                path.display()
            )),
            Self::Detect(_) => None,
        }
    }
}

impl From<CgroupError> for Failure {
    fn from(error: CgroupError) -> Self {
        let failure = Self::of(&error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// Decides what becomes of a setting that cannot be made: asked for, an error; a default, a notice.
pub(super) struct Judge<'a> {
    /// Names of flags; `None`: everything was asked for.
    asked_for: Option<&'a [String]>,
    pub notices: Vec<String>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(asked_for: Option<&'a [String]>) -> Self {
        Self { asked_for, notices: Vec::new() }
    }

    /// # Errors
    /// When one of `flags` was asked for.
    pub(super) fn cannot(
        &mut self,
        flags: &[&str],
        why: String,
        hint: Option<String>,
    ) -> Result<(), CgroupError> {
        let flag = match self.asked_for {
            Some(asked) => flags.iter().find(|flag| asked.iter().any(|given| given == *flag)),
            None => flags.first(),
        };
        if let Some(flag) = flag {
            return Err(CgroupError::Limit { flag: (*flag).to_owned(), why, hint });
        }
        let what = flags.first().copied().unwrap_or("cgroup");
        self.notices.push(format!("the default of --{what} cannot be applied: {why}"));
        Ok(())
    }
}

/// Why the kernel refused to take a value, and what to do.
pub(super) fn refused(
    setting: &Setting,
    directory: &Path,
    error: &io::Error,
) -> (String, Option<String>) {
    let file = directory.join(&*setting.file);
    let why = format!("the kernel refuses {} in {}: {error}", setting.value, file.display());
    let hint = match error.raw_os_error() {
        Some(libc::ENOENT) => {
            return (
                format!("this kernel has no {}", setting.file),
                missing_file_hint(&setting.file, setting.controller),
            );
        }
        Some(libc::EBUSY) if setting.controller == "memory" => {
            Some("more memory than that is in use; stop something in the container first".into())
        }
        Some(libc::EINVAL | libc::ERANGE | libc::EACCES | libc::ENODEV | libc::ENOSPC)
            if setting.controller == "cpuset" =>
        {
            let parent = directory.parent().unwrap_or(directory);
            Some(format!("what there is: cat {}", parent.join(&*setting.file).display()))
        }
        Some(libc::EINVAL) if setting.controller == "cpu" => Some(
            "period and quota are at least 1000 µs, the period is at most 1000000 µs, and the \
             quota fits into that of the parent cgroup"
                .into(),
        ),
        Some(libc::EROFS | libc::EACCES | libc::EPERM) => Some(
            "this needs root and a writable cgroup file system: grep cgroup /proc/mounts".into(),
        ),
        _ => None,
    };
    (why, hint)
}

fn missing_file_hint(file: &str, controller: &str) -> Option<String> {
    if file.contains("memsw") || file.contains("swap") {
        return Some(
            "boot with `swapaccount=1`, or give --memory-swap -1 to leave swap unlimited".into(),
        );
    }
    missing_controller_hint(controller)
}

pub(super) fn missing_controller_hint(controller: &str) -> Option<String> {
    Some(match controller {
        "memory" => {
            "boot with `cgroup_enable=memory`; cat /proc/cgroups tells what is enabled".into()
        }
        _ => {
            "cat /proc/cgroups /sys/fs/cgroup/cgroup.controllers tells what this kernel has".into()
        }
    })
}
