//! From a record to a running process: the launcher's half, up to and after the clone.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use oci_spec::runtime::{Capabilities, Capability, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::client::Client;
use super::log::Log;
use super::monitor::{FIRST_CLIENT, Monitor};
use super::ports::Ports;
use super::process::{Process, Starting, Streams, identify};
use super::protocol::{Attach, Failure, Frame, Reply, Request, WindowSize};
use super::rest::WithRest;
use super::run_directory::RunDirectory;
use super::share::{self, namespace_of};
use super::state::State;
use super::undo::{Init, Leftovers};
use super::{etc, etc_path, finish, log_path, socket_path, status_pair};
use crate::cgroup::Cgroup;
use crate::container::{Ipc, Membership, Network, Record};
use crate::dirs::Dirs;
use crate::images::{ContainerDir, Store};
use crate::isolate::talk::{self, ToChild};
use crate::isolate::{self, EtcFile, Hierarchy, LayerPaths, OwnIds, Plan, RootSource, Stdio};
use crate::known_bad::left_out;
use crate::net::{self, Attached, Attachment, NetError};
use crate::overlay::{self, Layers};
use crate::sys;
use crate::sys::clone::Forked;
use crate::timestamp::Timestamp;
use crate::userns::{self, IdMap};

/// How long the command that started us may take for its first word.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// The hidden verb: `launch-monitor ROOT RUNROOT ID`, with the conversation as standard input.
pub fn main(words: &[OsString]) -> u8 {
    let [root, runroot, id] = words else { return 125 };
    let dirs = Dirs { root: root.into(), runroot: runroot.into() };
    let Some(id) = id.to_str() else { return 125 };
    match settle_in(id) {
        Ok((stream, lock, signals)) => {
            let mut first = First { stream, request: None, rest: None };
            match launch(&dirs, id, lock, &mut first, signals) {
                Ok(monitor) => monitor.run(),
                Err(failure) => {
                    first.say(&Reply::Failed(failure));
                    1
                }
            }
        }
        Err(_) => 125,
    }
}

/// What is inherited goes; what a monitor is, begins.
fn settle_in(id: &str) -> io::Result<(UnixStream, OwnedFd, SignalFd)> {
    if !left_out("descriptors-closed") {
        sys::process::close_from(3)?;
    }
    let stream = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let lock = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)?;
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // Here, so that the container's processes have it from us, those of exec too.
    if !left_out("surroundings") {
        sys::surroundings::reset();
    }
    // A session of its own: neither the caller's terminal nor its job control is ours.
    rustix::process::setsid()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::process::adopt_orphans()?;
    // Children show these words inside the container until they have become its programs: no paths
    // of the host among them. Whoever lists processes sees what this one is there for.
    let title = [c"rrun".to_owned(), c"monitor".to_owned(), CString::new(id)?];
    sys::process::show_as(c"rrun", &title)?;
    let mut caught = SigSet::all();
    // Those that a fault of our own raises.
    for signal in [
        nix::sys::signal::SIGSEGV,
        nix::sys::signal::SIGBUS,
        nix::sys::signal::SIGILL,
        nix::sys::signal::SIGFPE,
        nix::sys::signal::SIGABRT,
    ] {
        caught.remove(signal);
    }
    caught.thread_block()?;
    let signals = SignalFd::with_flags(&caught, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    Ok((UnixStream::from(stream), lock, signals))
}

/// The conversation with the command that started us.
struct First {
    stream: UnixStream,
    request: Option<Request>,
    /// Where it wants what it has not read at the end.
    rest: Option<OwnedFd>,
}

impl First {
    fn say(&self, reply: &Reply) {
        // It may have been killed: the container is then stopped by what follows.
        let _ = Frame::Reply(reply.clone()).write(&self.stream);
    }

    /// The first request, read before anything is started, so that no output is missed.
    fn hear(&mut self) -> Result<Option<Attach>, Failure> {
        let mut reader = WithRest { stream: &self.stream, rest: None };
        let mut read = || -> io::Result<Option<Frame>> {
            self.stream.set_read_timeout(Some(FIRST_WORD))?;
            let frame = Frame::read(&mut reader)?;
            self.stream.set_read_timeout(None)?;
            Ok(frame)
        };
        let read = read();
        self.rest = reader.rest;
        match read {
            Ok(Some(Frame::Request(Request::Attach(attach)))) => {
                self.request = Some(Request::Attach(attach));
                Ok(Some(attach))
            }
            Ok(Some(Frame::Request(Request::State))) => {
                self.request = Some(Request::State);
                Ok(None)
            }
            Ok(_) => Err(ours("the command that started the container said nothing", None)),
            Err(error) => Err(ours(format!("cannot hear the command: {error}"), None)),
        }
    }
}

pub(super) fn ours(message: impl Into<String>, hint: Option<String>) -> Failure {
    Failure { exit_code: 125, message: message.into(), hint }
}

/// A failure of another part, for the conversation.
fn words(failure: crate::failure::Failure) -> Failure {
    let hint = (!failure.hints.is_empty()).then(|| failure.hints.join("\n"));
    Failure { exit_code: failure.exit_code, message: failure.message, hint }
}

fn net_words(error: NetError) -> Failure {
    ours(error.message, error.hint)
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let what = what.into();
    move |error| ours(format!("{what}: {error}"), None)
}

fn launch(
    dirs: &Dirs,
    id: &str,
    lock: OwnedFd,
    first: &mut First,
    signals: SignalFd,
) -> Result<Monitor, Failure> {
    crate::timings::mark("launcher runs");
    let run = Run::open(dirs, id, lock)?;
    let store = Store::open(&dirs.root).map_err(|error| ours(error.to_string(), None))?;
    let container = store
        .open_container(id)
        .map_err(|error| ours(error.to_string(), None))?
        .ok_or_else(|| ours(format!("no such container: {id:.12}"), None))?;
    let record = container.record().map_err(|error| ours(error.to_string(), None))?;
    crate::timings::mark("record read");
    let mut made = Made {
        dirs,
        store,
        container,
        record,
        ids: None,
        ids_of_mounts: None,
        run: Some(run),
        cgroup: None,
        init: None,
    };
    match first.hear().and_then(|attach| made.bring_up(first, attach, signals)) {
        Ok(monitor) => Ok(monitor),
        Err(failure) => {
            finish::give_up(made.leftovers(), &made.record, &failure);
            Err(failure)
        }
    }
}

/// `$RUN/c/<id>`, locked for this process's life, and the socket in it.
pub(super) struct Run {
    pub(super) directory: RunDirectory,
    pub(super) listener: UnixListener,
}

impl Run {
    fn open(dirs: &Dirs, id: &str, lock: OwnedFd) -> Result<Self, Failure> {
        let open = || -> io::Result<Self> {
            let directory = RunDirectory::adopt(dirs, id, lock)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let place = rustix::fs::open(directory.path(), flags, Mode::empty())?;
            let listener = UnixListener::bind(socket_path(place.as_fd()))?;
            listener.set_nonblocking(true)?;
            Ok(Self { directory, listener })
        };
        open().map_err(failed("cannot use the run directory"))
    }
}

/// What is there before the container runs, and has to go if it never does.
struct Made<'a> {
    dirs: &'a Dirs,
    store: Store,
    container: ContainerDir,
    record: Record,
    /// The container's own ids, and a user namespace that has them too.
    ids: Option<IdMap>,
    ids_of_mounts: Option<OwnedFd>,
    /// Both until they are the monitor's.
    run: Option<Run>,
    cgroup: Option<Cgroup>,
    /// The child, until it is the monitor's.
    init: Option<OwnedFd>,
}

impl Made<'_> {
    /// Whether it is an ordinary user's, who mounts in user namespaces of his alone.
    fn is_of_user(&self) -> bool {
        self.store.ids().is_some()
    }

    fn leftovers(&self) -> Leftovers<'_> {
        Leftovers {
            init: self.init.as_ref().map(Init::Child),
            cgroup: self.cgroup.as_ref(),
            ..Leftovers::of(self.dirs, &self.record.id)
        }
    }

    fn bring_up(
        &mut self,
        first: &mut First,
        attach: Option<Attach>,
        signals: SignalFd,
    ) -> Result<Monitor, Failure> {
        finish::mark_started(self.container.path()).map_err(failed("cannot note the start"))?;
        self.ids = IdMap::of(&self.record.spec).filter(|_| !left_out("ids-of-its-own"));
        let mounts = self.ids.as_ref().filter(|_| !self.is_of_user());
        self.ids_of_mounts = (mounts.map(IdMap::for_mounts).transpose())
            .map_err(failed("cannot make a user namespace"))?;
        let parent = self.record.cgroup_parent.as_deref();
        let resources =
            self.record.spec.linux().as_ref().and_then(|linux| linux.resources().clone());
        let (cgroup, notices) = Cgroup::create(
            &self.record.id,
            parent,
            &resources.unwrap_or_default(),
            &self.record.asked_for,
        )
        .map_err(|error| words(error.into()))?;
        let cgroup = self.cgroup.insert(cgroup);
        crate::timings::mark("cgroup made, limits set");
        // An ordinary user has a cgroup only where somebody has given him one.
        let is_of_user = self.store.ids().is_some();
        for notice in notices.into_iter().filter(|_| !is_of_user) {
            first.say(&Reply::Notice(notice));
        }
        let confines_devices = cgroup.confines_devices();
        // In a user namespace nobody can make a node.
        if !confines_devices && self.ids.is_none() {
            first.say(&Reply::Notice(
                "no cgroup confines its access to devices: it runs without MKNOD, and its root \
                 without devices"
                    .to_owned(),
            ));
            forbid_devices(&mut self.record);
        }
        let cgroup = self.cgroup.get_or_insert_default();
        let entry = cgroup.entry().map_err(failed("cannot open the container's cgroup"))?;
        let attachment = self.attach(first)?;
        let window = attach.and_then(|attach| attach.window);
        let (stdio, streams) = streams(
            self.record.stdio.terminal,
            self.record.stdio.stdin_open,
            window,
            self.ids.as_ref(),
        )
        .map_err(failed("cannot make pipes"))?;
        let (status, theirs) = status_pair().map_err(failed("cannot make a socket"))?;
        let namespaces = Namespaces::of(&self.record, self.dirs, &self.store)?;
        share::check_propagation(&self.record)?;
        let root = match self.is_of_user() {
            true => RootSource::Layers(self.layer_paths()?),
            false => RootSource::Mount(self.stack()?),
        };
        if let RootSource::Mount(root) = &root
            && (!confines_devices || self.ids.is_some())
        {
            let attributes =
                sys::mount::Attributes { set: sys::mount::NODEV, ..Default::default() };
            sys::mount::set_attributes(root.as_fd(), attributes, false)
                .map_err(failed("cannot forbid devices in the container's root"))?;
        }
        crate::timings::mark("layers stacked");
        let kept = match &root {
            RootSource::Mount(root) => copies([root])?.pop(),
            RootSource::Layers(_) => None,
        };
        let plan =
            self.plan(root, entry.v1_tasks, &namespaces, stdio, theirs, attachment.as_ref())?;
        let unified = entry.unified.as_ref().map(OwnedFd::as_fd);
        let own_ids = if self.ids.is_some() { libc::CLONE_NEWUSER } else { 0 };
        let forked = sys::clone::clone(namespaces.new | own_ids, unified);
        let (pid, pidfd) = match forked.map_err(failed("cannot make namespaces"))? {
            Forked::Child => {
                // The launcher's end: held here too, its loss could not be noticed.
                drop(status);
                isolate::run(plan)
            }
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
        crate::timings::mark("namespaces made");
        drop(plan);
        self.init = Some(pidfd.try_clone().map_err(failed("cannot copy a descriptor"))?);
        self.release(pid, &status)?;
        let ports = self.connect(attachment, pid, &status)?;
        let process = self.record.spec.process().clone().unwrap_or_default();
        let starting = Starting {
            status,
            client: FIRST_CLIENT,
            enters: namespaces.pid.is_some(),
            command: process.args().clone().unwrap_or_default(),
            user: self.record.user.clone(),
            directory: process.cwd().clone(),
        };
        let init = Process::new(pid, pidfd, streams, starting);
        self.monitor(first, init, signals, kept, ports)
    }

    /// Does what can only be done to a child from outside, and lets it go on.
    fn release(&self, pid: i32, status: &OwnedFd) -> Result<(), Failure> {
        if let Some(ids) = &self.ids {
            ids.write(pid).map_err(failed("cannot give the container its ids"))?;
        }
        let process = self.record.spec.process().clone().unwrap_or_default();
        isolate::limits(Some(pid), &process).map_err(|failure| self.describe(failure))?;
        tell(status, ToChild::Go)
    }

    /// The container's networks, if it has any of its own: all that can be had before it is there.
    fn attach(&self, first: &First) -> Result<Option<Attachment>, Failure> {
        let Network::Bridge(memberships) = &self.record.network else { return Ok(None) };
        let attachment = match net::attach(self.dirs, &self.record, memberships) {
            Ok(attachment) => attachment,
            // Nobody has asked for it by name: as well as can be.
            Err(NetError { lacks: Some(what), .. }) if is_default_alone(&self.record) => {
                let told = format!("the container has no network: this host lacks {what}");
                first.say(&Reply::Notice(told));
                return Ok(None);
            }
            Err(error) => return Err(net_words(error)),
        };
        for notice in &attachment.notices {
            first.say(&Reply::Notice(notice.clone()));
        }
        crate::timings::mark("networks up, ports held");
        Ok(Some(attachment))
    }

    /// Lays the cables to a child that is there, and tells it. Answers the sockets of its ports.
    fn connect(
        &self,
        attachment: Option<Attachment>,
        pid: i32,
        status: &OwnedFd,
    ) -> Result<Ports, Failure> {
        let Some(mut attachment) = attachment else { return Ok(Ports::default()) };
        attachment.connect(pid, &self.record.id).map_err(net_words)?;
        let resolver = etc::servers_to_ask(&self.record, &attachment.attached)
            .map(|servers| attachment.open_resolver(pid, servers))
            .transpose()
            .map_err(net_words)?;
        tell(status, ToChild::Network)?;
        crate::timings::mark("network connected");
        let rules = attachment.rules.take();
        Ok(Ports::new(attachment.into_served(resolver), rules))
    }

    fn plan<'b>(
        &'b self,
        root: RootSource,
        v1_tasks: Vec<OwnedFd>,
        namespaces: &Namespaces,
        stdio: Stdio,
        status: OwnedFd,
        attachment: Option<&Attachment>,
    ) -> Result<Plan<'b>, Failure> {
        let record = &self.record;
        let mount_point = CString::new(self.dirs.runroot.join("mnt").as_os_str().as_bytes())
            .map_err(|_| ours("--runroot has a NUL in it", None))?;
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let etc = self.etc(attachment.map(|one| &one.attached))?;
        crate::timings::mark("files for /etc written");
        let seccomp =
            crate::seccomp::program_of(record).map_err(|error| ours(error.to_string(), None))?;
        crate::timings::mark("policy compiled");
        Ok(Plan {
            record,
            root,
            mount_point,
            v1_tasks,
            private_cgroups: namespaces.private_cgroups,
            own_ids: self.ids.as_ref().map(own_ids),
            sources: self.sources()?,
            hierarchies: Hierarchy::all(&mountinfo),
            joined: copies(&namespaces.joined)?,
            joined_pid: copies(namespaces.pid.as_ref())?.pop(),
            joined_procfs: share::procfs(self.dirs, record)?,
            new_network: namespaces.new & libc::CLONE_NEWNET != 0,
            network: attachment.map(Attachment::inside),
            volumes: self.volumes()?,
            etc,
            shm: share::shm(self.dirs, record)?,
            stdio,
            seccomp,
            status,
        })
    }

    /// `/etc/hosts` and its like. A container can write to them, so they lie where everything else
    /// does that it writes: the run directory's file system is small and the host's own.
    fn etc(&self, attached: Option<&Attached>) -> Result<Vec<EtcFile>, Failure> {
        let folder = |container: &ContainerDir| etc_path(container.path());
        let failed = failed("cannot make /etc/hosts and its like");
        let other = match &self.record.network {
            Network::Container(id) => {
                let other = self.store.open_container(id);
                other.map_err(|error| ours(error.to_string(), None))?
            }
            Network::None | Network::Host | Network::Bridge(_) => None,
        };
        let own = match left_out("etc-in-store") {
            true => self.run_path().to_owned(),
            false => folder(&self.container),
        };
        let root = self.ids.as_ref().map(IdMap::root).transpose();
        root.and_then(|root| {
            etc::write(&own, &self.record, other.as_ref().map(folder).as_deref(), attached, root)
        })
        .map_err(failed)
    }

    /// The volumes that are filled from the image. What holds a volume's content is opened here: no
    /// container can, so a lock on it is ours alone.
    fn volumes(&self) -> Result<Vec<(usize, OwnedFd)>, Failure> {
        let filled = self.record.volumes.iter().filter(|volume| volume.populate);
        let opened = filled.map(|volume| {
            let path = self.store.volumes().join(&volume.name);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let open = || -> io::Result<OwnedFd> {
                let directory = rustix::fs::open(&path, flags, Mode::empty())?;
                let Some(namespace) = &self.ids_of_mounts else { return Ok(directory) };
                let tree = userns::with_ids(directory.as_fd(), namespace)?;
                Ok(rustix::fs::openat(&tree, ".", flags, Mode::empty())?)
            };
            open()
                .map(|volume_directory| (volume.mount, volume_directory))
                .map_err(|error| ours(format!("cannot open volume {}: {error}", volume.name), None))
        });
        opened.collect()
    }

    /// The sources of binds, where the container has ids of its own: those lead to nothing of the
    /// host's that is not everybody's. Its volumes' owners are ids of containers.
    fn sources(&self) -> Result<Vec<Option<OwnedFd>>, Failure> {
        let Some(namespace) = &self.ids_of_mounts else { return Ok(Vec::new()) };
        let mounts = self.record.spec.mounts().as_deref().unwrap_or_default();
        let sources = isolate::open_sources(mounts).map_err(|failure| self.describe(failure))?;
        for volume in &self.record.volumes {
            let source = sources.get(volume.mount).and_then(Option::as_ref);
            if let Some(source) = source {
                userns::give_ids(source, namespace).map_err(|error| no_ids(&error))?;
            }
        }
        Ok(sources)
    }

    fn describe(&self, failure: isolate::InitFailure) -> Failure {
        let process = self.record.spec.process().clone().unwrap_or_default();
        let command = process.args().as_deref().unwrap_or_default();
        isolate::describe(failure, &self.record, command, &self.record.user, process.cwd())
    }

    /// The root file system, by whichever form this kernel has.
    fn stack(&mut self) -> Result<OwnedFd, Failure> {
        let failed = |error: Errno| {
            let hint = match error {
                Errno::INVAL => Some(
                    "the store must not be on overlayfs or another file system that overlayfs \
                     refuses: use a volume for --root (RRUN_ROOT)"
                        .to_owned(),
                ),
                _ => None,
            };
            ours(format!("cannot stack the image's layers: {}", io::Error::from(error)), hint)
        };
        let layers = self.layers()?;
        if layers.lowers.len() > overlay::LAYERS_MAX {
            let (count, most) = (layers.lowers.len(), overlay::LAYERS_MAX);
            return Err(ours(
                format!("the image has {count} layers; the kernel stacks {most}"),
                None,
            ));
        }
        match overlay::stack(&layers) {
            Ok(root) => return Ok(root),
            Err(error) if !overlay::wants_names(error) => return Err(failed(error)),
            Err(_) => {}
        }
        drop(layers);
        let opened_again = |error: crate::images::StoreError| ours(error.to_string(), None);
        overlay::leave_mount_namespace()
            .map_err(self::failed("cannot leave the mount namespace"))?;
        self.store = Store::open(&self.dirs.root).map_err(opened_again)?;
        self.container = self
            .store
            .open_container(&self.record.id)
            .map_err(opened_again)?
            .ok_or_else(|| ours("the container has been removed meanwhile", None))?;
        let place = self.dirs.runroot.join("mnt");
        match self.ids_of_mounts {
            Some(_) => overlay::stack_mounts_by_name(self.layers()?, &place).map_err(failed),
            None => overlay::stack_by_name(&self.layers()?, &place).map_err(failed),
        }
    }

    fn layers(&self) -> Result<Layers, Failure> {
        let place = |name: &str| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(self.container.dir(), name, flags, Mode::empty())
                .map_err(|error| ours(format!("cannot open the container's {name}: {error}"), None))
        };
        Ok(Layers {
            lowers: self.with_ids(self.lowers()?)?,
            upper: place("rw/u")?,
            work: place("rw/w")?,
            is_volatile: self.record.remove_on_exit,
            marks_of_user: false,
        })
    }

    /// The same by their paths, all of them seen to be there.
    fn layer_paths(&self) -> Result<LayerPaths, Failure> {
        self.lowers()?;
        let root = self.store.root();
        let image = &self.record.image;
        let fixups = image.fixups.iter().map(|chain| format!("fixups/{chain}"));
        let layers = image.layers.iter().rev().map(crate::images::layer_path);
        let mut lowers: Vec<PathBuf> =
            fixups.chain(layers).map(|path| root.join(path).join("fs")).collect();
        if lowers.is_empty() {
            lowers.push(self.run_path().join("empty"));
        }
        Ok(LayerPaths {
            lowers,
            upper: self.container.path().join("rw/u"),
            work: self.container.path().join("rw/w"),
            is_volatile: self.record.remove_on_exit,
        })
    }

    /// The layers with the container's ids as owners, if it has its own.
    fn with_ids(&self, lowers: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, Failure> {
        let Some(namespace) = &self.ids_of_mounts else { return Ok(lowers) };
        let mapped = lowers.iter().map(|lower| userns::with_ids(lower.as_fd(), namespace));
        mapped.collect::<io::Result<_>>().map_err(|error| no_ids(&error))
    }

    /// The image's layers, the topmost first, below what the image's directories need on top.
    fn lowers(&self) -> Result<Vec<OwnedFd>, Failure> {
        let words = |error: crate::images::StoreError| {
            let hint = format!("rrun pull {}", self.record.image.reference);
            ours(error.to_string(), Some(hint))
        };
        let mut lowers = Vec::new();
        if let Some(chain) = &self.record.image.fixups {
            lowers.push(self.store.fixups(chain).map_err(words)?);
        }
        for layer in self.record.image.layers.iter().rev() {
            let layer = self.store.layer(layer).map_err(words)?;
            lowers.push(layer.as_lower().map_err(words)?);
        }
        if lowers.is_empty() {
            // FROM scratch and nothing else: overlayfs wants at least one.
            let empty = self.run_path().join("empty");
            let open = || -> io::Result<OwnedFd> {
                fs::create_dir_all(&empty)?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                Ok(rustix::fs::open(&empty, flags, Mode::empty())?)
            };
            lowers.push(open().map_err(failed("cannot make an empty layer"))?);
        }
        Ok(lowers)
    }

    fn run_path(&self) -> &Path {
        self.run.as_ref().map_or(Path::new(""), |run| run.directory.path())
    }

    /// From here on everything is the monitor's, failures too.
    fn monitor(
        &mut self,
        first: &mut First,
        init: Process,
        signals: SignalFd,
        root: Option<OwnedFd>,
        ports: Ports,
    ) -> Result<Monitor, Failure> {
        let words = |error| ours(format!("cannot watch the container: {error}"), None);
        let stream = first.stream.try_clone().map_err(words)?;
        let client = Client::new(FIRST_CLIENT, stream, first.rest.take()).map_err(words)?;
        let state = State {
            id: self.record.id.clone(),
            init: identify(init.pid).map_err(words)?,
            monitor: identify(std::process::id().cast_signed()).map_err(words)?,
            started: Timestamp::now().to_rfc3339(),
            paused: false,
            cgroups: self.cgroup.as_ref().map(Cgroup::paths).unwrap_or_default(),
        };
        let log = self.record.stdio.log;
        let log = log.map(|files| Log::new(&log_path(self.container.path()), files));
        let (Some(cgroup), Some(run)) = (self.cgroup.take(), self.run.take()) else {
            return Err(ours("the container has no cgroup", None));
        };
        let container = finish::Container {
            dirs: self.dirs.clone(),
            record: self.record.clone(),
            run,
            _root: root,
            ports,
        };
        Monitor::new(container, state, cgroup, log, signals, init, client, first.request.clone())
            .map_err(words)
    }
}

/// Whether the record's network is the default one, and nothing was asked for that needs it.
fn is_default_alone(record: &Record) -> bool {
    const ASKS: [&str; 4] = ["network", "net", "publish", "publish-all"];
    record.network == Network::Bridge(vec![Membership::of(net::DEFAULT)])
        && !record.asked_for.iter().any(|flag| ASKS.contains(&flag.as_str()))
}

/// Takes MKNOD out of every set: without device rules a node that a container makes would be as
/// good as the host's.
fn forbid_devices(record: &mut Record) {
    let Some(process) = record.spec.process_mut() else { return };
    let Some(mut sets) = process.capabilities().clone() else { return };
    let without = |set: &Option<Capabilities>| {
        set.clone().map(|mut set| {
            set.remove(&Capability::Mknod);
            set
        })
    };
    let (bounding, effective) = (without(sets.bounding()), without(sets.effective()));
    let (permitted, inheritable) = (without(sets.permitted()), without(sets.inheritable()));
    let ambient = without(sets.ambient());
    sets.set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted)
        .set_inheritable(inheritable)
        .set_ambient(ambient);
    process.set_capabilities(Some(sets));
}

/// Pipes for a process, or nothing yet where it makes its own terminal: their ends, and ours.
pub(super) fn streams(
    terminal: bool,
    stdin_open: bool,
    window: Option<WindowSize>,
    ids: Option<&IdMap>,
) -> io::Result<(Stdio, Streams)> {
    if terminal {
        let ours = Streams { stdin: None, stdout: None, stderr: None, is_terminal: true };
        return Ok((Stdio::Terminal(window), ours));
    }
    let root = ids.map(IdMap::root).transpose()?;
    let pipe = || -> io::Result<(OwnedFd, OwnedFd)> {
        let ends = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        if let Some((uid, gid)) = root {
            // Whose owner has no id in there nobody in there could open again: /dev/stdout.
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::fchown(&ends.0, Some(uid), Some(gid))?;
        }
        Ok(ends)
    };
    let (stdin, input) = if stdin_open {
        let (theirs, ours) = pipe()?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        (Some(theirs), Some(ours))
    } else {
        (None, None)
    };
    let ((out, stdout), (err, stderr)) = (pipe()?, pipe()?);
    rustix::io::ioctl_fionbio(&out, true)?;
    rustix::io::ioctl_fionbio(&err, true)?;
    let ours = Streams { stdin: input, stdout: Some(out), stderr: Some(err), is_terminal: false };
    Ok((Stdio::Pipes { stdin, stdout, stderr }, ours))
}

pub(super) fn own_ids(ids: &IdMap) -> OwnIds {
    OwnIds { is_single: ids.is_single() }
}

fn no_ids(error: &io::Error) -> Failure {
    let message = format!("--userns=auto: the store cannot be mounted with other ids: {error}");
    ours(message, Some("RRUN_ROOT on ext4, xfs or btrfs".to_owned()))
}

fn tell(status: &OwnedFd, word: ToChild) -> Result<(), Failure> {
    talk::say(status, word.to_bytes())
        .map_err(|error| ours(format!("cannot tell the container: {error}"), None))
}

fn copies<'a>(all: impl IntoIterator<Item = &'a OwnedFd>) -> Result<Vec<OwnedFd>, Failure> {
    let copies = all.into_iter().map(OwnedFd::try_clone).collect::<io::Result<_>>();
    copies.map_err(failed("cannot copy a descriptor"))
}

/// Which namespaces are new, and which are joined.
struct Namespaces {
    new: i32,
    joined: Vec<OwnedFd>,
    pid: Option<OwnedFd>,
    private_cgroups: bool,
}

impl Namespaces {
    fn of(record: &Record, dirs: &Dirs, store: &Store) -> Result<Self, Failure> {
        use LinuxNamespaceType as Kind;
        let mut all =
            Self { new: libc::CLONE_NEWNS, joined: Vec::new(), pid: None, private_cgroups: false };
        let linux = record.spec.linux().as_ref();
        let listed = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        for namespace in listed {
            let flag = match namespace.typ() {
                Kind::Mount | Kind::User | Kind::Time => continue,
                Kind::Cgroup => {
                    all.private_cgroups |= namespace.path().is_none();
                    0
                }
                Kind::Network => libc::CLONE_NEWNET,
                Kind::Pid => libc::CLONE_NEWPID,
                Kind::Ipc => libc::CLONE_NEWIPC,
                Kind::Uts => libc::CLONE_NEWUTS,
            };
            let theirs = match (namespace.typ(), &record.network, &record.pid_of, &record.ipc) {
                (Kind::Network, Network::Container(id), ..) => Some(namespace_of(dirs, id, "net")?),
                (Kind::Pid, _, Some(id), _) => Some(namespace_of(dirs, id, "pid")?),
                (Kind::Ipc, .., Ipc::Container(id)) => {
                    share::check_ipc(store, id)?;
                    Some(namespace_of(dirs, id, "ipc")?)
                }
                _ => None,
            };
            match theirs {
                None => all.new |= flag,
                Some(theirs) if namespace.typ() == Kind::Pid => all.pid = Some(theirs),
                Some(theirs) => all.joined.push(theirs),
            }
        }
        Ok(all)
    }
}
