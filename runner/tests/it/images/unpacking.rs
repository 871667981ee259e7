//! The corpus: every image shows the tree that is expected of it, or is refused by name, and
//! nothing outside of the store changes.

use std::path::{Path, PathBuf};

use crate::corpus::{self, Case, Expected};
use crate::images::host::Host;
use crate::images::registry::Registry;
use crate::images::tree;

/// A directory in the place that hostile layers aim at.
struct Canary {
    path: PathBuf,
    before: Vec<String>,
}

impl Canary {
    fn new() -> Self {
        let path = Path::new(corpus::OUTSIDE).to_owned();
        std::fs::create_dir_all(path.join("keep-dir")).unwrap();
        std::fs::write(path.join("keep"), "untouched").unwrap();
        let before = tree::of_directory(&path, true);
        Self { path, before }
    }

    fn assert_untouched(&self, name: &str) {
        assert_eq!(tree::of_directory(&self.path, true), self.before, "{name} reached out");
        for evil in ["/tmp/evil", "/evil"] {
            assert!(!Path::new(evil).exists(), "{name} made {evil}");
        }
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[test]
fn every_case_has_a_name_of_its_own_and_there_are_enough() {
    let cases = corpus::cases();
    let mut names: Vec<_> = cases.iter().map(|case| case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases.len());
    let trees = cases.iter().filter(|case| matches!(case.expected, Expected::Tree(_))).count();
    assert!(trees >= 60, "{trees} images with a tree");
    assert!(cases.len() - trees >= 40, "{} hostile layers", cases.len() - trees);
}

#[test]
fn the_corpus_shows_what_is_expected_of_it() {
    let registry = Registry::start();
    let canary = Canary::new();
    let mut wrong = Vec::new();
    let mut cases = corpus::cases();
    // The hostile ones first: what they do is seen at once.
    cases.sort_by_key(|case| matches!(case.expected, Expected::Tree(_)));
    for case in cases {
        // A store of its own: what one case leaves behind must not help another.
        let host = Host::new();
        registry.image(&format!("{}:1", case.name), &case.layers);
        if let Err(why) = check(&host, &registry, &case) {
            wrong.push(format!("{} ({}): {why}", case.name, case.source));
        }
        canary.assert_untouched(case.name);
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

fn check(host: &Host, registry: &Registry, case: &Case) -> Result<(), String> {
    let reference = registry.reference(&format!("{}:1", case.name));
    let said = host.run(["pull", &reference]);
    match &case.expected {
        Expected::Tree(expected) => {
            if said.code != Some(0) {
                return Err(format!("{said:?}"));
            }
            let shown = tree::of_image(host, &host.record(&reference));
            if shown == *expected {
                return Ok(());
            }
            let missing: Vec<_> = expected.iter().filter(|line| !shown.contains(line)).collect();
            let more: Vec<_> = shown.iter().filter(|line| !expected.contains(line)).collect();
            Err(format!("missing {missing:#?}, and there is {more:#?}"))
        }
        Expected::Refused(words) => {
            let layer = said.err.contains("layer sha256:");
            let all = words.iter().all(|word| said.err.contains(word));
            if said.code != Some(125) || !layer || !all {
                return Err(format!("wanted the layer and {words:?}, got {said:?}"));
            }
            if host.names("images").is_empty() && host.names("work").is_empty() {
                Ok(())
            } else {
                Err("something of it stayed".into())
            }
        }
    }
}
