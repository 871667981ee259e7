//! Why a container did not come to run: as a few bytes across the fork, and in words.

use std::io;
use std::path::Path;

use crate::container::{ImageUse, Record};
use crate::launch::protocol::Failure;

macro_rules! steps {
    ($($name:ident = $words:literal),* $(,)?) => {
        /// What was being done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Step { $($name),* }

        impl Step {
            pub(super) const ALL: &'static [Self] = &[$(Self::$name),*];

            pub(super) fn of_number(number: u8) -> Option<Self> {
                Self::ALL.get(usize::from(number)).copied()
            }

            fn words(self) -> &'static str {
                match self { $(Self::$name => $words),* }
            }
        }
    };
}

steps! {
    Cgroup = "join its cgroup",
    Ready = "be made ready from outside",
    JoinNamespace = "join a namespace",
    Dumpable = "hide from other processes",
    Session = "start a session",
    Keyring = "make a keyring",
    Limit = "set --ulimit",
    OomScore = "set --oom-score-adj",
    CgroupNamespace = "make its cgroup namespace",
    Loopback = "bring up its loopback interface",
    Propagation = "detach its mounts from the host's",
    Stack = "stack the image's layers",
    AttachRoot = "attach its root",
    MountSource = "open the source of a mount",
    MountTarget = "make the target of a mount",
    Mount = "mount",
    Populate = "fill a volume from the image",
    EtcFile = "put a file into /etc",
    Device = "make a device",
    DeviceLink = "make a link in /dev",
    Terminal = "make its terminal",
    Network = "set up its network",
    Sysctl = "set a sysctl",
    Hostname = "set its host name",
    PivotRoot = "change its root",
    ReadOnlyRoot = "make its root read-only",
    ReadOnlyPath = "make a path read-only",
    MaskedPath = "mask a path",
    UserFile = "read its /etc/passwd or /etc/group",
    NoSuchUser = "find its user",
    NoSuchGroup = "find its group",
    WorkingDirectory = "enter its working directory",
    StandardStreams = "connect its standard streams",
    Seccomp = "load its seccomp policy",
    Capabilities = "set its capabilities",
    Ids = "become its user",
    NoNewPrivileges = "give up new privileges",
    ParentGone = "outlive its monitor",
    EnterProcesses = "enter its PID namespace",
    Reaper = "start its reaper",
    NotFound = "find its command",
    Execute = "execute its command",
}

/// A step that failed, on which item of its list, and the kernel's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitFailure {
    pub step: Step,
    /// Index into the list that the step works through (mounts, devices, limits …).
    pub item: u16,
    pub errno: i32,
}

/// Errors of the kernel, by whichever crate they come.
pub(super) trait Reason {
    fn errno(&self) -> i32;
}

impl Reason for io::Error {
    fn errno(&self) -> i32 {
        self.raw_os_error().unwrap_or(libc::EIO)
    }
}

impl Reason for rustix::io::Errno {
    fn errno(&self) -> i32 {
        self.raw_os_error()
    }
}

/// Names the step and the item that an error belongs to.
pub(super) fn at<T, E: Reason>(
    step: Step,
    item: usize,
    result: Result<T, E>,
) -> Result<T, InitFailure> {
    result.map_err(|error| failed(step, item, error.errno()))
}

pub(super) fn failed(step: Step, item: usize, errno: i32) -> InitFailure {
    InitFailure { step, item: u16::try_from(item).unwrap_or(u16::MAX), errno }
}

/// The failure in words, with what was to run, as whom and where.
pub fn describe(
    failure: InitFailure,
    record: &Record,
    command: &[String],
    user: &str,
    directory: &Path,
) -> Failure {
    let reason = reason(failure.errno);
    let name = command.first().map_or("", String::as_str);
    match failure.step {
        Step::NotFound if name.contains('/') => {
            ours(format!("{name:?} is not in the container"), None).exits(127)
        }
        Step::NotFound => not_in_path(record, name),
        Step::Execute => cannot_execute(failure.errno, name, &reason, &record.image),
        Step::NoSuchUser => ours(
            format!("unable to find user {}: no matching entries in passwd file", user_part(user)),
            Some("-u takes a number too, which needs no entry".into()),
        ),
        Step::NoSuchGroup => ours(
            "unable to find a group of -u or --group-add: no matching entries in group file".into(),
            Some("a number needs no entry".into()),
        ),
        Step::WorkingDirectory => {
            let directory = directory.display();
            ours(format!("cannot enter the working directory {directory}: {reason}"), None)
        }
        step => ours(
            format!("cannot {}{}: {reason}", step.words(), item(failure, record)),
            hint(failure),
        ),
    }
}

fn ours(message: String, hint: Option<String>) -> Failure {
    Failure { exit_code: 125, message, hint }
}

impl Failure {
    fn exits(mut self, code: u8) -> Self {
        self.exit_code = code;
        self
    }
}

fn user_part(user: &str) -> &str {
    user.split(':').next().unwrap_or(user)
}

fn not_in_path(record: &Record, name: &str) -> Failure {
    let process = record.spec.process().as_ref();
    let environment = process.and_then(|process| process.env().as_deref()).unwrap_or_default();
    let path = environment.iter().find_map(|text| text.strip_prefix("PATH=")).unwrap_or("");
    ours(format!("{name:?} is not in the container's PATH ({path})"), None).exits(127)
}

fn cannot_execute(errno: i32, name: &str, reason: &str, image: &ImageUse) -> Failure {
    let hint = match errno {
        libc::ENOEXEC => Some(image.foreign.clone().unwrap_or_else(|| {
            "it is not a program of this machine's kind, or a script without a #! line".to_owned()
        })),
        libc::ENOENT => {
            Some("the interpreter or loader that it names is not in the container".to_owned())
        }
        _ => None,
    };
    let code = if errno == libc::ENOENT { 127 } else { 126 };
    ours(format!("cannot execute {name:?}: {reason}"), hint).exits(code)
}

/// ` /data`: what the item is, where the record can tell.
fn item(failure: InitFailure, record: &Record) -> String {
    let index = usize::from(failure.item);
    let linux = record.spec.linux().as_ref();
    let text = match failure.step {
        Step::Mount | Step::MountTarget | Step::MountSource | Step::Populate => {
            let mounts = record.spec.mounts().as_deref().unwrap_or_default();
            mounts.get(index).map(|mount| match (failure.step, mount.source()) {
                (Step::MountSource, Some(source)) => source.display().to_string(),
                _ => mount.destination().display().to_string(),
            })
        }
        Step::EtcFile => {
            let files = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
            files.get(index).map(|&file| file.to_owned())
        }
        Step::Device => {
            let devices = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
            devices.get(index).map(|device| device.path().display().to_string())
        }
        Step::ReadOnlyPath => linux
            .and_then(|linux| linux.readonly_paths().as_deref())
            .and_then(|paths| paths.get(index).cloned()),
        Step::MaskedPath => linux
            .and_then(|linux| linux.masked_paths().as_deref())
            .and_then(|paths| paths.get(index).cloned()),
        Step::Sysctl => linux
            .and_then(|linux| linux.sysctl().as_ref())
            .and_then(|all| super::rootfs::sorted(all).get(index).map(|(name, _)| (*name).clone())),
        Step::Limit => {
            let process = record.spec.process().as_ref();
            let limits = process.and_then(|process| process.rlimits().as_deref());
            limits.and_then(|all| all.get(index)).map(|limit| limit.typ().to_string())
        }
        _ => None,
    };
    text.map(|text| format!(" {text}")).unwrap_or_default()
}

fn hint(failure: InitFailure) -> Option<String> {
    let text = match (failure.step, failure.errno) {
        (Step::MountTarget, libc::ELOOP | libc::ENOTDIR) => {
            "something on the way is a symbolic link or no directory in the image"
        }
        (Step::MountTarget | Step::EtcFile | Step::Terminal, libc::EPERM) => {
            "nothing can be mounted in place of /proc or inside it: programs trust what is there"
        }
        (Step::EnterProcesses | Step::Capabilities | Step::Session, libc::EPERM | libc::ENOSYS) => {
            "its seccomp policy has to allow what a start ends with: capset, clone, write, setsid, \
             ioctl, prctl, execve"
        }
        (Step::MountTarget | Step::Device, libc::ESTALE) => {
            "something else was put there meanwhile: who else can write to that volume?"
        }
        (Step::Populate, libc::EXDEV) => {
            "something is mounted in the volume's place: fill it by hand, or use :nocopy"
        }
        (Step::Ids, libc::EINVAL) => {
            "its user namespace does not have that id: as root --userns=auto:size=NUMBER gives it \
             more, as an ordinary user a line in /etc/subuid and /etc/subgid"
        }
        (Step::Stack, libc::EINVAL | libc::EPERM | libc::EBADF) => {
            "the store must lie on a local disk, and not on overlayfs: RRUN_ROOT"
        }
        (Step::Limit, libc::EPERM) => "the hard limit of the caller is lower: ulimit -Ha",
        (Step::Sysctl, libc::ENOENT) => "this kernel has no such setting",
        (Step::Propagation | Step::PivotRoot, libc::EINVAL) => {
            "this system's / is no mount point (a chroot?): bind its directory on itself before \
             entering it, mount --bind DIR DIR"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

fn reason(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    // "Permission denied (os error 13)": the number helps nobody.
    let end = text.find(" (os error").unwrap_or(text.len());
    let mut words = text[..end].to_owned();
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_their_numbers() {
        for (number, &step) in Step::ALL.iter().enumerate() {
            assert_eq!(step as usize, number);
        }
    }

    #[test]
    fn reasons_without_numbers() {
        assert_eq!(reason(libc::EACCES), "permission denied");
    }
}
