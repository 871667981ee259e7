//! What a person asks for, with every text parsed: the input of [`super::record`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Capabilities, LinuxDevice, LinuxDeviceCgroup, LinuxSeccomp, PosixRlimit};

use crate::container::{Hosts, Ipc, LogFiles, Network};
use crate::net::{Exposed, Publish};

/// One `run` or `create`.
#[derive(Clone, Debug)]
pub struct Request {
    pub name: String,
    /// What stands after the image's name.
    pub command: Vec<String>,
    /// `--entrypoint`; empty: none, whatever the image says.
    pub entrypoint: Option<Vec<String>>,
    pub environment: Vec<Variable>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    pub groups_added: Vec<String>,
    pub terminal: bool,
    pub stdin_open: bool,
    pub detached: bool,
    pub remove_on_exit: bool,
    pub init: bool,
    pub stop_signal: Option<String>,
    pub stop_timeout_seconds: Option<i32>,
    /// How the streams are kept; none: nowhere.
    pub log: Option<LogFiles>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,

    pub network: Network,
    /// `-p`
    pub ports: Vec<Publish>,
    /// `-P`: everything that is exposed, at ports of the kernel's choice.
    pub publishes_all: bool,
    /// `--expose`
    pub exposed: Vec<Exposed>,
    /// The container's own name and name service; an empty host name means the short id.
    pub hosts: Hosts,
    pub pid: Sharing,
    pub ipc: Ipc,
    pub uts: Sharing,
    pub cgroup: Sharing,
    /// It has a user namespace: how many ids of its own it has.
    pub own_ids: Option<u32>,
    /// These are an ordinary user's.
    pub is_of_user: bool,
    pub cgroup_parent: Option<String>,
    pub sysctls: BTreeMap<String, String>,

    pub mounts: Vec<MountRequest>,
    pub read_only: bool,
    pub shm_size_bytes: u64,

    pub limits: Limits,
    pub rlimits: Vec<PosixRlimit>,

    pub privileged: bool,
    pub capabilities_added: Vec<CapabilityName>,
    pub capabilities_dropped: Vec<CapabilityName>,
    pub no_new_privileges: bool,
    pub seccomp: SeccompRequest,
    /// `systempaths=unconfined`
    pub shows_system_paths: bool,
    /// `profile=strict`
    pub strict: bool,
    pub devices: Vec<DeviceUse>,
    pub device_rules: Vec<LinuxDeviceCgroup>,

    /// `--expose`: `80/tcp`
    pub exposed_ports: Vec<String>,
    pub cidfile: Option<String>,

    /// Every flag that stood on the command line.
    pub asked_for: Vec<String>,
}

/// A variable of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `NAME=VALUE`
    Set(String),
    /// `NAME=VALUE` with a value that is not UTF-8, which a variable of this process may have.
    Bytes(Vec<u8>),
    /// `-e NAME` where it is not set here: the image's value is taken away.
    Unset(String),
}

impl Variable {
    pub fn name(&self) -> &[u8] {
        let text = match self {
            Self::Set(text) | Self::Unset(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        };
        text.split(|byte| *byte == b'=').next().unwrap_or(text)
    }
}

/// Whose namespace it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    #[default]
    Private,
    Host,
    /// Another container's, by its id.
    Container(String),
}

/// A capability as `--cap-add` and `--cap-drop` name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapabilityName {
    All,
    One(oci_spec::runtime::Capability),
}

#[derive(Clone, Debug, Default)]
pub enum SeccompRequest {
    /// Docker's policy, or none for a privileged container.
    #[default]
    Default,
    Unconfined,
    /// A file's policy; it is read for the capabilities of the container.
    Profile(Vec<u8>),
}

/// A device of the host and the right to it.
#[derive(Clone, Debug)]
pub struct DeviceUse {
    /// Where it is on the host.
    pub source: PathBuf,
    pub device: LinuxDevice,
    /// Some of `rwm`.
    pub access: String,
}

/// A mount that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRequest {
    /// Absolute.
    pub target: String,
    pub kind: MountKind,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    Bind {
        /// Absolute.
        source: String,
        propagation: Option<String>,
        recursion: BindRecursion,
    },
    Volume {
        /// `None`: an anonymous one.
        name: Option<String>,
        /// Fill an empty one from the image.
        populate: bool,
    },
    /// With further options of mount(8): `size=64m`, `mode=1770`.
    Tmpfs { options: Vec<String> },
}

/// `bind-recursive`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BindRecursion {
    /// What is mounted below comes along; read-only means all of it.
    #[default]
    Enabled,
    /// Only the directory's own file system.
    Disabled,
    /// What is mounted below comes along and stays writable.
    Writable,
}

/// Limits; `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    pub memory_bytes: Option<i64>,
    /// Memory and swap together; -1: swap without limit.
    pub memory_swap_bytes: Option<i64>,
    pub memory_reservation_bytes: Option<i64>,
    pub memory_swappiness: Option<u64>,
    pub oom_kill_disabled: bool,
    pub oom_score_adj: Option<i32>,
    pub cpu_shares: Option<u64>,
    pub cpu_period_us: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    pub pids: Option<i64>,
    pub blkio_weight: Option<u16>,
}

/// What the host offers, so that making a record asks nobody.
#[derive(Clone, Debug)]
pub struct Host {
    /// What this process could pass on: the kernel's capabilities that are in our bounding set.
    pub capabilities: Capabilities,
    pub hostname: String,
    /// `$ROOT/volumes`
    pub volumes: PathBuf,
}

/// A policy that was read, for the record.
#[derive(Clone, Debug)]
pub(super) enum SeccompChoice {
    Docker,
    Strict,
    Unconfined,
    Spec(Box<LinuxSeccomp>),
}
