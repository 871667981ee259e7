//! What is known of networks, as files: definitions outlive a restart of the machine, everything
//! else is of this boot.
//!
//! `$RUN/net/lock` is held around every change of the kernel's state or of these files, for
//! milliseconds: never across a clone, a pull or a wait. Order: `c/<id>`, then this one, then that
//! of ROOT.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::mac::Mac;
use super::ports::Port;
use crate::dirs::Dirs;
use crate::launch::state::{read_json, run_directory, write_json};

/// `$RUN/net/n/<id12>/up.json`: the network's bridge was made in this boot, and this is what it was
/// made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Up {
    pub(super) boot_id: String,
    pub(super) definition: Definition,
}

/// `$RUN/c/<id>/net.json`: what a container has of networks. Written before the kernel is touched,
/// so that whoever finds it knows what there may be to undo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub networks: Vec<Endpoint>,
    pub ports: Vec<Port>,
}

/// A container's place in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hex digits, and the name.
    pub network_id: String,
    pub network: String,
    pub bridge: String,
    /// The end of its cable that is on the bridge.
    pub veth: String,
    pub ipv4: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
    pub mac: Mac,
    /// `--network-alias`
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What it is found by in this network, in lower case; nothing in the default one.
    #[serde(default)]
    pub names: Vec<String>,
    /// `--ip`
    #[serde(default)]
    pub wish: Option<Ipv4Addr>,
    /// Nothing leads out of it.
    #[serde(default)]
    pub is_internal: bool,
    #[serde(default)]
    pub is_isolated: bool,
}

/// The places of one store's networks.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) definitions: PathBuf,
    pub(super) run: PathBuf,
    pub(super) runroot: PathBuf,
}

impl Places {
    pub(super) fn of(dirs: &Dirs) -> Self {
        Self {
            definitions: dirs.root.join("networks"),
            run: dirs.runroot.join("net"),
            runroot: dirs.runroot.clone(),
        }
    }

    /// Whoever has this alone changes networks. Given back when it is dropped.
    pub(super) fn lock(&self) -> io::Result<File> {
        let file =
            File::options().create(true).truncate(false).write(true).open(self.run.join("lock"))?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other.map(|()| file)?),
            }
        }
    }

    /// `$RUN/net/n/<id12>`
    pub(super) fn network(&self, id: &str) -> PathBuf {
        self.run.join("n").join(&id[..id.len().min(12)])
    }

    pub(super) fn make_network(&self, id: &str) -> io::Result<()> {
        let mut maker = fs::DirBuilder::new();
        maker.recursive(true).mode(0o755).create(self.network(id).join("ip"))
    }

    pub(super) fn write_up(&self, definition: &Definition) -> io::Result<()> {
        let up = Up { boot_id: boot_id()?, definition: definition.clone() };
        write_json(&self.network(&definition.id).join("up.json"), &up)
    }

    /// The network is not up any more.
    pub(super) fn forget_network(&self, id: &str) -> io::Result<()> {
        absent(fs::remove_dir_all(self.network(id)))
    }

    /// The network as its bridge was made, if that was in this boot.
    pub(super) fn up(&self, id: &str) -> io::Result<Option<Definition>> {
        let found = read_json::<Up>(&self.network(id).join("up.json")).unwrap_or(None);
        let boot = boot_id()?;
        Ok(found.filter(|up| up.boot_id == boot).map(|up| up.definition))
    }

    /// All that are up.
    pub(super) fn ups(&self) -> io::Result<Vec<Definition>> {
        let mut all = Vec::new();
        for entry in list(&self.run.join("n"))? {
            if let Some(id) = entry.file_name().and_then(|name| name.to_str()) {
                all.extend(self.up(id)?);
            }
        }
        Ok(all)
    }

    /// What each container has, by its id.
    pub(super) fn attached_all(&self) -> io::Result<Vec<(String, Attached)>> {
        let mut all = Vec::new();
        for entry in list(&self.runroot.join("c"))? {
            let id = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // One that is being made or removed begins with a dot.
            if id.starts_with('.') {
                continue;
            }
            if let Some(attached) = self.attached(id)? {
                all.push((id.to_owned(), attached));
            }
        }
        Ok(all)
    }

    pub(super) fn attached(&self, id: &str) -> io::Result<Option<Attached>> {
        read_json(&self.attached_file(id))
    }

    pub(super) fn write_attached(&self, id: &str, attached: &Attached) -> io::Result<()> {
        write_json(&self.attached_file(id), attached)
    }

    pub(super) fn forget_attached(&self, id: &str) -> io::Result<()> {
        absent(fs::remove_file(self.attached_file(id)))
    }

    fn attached_file(&self, id: &str) -> PathBuf {
        run_directory(&self.runroot, id).join("net.json")
    }

    /// Interfaces between which nothing was forwarded before the first network.
    pub(super) fn guarded(&self) -> Vec<String> {
        let text = fs::read_to_string(self.run.join("guarded")).unwrap_or_default();
        let mut lines = text.lines();
        // Of this boot, or of nobody's concern.
        match (lines.next(), boot_id()) {
            (Some(boot), Ok(now)) if boot == now => lines.map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn write_guarded(&self, names: &[String]) -> io::Result<()> {
        let lines = [&[boot_id()?], names].concat().join("\n");
        fs::write(self.run.join("guarded"), lines + "\n")
    }
}

/// The paths in a directory; none where there is none.
pub(super) fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// To remove what is not there is no error.
pub(super) fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The number of this boot of the machine.
fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
