//! What of an ordinary user's store is other ids' than his own can be looked at and removed only by
//! who has them: this program, executed once more, which enters them. It has one thread.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use shared::DiffId;

use super::fixups::Stack;
use super::{RECORD_BYTES_MAX, Store, StoreError, to_json, tree_bytes};
use crate::userns::IdMap;

/// The program that is running, also when its file has been replaced meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// `unpack-worker inside VERB IDS …`, in the store's directory, or with `usage` in the one that is
/// counted. What it has to say is on standard output, why it fails on standard error.
pub(crate) fn main(words: &[&str]) -> u8 {
    let done = match words {
        [verb, ids, rest @ ..] => work(verb, ids, rest),
        _ => Err("it was started wrongly".to_owned()),
    };
    let written = match &done {
        Ok(bytes) => crate::images::write_all(rustix::stdio::stdout(), bytes),
        Err(why) => crate::images::write_all(rustix::stdio::stderr(), why.as_bytes()),
    };
    u8::from(done.is_err() || written.is_err())
}

fn work(verb: &str, ids: &str, rest: &[&str]) -> Result<Vec<u8>, String> {
    let words = |error: &dyn std::error::Error| {
        let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{source}")
    };
    let ids: IdMap = serde_json::from_str(ids).map_err(|error| words(&error))?;
    ids.enter().map_err(|error| format!("cannot have its ids: {error}"))?;
    let here = std::env::current_dir().map_err(|error| words(&error))?;
    if verb == "usage" {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        let flags = flags | rustix::fs::OFlags::CLOEXEC;
        let top = rustix::fs::open(".", flags, rustix::fs::Mode::empty());
        let top: OwnedFd = top.map_err(|error| words(&error))?;
        return Ok(tree_bytes(top).to_string().into_bytes());
    }
    let store = Store::open_inside(&here).map_err(|error| words(&error))?;
    match verb {
        "empty" => store.empty_trash().map(|()| Vec::new()).map_err(|error| words(&error)),
        "stack" => {
            let layers =
                rest.iter().map(|text| text.parse::<DiffId>()).collect::<Result<Vec<_>, _>>();
            let layers = layers.map_err(|error| words(&error))?;
            store.stack(&layers).map(|stack| to_json(&stack)).map_err(|error| words(&error))
        }
        _ => Err("it was started wrongly".to_owned()),
    }
}

/// Has `verb` done in `place` by a process that has these ids.
fn inside(ids: &IdMap, place: &Path, verb: &str, rest: &[String]) -> std::io::Result<Vec<u8>> {
    let mut command: Command = crate::unpack::worker_command(Path::new(OWN_PROGRAM));
    let ids = String::from_utf8(to_json(ids)).unwrap_or_default();
    let mut child = command
        .args(["inside", verb, &ids])
        .args(rest)
        .current_dir(place)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (mut out, mut err) = (Vec::new(), String::new());
    if let Some(stdout) = child.stdout.take() {
        stdout.take(RECORD_BYTES_MAX).read_to_end(&mut out)?;
    }
    if let Some(stderr) = child.stderr.take() {
        stderr.take(RECORD_BYTES_MAX).read_to_string(&mut err)?;
    }
    match child.wait()?.success() {
        true => Ok(out),
        false => Err(std::io::Error::other(err)),
    }
}

impl Store {
    pub(super) fn empty_trash_inside(&self) -> Result<(), StoreError> {
        let Some(ids) = self.ids_to_enter() else { return Ok(()) };
        inside(ids, self.root(), "empty", &[]).map(drop).map_err(io("empty the trash"))
    }

    pub(super) fn stack_inside(&self, diff_ids: &[DiffId]) -> Result<Stack, StoreError> {
        let what = "work out how the image's layers are stacked";
        let Some(ids) = self.ids_to_enter() else {
            return Err(io(what)(std::io::ErrorKind::InvalidInput.into()));
        };
        let layers: Vec<String> = diff_ids.iter().map(DiffId::to_string).collect();
        let bytes = inside(ids, self.root(), "stack", &layers).map_err(io(what))?;
        serde_json::from_slice(&bytes).map_err(|error| io(what)(error.into()))
    }

    /// Content of the regular files beneath a directory of the store, bytes.
    pub(super) fn bytes_inside(&self, place: &Path) -> Option<u64> {
        let bytes = inside(self.ids_to_enter()?, place, "usage", &[]).unwrap_or_default();
        Some(std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0))
    }
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> StoreError {
    let what = what.to_owned();
    move |source| StoreError::Io { what, source }
}
