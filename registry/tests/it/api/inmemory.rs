//! `storage.inmemory`: the same answers, without a file.

use std::process::Command;

use registry::config::Storage;
use registry::store::memory::Options;

use crate::api::harness::{IN_MEMORY, Registry};

/// What looks at files, or at what a restart has kept.
const OF_A_DIRECTORY: [&str; 4] = [
    "row_33_an_upload_goes_on_after_a_restart",
    "row_35_two_clients_push_the_same_blob",
    "row_39_a_full_disk_is_told_and_leaves_nothing",
    "pushes_are_refused_in_maintenance_and_pulls_go_on",
];

#[test]
fn the_protocol_is_the_same_in_memory() {
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["api::blobs::", "api::uploads::", "api::manifests::"]);
    again.args(["api::lists::", "api::referrers::"]);
    for name in OF_A_DIRECTORY {
        again.args(["--skip", name]);
    }
    let output = again.env(IN_MEMORY, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let passed = said.split("test result: ok. ").nth(1).and_then(|rest| rest.split(' ').next());
    let passed: usize = passed.and_then(|number| number.parse().ok()).unwrap();
    assert!(passed >= 45, "{said}");
}

#[test]
fn memory_has_a_limit_and_leaves_no_file() {
    let registry = Registry::start_with(|config| {
        config.storage = Storage::Memory(Options { limit: 100_000 });
    });
    let manifest = registry.push_image("a", "v1", b"{}");
    let path = "/v2/a/blobs/uploads/";
    let large = vec![7; 200_000];
    let digest = shared::Digest::sha256(&large);
    let refused = registry.send("POST", &format!("{path}?digest={digest}"), &[], &large);
    refused.expect_error(507, "DENIED");
    // Nothing is left of it: what fits goes in.
    registry.push_blob("a", &large[..90_000]);
    assert_eq!(registry.get("/v2/a/manifests/v1").expect(200).body, manifest);
    assert_eq!(std::fs::read_dir(registry.root()).unwrap().count(), 0);
}
