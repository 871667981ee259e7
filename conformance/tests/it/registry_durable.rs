//! What was acknowledged stays, whatever ends the process or fills the disk: read from system
//! calls, and by killing.

use std::fs;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use conformance::http::{Connection, Request, Response};
use conformance::image::{
    Random, finish_upload, noise, oci_image, open_upload, path_of, push_blob, push_image, sha256,
    with_query,
};
use conformance::janitor::{self, Scratch};
use conformance::registry::{Options, Registry};
use conformance::{process, trace, wait};

const OCTETS: &str = "application/octet-stream";

#[test]
fn every_201_and_202_comes_after_its_syncs() -> Result<()> {
    let scratch = Scratch::new("trace")?;
    let file = scratch.join("trace");
    let mut registry = Registry::start(Options::default().wrapper(trace::strace(&file)?))?;
    let image = oci_image(&[("a", &noise(1, 200_000)), ("b", b"small")])?;
    push_image(&registry, "a", "1", &image)?;
    let late = noise(2, 100_000);
    let location = patched(&registry, &late[..60_000])?;
    finish_upload(&registry, &location, &sha256(&late), &late[60_000..])?.expect(201)?;
    registry.request("DELETE", "/v2/a/manifests/1")?.expect(202)?;
    registry.request("DELETE", &format!("/v2/a/manifests/{}", image.digest()))?.expect(202)?;
    registry.server().kill();

    let text = wait::until("the end of the trace", Duration::from_secs(20), || {
        let text = fs::read_to_string(&file)?;
        Ok(text.contains("+++ killed by SIGKILL +++").then_some(text))
    })?;
    let durable = trace::check(&text)?;
    // Blobs of the image, its manifest, the blob in two parts, two deletes.
    let expected = image.blobs.len() + 1 + 1 + 2;
    ensure!(durable == expected, "{durable} durable answers in the trace, not {expected}");

    // The check must notice a server that does not sync.
    for call in ["fdatasync(", "fsync("] {
        let without: Vec<&str> = text.lines().filter(|line| !line.contains(call)).collect();
        ensure!(trace::check(&without.join("\n")).is_err(), "nobody misses {call}");
    }
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() -> Result<()> {
    let mut registry = Registry::start(Options::default())?;
    for seed in 0..12 {
        let contents = noise(seed, 1 + Random::new(seed).below(300_000));
        let image = oci_image(&[("f", &contents)])?;
        push_image(&registry, "a", &format!("t{seed}"), &image)?;
        registry.crash_and_restart().with_context(|| format!("seed {seed}"))?;
        let answer = registry.get(&format!("/v2/a/manifests/t{seed}"))?.expect(200)?;
        ensure!(answer.body == image.manifest, "seed {seed}: another manifest");
        for blob in &image.blobs {
            let target = format!("/v2/a/blobs/{}", sha256(blob));
            let answer = registry.get(&target)?.expect(200)?;
            ensure!(answer.body == *blob, "seed {seed}: other bytes");
        }
        registry.request("DELETE", &format!("/v2/a/manifests/t{seed}"))?.expect(202)?;
        registry.crash_and_restart()?;
        registry.get(&format!("/v2/a/manifests/t{seed}"))?.expect(404)?;
    }
    Ok(())
}

#[test]
fn an_upload_cut_by_kill_9_goes_on_where_it_was() -> Result<()> {
    let mut registry = Registry::start(Options::default())?;
    for seed in 100..103 {
        let bytes = noise(seed, 6 << 20);
        let location = patched(&registry, &bytes[..1 << 20])?;
        let mut connection = Connection::open(registry.address())?;
        let half = bytes.len() / 2;
        let head = format!(
            "PATCH {location} HTTP/1.1\r\nHost: a\r\nContent-Type: {OCTETS}\r\n\
             Content-Length: {}\r\nContent-Range: {}-{}\r\n\r\n",
            bytes.len() - (1 << 20),
            1 << 20,
            bytes.len() - 1
        );
        std::io::Write::write_all(connection.stream(), head.as_bytes())?;
        std::io::Write::write_all(connection.stream(), &bytes[1 << 20..half])?;
        registry.crash_and_restart()?;

        let status = registry.get(&location)?.expect(204)?;
        let offset = offset_of(&status)?;
        ensure!((1 << 20..=half).contains(&offset), "goes on at {offset}");
        let range = format!("{offset}-{}", bytes.len() - 1);
        let location = path_of(status.need("location")?).to_owned();
        let answer = Request::new("PATCH", &location)
            .header("Content-Type", OCTETS)
            .header("Content-Range", range)
            .bytes(&bytes[offset..])
            .send(registry.address())?
            .expect(202)?;
        let digest = sha256(&bytes);
        finish_upload(&registry, answer.need("location")?, &digest, b"")?.expect(201)?;
        let pulled = registry.get(&format!("/v2/a/blobs/{digest}"))?.expect(200)?;
        ensure!(pulled.body == bytes, "seed {seed}: other bytes");
    }
    Ok(())
}

#[test]
fn two_clients_push_the_same_blob_at_once() -> Result<()> {
    let registry = Registry::start(Options::default())?;
    for seed in 200..210 {
        let bytes = noise(seed, 1 << 20);
        let barrier = Barrier::new(2);
        let push = &|repository: &str| {
            barrier.wait();
            push_blob(&registry, repository, &bytes)
        };
        let [one, two] = thread::scope(|scope| {
            let pushes = ["a", "b"].map(|repository| scope.spawn(move || push(repository)));
            pushes.map(|push| push.join().expect("no panic"))
        });
        let digest = one?;
        ensure!(digest == two?, "two digests");
        for repository in ["a", "b"] {
            let pulled = registry.get(&format!("/v2/{repository}/blobs/{digest}"))?.expect(200)?;
            ensure!(pulled.body == bytes, "seed {seed}: other bytes for {repository}");
        }
    }
    ensure!(files(&registry, "blobs")?.len() == 10, "more than one copy of a blob");
    ensure!(files(&registry, "uploads")?.is_empty(), "uploads are left");
    Ok(())
}

#[test]
fn two_writers_on_one_session_never_mix() -> Result<()> {
    let registry = Registry::start(Options::default())?;
    for seed in 0..10 {
        let location = open_upload(&registry, "a")?;
        let bodies = [noise(1000 + seed, 2 << 20), noise(2000 + seed, 2 << 20)];
        let barrier = Barrier::new(2);
        let write = |bytes: &[u8]| {
            barrier.wait();
            Request::new("PATCH", &location)
                .header("Content-Type", OCTETS)
                .header("Content-Range", format!("0-{}", bytes.len() - 1))
                .bytes(bytes)
                .send(registry.address())
        };
        let answers = thread::scope(|scope| {
            let writers = bodies.each_ref().map(|bytes| scope.spawn(|| write(bytes)));
            writers.map(|writer| writer.join().expect("no panic"))
        });
        // A writer that is pushed out may find its connection cut.
        let won: Vec<usize> = (0..2)
            .filter(|&n| answers[n].as_ref().is_ok_and(|answer| answer.status == 202))
            .collect();
        ensure!(won.len() == 1, "seed {seed}: {} writers were told 202: {answers:?}", won.len());
        let status = registry.get(&location)?.expect(204)?;
        ensure!(offset_of(&status)? == 2 << 20, "{status:?}");
        let winner = &bodies[won[0]];
        let digest = sha256(winner);
        finish_upload(&registry, status.need("location")?, &digest, b"")?.expect(201)?;
        let pulled = registry.get(&format!("/v2/a/blobs/{digest}"))?.expect(200)?;
        ensure!(pulled.body == *winner, "seed {seed}: mixed bytes");
    }
    Ok(())
}

#[test]
fn a_full_disk_is_told_and_overcome() -> Result<()> {
    conformance::require_root()?;
    let disk = SmallDisk::new()?;
    let registry = Registry::start(Options::default().data(disk.0.join("mnt/data")))?;
    let image = oci_image(&[("f", &noise(1, 100_000))])?;
    push_image(&registry, "a", "1", &image)?;
    push_image(&registry, "a", "2", &image)?;

    // It fills in the middle of a push.
    let large = noise(2, 260 << 20);
    let location = open_upload(&registry, "a")?;
    let target = with_query(&location, &format!("digest={}", sha256(&large)));
    registry.send("PUT", &target, OCTETS, &large)?.expect_error(507, &["DENIED"])?;
    ensure!(files(&registry, "uploads")?.is_empty(), "partial bytes of the push are left");

    // It was filled by somebody else.
    let ballast = disk.0.join("mnt/ballast");
    process::shell("dd if=/dev/zero of=\"$1\" bs=64k 2>/dev/null || true", &[&ballast])?;
    let small = noise(3, 100_000);
    push_blob(&registry, "a", &small).err().context("a push to a full disk succeeded")?;
    for blob in &image.blobs {
        let pulled = registry.get(&format!("/v2/a/blobs/{}", sha256(blob)))?.expect(200)?;
        ensure!(pulled.body == *blob, "other bytes");
    }
    registry.request("DELETE", "/v2/a/manifests/1")?.expect(202)?;
    registry.get("/v2/a/manifests/1")?.expect(404)?;
    registry.get("/v2/a/manifests/2")?.expect(200)?;

    fs::remove_file(&ballast)?;
    wait::until("pushes to work again", Duration::from_secs(10), || {
        Ok(push_blob(&registry, "a", &small).ok())
    })?;
    push_image(&registry, "a", "3", &image)
}

/// An ext4 of 256 MiB, mounted at `mnt`.
struct SmallDisk(Scratch, janitor::Chore);

impl SmallDisk {
    fn new() -> Result<Self> {
        let scratch = Scratch::new("small")?;
        let unmount = janitor::leave(&format!("umount -l {}/mnt", scratch.path().display()))?;
        let script = "truncate -s 256M \"$1/image\"; mkfs.ext4 -q \"$1/image\"; \
                      mkdir \"$1/mnt\"; mount -o loop \"$1/image\" \"$1/mnt\"";
        process::shell(script, &[scratch.path()])?;
        Ok(Self(scratch, unmount))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = process::shell("umount -l \"$1\"", &[self.0.join("mnt")]);
        self.1.done();
    }
}

/// Opens an upload and sends its first bytes; gives where it goes on.
fn patched(registry: &Registry, bytes: &[u8]) -> Result<String> {
    let location = open_upload(registry, "a")?;
    let answer = registry.send("PATCH", &location, OCTETS, bytes)?.expect(202)?;
    Ok(path_of(answer.need("location")?).to_owned())
}

/// How many bytes an upload has, by the Range of its status.
fn offset_of(status: &Response) -> Result<usize> {
    let range = status.need("range")?;
    let last: usize = range.split_once('-').with_context(|| range.to_owned())?.1.parse()?;
    // `0-0` is nothing and one byte alike; no test here stops at one.
    Ok(if last == 0 { 0 } else { last + 1 })
}

/// Files below a directory of the registry's data.
fn files(registry: &Registry, directory: &str) -> Result<Vec<String>> {
    let found = process::shell("find \"$1\" -type f", &[registry.data().join(directory)])?;
    Ok(found.lines().map(str::to_owned).collect())
}
