//! Holds `docs/configuration.md` to what is read here.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::file::File;
use super::{Config, load};

const PAGE: &str = include_str!("../../../docs/configuration.md");

fn effective(yaml: &str) -> String {
    Config::parse(Path::new("config.yml"), yaml, &[]).unwrap().effective
}

/// What serde says of a key that it does not know: the key, and those that it knows there.
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let mut quoted = rest.split('`').step_by(2);
    Some((quoted.next()?, quoted.collect()))
}

/// Every key below `path`, as the parser itself tells when it meets one that it does not know.
fn keys(path: &[String], found: &mut BTreeSet<String>) {
    let mut probe = path.to_vec();
    probe.push("?".to_owned());
    let mut tree = Value::Null;
    assert!(load::set(&mut tree, &probe, Value::Null));
    let message = serde_json::from_value::<File>(tree).map_err(|error| error.to_string());
    match message.as_ref().err().and_then(|message| unknown_field(message)) {
        Some((_, known)) => {
            for key in known {
                *probe.last_mut().unwrap() = key.to_owned();
                keys(&probe, found);
            }
        }
        // No section whose keys matter here.
        None => {
            found.insert(path.join("."));
        }
    }
}

/// What stands in backquotes at the beginning of a table's rows.
fn rows() -> BTreeSet<&'static str> {
    PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

/// The fenced blocks of YAML.
fn examples() -> Vec<&'static str> {
    PAGE.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_key_has_a_row_and_every_row_a_key() {
    let mut known = BTreeSet::new();
    keys(&[], &mut known);
    assert!(known.contains("gc.grace") && known.contains("auth"), "{known:?}");
    let rows = rows();
    let undocumented: Vec<_> = known.iter().filter(|key| !rows.contains(key.as_str())).collect();
    assert!(undocumented.is_empty(), "docs/configuration.md has no row for {undocumented:?}");
    let stale: Vec<_> = rows.iter().filter(|row| !known.contains(**row)).collect();
    assert!(stale.is_empty(), "docs/configuration.md has rows for unknown keys: {stale:?}");
}

#[test]
fn what_has_an_effect_has_its_variable_beside_it() {
    let mut known = BTreeSet::new();
    keys(&[], &mut known);
    let (effect, _) = PAGE.split_once("\n## Keys without effect\n").unwrap();
    for key in known.iter().filter(|key| effect.contains(&format!("\n| `{key}`"))) {
        let variable = format!("REGISTRY_{}", key.to_ascii_uppercase().replace('.', "_"));
        assert!(effect.contains(&format!("\n| `{key}`<br>`{variable}` |")), "{variable}");
    }
}

#[test]
fn every_example_loads_and_the_first_two_are_the_defaults() {
    let examples = examples();
    assert!(examples.len() > 2);
    for yaml in &examples {
        if let Err(error) = Config::parse(Path::new("example"), yaml, &[]) {
            panic!("{error}\n{yaml}");
        }
    }
    assert_eq!(examples[0], effective(""), "what `config print` prints without a file");
    assert_eq!(effective(examples[1]), effective("version: 0.1"), "what a version changes");
}

#[test]
fn what_is_printed_gives_the_same_configuration_again() {
    let odd =
        "log: {level: 'info,registry=debug', formatter: logstash, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: '12', reserve: 1000, directfrom: false}
  delete: {enabled: false}
  maintenance: {uploadpurging: {enabled: false}, readonly: {enabled: true}}
http: {addr: ':5000', host: 'https://r.example/x', relativeurls: true, draintimeout: 90.5,
  headers: {X-A: ['yes', 'a: b', '# c', ''], X-B: [\"1\"]},
  tls: {certificate: /c, key: /k, clientcas: [/a], clientauth: verify-client-cert-if-given,
    minimumtls: tls1.3, ciphersuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]}}
auth: {htpasswd: {realm: 'a: b', path: /p}}
access:
  groups: {web: [ann, bob], none: []}
  rules: [{who: [anonymous, users], may: pull, in: 'p/**'},
    {who: ['user:users', 'group:web'], may: [push, delete], in: ['web/**', '!web/p']}]
validation: {manifests: {missing: accept}}
catalog: {maxentries: 7}
tags: {maxtags: 8}
gc: {grace: 1h1s, reviewdelay: 0, interval: 100ms, pace: 0}
scrub: {rate: 0, interval: 90m}
limits: {head: 1, body: 5, idle: 2, write: 3, disconnect: 6, connections: 4, manifests: 64MiB}
";
    for yaml in ["", "version: 0.1", "storage: {inmemory: {limit: 1GiB}}", odd] {
        let printed = effective(yaml);
        assert_eq!(effective(&printed), printed);
        let first = Config::parse(Path::new("a"), yaml, &[]).unwrap().config;
        let second = Config::parse(Path::new("b"), &printed, &[]).unwrap().config;
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }
}
