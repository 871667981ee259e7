//! What is in effect, in the words of the configuration file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::Config;
use super::file::{
    AccessLog, Catalog, Debug, Enabled, File, Filesystem, Gc, Http, InMemory, Limits, Log,
    Maintenance, Prometheus, Scrub, Storage, Tags, Tls, UploadPurging, Validation,
    ValidationManifests,
};
use crate::observe::Format;
use crate::records::Missing;
use crate::tls::{Clients, Minimum, Settings};

/// The file that gives this configuration, as YAML.
pub(super) fn yaml(config: &Config) -> String {
    serde_saphyr::to_string(&file(config)).unwrap_or_default()
}

fn file(config: &Config) -> File {
    // All by name: a setting that is added must be shown, too.
    let Config {
        addr,
        storage,
        root,
        log,
        http,
        accounts,
        rules,
        tls,
        limits,
        policy,
        gc,
        scrub,
        store,
        purge,
        workers: _,
    } = config;
    let (filesystem, inmemory) = match storage {
        super::Storage::Directory => (
            Some(Filesystem {
                rootdirectory: Some(root.to_string_lossy().into_owned()),
                maxthreads: None,
                reserve: store.reserve.map(size),
                directfrom: Some(store.direct_from.map_or(Value::Bool(false), size)),
            }),
            None,
        ),
        super::Storage::Memory(options) => {
            (None, Some(InMemory { limit: Some(size(options.limit)) }))
        }
    };
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &http.headers {
        headers.entry(name.clone()).or_default().push(value.clone());
    }
    let missing = match policy.missing {
        Missing::Refuse => "refuse",
        Missing::Accept => "accept",
    };
    let formatter = log.format.map(|format| match format {
        Format::Text => "text".to_owned(),
        Format::Json => "json".to_owned(),
    });
    File {
        log: Log {
            level: Some(log.level.clone()),
            formatter,
            accesslog: AccessLog { disabled: !http.access_log },
            ..Log::default()
        },
        storage: Storage {
            filesystem,
            inmemory,
            delete: Enabled { enabled: Some(policy.delete_enabled) },
            maintenance: Maintenance {
                uploadpurging: UploadPurging {
                    enabled: Some(purge.is_some()),
                    age: purge.map(|purge| duration(purge.age)),
                    interval: purge.map(|purge| duration(purge.interval)),
                    dryrun: None,
                },
                readonly: Enabled { enabled: Some(policy.read_only) },
            },
            ..Storage::default()
        },
        http: Http {
            addr: Some(addr.clone()),
            host: http.host.clone(),
            relativeurls: Some(http.relative_urls),
            draintimeout: Some(duration(limits.drain)),
            headers,
            tls: tls.as_ref().map(self::tls),
            debug: http.debug.as_ref().map(debug),
            ..Http::default()
        },
        access: rules.as_ref().map(super::access::shown),
        auth: accounts.as_ref().map(|accounts| {
            let path = accounts.path.to_string_lossy();
            serde_json::json!({ "htpasswd": { "realm": accounts.realm, "path": path } })
        }),
        validation: Validation {
            manifests: ValidationManifests {
                missing: Some(missing.to_owned()),
                ..ValidationManifests::default()
            },
            ..Validation::default()
        },
        catalog: Catalog { maxentries: Some(http.catalog_max) },
        tags: Tags { maxtags: Some(http.tags_max) },
        gc: Gc {
            grace: Some(duration(gc.grace)),
            reviewdelay: Some(duration(gc.review_delay)),
            interval: Some(duration(gc.interval)),
            pace: Some(gc.pace),
        },
        scrub: Scrub { rate: Some(size(scrub.rate)), interval: Some(duration(scrub.interval)) },
        limits: Limits {
            head: Some(duration(limits.head)),
            body: Some(duration(limits.body)),
            idle: Some(duration(limits.idle)),
            write: Some(duration(limits.write)),
            disconnect: Some(duration(limits.disconnect)),
            connections: Some(limits.connections),
            manifests: Some(size(http.manifests_bytes as u64)),
        },
        ..File::default()
    }
}

fn debug(debug: &crate::http::Debug) -> Debug {
    Debug {
        addr: Some(debug.addr.clone()),
        prometheus: Some(Prometheus {
            enabled: Some(debug.metrics.is_some()),
            path: debug.metrics.clone(),
        }),
    }
}

fn tls(tls: &Settings) -> Tls {
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    let (clientauth, authorities) = match &tls.clients {
        Clients::Anybody => (None, None),
        Clients::Certified(list) => (Some("require-and-verify-client-cert"), Some(list)),
        Clients::CertifiedIfGiven(list) => (Some("verify-client-cert-if-given"), Some(list)),
    };
    let minimum = match tls.minimum {
        Minimum::Tls12 => "tls1.2",
        Minimum::Tls13 => "tls1.3",
    };
    let suites = &tls.cipher_suites;
    Tls {
        certificate: Some(path(&tls.certificate)),
        key: Some(path(&tls.key)),
        clientcas: authorities.map(|list| list.iter().map(path).collect()),
        clientauth: clientauth.map(str::to_owned),
        minimumtls: Some(minimum.to_owned()),
        ciphersuites: (!suites.is_empty()).then(|| suites.clone()),
        letsencrypt: None,
    }
}

/// In the largest unit that needs no fraction.
fn duration(duration: Duration) -> Value {
    let seconds = duration.as_secs();
    Value::String(match seconds {
        _ if duration.subsec_nanos() > 0 => format!("{}s", duration.as_secs_f64()),
        0 => "0s".to_owned(),
        _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    })
}

/// In the largest unit that needs no fraction.
fn size(bytes: u64) -> Value {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return Value::String(format!("{}{unit}", bytes >> shift));
        }
    }
    Value::from(bytes)
}
