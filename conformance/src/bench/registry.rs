//! Pushes and pulls beside Debian's `docker-registry` and nginx: wall time, and processor time of
//! the server, in interleaved rounds.
//!
//! The whole runs in a network namespace of its own with TCP "reno": pacing by the host's
//! congestion control would measure its timers. Each server keeps its data on one fresh ext4 with a
//! journal, because syncs cost nothing without one.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::pull::Disk;
use super::samples::{Samples, load};
use crate::http::{Connection, Request};
use crate::image::{
    OCI_CONFIG, OCI_MANIFEST, descriptor, noise, open_upload, push_blob, push_manifest, sha256,
    with_query,
};
use crate::process::{self, Server};
use crate::registry::{Options, Program, Registry, free_port};
use crate::wait;

/// Size of the blob.
const BLOB_BYTES: usize = 1 << 30;
/// Pulls of it in a round, one after the other: processor time is told in steps of 10 ms.
const PULLS: u32 = 8;
const CLIENTS: usize = 32;
/// Requests for a manifest in a round, and pushes of one.
const GETS: usize = 20_000;
const PUTS: usize = 2_000;
/// Size of a layer that is pulled as soon as it is pushed, and by how many, one after the other.
const FRESH_BYTES: usize = 512 << 20;
const FRESH_PULLS: u32 = 4;
/// Size of a blob that others pull often meanwhile.
const HOT_BYTES: usize = 128 << 20;
/// What counts as level with nginx: we look whether the file is in memory before it is sent.
const NGINX_PULL_MOST: f64 = 1.25;
const CONFIG: &[u8] = b"{}";
const OCTETS: &str = "application/octet-stream";

/// Enters a network namespace of its own; before the first thread is started.
///
/// # Errors
/// Without root.
fn isolate() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    process::shell::<&str>("ip link set lo up", &[])?;
    fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno").context("TCP reno")
}

#[derive(Default)]
struct Results {
    push: Samples,
    first_pull: Samples,
    pull: Samples,
    fresh_push: Samples,
    fresh_pulls: Samples,
    get: Samples,
    put: Samples,
}

/// Measures and returns a Markdown section.
///
/// # Errors
/// If a server is missing or answers wrongly.
pub fn measure(rounds: usize) -> Result<String> {
    isolate()?;
    // Each round pushes bytes of its own to each server.
    let disk = Disk::new(&format!("{}G", 4 + 3 * (rounds + 1)))?;
    let before = load();
    let start = |program: Program| -> Result<(Registry, Results)> {
        let data = disk.path().join(format!("{program:?}"));
        let options = Options::default().program(program).data(data);
        Ok((Registry::start(options)?, Results::default()))
    };
    let mut peers = [start(Program::Roadstead)?, start(Program::DockerRegistry)?];
    let mut bytes = noise(1, BLOB_BYTES);
    // Of the same file, so that it lies in memory the same way.
    let (nginx, nginx_address) = nginx(&disk.path(), peers[0].0.data())?;
    let mut nginx_pull = Samples::default();
    for round in 0..rounds {
        bytes[..8].copy_from_slice(&(round as u64).to_le_bytes());
        let digest = sha256(&bytes);
        for place in 0..peers.len() {
            let index = (place + round) % peers.len();
            let (registry, results) = &mut peers[index];
            blob(registry, results, &bytes, &digest)?;
            // Write-back of the blob is nobody's but its own.
            nix::unistd::sync();
            fresh(registry, results, &bytes, round)?;
            nix::unistd::sync();
            manifests(registry, results, round)?;
        }
        let hex = digest.trim_start_matches("sha256:");
        let path = format!("/blobs/sha256/{}/{hex}", &hex[..2]);
        let (cpu, started) = (nginx.cpu()?, Instant::now());
        (0..PULLS).try_for_each(|_| fetch(nginx_address, &path, BLOB_BYTES))?;
        nginx_pull.add(started.elapsed() / PULLS, (nginx.cpu()? - cpu) / PULLS);
    }
    let [(_, ours), (_, theirs)] = &peers;
    Ok(report(ours, theirs, &nginx_pull, rounds, &before))
}

/// Wall time of `work`, and the processor time of the server meanwhile.
fn timed(
    registry: &mut Registry,
    work: impl FnOnce(&Registry) -> Result<()>,
) -> Result<(Duration, Duration)> {
    let (cpu, started) = (registry.server().cpu()?, Instant::now());
    work(registry)?;
    let wall = started.elapsed();
    Ok((wall, registry.server().cpu()? - cpu))
}

fn blob(registry: &mut Registry, results: &mut Results, bytes: &[u8], digest: &str) -> Result<()> {
    let (wall, cpu) = timed(registry, |registry| {
        let target = with_query(&open_upload(registry, "a")?, &format!("digest={digest}"));
        let request = Request::new("PUT", &target).header("Content-Type", OCTETS).bytes(bytes);
        request.send(registry.address())?.expect(201).map(drop)
    })?;
    results.push.add(wall, cpu);
    let target = format!("/v2/a/blobs/{digest}");
    let (wall, cpu) = timed(registry, |registry| fetch(registry.address(), &target, BLOB_BYTES))?;
    results.first_pull.add(wall, cpu);
    let (wall, cpu) = timed(registry, |registry| {
        (0..PULLS).try_for_each(|_| fetch(registry.address(), &target, BLOB_BYTES))
    })?;
    results.pull.add(wall / PULLS, cpu / PULLS);
    Ok(())
}

/// A pipeline pushes, and the machines pull at once. What others pull often stays in memory.
fn fresh(registry: &mut Registry, results: &mut Results, bytes: &[u8], round: usize) -> Result<()> {
    let hot = &bytes[bytes.len() - HOT_BYTES..];
    if round == 0 {
        push_blob(registry, "a", hot)?;
    }
    let target = format!("/v2/a/blobs/{}", sha256(hot));
    for _ in 0..2 {
        fetch(registry.address(), &target, HOT_BYTES)?;
    }
    let mut layer = bytes[..FRESH_BYTES].to_vec();
    layer[8..16].copy_from_slice(b"fresh   ");
    let digest = sha256(&layer);
    let (wall, cpu) = timed(registry, |registry| {
        let target = with_query(&open_upload(registry, "a")?, &format!("digest={digest}"));
        let request = Request::new("PUT", &target).header("Content-Type", OCTETS).bytes(&layer);
        request.send(registry.address())?.expect(201).map(drop)
    })?;
    results.fresh_push.add(wall, cpu);
    let target = format!("/v2/a/blobs/{digest}");
    let (wall, cpu) = timed(registry, |registry| {
        (0..FRESH_PULLS).try_for_each(|_| fetch(registry.address(), &target, FRESH_BYTES))
    })?;
    results.fresh_pulls.add(wall, cpu);
    let resident = process::shell(
        "find \"$1\" -type f -size \"$2\"c -exec fincore -b -n -o RES {} +",
        &[registry.data().as_os_str(), HOT_BYTES.to_string().as_ref()],
    )?;
    let resident: usize = resident.trim().parse().context("what is in memory of the hot blob")?;
    ensure!(resident >= HOT_BYTES / 10 * 9, "only {resident} bytes of the hot blob are in memory");
    Ok(())
}

fn manifests(registry: &mut Registry, results: &mut Results, round: usize) -> Result<()> {
    push_blob(registry, "m", CONFIG)?;
    push_manifest(registry, "m", "read", OCI_MANIFEST, &manifest("read"))?;
    let (wall, cpu) = timed(registry, |registry| {
        by_clients(registry, GETS, |connection, _| {
            let request =
                Request::new("GET", "/v2/m/manifests/read").header("Accept", OCI_MANIFEST);
            connection.exchange(request)?.expect(200).map(drop)
        })
    })?;
    results.get.add(wall, cpu);
    let (wall, cpu) = timed(registry, |registry| {
        by_clients(registry, PUTS, |connection, n| {
            let name = format!("t{round}-{n}");
            let (target, body) = (format!("/v2/m/manifests/{name}"), manifest(&name));
            let request = Request::new("PUT", &target).header("Content-Type", OCI_MANIFEST);
            connection.exchange(request.bytes(&body))?.expect(201).map(drop)
        })
    })?;
    results.put.add(wall, cpu);
    Ok(())
}

/// So many requests by [`CLIENTS`] at once, each on a connection that is kept.
fn by_clients(
    registry: &Registry,
    count: usize,
    one: impl Fn(&mut Connection, usize) -> Result<()> + Sync,
) -> Result<()> {
    let client = |first: usize| -> Result<()> {
        let mut connection = Connection::open(registry.address())?;
        (first..count).step_by(CLIENTS).try_for_each(|n| one(&mut connection, n))
    };
    thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || client(n))).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("no panic"))
    })
}

fn manifest(name: &str) -> Vec<u8> {
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, CONFIG),
        "layers": [], "annotations": {"name": name},
    });
    manifest.to_string().into_bytes()
}

/// Reads the blob and drops it.
fn fetch(address: SocketAddr, target: &str, bytes: usize) -> Result<()> {
    let mut connection = Connection::open(address)?;
    let answer = connection.exchange_into(Request::new("GET", target), &mut io::sink())?;
    let length: usize = answer.expect(200)?.need("content-length")?.parse()?;
    ensure!(length == bytes, "{target} has {length} bytes");
    Ok(())
}

/// nginx with sendfile, in one process so that its times are those of the server. It serves `root`.
fn nginx(disk: &Path, root: &Path) -> Result<(Server, SocketAddr)> {
    let own = disk.join("nginx");
    fs::create_dir(&own)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let config = format!(
        "daemon off; master_process off; user root; pid {}/pid; error_log stderr;\n\
         events {{}}\n\
         http {{ access_log off; sendfile on; server {{ listen {address}; root {}; }} }}\n",
        own.display(),
        root.display()
    );
    let file = disk.join("nginx/conf");
    fs::write(&file, config)?;
    let mut command = Command::new(crate::tool("nginx")?);
    let mut server = Server::start(command.arg("-c").arg(&file), &disk.join("nginx/log"))?;
    wait::until("nginx", Duration::from_secs(10), || {
        server.check()?;
        Ok(Request::new("HEAD", "/").send(address).ok())
    })?;
    Ok((server, address))
}

fn report(
    ours: &Results,
    theirs: &Results,
    nginx: &Samples,
    rounds: usize,
    before: &str,
) -> String {
    let mut text = format!(
        "### Beside docker-registry and nginx\n\n\
         {rounds} rounds, interleaved; medians; one network namespace, TCP reno, one fresh ext4 with \
         a journal. CPU is the server's. {CLIENTS} clients for manifests; the clients share the processors.\n\n\
         | what | server | wall | CPU | wall / ours | CPU / ours |\n|---|---|---|---|---|---|\n"
    );
    let nothing = Samples::default();
    let rows = [
        ("push of 1 GiB, s", 1.0, &ours.push, &theirs.push, &nothing),
        ("its first pull, s", 1.0, &ours.first_pull, &theirs.first_pull, &nothing),
        ("pull of 1 GiB, s", 1.0, &ours.pull, &theirs.pull, nginx),
        ("push of 512 MiB, s", 1.0, &ours.fresh_push, &theirs.fresh_push, &nothing),
        ("four pulls right after, s", 1.0, &ours.fresh_pulls, &theirs.fresh_pulls, &nothing),
        ("manifest GET, µs", 1e6 / GETS as f64, &ours.get, &theirs.get, &nothing),
        ("durable manifest PUT, µs", 1e6 / PUTS as f64, &ours.put, &theirs.put, &nothing),
    ];
    for (what, scale, ours, theirs, nginx) in rows {
        let peers = [("registry", ours), ("docker-registry", theirs), ("nginx", nginx)];
        for (server, times) in peers.into_iter().filter(|(_, times)| times.median() > 0.0) {
            text += &format!(
                "| {what} | {server} | {:.3} | {:.3} | {:.2} | {:.2} |\n",
                times.median() / 1e3 * scale,
                times.cpu() / 1e3 * scale,
                times.median() / ours.median(),
                times.cpu() / ours.cpu()
            );
        }
    }
    text += "\n| aim | measured | |\n|---|---|---|\n";
    let nginx_pull = ours.pull.cpu() / nginx.cpu();
    let aims = [
        (
            "push: processor time of docker-registry / ours",
            ratio_cpu(&theirs.push, &ours.push),
            4.0,
        ),
        (
            "pull: processor time of docker-registry / ours",
            ratio_cpu(&theirs.pull, &ours.pull),
            7.0,
        ),
        (
            "push of 512 MiB that is read back: processor time, the same",
            ratio_cpu(&theirs.fresh_push, &ours.fresh_push),
            1.0 / 0.3,
        ),
        (
            "four pulls right after it: wall time, the same",
            theirs.fresh_pulls.median() / ours.fresh_pulls.median(),
            2.0,
        ),
        (
            "four pulls right after it: processor time, the same",
            ratio_cpu(&theirs.fresh_pulls, &ours.fresh_pulls),
            1.0 / 0.15,
        ),
        ("manifest GET: processor time, the same", ratio_cpu(&theirs.get, &ours.get), 40.0),
        (
            "durable manifest PUT: wall time, the same",
            theirs.put.median() / ours.put.median(),
            10.0,
        ),
    ];
    for (what, measured, least) in aims {
        let met = if measured >= least { "met" } else { "**not met**" };
        text += &format!("| {what} ≥ {least:.1} | {measured:.1} | {met} |\n");
    }
    let met = if nginx_pull <= NGINX_PULL_MOST { "met" } else { "**not met**" };
    text += &format!(
        "| pull: processor time, ours / nginx's ≤ {NGINX_PULL_MOST} | {nginx_pull:.2} | {met} |\n"
    );
    text + &format!("\nLoad average {before} before, {} after.\n", load())
}

fn ratio_cpu(theirs: &Samples, ours: &Samples) -> f64 {
    theirs.cpu() / ours.cpu()
}
