//! A container's cgroup, in every hierarchy there is: v2, v1, and both at once (hybrid).
//!
//! - A container lives in `/roadstead/<id>` below the root that this process sees of each
//!   hierarchy, or below its own cgroup where that root cannot be written. Monitors live beside
//!   the containers, not in them: in v1 in `/roadstead`, in v2 in `/roadstead/monitors`, because
//!   there a cgroup that hands controllers down holds no processes itself. `/roadstead` stays when
//!   the last container is gone, as Docker's own does: the next start is spared making it.
//! - On a hybrid host the unified hierarchy has no limits to offer, but it kills, freezes and
//!   watches (`cgroup.kill`, `cgroup.freeze`, `cgroup.events` need no controller), so a container
//!   always has a cgroup there too.
//! - A limit that was asked for and cannot be applied is an error; a default that cannot be is a
//!   notice.
//!
//! Sources: cgroups(7), the kernel's `admin-guide/cgroup-v2.rst` and `admin-guide/cgroup-v1/`,
//! runtime-spec `config-linux.md`.

mod devices;
mod error;
mod files;
mod hierarchy;
mod processes;
mod settings;
mod usage;
mod v1;
mod v2;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};

pub use self::error::CgroupError;
use self::error::{Judge, missing_controller_hint, refused};
use self::hierarchy::Hierarchy;
use self::settings::Setting;
pub use self::usage::{Oom, Stats};

/// Ours, below the root of each hierarchy.
const HOME: &str = "roadstead";

/// Where monitors live in v2. Not the name of a container: those are hexadecimal.
const MONITORS: &str = "monitors";

/// A container's cgroup: one directory in each hierarchy.
#[derive(Debug, Default)]
pub struct Cgroup {
    leaves: Vec<Leaf>,
    /// Where the monitor of this container belongs: directory, and whether it is in v2.
    homes: Vec<(PathBuf, bool)>,
    confines_devices: bool,
}

/// A container's cgroup in one hierarchy.
#[derive(Debug)]
struct Leaf {
    unified: bool,
    /// Those that it has: in v1 the hierarchy's, in v2 what is enabled down to here.
    controllers: Vec<String>,
    directory: PathBuf,
}

/// What a child needs to enter a cgroup.
#[derive(Debug)]
pub struct Entry {
    /// `tasks` of each v1 hierarchy, open for writing. The child writes `0` to each while it has
    /// one thread and before it unshares its cgroup namespace: a thread that moves itself waits
    /// for nobody, where a write to `cgroup.procs` costs an RCU grace period (some 10 ms).
    pub v1_tasks: Vec<OwnedFd>,
    /// The directory in the unified hierarchy, for `CLONE_INTO_CGROUP` (clone(2), Linux 5.7).
    pub unified: Option<OwnedFd>,
}

impl Cgroup {
    /// Makes the cgroup of container `id` and applies all limits and the device rules. No process
    /// is in it yet. Also returns notices: one line for each default that could not be applied.
    ///
    /// `parent` is `--cgroup-parent`, a path below the visible root. `asked_for` holds the names of
    /// the flags that were given, without dashes.
    ///
    /// Where no hierarchy can be written and nothing was asked for, the cgroup has no directories:
    /// every operation on it does nothing, and [`Self::confines_devices`] is false.
    ///
    /// # Errors
    /// When a limit was asked for and cannot be applied, or processes of an earlier run are still
    /// there. Nothing of the cgroup is left then.
    pub fn create(
        id: &str,
        parent: Option<&str>,
        resources: &LinuxResources,
        asked_for: &[String],
    ) -> Result<(Self, Vec<String>), CgroupError> {
        let parent = parent.map(relative).transpose()?;
        let hierarchies = hierarchy::detect().map_err(CgroupError::Detect)?;
        let wanted = v2::wanted_controllers(resources);
        let mut cgroup = Self::default();
        let mut judge = Judge::new(Some(asked_for));
        let made = cgroup
            .make(&hierarchies, id, parent.as_deref(), &wanted, &mut judge)
            .and_then(|()| cgroup.apply(resources, u64::MAX, &mut judge))
            .and_then(|()| cgroup.confine_devices(resources, &mut judge));
        match made {
            Ok(()) => Ok((cgroup, judge.notices)),
            Err(error) => {
                // The failure that is being reported matters more than one to clean up after it.
                if !matches!(error, CgroupError::Occupied(_)) {
                    let _ = cgroup.remove(Duration::ZERO);
                }
                Err(error)
            }
        }
    }

    /// The cgroup of a container that was started before, from its [`Self::paths`].
    ///
    /// # Errors
    /// When the kernel's tables cannot be read.
    pub fn open(paths: &[PathBuf]) -> io::Result<Self> {
        let hierarchies = hierarchy::detect()?;
        let leaf = |path: &PathBuf| {
            let found = hierarchies
                .iter()
                .filter(|one| path.starts_with(&one.mount_point))
                .max_by_key(|one| one.mount_point.as_os_str().len())?;
            Some(Leaf {
                unified: found.unified,
                controllers: controllers(found, path),
                directory: path.clone(),
            })
        };
        Ok(Self { leaves: paths.iter().filter_map(leaf).collect(), ..Self::default() })
    }

    /// The cgroup of a container whose launcher ended before it could note where that is: found
    /// by its name in the places where [`Self::create`] makes it.
    ///
    /// # Errors
    /// When the kernel's tables cannot be read.
    pub fn find(id: &str, parent: Option<&str>) -> io::Result<Self> {
        let below = parent.and_then(|parent| relative(parent).ok()).unwrap_or_else(|| HOME.into());
        let mut paths = Vec::new();
        for hierarchy in hierarchy::detect()? {
            let tops = std::iter::once(&hierarchy.mount_point).chain(&hierarchy.own);
            let places = tops.map(|top| top.join(&below).join(id));
            paths.extend(places.filter(|place| place.is_dir()));
        }
        paths.dedup();
        Self::open(&paths)
    }

    /// The container's directory in each hierarchy, absolute.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.leaves.iter().map(|leaf| leaf.directory.clone()).collect()
    }

    /// Whether the device rules are in force, or none were wanted. Where they are not, only the
    /// lack of `CAP_MKNOD` and `nodev` keep a container from the host's devices.
    pub fn confines_devices(&self) -> bool {
        self.confines_devices
    }

    /// Opens what a child needs to enter the cgroup.
    ///
    /// # Errors
    /// When a directory has been removed or descriptors have run out.
    pub fn entry(&self) -> io::Result<Entry> {
        let mut entry = Entry { v1_tasks: Vec::with_capacity(self.leaves.len()), unified: None };
        for leaf in &self.leaves {
            if leaf.unified {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                entry.unified = Some(rustix::fs::open(&leaf.directory, flags, Mode::empty())?);
            } else {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let tasks = leaf.directory.join("tasks");
                entry.v1_tasks.push(rustix::fs::open(tasks, flags, Mode::empty())?);
            }
        }
        Ok(entry)
    }

    /// Moves this process, which must have one thread, out of its caller's cgroup: the end of the
    /// caller's session or service must not be the end of the monitor.
    ///
    /// In v2 the move waits for an RCU grace period (some 10 ms): best after the container runs.
    ///
    /// # Errors
    /// The first one; all hierarchies are tried.
    pub fn join_monitor(&self) -> io::Result<()> {
        let mut result = Ok(());
        for (home, unified) in &self.homes {
            let joined = if *unified {
                let monitors = home.join(MONITORS);
                files::make_all(&monitors)
                    .and_then(|()| files::write(&monitors, "cgroup.procs", "0"))
            } else {
                files::write(home, "tasks", "0")
            };
            result = result.and(joined);
        }
        result
    }

    /// Changes limits of a running container; device rules stay as they are.
    ///
    /// # Errors
    /// When the kernel refuses one; those before it have been applied.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let memory = self.v1("memory");
        let both =
            memory.and_then(|leaf| files::number(&leaf.directory, "memory.memsw.limit_in_bytes"));
        self.apply(resources, both.unwrap_or(u64::MAX), &mut Judge::new(None))
    }

    /// Removes the cgroup, with everything that the container made below it. The last process
    /// counts until a moment after its end, so this is tried again until `timeout`.
    ///
    /// # Errors
    /// The first one; all hierarchies are tried. EBUSY: there still are processes.
    pub fn remove(&self, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        let mut result = Ok(());
        for leaf in &self.leaves {
            result = result.and(files::remove_tree(&leaf.directory, deadline));
        }
        result
    }

    /// The v1 hierarchy with a controller.
    fn v1(&self, controller: &str) -> Option<&Leaf> {
        let has = |leaf: &&Leaf| leaf.controllers.iter().any(|name| name == controller);
        self.leaves.iter().filter(|leaf| !leaf.unified).find(has)
    }

    /// The hierarchy with a controller, of whichever version.
    fn holder(&self, controller: &str) -> Option<&Leaf> {
        let has = |leaf: &&Leaf| leaf.controllers.iter().any(|name| name == controller);
        self.leaves.iter().find(has)
    }

    fn make(
        &mut self,
        hierarchies: &[Hierarchy],
        id: &str,
        parent: Option<&Path>,
        wanted: &[String],
        judge: &mut Judge<'_>,
    ) -> Result<(), CgroupError> {
        let mut obstacle = None;
        for hierarchy in hierarchies {
            match make_leaf(hierarchy, id, parent, wanted) {
                Ok((leaf, home)) => {
                    self.leaves.push(leaf);
                    self.homes.push((home, hierarchy.unified));
                }
                Err(CgroupError::Make { path, source }) if parent.is_none() => {
                    obstacle = Some((path, source));
                }
                Err(error) => return Err(error),
            }
        }
        if self.leaves.is_empty() {
            let why = match obstacle {
                Some((path, error)) => format!("{}: {error}", path.display()),
                None => "no cgroup file system is mounted".to_owned(),
            };
            judge.notices.push(format!("the container has no cgroup of its own: {why}"));
        }
        Ok(())
    }

    fn apply(
        &self,
        resources: &LinuxResources,
        memory_and_swap: u64,
        judge: &mut Judge<'_>,
    ) -> Result<(), CgroupError> {
        let unified = self.leaves.iter().find(|leaf| leaf.unified);
        let is_unified = |setting: &Setting| {
            unified.is_some_and(|leaf| leaf.controllers.iter().any(|one| one == setting.controller))
        };
        let has_file = |file: &str| unified.is_some_and(|leaf| leaf.directory.join(file).exists());
        let (second, missing): (Vec<_>, Vec<_>) =
            v2::settings(resources, &has_file).into_iter().partition(is_unified);
        let v1_has = |controller: &'static str, file: &str| {
            self.v1(controller).is_some_and(|leaf| leaf.directory.join(file).exists())
        };
        let first = if self.leaves.iter().any(|leaf| !leaf.unified) {
            let now = v1::Now { memory_and_swap, has: &v1_has };
            let mut first = v1::settings(resources, &now);
            first.retain(|setting| !is_unified(setting));
            first
        } else {
            missing
        };
        for setting in first.iter().chain(&second) {
            self.apply_one(setting, judge)?;
        }
        self.apply_verbatim(resources, unified)
    }

    fn apply_one(&self, setting: &Setting, judge: &mut Judge<'_>) -> Result<(), CgroupError> {
        if let Some(why) = setting.impossible {
            return judge.cannot(setting.flags, why.to_owned(), None);
        }
        let Some(leaf) = self.holder(setting.controller) else {
            let (why, hint) = self.missing(setting.controller);
            return judge.cannot(setting.flags, why, hint);
        };
        match files::write(&leaf.directory, &setting.file, &setting.value) {
            Ok(()) => Ok(()),
            Err(error) => {
                let (why, hint) = refused(setting, &leaf.directory, &error);
                judge.cannot(setting.flags, why, hint)
            }
        }
    }

    /// Why no hierarchy of ours has a controller.
    fn missing(&self, controller: &str) -> (String, Option<String>) {
        if self.leaves.is_empty() {
            let hint = "run it as root where a cgroup file system is mounted and writable: \
                        grep cgroup /proc/mounts";
            return (
                "the container cannot have a cgroup of its own here".into(),
                Some(hint.into()),
            );
        }
        let busy = self.homes.iter().filter(|(_, unified)| *unified).find_map(|(home, _)| {
            home.ancestors().skip(1).find(|directory| {
                let available = files::read(directory, "cgroup.controllers").unwrap_or_default();
                let enabled = files::read(directory, "cgroup.subtree_control").unwrap_or_default();
                let has = |text: &str| text.split_whitespace().any(|name| name == controller);
                has(&available) && !has(&enabled)
            })
        });
        let Some(busy) = busy else {
            let why = format!("there is no {controller} controller here");
            return (why, missing_controller_hint(controller));
        };
        let root = busy.display();
        let why = format!(
            "the {controller} controller cannot be enabled in {root}, which holds processes itself"
        );
        let hint = format!(
            "move them one down: mkdir {root}/init; for p in $(cat {root}/cgroup.procs); do echo \
             $p > {root}/init/cgroup.procs; done"
        );
        (why, Some(hint))
    }

    /// `linux.resources.unified`: written as it is, unknown names too. Source: runtime-spec.
    fn apply_verbatim(
        &self,
        resources: &LinuxResources,
        unified: Option<&Leaf>,
    ) -> Result<(), CgroupError> {
        let Some(values) = resources.unified() else { return Ok(()) };
        let mut values: Vec<_> = values.iter().collect();
        values.sort();
        for (file, value) in values {
            let fail = |why: String| CgroupError::Limit {
                flag: format!("cgroup-conf {file}"),
                why,
                hint: None,
            };
            if !v2::is_file_name(file) {
                return Err(fail("it is not the name of a file in a cgroup".into()));
            }
            let leaf = unified.ok_or_else(|| fail("this host has no cgroup v2".into()))?;
            files::write(&leaf.directory, file, value)
                .map_err(|error| fail(format!("the kernel refuses {value:?}: {error}")))?;
        }
        Ok(())
    }

    fn confine_devices(
        &mut self,
        resources: &LinuxResources,
        judge: &mut Judge<'_>,
    ) -> Result<(), CgroupError> {
        const FLAGS: &[&str] = &["device-cgroup-rule", "device"];
        let Some(list) = resources.devices() else { return Ok(()) };
        let rules = devices::Rules::parse(list).map_err(|why| CgroupError::Limit {
            flag: FLAGS[0].to_owned(),
            why,
            hint: Some("a rule is `a|b|c MAJOR:MINOR rwm`".to_owned()),
        })?;
        let unified = self.leaves.iter().find(|leaf| leaf.unified);
        let done = match (self.v1("devices"), unified) {
            (Some(leaf), _) => devices::write_v1(&leaf.directory, &rules),
            (None, Some(leaf)) => devices::attach_v2(&leaf.directory, &rules),
            (None, None) if rules.allow_all() => Ok(()),
            (None, None) => Err(io::Error::other("there is no cgroup that could confine it")),
        };
        self.confines_devices = done.is_ok();
        match done {
            Ok(()) => Ok(()),
            Err(error) => {
                let why = format!("access to devices is not confined: {error}");
                judge.cannot(FLAGS, why, None)
            }
        }
    }
}

/// `--cgroup-parent` as a path below a hierarchy's root.
fn relative(parent: &str) -> Result<PathBuf, CgroupError> {
    let path = Path::new(parent);
    let mut below = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => below.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(CgroupError::Parent(parent.to_owned()));
            }
        }
    }
    if below.as_os_str().is_empty() {
        return Err(CgroupError::Parent(parent.to_owned()));
    }
    Ok(below)
}

fn controllers(hierarchy: &Hierarchy, directory: &Path) -> Vec<String> {
    if !hierarchy.unified {
        return hierarchy.controllers.clone();
    }
    let text = files::read(directory, "cgroup.controllers").unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Makes the container's directory in one hierarchy. Also returns the one that monitors go to.
fn make_leaf(
    hierarchy: &Hierarchy,
    id: &str,
    parent: Option<&Path>,
    wanted: &[String],
) -> Result<(Leaf, PathBuf), CgroupError> {
    let root = &hierarchy.mount_point;
    if let Some(parent) = parent {
        let base = root.join(parent);
        let leaf = make_leaf_below(hierarchy, id, root, &base, wanted)?;
        if leaf.unified && v2::is_invalid(&leaf.directory) {
            let _ = rustix::fs::rmdir(&leaf.directory);
            let source = io::Error::other("cgroups below a threaded cgroup take no processes");
            return Err(CgroupError::Make { path: leaf.directory, source });
        }
        // The monitor is no part of what the parent limits, if it can be elsewhere.
        let home = root.join(HOME);
        let made = make_base(hierarchy, root, &home, wanted);
        return Ok((leaf, if made.is_ok() { home } else { base }));
    }
    let home = root.join(HOME);
    let first = make_leaf_below(hierarchy, id, root, &home, wanted);
    match (&first, &hierarchy.own) {
        (Err(CgroupError::Make { .. }), Some(own)) if own != root => {
            let home = own.join(HOME);
            match make_leaf_below(hierarchy, id, own, &home, wanted) {
                Ok(leaf) => Ok((leaf, home)),
                // What is wrong at the root is what a person has to hear.
                Err(_) => first.map(|leaf| (leaf, home)),
            }
        }
        _ => first.map(|leaf| (leaf, home)),
    }
}

fn make_leaf_below(
    hierarchy: &Hierarchy,
    id: &str,
    top: &Path,
    base: &Path,
    wanted: &[String],
) -> Result<Leaf, CgroupError> {
    make_base(hierarchy, top, base, wanted)
        .map_err(|source| CgroupError::Make { path: base.to_owned(), source })?;
    let directory = base.join(id);
    make_fresh(&directory)?;
    if has_cpuset(hierarchy)
        && let Err(source) = v1::fill_cpuset(&directory)
    {
        let _ = rustix::fs::rmdir(&directory);
        return Err(CgroupError::Make { path: directory, source });
    }
    let controllers = controllers(hierarchy, &directory);
    Ok(Leaf { unified: hierarchy.unified, controllers, directory })
}

/// Makes what containers are made below, ready for them.
fn make_base(hierarchy: &Hierarchy, top: &Path, base: &Path, wanted: &[String]) -> io::Result<()> {
    let mut path = top.to_owned();
    let parts = base.strip_prefix(top).unwrap_or(base);
    for part in parts {
        if hierarchy.unified {
            // Where it does not succeed the limits tell: only those that are asked for matter.
            let _ = v2::enable(&path, wanted);
        }
        path.push(part);
        files::make_all(&path)?;
        if has_cpuset(hierarchy) {
            v1::fill_cpuset(&path)?;
        }
    }
    if hierarchy.unified {
        let _ = v2::enable(&path, wanted);
    }
    Ok(())
}

fn has_cpuset(hierarchy: &Hierarchy) -> bool {
    hierarchy.controllers.iter().any(|name| name == "cpuset")
}

/// Makes a new directory. One that a crash left behind is replaced, so that nothing of its limits
/// stays.
fn make_fresh(directory: &Path) -> Result<(), CgroupError> {
    let failed = |source| CgroupError::Make { path: directory.to_owned(), source };
    match fs::create_dir(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    match files::remove_tree(directory, Instant::now()) {
        Ok(()) => fs::create_dir(directory).map_err(failed),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            Err(CgroupError::Occupied(directory.to_owned()))
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_stay_below_the_root() {
        assert_eq!(relative("/a/./b/").unwrap(), Path::new("a/b"));
        assert_eq!(relative("system.slice").unwrap(), Path::new("system.slice"));
        for wrong in ["", "/", "..", "/a/../..", "a/.."] {
            assert!(relative(wrong).is_err(), "{wrong}");
        }
    }
}
