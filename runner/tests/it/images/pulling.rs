//! Pulls that are interrupted, repeated, done by many at once, lied to.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::Digest;

use crate::corpus::Encoding;
use crate::corpus::tar::{dir, file, symlink, tar};
use crate::images::host::{Host, said};
use crate::images::registry::{Fault, INDEX, Parts, Registry};

/// Bytes that do not compress, different for each seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn large_layer(seed: u64) -> (Vec<u8>, Encoding) {
    (tar([dir("d"), file("d/noise", noise(seed, 3 << 20))]), Encoding::Gzip)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn blob_requests(registry: &Registry, digest: &str) -> Vec<String> {
    let state = registry.state();
    state.log.iter().filter(|line| line.contains(digest)).cloned().collect()
}

fn start(host: &Host, reference: &str) -> Child {
    let mut command = host.command(["pull", "--progress=plain", reference]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn part_bytes(host: &Host) -> u64 {
    let parts = host.names("ingest").into_iter().filter(|name| name.ends_with(".part"));
    parts
        .filter_map(|name| host.root().join("ingest").join(name).metadata().ok())
        .map(|m| m.len())
        .sum()
}

#[test]
fn what_is_here_is_not_fetched_again() {
    let (registry, host) = (Registry::start(), Host::new());
    let shared = large_layer(1);
    let (_, blobs) = registry.image("a:1", std::slice::from_ref(&shared));
    registry.image("b:1", &[shared, (tar([file("x", "1")]), Encoding::Zstd)]);
    let said = host.ok(["pull", &registry.reference("a:1")]);
    assert!(said.contains("Pull complete") && said.contains("Downloaded newer image"), "{said}");
    let said = host.ok(["pull", &registry.reference("a:1")]);
    assert!(said.contains("Already exists") && said.contains("Image is up to date"), "{said}");
    host.ok(["pull", &registry.reference("b:1")]);
    assert_eq!(blob_requests(&registry, &blobs[0]).len(), 1);
    let manifests =
        registry.state().log.iter().filter(|l| l.starts_with("GET /v2/a/manifests")).count();
    assert_eq!(manifests, 1, "a HEAD tells that the manifest is the same");
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let (registry, host) = (Registry::start(), Host::new());
    let (_, blobs) = registry.image("a:1", &[large_layer(2)]);
    let cut = Some((1 << 20, 2));
    registry.state().faults.insert(blobs[0].clone(), Fault { cut, ..Fault::default() });
    host.ok(["pull", &registry.reference("a:1")]);
    let requests = blob_requests(&registry, &blobs[0]);
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests[1].ends_with("bytes=1048576-"), "{requests:?}");
    assert!(requests[2].ends_with("bytes=2097152-"), "{requests:?}");
}

#[test]
fn a_killed_pull_goes_on_where_it_was_and_leaves_nothing_else() {
    let (registry, host) = (Registry::start(), Host::new());
    let (_, blobs) = registry.image("a:1", &[large_layer(3)]);
    let slow = Some(Duration::from_millis(20));
    registry.state().faults.insert(blobs[0].clone(), Fault { slow, ..Fault::default() });
    // Another ETag than the digest: it has to be remembered for If-Range.
    registry.state().etag = Some("\"other-etag\"".into());
    let mut pull = start(&host, &registry.reference("a:1"));
    wait_until("some of the layer is here", || part_bytes(&host) > 500_000);
    pull.kill().unwrap();
    pull.wait().unwrap();
    let here = part_bytes(&host);
    assert!(host.names("images").is_empty() && host.names("layers").is_empty());
    registry.state().faults.clear();
    host.ok(["pull", &registry.reference("a:1")]);
    let requests = blob_requests(&registry, &blobs[0]);
    assert!(requests[1].ends_with(&format!("bytes={here}-")), "{here}: {requests:?}");
    for folder in ["work", "trash", "ingest", "leases"] {
        // The worker of the killed pull may still have been writing when its directory was deleted.
        wait_until(folder, || {
            host.ok(["pull", "-q", &registry.reference("a:1")]);
            host.names(folder).is_empty()
        });
    }
}

#[test]
fn a_part_that_is_not_the_beginning_of_the_blob_is_thrown_away() {
    let length = 3 << 20;
    for (what, part) in [
        ("other bytes", noise(99, length / 2)),
        ("zeros, as a power cut leaves them", vec![0; length / 2]),
        ("longer than the blob", noise(98, length * 2)),
    ] {
        let (registry, host) = (Registry::start(), Host::new());
        let (_, blobs) = registry.image("a:1", &[large_layer(4)]);
        host.ok(["images"]);
        let name = format!("{}.part", blobs[0].replacen(':', "-", 1));
        std::fs::write(host.root().join("ingest").join(name), part).unwrap();
        let said = host.run(["pull", &registry.reference("a:1")]);
        assert_eq!(said.code, Some(0), "{what}: {said:?}");
        assert!(host.names("ingest").is_empty(), "{what}");
    }
}

#[test]
fn a_server_without_ranges_is_asked_for_the_whole() {
    let (registry, host) = (Registry::start(), Host::new());
    let (_, blobs) = registry.image("a:1", &[large_layer(5)]);
    let fault = Fault { cut: Some((1 << 20, 1)), no_ranges: true, ..Fault::default() };
    registry.state().faults.insert(blobs[0].clone(), fault);
    host.ok(["pull", &registry.reference("a:1")]);
}

#[test]
fn eight_pulls_at_once_do_the_work_once() {
    let (registry, host) = (Registry::start(), Host::new());
    let (_, blobs) = registry.image("a:1", &[large_layer(6), large_layer(7), large_layer(8)]);
    for blob in &blobs {
        let slow = Some(Duration::from_millis(5));
        registry.state().faults.insert(blob.clone(), Fault { slow, ..Fault::default() });
    }
    host.ok(["images"]);
    let pulls: Vec<Child> = (0..8).map(|_| start(&host, &registry.reference("a:1"))).collect();
    let all: Vec<_> =
        pulls.into_iter().map(|pull| said(pull.wait_with_output().unwrap())).collect();
    for said in &all {
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    assert!(all.iter().any(|said| said.out.contains("waiting for pid ")), "{all:?}");
    for blob in &blobs {
        assert_eq!(blob_requests(&registry, blob).len(), 1, "{blob}");
    }
    assert_eq!(host.names("leases"), Vec::<String>::new());
}

#[test]
fn a_waiter_takes_over_from_a_producer_that_died() {
    let (registry, host) = (Registry::start(), Host::new());
    let (_, blobs) = registry.image("a:1", &[large_layer(9)]);
    let slow = Some(Duration::from_millis(20));
    registry.state().faults.insert(blobs[0].clone(), Fault { slow, ..Fault::default() });
    let mut first = start(&host, &registry.reference("a:1"));
    wait_until("the first one works", || part_bytes(&host) > 200_000);
    let second = start(&host, &registry.reference("a:1"));
    wait_until("the second one is there", || host.names("leases").len() == 2);
    first.kill().unwrap();
    first.wait().unwrap();
    registry.state().faults.clear();
    let second = said(second.wait_with_output().unwrap());
    assert_eq!(second.code, Some(0), "{second:?}");
}

#[test]
fn what_is_wrong_is_refused_and_nothing_of_it_stays() {
    let layer = || large_layer(10);
    let wrong = |name: &str, words: &[&str], spoil: &dyn Fn(&Registry)| {
        let (registry, host) = (Registry::start(), Host::new());
        spoil(&registry);
        let said = host.run(["pull", &registry.reference("a:1")]);
        assert_eq!(said.code, Some(125), "{name}: {said:?}");
        for word in words {
            assert!(said.err.contains(word), "{name}: no {word:?} in {said:?}");
        }
        host.assert_clean();
    };
    wrong(
        "other bytes of the same length",
        &["arrived corrupt", "nothing was unpacked"],
        &|registry| {
            let (_, blobs) = registry.image("a:1", &[layer()]);
            let mut bytes = registry.blob_bytes(&blobs[0]);
            bytes[1000] ^= 1;
            registry.replace_blob(&blobs[0], bytes);
        },
    );
    wrong("another valid layer", &["arrived corrupt"], &|registry| {
        let (_, blobs) = registry.image("a:1", &[(tar([file("a", "1")]), Encoding::Plain)]);
        registry.replace_blob(&blobs[0], tar([file("a", "2")]));
    });
    wrong("too short", &["arrived corrupt", "bytes"], &|registry| {
        let (_, blobs) = registry.image("a:1", &[layer()]);
        let mut bytes = registry.blob_bytes(&blobs[0]);
        bytes.truncate(5000);
        registry.replace_blob(&blobs[0], bytes);
    });
    wrong("too long", &["arrived corrupt", "bytes"], &|registry| {
        let (_, blobs) = registry.image("a:1", &[layer()]);
        let mut bytes = registry.blob_bytes(&blobs[0]);
        bytes.extend([0; 100]);
        registry.replace_blob(&blobs[0], bytes);
    });
    wrong("wrong DiffID", &["arrived corrupt", "the content of layer"], &|registry| {
        let mut parts = Parts::default();
        let (tar, encoding) = layer();
        parts.add(registry, &tar, encoding);
        parts.diff_ids[0] = format!("sha256:{}", "5".repeat(64));
        let manifest = parts.manifest(registry, json!({ "architecture": "amd64", "os": "linux" }));
        registry.manifest("a:1", "application/vnd.oci.image.manifest.v1+json", &manifest);
    });
    wrong("missing layer", &["404"], &|registry| {
        let (_, blobs) = registry.image("a:1", &[layer()]);
        registry.forget_blob(&blobs[0]);
    });
    wrong("manifest under another digest", &["arrived corrupt"], &|registry| {
        registry.image("a:1", &[layer()]);
        registry.state().wrong_digest_header = true;
    });
}

#[test]
fn manifests_that_are_not_images_are_refused_in_words() {
    let (registry, host) = (Registry::start(), Host::new());
    let descriptor =
        json!({ "mediaType": "x/y", "size": 3, "digest": registry.blob(b"{}\n".to_vec()) });
    let foreign = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": 3,
        "digest": registry.blob(b"abc".to_vec()), "urls": ["http://127.0.0.1:9/x"],
    });
    let config = json!({ "os": "linux", "architecture": "amd64",
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", "1".repeat(64))] } });
    let config = serde_json::to_vec(&config).unwrap();
    let config =
        json!({ "mediaType": "c/d", "size": config.len(), "digest": registry.blob(config) });
    let oci = "application/vnd.oci.image.manifest.v1+json";
    for (name, media_type, manifest, word) in [
        (
            "s:1",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            json!({ "schemaVersion": 1, "fsLayers": [] }),
            "schema 1",
        ),
        (
            "s:2",
            oci,
            json!({ "schemaVersion": 2, "config": descriptor, "layers": [], "manifests": [] }),
            "neither an image nor an index",
        ),
        (
            "s:3",
            oci,
            json!({ "schemaVersion": 2, "mediaType": INDEX, "config": descriptor, "layers": [] }),
            "neither an image nor an index",
        ),
        (
            "s:4",
            oci,
            json!({ "schemaVersion": 2, "config": descriptor, "layers": [] }),
            "has no root filesystem",
        ),
        (
            "s:5",
            oci,
            json!({ "schemaVersion": 2, "config": config, "layers": [foreign] }),
            "foreign layer",
        ),
        (
            "s:6",
            oci,
            json!({ "schemaVersion": 2, "config": config, "layers": [] }),
            "0 layers and its configuration 1",
        ),
        ("s:7", oci, json!([]), "neither an image nor an index"),
        ("s:8", oci, json!({ "schemaVersion": 2, "layers": [] }), "no configuration"),
    ] {
        registry.manifest(name, media_type, &manifest);
        let said = host.run(["pull", &registry.reference(name)]);
        assert_eq!(said.code, Some(125), "{name}: {said:?}");
        assert!(said.err.contains(word), "{name}: no {word:?} in {said:?}");
    }
    assert!(!registry.state().log.iter().any(|line| line.contains(":9")));
}

#[test]
fn an_image_for_another_system_is_told_by_its_name() {
    let (registry, host) = (Registry::start(), Host::new());
    let push = |tag: &str, platform: Value| {
        let mut parts = Parts::default();
        parts.add(&registry, &tar([file("x", tag)]), Encoding::Plain);
        let manifest = parts.manifest(&registry, platform);
        let kind = "application/vnd.oci.image.manifest.v1+json";
        registry.manifest(&format!("m:{tag}"), kind, &manifest);
        registry.reference(&format!("m:{tag}"))
    };
    let windows = push("win", json!({ "architecture": "amd64", "os": "windows" }));
    for flags in [&["pull"][..], &["pull", "--platform=windows/amd64"], &["run", "--rm"]] {
        let said = host.run(flags.iter().copied().chain([windows.as_str()]));
        assert_eq!(said.code, Some(125), "{said:?}");
        assert!(said.err.contains("windows/amd64") && !said.err.contains("hint"), "{said:?}");
    }
    let foreign = push("foreign", json!({ "architecture": "s390x", "os": "linux" }));
    host.ok(["pull", &foreign]);
    let said = host.run(["create", &foreign, "x"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("the image is for linux/s390x"), "{said:?}");
    let said = host.run(["create", "--platform=linux/s390x", &foreign, "x"]);
    assert!(said.code == Some(0) && said.err.is_empty(), "{said:?}");
    // A hint leads to what there is, and never to where the person is already.
    let own = push("own", json!({ "architecture": host_architecture(), "os": "linux" }));
    let said = host.run(["pull", "--platform=linux/riscv64", &own]);
    let hint = format!("for this machine: rrun --platform linux/{}", host_architecture());
    assert!(said.code == Some(125) && said.err.contains(&hint), "{said:?}");
    assert!(!said.err.contains("qemu"), "{said:?}");
}

fn host_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

#[test]
fn indexes_are_resolved_by_platform() {
    let (registry, host) = (Registry::start(), Host::new());
    let mut entries = vec![json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 2,
        "digest": registry.blob(b"{}".to_vec()),
        "platform": { "os": "unknown", "architecture": "unknown" },
    })];
    for (tag, architecture, variant) in
        [("six", "arm", "v6"), ("seven", "arm", "v7"), ("amd", "amd64", ""), ("arm", "arm64", "v8")]
    {
        let mut parts = Parts::default();
        parts.add(&registry, &tar([file("which", tag)]), Encoding::Plain);
        let mut platform = json!({ "architecture": architecture, "os": "linux" });
        if !variant.is_empty() {
            platform["variant"] = json!(variant);
        }
        let manifest = parts.manifest(&registry, platform.clone());
        let name = format!("m:{tag}");
        let digest =
            registry.manifest(&name, "application/vnd.oci.image.manifest.v1+json", &manifest);
        entries.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "size": serde_json::to_vec(&manifest).unwrap().len(), "digest": digest, "platform": platform,
        }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    let index_digest = registry.manifest("m:all", INDEX, &index);
    let reference = registry.reference("m:all");
    for (platform, which) in [
        ("linux/arm/v7", "seven"),
        ("linux/arm/v6", "six"),
        ("arm64", "arm"),
        ("linux/amd64", "amd"),
    ] {
        host.ok(["pull", "--platform", platform, &reference]);
        let record = host.record(&reference);
        assert_eq!(record["digest"], index_digest.as_str(), "the index is what the tag means");
        let layer = record["layers"][0].as_str().unwrap().replacen(':', "-", 1);
        let content =
            std::fs::read_to_string(host.root().join("layers").join(layer).join("fs/which"));
        assert_eq!(content.unwrap(), which);
    }
    let said = host.run(["pull", "--platform", "linux/s390x", &reference]);
    assert_eq!(said.code, Some(125));
    assert!(said.err.contains("no image for linux/s390x"), "{said:?}");
    assert!(said.err.contains("linux/arm/v7") && !said.err.contains("unknown"), "{said:?}");
}

#[test]
fn tokens_are_fetched_without_a_name_and_never_go_elsewhere() {
    let (registry, elsewhere, host) = (Registry::start(), Registry::start(), Host::new());
    let (_, blobs) = registry.image("team/a:1", &[large_layer(11)]);
    elsewhere.blob(registry.blob_bytes(&blobs[0]));
    registry.state().wants_token = true;
    // The configuration is a blob too, and small: both come from the other server.
    for digest in registry.blob_digests() {
        elsewhere.blob(registry.blob_bytes(&digest));
    }
    registry.state().redirect_blobs_to = Some(format!("http://{}", elsewhere.address));
    host.ok(["pull", &registry.reference("team/a:1")]);
    let token_requests: Vec<String> =
        registry.state().log.iter().filter(|line| line.contains("/token")).cloned().collect();
    assert_eq!(token_requests.len(), 1, "{token_requests:?}");
    assert!(token_requests[0].contains("scope=repository%3Ateam%2Fa%3Apull"), "{token_requests:?}");
    assert!(registry.state().authorizations.iter().all(|value| value == "Bearer anonymous-token"));
    assert!(!elsewhere.state().log.is_empty());
    assert_eq!(elsewhere.state().authorizations, Vec::<String>::new());
}

#[test]
fn names_that_lead_nowhere_get_an_answer_that_helps() {
    let (registry, host) = (Registry::start(), Host::new());
    registry.image("app:latest", &[]);
    let said = host.run(["pull", &registry.reference("app:lates")]);
    assert_eq!(said.code, Some(125));
    assert!(said.err.contains("not found (404 MANIFEST_UNKNOWN)"), "{said:?}");
    assert!(said.err.contains("did you mean `latest`"), "{said:?}");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let said = host.run(["pull", &format!("127.0.0.1:{port}/app")]);
    assert_eq!(said.code, Some(125));
    assert!(said.err.contains("nothing listens on") && said.err.contains("hint:"), "{said:?}");
    let said = host.run(["pull", "UPPER/case"]);
    assert_eq!(said.code, Some(125));
    assert!(said.err.contains("names no image"), "{said:?}");
    host.assert_clean();
}

#[test]
fn all_tags_of_a_repository_come() {
    let (registry, host) = (Registry::start(), Host::new());
    for tag in ["1", "2", "3", "4", "5"] {
        registry.image(&format!("team/app:{tag}"), &[(tar([file("x", tag)]), Encoding::Gzip)]);
    }
    let repository = registry.reference("team/app");
    let said = host.ok(["pull", "-a", &repository]);
    assert_eq!(said.lines().last(), Some(repository.as_str()));
    let tags = host.ok(["images", "--format", "{{.Tag}}", &repository]);
    let mut tags: Vec<&str> = tags.lines().collect();
    tags.sort_unstable();
    assert_eq!(tags, ["1", "2", "3", "4", "5"]);
    let said = host.run(["pull", "-a", &registry.reference("team/app:1")]);
    assert_eq!(said.code, Some(125));
    assert!(said.err.contains("contradict"), "{said:?}");
}

#[test]
fn a_command_that_a_layer_hides_is_explained() {
    let (registry, host) = (Registry::start(), Host::new());
    let shell = std::fs::read("/bin/busybox").unwrap();
    let system = [dir("usr"), dir("usr/bin"), file("usr/bin/sh", shell), symlink("bin", "usr/bin")];
    let layers = [
        (tar(system), Encoding::Gzip),
        (tar([file("bin/tool", "2")]), Encoding::Gzip),
        (tar([file("opt/x", "3")]), Encoding::Gzip),
    ];
    registry.image("a:1", &layers);
    let reference = registry.reference("a:1");
    let run = ["run", "--rm", "-e", "PATH=/sbin:/bin", &reference, "sh"];
    let said = host.run(run);
    assert_eq!(said.code, Some(127), "{said:?}");
    let layer = Digest::sha256(&layers[1].0);
    let hint = format!("hint: layer {layer} has files in /bin");
    assert!(said.err.contains(&hint) && said.err.contains("bin -> usr/bin"), "{said:?}");
    let elsewhere = ["run", "--rm", "-e", "PATH=/usr/bin", &reference, "nosuch"];
    assert!(!host.run(elsewhere).err.contains("hint"));
}

#[test]
fn digests_pin() {
    let (registry, host) = (Registry::start(), Host::new());
    let (digest, _) = registry.image("a:1", &[(tar([file("x", "1")]), Encoding::Gzip)]);
    let pinned = registry.reference(&format!("a@{digest}"));
    host.ok(["pull", &pinned]);
    assert_eq!(host.record(&pinned)["manifest"], digest.as_str());
    // Another content under the pinned digest is not taken, whatever the server says.
    registry.state().wrong_digest_header = true;
    let host = Host::new();
    host.ok(["pull", &registry.reference(&format!("a:1@{digest}"))]);
    let other = registry.reference(&format!("a@sha256:{}", "7".repeat(64)));
    assert_eq!(host.run(["pull", &other]).code, Some(125));
}

#[test]
fn a_layer_that_a_power_cut_may_have_torn_is_made_again() {
    let (registry, host) = (Registry::start(), Host::new());
    let (_, blobs) =
        registry.image("a:1", &[large_layer(12), (tar([file("tmp/x", "1")]), Encoding::Plain)]);
    let reference = registry.reference("a:1");
    host.ok(["pull", &reference]);
    let layers = host.names("layers");
    let durable = |layer: &String| host.root().join("layers").join(layer).join("durable");
    wait_until("the layers are durable", || layers.iter().all(|layer| durable(layer).exists()));
    let power_cut = || {
        for layer in &layers {
            let folder = host.root().join("layers").join(layer);
            let json = std::fs::read_to_string(folder.join("layer.json")).unwrap();
            let mut facts: serde_json::Value = serde_json::from_str(&json).unwrap();
            facts["boot_id"] = json!("00000000-0000-0000-0000-000000000000");
            std::fs::write(folder.join("layer.json"), facts.to_string()).unwrap();
            let _ = std::fs::remove_file(folder.join("durable"));
            let _ = std::fs::remove_file(folder.join("fs/d/noise"));
        }
    };
    // From the blobs that are here, without the registry's help.
    power_cut();
    let before = registry.state().log.len();
    host.ok(["pull", &reference]);
    assert!(host.root().join("layers").join(&layers[0]).exists());
    let asked = registry.state().log[before..].iter().any(|line| line.contains("/blobs/"));
    assert!(!asked, "{:?}", &registry.state().log[before..]);
    wait_until("the layers are durable again", || {
        layers.iter().all(|layer| durable(layer).exists())
    });
    // With the blob torn as well it is fetched anew.
    power_cut();
    let hex = blobs[0].trim_start_matches("sha256:");
    std::fs::write(host.root().join("blobs/sha256").join(hex), vec![0; 1000]).unwrap();
    host.ok(["pull", &reference]);
    let noise_is_back = layers
        .iter()
        .any(|layer| host.root().join("layers").join(layer).join("fs/d/noise").exists());
    assert!(noise_is_back);
}

#[test]
fn a_full_disk_cleans_up_and_says_how_much_is_missing() {
    // A file system of its own, in a mount namespace of its own.
    std::thread::scope(|scope| scope.spawn(full_disk).join().unwrap());
}

fn full_disk() {
    use nix::mount::{MsFlags, mount};
    let registry = Registry::start();
    let zeros = tar([file("zeros", vec![0; 30 << 20]), file("noise", noise(13, 1 << 20))]);
    registry.image("a:1", &[(zeros, Encoding::Gzip)]);
    registry.image("b:1", &[(tar([file("noise", noise(14, 16 << 20))]), Encoding::Plain)]);
    registry.image("small:1", &[(tar([file("x", "1")]), Encoding::Plain)]);
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let host = Host::new();
    let options = Some("size=20m");
    mount(Some("tmpfs"), host.path(), Some("tmpfs"), MsFlags::empty(), options).unwrap();
    // In the middle of unpacking.
    let said = host.run(["pull", &registry.reference("a:1")]);
    assert_eq!(said.code, Some(125), "{said:?}");
    for word in ["not enough space", "more needed", "free on", "hint:"] {
        assert!(said.err.contains(word), "no {word:?} in {said:?}");
    }
    for folder in ["images", "layers", "work", "trash"] {
        assert_eq!(host.names(folder), Vec::<String>::new(), "{folder}");
    }
    assert!(part_bytes(&host) > 1 << 20, "what has been fetched is kept");
    // Known before the first byte.
    let asked = registry.state().log.len();
    let said = host.run(["pull", &registry.reference("b:1")]);
    assert!(said.err.contains("at least"), "{said:?}");
    let blobs =
        registry.state().log[asked..].iter().filter(|line| line.contains("/blobs/")).count();
    assert_eq!(blobs, 1, "the configuration only");
    // And what fits still comes in.
    host.ok(["pull", &registry.reference("small:1")]);
    // Lazily: the background sync of the last pull may still be at work there.
    nix::mount::umount2(host.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn limits_can_be_lowered_and_are_named() {
    let (registry, host) = (Registry::start(), Host::new());
    let entries = (0..50).map(|at| file(format!("f{at}"), vec![0; 1000]));
    registry.image("a:1", &[(tar(entries), Encoding::Gzip)]);
    for (variable, value) in [("RRUN_LAYER_ENTRIES_MAX", "49"), ("RRUN_LAYER_BYTES_MAX", "40000")] {
        let mut command = host.command(["pull", &registry.reference("a:1")]);
        let said = said(command.env(variable, value).output().unwrap());
        assert_eq!(said.code, Some(125));
        assert!(said.err.contains(variable) && said.err.contains("layer sha256:"), "{said:?}");
        host.assert_clean();
    }
    host.ok(["pull", &registry.reference("a:1")]);
}

#[test]
fn progress_is_lines_of_json_or_nothing_when_asked_for() {
    let (registry, host) = (Registry::start(), Host::new());
    registry.image("a:1", &[large_layer(15)]);
    let said = host.ok(["pull", "--progress", "json", &registry.reference("a:1")]);
    let (lines, last) = said.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(last, registry.reference("a:1"));
    for line in lines.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
    let quiet = host.ok(["pull", "-q", &registry.reference("a:1")]);
    assert_eq!(quiet.trim_end(), registry.reference("a:1"));
}
