//! Every 201 of a push comes after the syncs that it stands for, read from the system calls; with
//! one of these syncs left out the same check fails. (`kill -9` cannot see this: the page cache
//! survives it.) Needs strace(1) and the right to trace a child.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Server, image, wait};

const CALLS: &str = "trace=fsync,fdatasync,rename,renameat,renameat2,write,writev,sendto,sendmsg";

const CONFIG: &[u8] = b"{}";
const LAYER: &[u8] = b"a layer";

/// What a push leaves in the trace, in the order in which it must stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    DataSynced,
    Renamed,
    DirectorySynced,
    LogSynced,
    Answered,
}

/// Pushes an image under strace. The trace.
fn trace(root: &Path, failpoints: &str) -> String {
    // The syncs of a log that is emptied at rest are nobody's answer.
    let failpoints = format!("{failpoints};rest-checkpoint=off");
    let quiet = [("REGISTRY_FAILPOINTS", failpoints.as_str()), ("REGISTRY_GC_INTERVAL", "1h")];
    let server = Server::start(root, &quiet);
    let mut client = server.client();
    // The first round of collection is over, and the connection is open, before the trace begins.
    assert_eq!(client.get("/metrics").unwrap().status, 200);
    let file = root.with_extension("trace");
    let mut strace = Command::new("strace")
        .args(["-f", "-y", "-s", "32", "-e", CALLS, "-o"])
        .arg(&file)
        .args(["-p", &server.pid().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(strace.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("attached"), "strace: {line}");
    for blob in [CONFIG, LAYER] {
        assert_eq!(client.push_blob("app", blob).unwrap().status, 201);
    }
    assert_eq!(client.push_manifest("app", "v1", &image(&[CONFIG, LAYER])).unwrap().status, 201);
    server.kill();
    wait("strace ends", || strace.try_wait().unwrap());
    std::fs::read_to_string(file).unwrap()
}

/// The events of a trace, each where its call *returned*.
fn events(trace: &str) -> Vec<Event> {
    let mut unfinished: HashMap<&str, &str> = HashMap::new();
    let mut events = Vec::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if let Some(begun) = call.strip_suffix("<unfinished ...>") {
            // An answer counts from the moment that it is handed over.
            if is_answer(begun) {
                events.push(Event::Answered);
            }
            unfinished.insert(thread, begun);
            continue;
        }
        let (begun, resumed) = match call.starts_with("<... ") {
            true => (unfinished.remove(thread).unwrap_or(""), true),
            false => (call, false),
        };
        if is_answer(begun) {
            if !resumed {
                events.push(Event::Answered);
            }
        } else if call.ends_with("= 0") {
            events.extend(event(begun));
        }
    }
    events
}

fn is_answer(call: &str) -> bool {
    call.contains("HTTP/1.1 201")
}

fn event(call: &str) -> Option<Event> {
    let sync = call.starts_with("fsync(") || call.starts_with("fdatasync(");
    match call {
        _ if sync && call.contains("/uploads/") => Some(Event::DataSynced),
        _ if sync && call.contains("/blobs/") => Some(Event::DirectorySynced),
        _ if sync && call.contains("registry.db-wal") => Some(Event::LogSynced),
        _ if call.starts_with("rename") && call.contains("/blobs/") => Some(Event::Renamed),
        _ => None,
    }
}

/// What is wrong with two blobs and a manifest, if anything.
fn check(trace: &str) -> Result<(), String> {
    use Event::{Answered, DataSynced, DirectorySynced, LogSynced, Renamed};
    let blob = [DataSynced, Renamed, DirectorySynced, LogSynced, Answered];
    let found = events(trace);
    let want: Vec<Event> = blob.into_iter().chain(blob).chain([LogSynced, Answered]).collect();
    if found == want { Ok(()) } else { Err(format!("{found:?}")) }
}

#[test]
fn every_201_comes_after_its_syncs() {
    let directory = tempfile::tempdir().unwrap();
    let trace = trace(&directory.path().join("store"), "");
    assert_eq!(check(&trace), Ok(()), "{trace}");
}

#[test]
fn a_sync_that_is_left_out_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    for point in ["upload-sync", "shard-sync", "log-sync"] {
        let trace = trace(&directory.path().join(point), &format!("{point}=off"));
        assert!(check(&trace).is_err(), "{point}: {trace}");
    }
}
