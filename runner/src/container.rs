//! The record of one container: what was asked for, settled once, before anything is launched.
//!
//! `containers/<id>/config.json` is written by the CLI and read by the launcher; nothing changes
//! it afterwards. What happens later stands in other files (`state.json`, `exit.json`), written by
//! the monitor alone. The record names the container's layers, so it keeps them from being
//! removed, across reboots too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use shared::{DiffId, Digest};

use crate::net::{Exposed, Mac, Publish};

/// The form of [`Record`] that this program writes; another one is refused when read.
pub const RECORD_FORMAT: u32 = 1;

/// Everything the launcher needs, and everything `inspect` tells about the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    /// 64 lower-case hex digits.
    pub id: String,
    pub name: String,
    /// RFC 3339, UTC.
    pub created: String,
    pub image: ImageUse,
    /// The OCI runtime configuration: a pure function of image configuration and flags.
    pub spec: Spec,
    /// How many of the process's arguments are the entrypoint's; the others are the command.
    pub entrypoint_words: usize,
    /// `-u` or the image's `User`, as text: names are looked up in the container's own
    /// `/etc/passwd` and `/etc/group`, by the container's init, after the root has changed.
    pub user: String,
    pub groups_added: Vec<String>,
    pub network: Network,
    /// `-p` and `-P`.
    #[serde(default)]
    pub ports: Vec<Publish>,
    /// The image's ports and those of `--expose`, whether published or not.
    #[serde(default)]
    pub exposed: Vec<Exposed>,
    #[serde(default)]
    pub ipc: Ipc,
    /// The container, by its id, whose processes this one's are among.
    #[serde(default)]
    pub pid_of: Option<String>,
    pub seccomp: Seccomp,
    pub stdio: Stdio,
    /// `--rm`: remove the container when it has ended. Its overlay is mounted `volatile`.
    pub remove_on_exit: bool,
    /// `--init`: a reaper of ours is process 1.
    pub init: bool,
    pub stop_signal: Option<String>,
    /// Negative: KILL never follows.
    pub stop_timeout_seconds: Option<i32>,
    pub cgroup_parent: Option<String>,
    pub volumes: Vec<VolumeUse>,
    pub labels: BTreeMap<String, String>,
    pub hosts: Hosts,
    /// Variables, `NAME=VALUE`, that are no UTF-8: they stand beside the Spec, which is JSON.
    #[serde(default)]
    pub environment_bytes: Vec<Vec<u8>>,
    /// Ports that the image or `--expose` names: `80/tcp`. They are told, and open nothing.
    #[serde(default)]
    pub exposed_ports: BTreeSet<String>,
    /// Where the Spec's devices are on the host and with which rights, in its order.
    #[serde(default)]
    pub devices: Vec<DeviceOfHost>,
    /// `--cidfile`
    #[serde(default)]
    pub cidfile: Option<String>,
    /// Flags that were given by name: a limit or restriction among them that cannot be applied is
    /// an error, where a default degrades with a notice.
    pub asked_for: Vec<String>,
}

/// A device as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceOfHost {
    pub path: PathBuf,
    /// Some of `rwm`.
    pub access: String,
}

/// The image, pinned.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageUse {
    /// What the person typed, completed.
    pub reference: String,
    pub manifest: Digest,
    pub config: Digest,
    /// From the lowest layer up; a layer that the image repeats stands once, at its topmost place.
    pub layers: Vec<DiffId>,
    /// The directory under `fixups/` that restores implied parents, if any.
    pub fixups: Option<String>,
    /// Attributes of the container's `/`: the topmost explicit root entry among the layers.
    pub root: RootAttributes,
    /// In words that it was built for another kind of processor than this machine's.
    #[serde(default)]
    pub foreign: Option<String>,
}

/// Mode, owner and extended attributes of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootAttributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    #[serde(default)]
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Default for RootAttributes {
    fn default() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, xattrs: BTreeMap::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    None,
    Host,
    /// The network namespace of another container, by its id.
    Container(String),
    /// Its own, connected to these networks; at least one.
    Bridge(Vec<Membership>),
}

/// A network that a container is to be in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Its name.
    pub network: String,
    /// `--ip`: a wish at each start, not a lease.
    #[serde(default)]
    pub ip: Option<std::net::Ipv4Addr>,
    /// `--network-alias`: what it is found by too.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// `--mac-address`
    #[serde(default)]
    pub mac: Option<Mac>,
}

impl Membership {
    /// A place in a network like anybody's.
    pub fn of(network: &str) -> Self {
        Self { network: network.to_owned(), ip: None, aliases: Vec::new(), mac: None }
    }
}

/// Whose System V and POSIX message queues, semaphores and shared memory, `/dev/shm` included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipc {
    /// Its own, and nobody else's.
    #[default]
    Private,
    /// Its own, and of those containers that ask for it.
    Shareable,
    /// Its own, without a `/dev/shm`.
    None,
    Host,
    /// Another container's, by its id.
    Container(String),
}

/// Which system calls the container may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// Docker's default policy. It does not stand in the Spec: 400 names cost more to parse on
    /// every start than the policy costs to compile.
    #[default]
    Docker,
    /// Docker's without what `profile=strict` takes away.
    Strict,
    Unconfined,
    /// `linux.seccomp` of the Spec.
    Spec,
}

/// What the container's standard streams are. They are always pipes or a terminal of our own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stdio {
    /// `-t`
    pub terminal: bool,
    /// `-i`
    pub stdin_open: bool,
    /// `-d`: nobody is attached at first.
    pub detached: bool,
    /// How the streams are written to `log/` (json-file), if they are.
    pub log: Option<LogFiles>,
}

/// How large a log may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFiles {
    /// A file of this size is exchanged.
    pub file_max_bytes: u64,
    /// Files that are kept, the current one included; at least one.
    pub files: u32,
}

impl Default for LogFiles {
    /// Docker never exchanges a log unless told: a chatty container fills the disk.
    fn default() -> Self {
        Self { file_max_bytes: 16 << 20, files: 4 }
    }
}

/// A volume or bind that needs more than a mount entry of the Spec.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeUse {
    /// Index into `spec.mounts`.
    pub mount: usize,
    /// The volume's name; anonymous volumes have a generated one.
    pub name: String,
    pub anonymous: bool,
    /// Fill it from the image at first use.
    pub populate: bool,
}

/// The address of `--add-host` that stands for this host as the container reaches it.
pub const HOST_GATEWAY: &str = "host-gateway";

/// What `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` say.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Hosts {
    pub hostname: String,
    pub domainname: String,
    /// `--add-host`: name and address.
    pub added: Vec<(String, String)>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
}
