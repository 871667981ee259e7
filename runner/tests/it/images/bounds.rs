//! What one bad image cannot spoil for the others, and what it cannot make a terminal do.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use shared::Digest;

use crate::corpus::Encoding;
use crate::corpus::tar::{dir, file, hard_link, tar};
use crate::images::host::{Host, Said, said};
use crate::images::registry::{INDEX, Registry};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image of one small layer and this configuration, as text: its `DIFF` becomes the DiffID.
fn image_of(registry: &Registry, name: &str, layer: &[u8], config: &str) -> String {
    let diff = Digest::sha256(layer).to_string();
    let config = config.replace("DIFF", &diff);
    let (layer_size, config_size) = (layer.len(), config.len());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": CONFIG, "size": config_size,
            "digest": registry.blob(config.into_bytes()),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "size": layer_size,
            "digest": registry.blob(layer.to_vec()),
        }],
    });
    registry.manifest(name, MANIFEST, &manifest);
    registry.reference(name)
}

fn small() -> Vec<u8> {
    tar([dir("d"), file("d/f", "1")])
}

/// Three hundred arrays in one another: more than any reader of JSON goes down.
fn nested() -> String {
    format!("{}{}", "[".repeat(300), "]".repeat(300))
}

#[test]
fn a_configuration_that_cannot_be_read_back_is_not_taken_in() {
    let (registry, host) = (Registry::start(), Host::new());
    let nested = nested();
    for (name, config) in [
        ("a:1", format!(r#"{{"os":"linux","rootfs":{{"diff_ids":["DIFF"],"x":{nested}}}}}"#)),
        ("b:1", format!(r#"{{"os":"linux","rootfs":{{"diff_ids":["DIFF"]}},"x":{nested}}}"#)),
        ("c:1", format!(r#"{{"rootfs":{{"diff_ids":["DIFF"]}},"config":{{"x":{nested}}}}}"#)),
        ("d:1", r#"{"rootfs":{"diff_ids":["DIFF"]},"config":{"Labels":{"a":1}}}"#.to_owned()),
    ] {
        let reference = image_of(&registry, name, &small(), &config);
        let pulled = host.run(["pull", "-q", &reference]);
        assert_eq!(pulled.code, Some(125), "{name}: {pulled:?}");
        assert!(pulled.err.contains("its configuration cannot be read"), "{pulled:?}");
    }
    host.assert_clean();
}

#[test]
fn a_bad_image_is_shown_as_one_among_the_others() {
    let (registry, host) = (Registry::start(), Host::new());
    for name in ["good:1", "bad:1"] {
        let config = r#"{"os":"linux","rootfs":{"diff_ids":["DIFF"]}}"#;
        host.ok(["pull", "-q", &image_of(&registry, name, &small(), config)]);
    }
    // As an older version took it in.
    let config = format!(r#"{{"os":"linux","x":{}}}"#, nested());
    let digest = Digest::sha256(config.as_bytes());
    std::fs::write(host.root().join("blobs/sha256").join(digest.hex()), config).unwrap();
    let mut record = host.record(&registry.reference("bad:1"));
    record["config"] = Value::from(digest.to_string());
    let name = Digest::sha256(registry.reference("bad:1").as_bytes()).hex();
    let path = host.root().join("images").join(format!("{name}.json"));
    std::fs::write(path, record.to_string()).unwrap();
    for words in [&["images"][..], &["system", "df"], &["system", "df", "-v"]] {
        let said = host.run(words);
        assert_eq!(said.code, Some(0), "{words:?}: {said:?}");
        assert!(said.out.contains("good") || words == ["system", "df"], "{said:?}");
        assert!(said.err.contains("is damaged") || words == ["system", "df"], "{said:?}");
    }
    let rows = host.ok(["images", "--format", "{{.Repository}} {{.CreatedSince}}"]);
    assert!(rows.contains(&format!("{} N/A", registry.reference("bad"))), "{rows}");
    host.ok(["rmi", &registry.reference("bad:1")]);
    assert_eq!(host.ok(["images", "-q"]).lines().count(), 1);
}

#[test]
fn a_damaged_record_stops_nobody_and_can_be_removed() {
    let (registry, host) = (Registry::start(), Host::new());
    for name in ["good:1", "bad:1", "worse:1", "other:1"] {
        let config = r#"{"os":"linux","rootfs":{"diff_ids":["DIFF"]}}"#;
        let layer = tar([dir("d"), file("d/f", name)]);
        host.ok(["pull", "-q", &image_of(&registry, name, &layer, config)]);
    }
    let damage = |name: &str| {
        let hex = Digest::sha256(registry.reference(name).as_bytes()).hex();
        std::fs::write(host.root().join("images").join(format!("{hex}.json")), "{").unwrap();
        hex
    };
    let (bad, worse) = (damage("bad:1"), damage("worse:1"));
    // Told of, with the way out, among the others.
    let said = host.run(["images"]);
    assert!(said.code == Some(0) && said.out.lines().count() == 3, "{said:?}");
    for id in [&bad[..12], &worse[..12]] {
        assert!(said.err.contains(&format!("the record of image {id} is damaged")), "{said:?}");
        assert!(said.err.contains(&format!("hint: rrun rmi {id}")), "{said:?}");
    }
    // Others are removed by name; their content stays as long as the bad ones may need it.
    for words in [&["rmi", &registry.reference("other:1")][..], &["image", "prune", "-f"]] {
        let said = host.run(words);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.err.contains("no content is removed while"), "{said:?}");
    }
    assert_eq!((host.names("images").len(), host.names("layers").len()), (3, 4));
    // One by what it is told of as, one by the name that it had.
    host.ok(["rmi", &bad[..12]]);
    let said = host.run(["rmi", &registry.reference("worse:1")]);
    assert!(said.code == Some(0) && said.err.is_empty(), "{said:?}");
    assert_eq!((host.names("images").len(), host.names("layers").len()), (1, 1));
    let said = host.run(["rmi", &bad[..12]]);
    assert!(said.code == Some(1) && said.err.contains("no such image"), "{said:?}");
    // The name is free again for another image, by hand or by a pull.
    let good = registry.reference("good:1");
    host.ok(["tag", &good, &registry.reference("good:2")]);
    damage("good:1");
    host.ok(["tag", &registry.reference("good:2"), &good]);
    damage("good:1");
    let pulled = host.run(["pull", "-q", &good]);
    assert!(pulled.code == Some(125) && pulled.err.contains("hint: rrun rmi "), "{pulled:?}");
    host.ok(["rmi", &good]);
    host.ok(["pull", "-q", &good]);
}

/// Waits until every layer of the store has been written through to the disk.
fn all_durable(host: &Host, but: &str) -> bool {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let layers = host.names("layers");
        let durable =
            |name: &String| host.root().join("layers").join(name).join("durable").exists();
        if layers.iter().filter(|name| name.as_str() != but).all(durable) {
            return true;
        }
        if std::time::Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_layer_that_nobody_can_read_back_ends_no_others_durability() {
    let (registry, host) = (Registry::start(), Host::new());
    registry.image("a:1", &[(small(), Encoding::Plain)]);
    let bad = format!("sha256-{}", "5".repeat(64));
    host.ok(["images"]);
    let folder = host.root().join("layers").join(&bad);
    std::fs::create_dir_all(folder.join("fs")).unwrap();
    let facts = std::fs::File::create(folder.join("layer.json")).unwrap();
    facts.set_len(65 << 20).unwrap();
    host.ok(["pull", "-q", &registry.reference("a:1")]);
    assert!(all_durable(&host, &bad));
}

#[test]
fn a_layer_whose_lists_nobody_could_read_back_is_refused() {
    let (registry, host) = (Registry::start(), Host::new());
    // Each of fifteen directories above a file is written down with its whole path.
    let part = vec![0xff; 250];
    let path = |number: usize| {
        let mut path = format!("{number:03}").into_bytes();
        for _ in 0..15 {
            path.extend([&part[..], b"/"].concat());
        }
        [path, b"f".to_vec()].concat()
    };
    let layer = tar((0..220).map(|number| file(path(number), "")));
    registry.image("a:1", &[(layer, Encoding::Gzip)]);
    let pulled = host.run(["pull", "-q", &registry.reference("a:1")]);
    assert_eq!(pulled.code, Some(125), "{pulled:?}");
    assert!(pulled.err.contains("directories without an entry of their own"), "{pulled:?}");
    host.assert_clean();
}

#[test]
fn a_workers_report_is_its_own_whatever_the_caller_preloads() {
    let (registry, host) = (Registry::start(), Host::new());
    let mut noise = vec![0_u8; 3 << 20];
    let mut state = 1_u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    registry.image("a:1", &[(tar([file("noise", noise)]), Encoding::Gzip)]);
    let mut command = host.command(["pull", "-q", &registry.reference("a:1")]);
    let pulled = command.env("LD_PRELOAD", "/nonexistent/x.so").stdin(Stdio::null());
    let pulled = said(pulled.output().unwrap());
    assert_eq!(pulled.code, Some(0), "{pulled:?}");
}

/// What a terminal would obey, or a reader be misled by.
fn misleads(text: &str) -> Option<char> {
    text.chars().find(|&letter| {
        (letter.is_control() && letter != '\n' && letter != '\t')
            || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200f}')
    })
}

/// Words of an image that would take a terminal over.
const FOREIGN: &str = "\x1b]0;owned\x07\u{9b}31m\x7f\u{202e}\nhint: rm -rf /";

fn assert_shown(words: &[&str], said: &Said) {
    for text in [&said.out, &said.err] {
        assert_eq!(misleads(text), None, "{words:?}: {said:?}");
    }
    // No line of an image's own among ours, nor in a table; a template's words have their line ends.
    let shown = if words.contains(&"-f") { "" } else { &said.out };
    let forged = said.err.lines().chain(shown.lines()).any(|line| line.starts_with("hint: rm"));
    assert!(!forged, "{words:?}: {said:?}");
}

#[test]
fn an_images_words_are_shown_and_not_obeyed() {
    let (registry, host) = (Registry::start(), Host::new());
    let config = |user: &str, workdir: &str, volume: &str| {
        json!({
            "os": "linux", "author": FOREIGN,
            "rootfs": { "diff_ids": ["DIFF"] },
            "history": [{ "created_by": FOREIGN, "comment": FOREIGN }],
            "config": {
                "User": user, "WorkingDir": workdir, "Volumes": { volume: {} },
                "Labels": { "l": FOREIGN, FOREIGN: "v" }, "Env": [format!("PATH={FOREIGN}")],
                "Cmd": [FOREIGN],
            },
        })
        .to_string()
    };
    let absolute = format!("/{FOREIGN}");
    for (name, config) in [
        ("plain:1", config("", "", "/v")),
        ("user:1", config(FOREIGN, "", "/v")),
        ("workdir:1", config("", &absolute, "/v")),
        ("volume:1", config("", "", FOREIGN)),
    ] {
        let reference = image_of(&registry, name, &small(), &config);
        host.ok(["pull", "-q", &reference]);
        for words in [
            &["history", &reference][..],
            &["history", "--no-trunc", &reference],
            &["image", "inspect", &reference],
            &["inspect", "-f", "{{.Config.Labels}} {{.Config.User}} {{.Author}}", &reference],
            &["inspect", "-f", "{{json .Config.Labels}}", &reference],
            &["run", "--dry-run", &reference],
            &["run", "--rm", &reference],
            &["create", "--name", name.trim_end_matches(":1"), &reference],
            &["images", "--format", "json"],
        ] {
            assert_shown(words, &host.run(words));
        }
    }
    for words in [
        &["ps", "-a", "--no-trunc"][..],
        &["ps", "-a", "--format", "table {{.Names}}\t{{.Labels}}\t{{.Command}}"],
        &["ps", "-a", "--format", "json"],
        &["inspect", "plain"],
        &["system", "df", "-v"],
    ] {
        let said = host.run(words);
        assert_eq!(said.code, Some(0), "{words:?}: {said:?}");
        assert_shown(words, &said);
    }
    // As data nothing is lost.
    let reference = registry.reference("plain:1");
    let labels = host.ok(["inspect", "-f", "{{json .Config.Labels}}", &reference]);
    assert_eq!(serde_json::from_str::<Value>(&labels).unwrap()["l"], FOREIGN);
    let whole: Value = serde_json::from_str(&host.ok(["image", "inspect", &reference])).unwrap();
    assert_eq!(whole[0]["Author"], FOREIGN);
    assert_eq!(whole[0]["Config"]["Cmd"][0], FOREIGN);
}

#[test]
fn no_command_that_is_offered_holds_an_images_words() {
    let (registry, host) = (Registry::start(), Host::new());
    let config = json!({
        "os": "linux", "architecture": "x; rm -rf ~ #", "rootfs": { "diff_ids": ["DIFF"] },
    });
    let reference = image_of(&registry, "a:1", &small(), &config.to_string());
    let pulled = host.run(["pull", "--platform", "linux/arm64", &reference]);
    assert_eq!(pulled.code, Some(125), "{pulled:?}");
    assert!(pulled.err.contains("it has linux/x; rm -rf ~ #"), "{pulled:?}");
    let hints = pulled.err.lines().filter(|line| line.starts_with("hint:"));
    assert_eq!(hints.filter(|line| line.contains("rm -rf")).count(), 0, "{pulled:?}");
}

/// Processor time of a command and of what it started, and what it answered.
fn cost(host: &Host, words: &[&str]) -> Duration {
    let once = || {
        let mut command = std::process::Command::new("bash");
        command.args(["-c", "\"$0\" \"$@\" >/dev/null 2>&1; echo $?; times"]);
        command.arg(env!("CARGO_BIN_EXE_rrun")).args(words);
        command.env("RRUN_ROOT", host.root()).env("RRUN_RUNROOT", host.path().join("run"));
        command.env("RRUN_NETWORK", "none");
        let said = said(command.output().unwrap());
        let code: i32 = said.out.lines().next().unwrap().parse().unwrap();
        assert!([0, 125].contains(&code), "{words:?}: {said:?}");
        // `0m0.123s`, of user and system.
        let children = said.out.lines().last().unwrap().split_whitespace();
        let times = children.map(|time| {
            let (minutes, seconds) = time.trim_end_matches('s').split_once('m').unwrap();
            minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
        });
        Duration::from_secs_f64(times.sum())
    };
    once().min(once())
}

/// Four times as long costs about four times as much, where a cost that grows with the square would
/// be sixteen times as high.
fn assert_linear(what: &str, short: Duration, long: Duration) {
    assert!(long < short * 8 + Duration::from_millis(80), "{what}: {short:?}, then {long:?}");
}

/// A list that an image can make long: its name, and one of so many.
type Kind<'a, T> = (&'a str, &'a dyn Fn(usize) -> T);

/// What `of` gives for each of `count`.
fn each<T>(count: usize, of: impl Fn(usize) -> T) -> Vec<T> {
    (0..count).map(of).collect()
}

#[test]
fn the_lists_of_a_configuration_cost_what_they_are_long() {
    let map = |count: usize| -> Value {
        each(count, |at| (format!("k{at}"), Value::from("v"))).into_iter().collect()
    };
    let sets = |count: usize| -> Value {
        each(count, |at| (format!("{at}/tcp"), json!({}))).into_iter().collect()
    };
    let kinds: [Kind<'_, Value>; 5] = [
        ("env", &|count| json!({ "config": { "Env": each(count, |at| format!("N{at}=v")) } })),
        ("cmd", &|count| json!({ "config": { "Cmd": each(count, |at| format!("w{at}")) } })),
        ("labels", &|count| json!({ "config": { "Labels": map(count) } })),
        ("ports", &|count| json!({ "config": { "ExposedPorts": sets(count) } })),
        ("history", &|count| {
            let step = |at| json!({ "created_by": format!("step {at}"), "empty_layer": true });
            json!({ "history": each(count, step) })
        }),
    ];
    for (kind, of) in kinds {
        let registry = Registry::start();
        let costs = [5_000, 20_000].map(|count| {
            let host = Host::new();
            let mut config = of(count);
            config["os"] = "linux".into();
            config["rootfs"] = json!({ "diff_ids": ["DIFF"] });
            let name = format!("{kind}{count}:1");
            let reference = image_of(&registry, &name, &small(), &config.to_string());
            let template = "{{range .Config.Env}}{{$.Id}}{{end}}{{.Config.Labels}}";
            [
                &["pull", "-q", &reference][..],
                &["history", &reference],
                &["images"],
                &["inspect", &reference],
                &["inspect", "-f", template, &reference],
                &["run", "--dry-run", "-e", "A=1", &reference, "x"],
                &["create", &reference, "x"],
                &["ps", "-a", "--no-trunc", "--format", "{{.Labels}}{{.Command}}"],
                &["image", "prune", "-af"],
            ]
            .map(|words| (words[0].to_owned(), cost(&host, words)))
        });
        for ((command, short), (_, long)) in costs[0].iter().zip(&costs[1]) {
            assert_linear(&format!("{kind}: {command}"), *short, *long);
        }
    }
}

#[test]
fn the_lists_of_a_layer_cost_what_they_are_long() {
    let kinds: [Kind<'_, Vec<u8>>; 5] = [
        ("files", &|count| tar(each(count, |at| file(format!("d{at}/f"), "")))),
        ("links", &|count| {
            let links = each(count, |at| hard_link(format!("l{at}"), "f"));
            tar([file("f", "")].into_iter().chain(links))
        }),
        ("whiteouts", &|count| tar(each(count, |at| file(format!("w{at}/.wh.x"), "")))),
        ("replaced", &|count| {
            tar(each(count, |at| [file("d/f", format!("{at}")), file("d", "")]).concat())
        }),
        ("attributes", &|count| {
            let mut entry = file("f", "");
            for at in 0..count {
                entry = entry.pax(&format!("SCHILY.xattr.user.{}", at % 40), format!("{at}"));
            }
            tar([entry])
        }),
    ];
    for (kind, of) in kinds {
        let registry = Registry::start();
        let costs = [1_000, 4_000].map(|count| {
            let name = format!("{kind}{count}:1");
            registry.image(&name, &[(of(count), Encoding::Gzip)]);
            let host = Host::new();
            host.ok(["images"]);
            cost(&host, &["pull", "-q", &registry.reference(&name)])
        });
        assert_linear(kind, costs[0], costs[1]);
    }
}

#[test]
fn an_index_costs_what_it_is_long_and_is_not_told_whole() {
    let (registry, host) = (Registry::start(), Host::new());
    let costs = [2_000, 8_000].map(|count| {
        let entry = |at| {
            json!({
                "mediaType": MANIFEST, "size": 2, "digest": format!("sha256:{at:064x}"),
                "platform": { "os": "linux", "architecture": format!("a{at}") },
            })
        };
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": each(count, entry),
        });
        let name = format!("i{count}:1");
        registry.manifest(&name, INDEX, &index);
        let refused = host.run(["pull", "-q", &registry.reference(&name)]);
        assert!(refused.err.contains("has no image for") && refused.err.len() < 1000);
        cost(&host, &["pull", "-q", &registry.reference(&name)])
    });
    assert_linear("index", costs[0], costs[1]);
}

#[test]
fn an_image_does_not_mount_without_end() {
    let (registry, host) = (Registry::start(), Host::new());
    let volumes: Value = each(1_001, |at| (format!("/v{at}"), json!({}))).into_iter().collect();
    let config = json!({
        "os": "linux", "rootfs": { "diff_ids": ["DIFF"] }, "config": { "Volumes": volumes },
    });
    let reference = image_of(&registry, "a:1", &small(), &config.to_string());
    let said = host.run(["run", "--dry-run", &reference, "x"]);
    assert_eq!(said.code, Some(125), "{said:?}");
    assert!(said.err.contains("declares 1001 volumes"), "{said:?}");
}

/// Every line goes through the one writer.
#[test]
fn nothing_is_printed_past_the_writer() {
    fn sources(folder: &std::path::Path, all: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => sources(&path, all),
                path => all.push(path),
            }
        }
    }
    let mut all = Vec::new();
    sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    assert!(all.len() > 100);
    for path in all {
        let text = std::fs::read_to_string(&path).unwrap();
        let prints = ["println!(", "print!(", "eprintln!(", "eprint!("];
        let found = prints.iter().any(|word| text.contains(word));
        // The failure that ends the program escapes itself.
        assert!(!found || path.ends_with("main.rs"), "{}", path.display());
    }
}

#[test]
fn known_bad_measures_are_missed() {
    crate::known_bad::are_missed(&[
        (
            "config-read-whole",
            "images::bounds::a_configuration_that_cannot_be_read_back_is_not_taken_in",
        ),
        ("bad-row-shown", "images::bounds::a_bad_image_is_shown_as_one_among_the_others"),
        ("bad-record-passed", "images::bounds::a_damaged_record_stops_nobody_and_can_be_removed"),
        (
            "records-readable",
            "images::bounds::a_layer_that_nobody_can_read_back_ends_no_others_durability",
        ),
        (
            "worker-environment",
            "images::bounds::a_workers_report_is_its_own_whatever_the_caller_preloads",
        ),
        ("words-escaped", "images::bounds::an_images_words_are_shown_and_not_obeyed"),
    ]);
}
