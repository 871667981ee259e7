//! `run` and `create`, and the shorthand without a verb.

use std::io::IsTerminal;
use std::path::PathBuf;

use nix::sys::signalfd::SignalFd;
use oci_spec::runtime::Capabilities;

use crate::cli::client::{self, Connection, Ended, relay};
use crate::cli::containers::{hold, remove};
use crate::cli::flags::{Arguments, FlagsEnd};
use crate::cli::hidden;
use crate::cli::images::pull;
use crate::cli::request::{Containers, make_sources, request};
pub(super) use crate::cli::run_flags::FLAGS;
use crate::cli::{Globals, Verb, print_line};
use crate::container::{Hosts, ImageUse, Record};
use crate::dirs::Dirs;
use crate::failure::Failure;
use crate::images::{ContainerDir, Lease, Store, StoreError};
use crate::launch::RunDirectory;
use crate::net;
use crate::pull::PullOptions;
use crate::spec::{CapabilityName, Host, ImageConfig, Request, capabilities_from_mask};
use crate::timestamp::Timestamp;
use crate::timings;
use crate::userns::IdMap;
use crate::volumes::{self, Volume};

pub(super) const VERBS: &[Verb] = &[
    Verb {
        names: &["run", "container run"],
        operands: "REF [COMMAND…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Run a command in a new container",
        details: RUN_DETAILS,
        flags: FLAGS,
        flags_end: FlagsEnd::AtOperand,
        run: |globals, arguments| run(globals, arguments.clone()),
    },
    Verb {
        names: &["create", "container create"],
        operands: "REF [COMMAND…]",
        operands_min: 1,
        operands_max: usize::MAX,
        about: "Make a container and do not start it",
        details: "The container's id is printed; `rrun start` starts it.",
        flags: FLAGS,
        flags_end: FlagsEnd::AtOperand,
        run: |globals, arguments| {
            if arguments.has("dry-run") {
                return dry_run(globals, arguments);
            }
            let made = make(globals, arguments, Purpose::Create)?;
            print_line(&made.record.id).map(|()| 0)
        },
    },
];

const RUN_DETAILS: &str = "\
Flags stand before REF; everything after it belongs to the container. Without COMMAND the image's
own runs. The exit code is the command's; 125 is a failure of rrun itself, 126 a command that cannot
be executed, 127 one that is not there, 128+n an end by signal n.

  rrun run -it --rm debian bash
  rrun run -d --name web -m 256m --cpus 0.5 localhost:5000/web
  rrun run --rm -v ./src:/src:ro -w /src -u 1000 localhost:5000/build make";

/// `rrun [flags] REF [CMD…]`: `run --rm`, and `-it` where both ends are a terminal.
pub(super) fn shorthand(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let mut arguments = arguments.clone();
    arguments.assume("rm", "true");
    let on_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if on_terminal && !arguments.has("detach") {
        arguments.assume("interactive", "true");
        arguments.assume("tty", "true");
    }
    run(globals, arguments)
}

fn run(globals: &Globals, arguments: Arguments) -> Result<u8, Failure> {
    if arguments.has("dry-run") {
        return dry_run(globals, &arguments);
    }
    let detached = arguments.has("detach");
    if arguments.has("tty") && arguments.has("interactive") && !detached {
        // Docker's words, for whoever greps them.
        if !std::io::stdin().is_terminal() {
            return Err(Failure::new("the input device is not a TTY")
                .hint("leave -t away: input comes from a pipe or file"));
        }
    }
    let passes_signals = !arguments.given("sig-proxy") || arguments.has("sig-proxy");
    let foreground = Foreground {
        stdin: arguments.has("interactive"),
        stop_on_hangup: passes_signals,
        passes_signals,
        detach_keys: client::detach_keys(arguments.value("detach-keys"))?,
    };
    let made = make(globals, &arguments, Purpose::Run)?;
    timings::mark("record written");
    let foreground = if detached { None } else { Some(foreground) };
    let id = made.record.id.clone();
    let ended = start_made(globals, made, foreground);
    if ended.is_ok() && detached {
        print_line(&id)?;
    }
    if arguments.has("timings") {
        timings::mark("ended");
        crate::cli::tell(timings::table(timings::take()).trim_end());
    }
    ended
}

/// How a command that stays is connected to its container.
pub(super) struct Foreground {
    pub(super) stdin: bool,
    /// When this command is killed the container is stopped.
    pub(super) stop_on_hangup: bool,
    pub(super) passes_signals: bool,
    pub(super) detach_keys: Vec<u8>,
}

/// Starts a container that exists. In the foreground the answer is its exit code.
pub(super) fn start_container(
    globals: &Globals,
    store: &Store,
    id: &str,
    held: RunDirectory,
    foreground: Option<Foreground>,
) -> Result<u8, Failure> {
    let directory = store.container(id)?;
    let record = directory.record()?;
    let _lease = make_whole(store, &record)?;
    let signals = client::catch_signals()?;
    start_made(globals, Made { directory, record, signals, held: Some(held) }, foreground)
}

/// Makes those layers again that a power cut has taken, from what the store or the registry has of
/// them. The container keeps them then; the lease does so until it is started.
fn make_whole(store: &Store, record: &Record) -> Result<Option<Lease>, Failure> {
    let image = &record.image;
    let fixups = image.fixups.as_ref().is_none_or(|chain| store.fixups(chain).is_ok());
    if fixups && image.layers.iter().all(|layer| store.layer(layer).is_ok()) {
        return Ok(None);
    }
    let id = image.config.to_string();
    if store.find_image(&id)?.is_none() {
        // Its name has gone meanwhile; the launcher says which layer is missing.
        return Ok(None);
    }
    let (_, lease) = crate::pull::ensure(store, &id, &PullOptions::default())?;
    Ok(Some(lease))
}

fn start_made(
    globals: &Globals,
    made: Made,
    foreground: Option<Foreground>,
) -> Result<u8, Failure> {
    let Made { directory, record, signals, held } = made;
    let held = held.ok_or_else(|| Failure::new("the container is not held"))?;
    let terminal = record.stdio.terminal;
    let attach = foreground
        .as_ref()
        .map(|foreground| client::attach(foreground.stdin, terminal, foreground.stop_on_hangup));
    let conversation = match crate::launch::start(&globals.dirs, &directory, held, attach) {
        Ok(conversation) => conversation,
        Err(error) => {
            // No monitor came to be that would do it.
            if record.remove_on_exit {
                remove(globals, &globals.store()?, &record.id, true, true)?;
            }
            return Err(Failure::new("cannot start the container").because(&error));
        }
    };
    timings::mark("launcher started");
    let Some(foreground) = foreground else {
        return client::wait_for_start(&conversation.stream).map(|()| 0);
    };
    let connection = Connection {
        conversation,
        stdin: foreground.stdin,
        terminal,
        passes_signals: foreground.passes_signals,
        is_exec: false,
        is_starting: true,
        detach_keys: foreground.detach_keys,
    };
    let ended = relay(connection, &signals).map_err(|failure| match globals.store() {
        Ok(store) => hidden::explain(failure, &store, &record),
        Err(_) => failure,
    });
    match ended? {
        Ended::Exited(exit) => Ok(client::conclude(&exit)),
        Ended::Detached => Ok(0),
    }
}

/// A container that exists and has not been started.
pub(super) struct Made {
    pub(super) directory: ContainerDir,
    pub(super) record: Record,
    signals: SignalFd,
    /// So that one of which the command was killed before it could start it is known for that.
    held: Option<RunDirectory>,
}

/// What a container is made for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Create,
    Run,
}

/// A command line that has been read.
struct Asked {
    store: Store,
    reference: String,
    request: Request,
    options: PullOptions,
}

fn read(globals: &Globals, arguments: &Arguments) -> Result<Asked, Failure> {
    let [reference, command @ ..] = &arguments.operands[..] else {
        return Err(Failure::new("name an image").hint("rrun run --help"));
    };
    let store = globals.store()?;
    let existing = Existing { store: &store, dirs: &globals.dirs };
    let request = request(arguments, command, &existing, store.ids())?;
    let options = pull_options(arguments)?;
    Ok(Asked { store, reference: reference.clone(), request, options })
}

/// Pulls what is missing and writes the record.
fn make(globals: &Globals, arguments: &Arguments, purpose: Purpose) -> Result<Made, Failure> {
    let asked = read(globals, arguments)?;
    let cidfile = arguments.value("cidfile").map(CidFile::claim).transpose()?;
    let made = record_and_create(globals, &asked, purpose)?;
    if let Some(file) = cidfile {
        file.write(&made.record.id)?;
    }
    Ok(made)
}

/// `--dry-run`: the configuration that a container would have, for people and for other runtimes.
fn dry_run(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let asked = read(globals, arguments)?;
    let (record, _lease) = settle(&asked.store, &asked.reference, &asked.options, &asked.request)?;
    if let Some(bytes) = record.environment_bytes.first() {
        let shown = String::from_utf8_lossy(bytes);
        let name = shown.split('=').next().unwrap_or_default();
        return Err(Failure::new(format!("--dry-run: the value of {name} is not UTF-8"))
            .hint("JSON has no words for it: leave the variable away"));
    }
    let text = serde_json::to_string_pretty(&record.spec)
        .map_err(|error| Failure::new("--dry-run").because(&error))?;
    print_line(&text).map(|()| 0)
}

fn record_and_create(globals: &Globals, asked: &Asked, purpose: Purpose) -> Result<Made, Failure> {
    let Asked { store, reference, request, options } = asked;
    make_sources(&request.mounts)?;
    // A layer can be removed between reading the image and writing the record: once more then.
    for last in [false, true] {
        let (record, _lease) = settle(store, reference, options, request)?;
        // From here on a signal is the container's; before, it ended this command. Between the two
        // a container would be left that nobody starts and nobody removes.
        let signals = client::catch_signals()?;
        let held = if purpose == Purpose::Run { hold(globals, &record.id)? } else { None };
        match store.create_container(&record) {
            Ok(directory) => {
                // Only now: from here on the record says that the volumes are in use.
                if let Err(failure) = make_volumes(store, &record) {
                    drop(held);
                    // The first failure is the one to hear of.
                    let _ = remove(globals, store, &record.id, true, true);
                    return Err(failure);
                }
                return Ok(Made { directory, record, signals, held });
            }
            Err(StoreError::NoSuchLayer(_)) if !last => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(format!("layers of {reference} keep going away"))
        .hint("another command removes images at the same time"))
}

/// The record, and a lease that keeps the image until the record is in the store.
fn settle(
    store: &Store,
    reference: &str,
    options: &PullOptions,
    request: &Request,
) -> Result<(Record, Lease), Failure> {
    let (image, lease) = crate::pull::ensure(store, reference, options)?;
    let mut image_use = image.to_use();
    image_use.foreign = crate::pull::foreign_platform(&image);
    if let (None, Some(words)) = (&options.platform, &image_use.foreign) {
        crate::cli::tell(format!("rrun: {words}"));
    }
    let bytes = store.blob(&image.config)?;
    timings::mark("image found");
    let config = ImageConfig::parse(&bytes).map_err(|error| {
        Failure::new(format!("the configuration of {reference} is malformed")).because(&error)
    })?;
    if let Some(count) = request.own_ids.filter(|_| !request.is_of_user) {
        check_owners(store, &image_use, reference, count)?;
    }
    let id = crate::random::id();
    let created = Timestamp::now().to_rfc3339();
    if store.ids().is_some_and(IdMap::is_single) {
        refuse_other_user(request, &config)?;
    }
    let host = host(request, store);
    let record = crate::spec::record(request, &config, image_use, &host, &id, created)
        .map_err(|error| Failure::of(&error))?;
    Ok((record, lease))
}

/// With one id there is one user.
fn refuse_other_user(request: &Request, image: &ImageConfig) -> Result<(), Failure> {
    let user = request.user.as_deref().unwrap_or(&image.config.user);
    if matches!(user, "" | "0" | "root" | "0:0" | "root:root") {
        return Ok(());
    }
    let why = "you have one id, which is root in there, and no subordinate ids";
    Err(Failure::new(format!("cannot run as {user}: {why}")).hint(
        "-u 0, or as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER; \
         then a new store: rrun --root DIR",
    ))
}

/// That every owner in the image has an id in the container.
fn check_owners(
    store: &Store,
    image: &ImageUse,
    reference: &str,
    count: u32,
) -> Result<(), Failure> {
    for layer in &image.layers {
        if let Some(most) = store.layer(layer)?.facts()?.id_max.filter(|most| *most >= count) {
            let message = format!(
                "--userns=auto: {reference} has files of id {most}, the container {count} ids"
            );
            return Err(
                Failure::new(message).hint(format!("--userns=auto:size={}", u64::from(most) + 1))
            );
        }
    }
    Ok(())
}

fn make_volumes(store: &Store, record: &Record) -> Result<(), Failure> {
    for volume_use in &record.volumes {
        let volume = Volume {
            name: volume_use.name.clone(),
            created: record.created.clone(),
            labels: Default::default(),
            anonymous: volume_use.anonymous,
        };
        volumes::create(&store.volumes(), &volume).map_err(|error| {
            Failure::new(format!("cannot make the volume {}", volume.name)).because(&error)
        })?;
    }
    Ok(())
}

fn host(request: &Request, store: &Store) -> Host {
    let needs_all = request.privileged || request.capabilities_added.contains(&CapabilityName::All);
    let name = rustix::system::uname();
    Host {
        capabilities: if needs_all { bounding_set() } else { Capabilities::new() },
        hostname: name.nodename().to_string_lossy().into_owned(),
        volumes: store.volumes(),
    }
}

/// What could be passed on at all. Source: proc_pid_status(5), `CapBnd`.
pub(super) fn bounding_set() -> Capabilities {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let mask = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    capabilities_from_mask(mask.unwrap_or(0))
}

fn pull_options(arguments: &Arguments) -> Result<PullOptions, Failure> {
    let mut options = pull::options(arguments)?;
    options.policy = pull::policy(arguments.value("pull").filter(|text| !text.is_empty()))?;
    options.progress.quiet = arguments.has("quiet");
    Ok(options)
}

/// `--cidfile`: made before anything else, so that two commands cannot both have it, and removed
/// again where no container comes of it.
struct CidFile {
    path: PathBuf,
    written: bool,
}

impl CidFile {
    fn claim(path: &str) -> Result<Self, Failure> {
        std::fs::File::create_new(path).map_err(|error| {
            let failure = Failure::new(format!("--cidfile={path}"));
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                return Failure::new(format!("--cidfile={path}: the file exists"))
                    .hint("another container may be using it; remove it to go on");
            }
            failure.because(&error)
        })?;
        Ok(Self { path: PathBuf::from(path), written: false })
    }

    fn write(mut self, id: &str) -> Result<(), Failure> {
        std::fs::write(&self.path, id).map_err(|error| {
            Failure::new(format!("--cidfile={}", self.path.display())).because(&error)
        })?;
        self.written = true;
        Ok(())
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if !self.written {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The containers of the store, for flags that name one.
struct Existing<'a> {
    store: &'a Store,
    dirs: &'a Dirs,
}

impl Containers for Existing<'_> {
    fn id_of(&self, name: &str) -> Result<String, Failure> {
        Ok(self.store.container(name)?.id)
    }

    fn hosts_of(&self, id: &str) -> Result<Hosts, Failure> {
        Ok(self.store.container(id)?.record()?.hosts)
    }

    fn network(&self, name: &str) -> Result<String, Failure> {
        Ok(net::find(self.dirs, name)?.name)
    }
}
