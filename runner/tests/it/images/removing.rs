//! Names, ids, and what goes when they go.

use serde_json::json;

use crate::corpus::Encoding;
use crate::corpus::tar::{file, tar};
use crate::images::host::Host;
use crate::images::registry::Registry;

fn image(registry: &Registry, name: &str, content: &str) -> String {
    let shared = (tar([file("shared", "everywhere")]), Encoding::Gzip);
    let own = (tar([file("tmp/own", content)]), Encoding::Gzip);
    registry.image(name, &[shared, own]);
    registry.reference(name)
}

/// What is left in a store with nothing in it.
fn assert_empty(host: &Host) {
    for folder in ["layers", "work", "trash", "leases", "images", "fixups", "blobs/sha256", "locks"]
    {
        assert_eq!(host.names(folder), Vec::<String>::new(), "{folder}");
    }
}

#[test]
fn the_last_name_takes_the_layers_along_that_nobody_else_needs() {
    let (registry, host) = (Registry::start(), Host::new());
    let (a, b) = (image(&registry, "a:1", "a"), image(&registry, "b:1", "b"));
    host.ok(["pull", "-q", &a]);
    host.ok(["pull", "-q", &b]);
    assert_eq!(host.names("layers").len(), 3);
    host.ok(["tag", &a, "other:2"]);
    let said = host.ok(["rmi", &a]);
    assert!(said.contains(&format!("Untagged: {a}")) && !said.contains("Deleted"), "{said}");
    let said = host.ok(["rmi", "other:2"]);
    assert!(said.contains("Untagged: other:2") && said.contains("Deleted: sha256:"), "{said}");
    assert_eq!(host.names("layers").len(), 2);
    host.ok(["rmi", &b]);
    assert_empty(&host);
    let said = host.run(["rmi", &b]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("no such image"), "{said:?}");
}

#[test]
fn an_image_that_lost_its_tag_is_listed_and_pruned() {
    let (registry, host) = (Registry::start(), Host::new());
    let name = image(&registry, "a:latest", "old");
    host.ok(["pull", "-q", &name]);
    let old = host.ok(["images", "-q"]);
    image(&registry, "a:latest", "new");
    host.ok(["pull", "-q", &name]);
    let dangling = host.ok(["images", "-q", "--filter", "dangling=true"]);
    assert_eq!(dangling, old);
    let rows = host.ok(["images", "--format", "{{.Repository}} {{.Tag}}"]);
    let repository = registry.reference("a");
    assert!(rows.contains(&format!("{repository} <none>")), "{rows}");
    assert!(rows.contains(&format!("{repository} latest")), "{rows}");
    let said = host.ok(["image", "prune", "-f"]);
    assert!(said.contains("Total reclaimed space: 3B"), "{said}");
    assert_eq!(host.ok(["images", "-q"]).lines().count(), 1);
    host.ok(["image", "prune", "-af"]);
    assert_empty(&host);
}

#[test]
fn nobody_answers_a_prune_that_asks() {
    let (registry, host) = (Registry::start(), Host::new());
    host.ok(["pull", "-q", &image(&registry, "a:1", "a")]);
    let mut command = host.command(["image", "prune", "-a"]);
    let said =
        crate::images::host::said(command.stdin(std::process::Stdio::null()).output().unwrap());
    assert_eq!(said.code, Some(0));
    assert!(said.err.contains("[y/N]"), "{said:?}");
    assert_eq!(host.names("images").len(), 1);
}

#[test]
fn ids_are_found_by_their_beginning() {
    let (registry, host) = (Registry::start(), Host::new());
    // One of seventeen ids begins as another.
    for at in 0..17 {
        host.ok(["pull", "-q", &image(&registry, &format!("i{at}:1"), &at.to_string())]);
    }
    let ids = host.ok(["images", "-q", "--no-trunc"]);
    let ids: Vec<&str> = ids.lines().map(|id| id.trim_start_matches("sha256:")).collect();
    let count = |prefix: &str| ids.iter().filter(|id| id.starts_with(prefix)).count();
    let shared = ids.iter().map(|id| &id[..1]).find(|first| count(first) > 1).unwrap();
    let said = host.run(["image", "inspect", shared]);
    assert!(said.err.contains("is the beginning of"), "{said:?}");
    let id = ids[0];
    let unique = (1..=64).map(|length| &id[..length]).find(|prefix| count(prefix) == 1).unwrap();
    for text in [unique, id, &format!("sha256:{id}")] {
        let found = host.ok(["image", "inspect", "-f", "{{.Id}}", text]);
        assert_eq!(found.trim(), format!("sha256:{id}"));
    }
    host.ok(["rmi", unique]);
    assert_eq!(host.names("images").len(), 16);
}

#[test]
fn an_id_in_two_repositories_needs_force() {
    let (registry, host) = (Registry::start(), Host::new());
    let a = image(&registry, "a:1", "a");
    host.ok(["pull", "-q", &a]);
    host.ok(["tag", &a, "elsewhere:1"]);
    let id = host.ok(["images", "-q"]);
    let said = host.run(["rmi", id.trim()]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("image is referenced in multiple repositories"), "{said:?}");
    host.ok(["rmi", "-f", id.trim()]);
    assert_empty(&host);
}

#[test]
fn what_is_shown_has_dockers_keys() {
    let (registry, host) = (Registry::start(), Host::new());
    let a = image(&registry, "a:1", "a");
    host.ok(["pull", "-q", &a]);
    let inspected: serde_json::Value =
        serde_json::from_str(&host.ok(["image", "inspect", &a])).unwrap();
    assert_eq!(inspected[0]["RepoTags"], json!([a]));
    assert_eq!(inspected[0]["Architecture"], "amd64");
    assert_eq!(inspected[0]["Config"]["Labels"]["kind"], "test");
    assert_eq!(inspected[0]["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert_eq!(inspected[0]["Size"], 11);
    let digest = inspected[0]["RepoDigests"][0].as_str().unwrap();
    assert!(digest.starts_with(&registry.reference("a@sha256:")), "{digest}");
    let row: serde_json::Value =
        serde_json::from_str(&host.ok(["images", "--format", "json"])).unwrap();
    assert_eq!(row["Tag"], "1");
    assert_eq!(row["Size"], "11B");
    let history = host.ok(["history", "--format", "{{.Size}}", &a]);
    assert_eq!(history, "1B\n10B\n");
    let df = host.ok(["system", "df", "--format", "{{.Type}}={{.TotalCount}}/{{.Size}}"]);
    assert!(df.starts_with("Images=1/11B\n"), "{df}");
    for filter in ["label=kind", "label=kind=test", "reference=*/a:1", "dangling=false"] {
        assert_eq!(host.ok(["images", "-q", "-f", filter]).lines().count(), 1, "{filter}");
    }
    assert_eq!(host.ok(["images", "-q", "-f", "label=kind=other"]), "");
    assert_eq!(host.run(["images", "-f", "nonsense=1"]).code, Some(1));
    assert_eq!(host.run(["images", "--format", "{{.Nonsense}}"]).code, Some(1));
}

#[test]
fn pulls_and_removals_at_once_with_some_of_them_killed() {
    let (registry, host) = (Registry::start(), Host::new());
    let names: Vec<String> =
        (0..3).map(|at| image(&registry, &format!("c{at}:1"), &at.to_string())).collect();
    std::thread::scope(|scope| {
        for worker in 0..4u32 {
            let (host, names) = (&host, &names);
            scope.spawn(move || {
                for round in 0..12u32 {
                    let name = &names[((worker + round) % 3) as usize];
                    let words: &[&str] = match (worker + round) % 4 {
                        0 => &["rmi", "-f", name],
                        1 => &["image", "prune", "-f"],
                        _ => &["pull", "-q", name],
                    };
                    let mut child = host
                        .command(words)
                        .stdout(std::process::Stdio::null())
                        .stderr(std::process::Stdio::null())
                        .spawn()
                        .unwrap();
                    if round % 5 == worker {
                        std::thread::sleep(std::time::Duration::from_millis(u64::from(round * 7)));
                        let _ = child.kill();
                    }
                    child.wait().unwrap();
                }
            });
        }
    });
    // Whatever was killed where: everything works, and in the end nothing is left.
    for name in &names {
        host.ok(["pull", "-q", name]);
        let record = host.record(name);
        let tree = crate::images::tree::of_image(&host, &record);
        assert!(tree.iter().any(|line| line.ends_with("shared =everywhere")), "{tree:?}");
    }
    host.ok(["image", "prune", "-af"]);
    assert_empty(&host);
}

/// A container's monitor still wrote into the directory that `rm` had thrown away, and the prune that
/// emptied the trash failed with "Directory not empty".
#[test]
fn trash_that_is_still_written_into_is_left_to_the_next_command() {
    let host = Host::new();
    host.ok(["images"]);
    let folder = host.root().join("trash/thrown-away");
    for _ in 0..10 {
        std::fs::create_dir_all(&folder).unwrap();
        let ended = std::sync::atomic::AtomicBool::new(false);
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        let said = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut at = 0u64;
                while !ended.load(relaxed) {
                    // Fails once the directory is gone.
                    let _ = std::fs::write(folder.join(at.to_string()), "x");
                    at += 1;
                }
            });
            let said = host.run(["image", "prune", "-f"]);
            ended.store(true, relaxed);
            said
        });
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    host.ok(["image", "prune", "-f"]);
    assert_eq!(host.names("trash"), Vec::<String>::new());
}
