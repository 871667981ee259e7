//! What the server is told to do: distribution's configuration file and variables, our own keys
//! beside them, and the defaults.

mod access;
mod accounts;
mod effective;
mod file;
mod load;
#[cfg(test)]
mod reference;
mod tls;
mod units;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use self::file::File;
pub use self::load::ConfigError;
use crate::content::{Policy, collect, scrub};
use crate::http::{Limits, Settings};
use crate::observe;
use crate::records::Missing;
use crate::store::{disk, memory};

/// Reads a duration as configuration has it: `1h30m`, or plain seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    units::duration(&Value::String(text.to_owned()))
}

/// Everything that is configured, with defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port` to listen on.
    pub addr: String,
    pub storage: Storage,
    /// The data directory, of [`Storage::Directory`].
    pub root: PathBuf,
    pub log: observe::Settings,
    pub http: Settings,
    /// `None`: everybody may do everything.
    pub accounts: Option<crate::auth::Settings>,
    /// What who may do; `None`: users everything, and without accounts everybody.
    pub rules: Option<crate::auth::Rules>,
    /// `None`: plain HTTP.
    pub tls: Option<crate::tls::Settings>,
    pub limits: Limits,
    pub policy: Policy,
    pub gc: collect::Settings,
    pub scrub: scrub::Settings,
    pub store: disk::Options,
    /// `None`: uploads stay until they are finished or cancelled.
    pub purge: Option<Purge>,
    /// Threads that serve; `None` is one per processor.
    pub workers: Option<usize>,
}

/// What bytes and facts are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Files and a database in one directory.
    Directory,
    /// Nothing is kept beyond the process.
    Memory(memory::Options),
}

/// When uploads that nobody finishes are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purge {
    pub age: Duration,
    pub interval: Duration,
}

const HOUR: Duration = Duration::from_secs(3600);

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            addr: "127.0.0.1:5000".to_owned(),
            storage: Storage::Directory,
            root: PathBuf::from("./registry-data"),
            log: observe::Settings { level: "info".to_owned(), format: None },
            http: Settings {
                access_log: true,
                headers: Vec::new(),
                host: None,
                relative_urls: true,
                debug: None,
                catalog_max: 1000,
                tags_max: 10_000,
                manifests_bytes: 64 << 20,
            },
            accounts: None,
            rules: None,
            tls: None,
            limits,
            policy: Policy { missing: Missing::Refuse, delete_enabled: true, read_only: false },
            gc: collect::Settings::default(),
            scrub: scrub::Settings::default(),
            store: disk::Options { wait_for_lock: limits.drain, ..disk::Options::default() },
            purge: Some(Purge { age: 24 * HOUR, interval: HOUR }),
            workers: None,
        }
    }
}

/// A configuration and what to tell about it.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// Keys without effect, for the log.
    pub notes: Vec<String>,
    /// What is in effect, defaults filled in, as YAML that gives the same configuration again. Keys
    /// without effect, some of which hold secrets, are left out.
    pub effective: String,
}

impl Config {
    /// Reads a file, or none, and puts the process's `REGISTRY_*` variables over it.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: Option<&Path>) -> Result<Loaded, ConfigError> {
        let variables: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::load_with(path, &variables)
    }

    /// [`Config::load`] with other variables than the process's.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load_with(
        path: Option<&Path>,
        variables: &[(String, String)],
    ) -> Result<Loaded, ConfigError> {
        let Some(path) = path else { return Self::read(None, variables) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text, variables)
    }

    /// Reads the text of a file; `path` is for errors.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(
        path: &Path,
        text: &str,
        variables: &[(String, String)],
    ) -> Result<Loaded, ConfigError> {
        Self::read(Some((path, text)), variables)
    }

    fn read(
        file: Option<(&Path, &str)>,
        variables: &[(String, String)],
    ) -> Result<Loaded, ConfigError> {
        let load::Tree { file, mut notes, from } = load::load(file, variables)?;
        let read = || {
            refuse_unsupported(&file)?;
            note_ineffective(&file, &mut notes);
            Ok(Config { tls: tls::settings(&file, &mut notes)?, ..resolve(&file)? })
        };
        let config = { read }().map_err(|error| from.name(error))?;
        let effective = effective::yaml(&config);
        Ok(Loaded { config, notes, effective })
    }
}

/// Refuses what would serve something else than was asked for: an open registry in place of a
/// guarded one, an empty disk in place of a bucket.
fn refuse_unsupported(file: &File) -> Result<(), ConfigError> {
    let refuse = |key, what: &str| Err(ConfigError::Value { key, what: what.to_owned() });
    if file.middleware.as_ref().is_some_and(|kinds| !kinds.values().all(is_nothing)) {
        return refuse("middleware", "middleware is not supported: leave this key out");
    }
    let remote = file.proxy.as_ref().and_then(|proxy| proxy.get("remoteurl"));
    if remote.is_some_and(|remote| !remote.is_null() && remote != "") {
        return refuse("proxy.remoteurl", "pull-through mode is not supported yet");
    }
    let storage = &file.storage;
    for (key, driver) in [
        ("storage.s3", &storage.s3),
        ("storage.s3aws", &storage.s3aws),
        ("storage.gcs", &storage.gcs),
        ("storage.azure", &storage.azure),
        ("storage.swift", &storage.swift),
        ("storage.oss", &storage.oss),
    ] {
        if driver.is_some() && storage.filesystem.is_some() {
            let what = "stands beside storage.filesystem, and nothing can be stored in two places: \
                        this one is not supported, so leave it out";
            return refuse(key, what);
        }
        if driver.is_some() {
            return refuse(key, "this storage is not supported: use storage.filesystem");
        }
    }
    if storage.inmemory.is_some() && storage.filesystem.is_some() {
        let what = "stands beside storage.filesystem, and nothing can be stored in two places: \
                    leave one of them out";
        return refuse("storage.inmemory", what);
    }
    if file.http.net.as_deref().is_some_and(|net| net != "tcp" && !net.is_empty()) {
        return refuse("http.net", "only tcp is supported: leave this key out");
    }
    if file.http.prefix.as_deref().is_some_and(|prefix| prefix != "/" && !prefix.is_empty()) {
        return refuse("http.prefix", "a path prefix is not supported: use a host name of its own");
    }
    let urls = &file.validation.manifests.urls;
    if urls.as_ref().is_some_and(|urls| !urls.values().all(is_nothing)) {
        return refuse("validation.manifests.urls", "rules on layer urls are not supported");
    }
    let version = file.version.as_ref();
    if version.is_some_and(|version| version.as_f64() != Some(0.1) && version != "0.1") {
        return refuse(
            "version",
            "the only one is 0.1: with it, distribution's defaults apply where ours differ",
        );
    }
    Ok(())
}

/// A list of nothing.
fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn note_ineffective(file: &File, notes: &mut Vec<String>) {
    let mut note = |present: bool, key: &str, why: &str| {
        if present {
            notes.push(format!("{key} has no effect: {why}"));
        }
    };
    note(file.notifications.is_some(), "notifications", "events are not sent yet");
    note(file.redis.is_some(), "redis", "no cache outside the process is needed");
    note(file.storage.cache.is_some(), "storage.cache", "what is read often stays in memory");
    note(file.storage.redirect.is_some(), "storage.redirect", "a disk has nowhere to redirect to");
    note(file.storage.tag.is_some(), "storage.tag", "tags are rows, not files");
    note(
        file.storage.filesystem.as_ref().is_some_and(|driver| driver.maxthreads.is_some()),
        "storage.filesystem.maxthreads",
        "the pool has its own size",
    );
    note(file.health.is_some(), "health", "/livez and /readyz are always there");
    note(file.policy.is_some(), "policy", "repository classes are not supported");
    note(file.compatibility.is_some(), "compatibility", "schema 1 is not supported");
    note(file.reporting.is_some(), "reporting", "errors go to the log");
    note(file.log.hooks.is_some(), "log.hooks", "mails are not sent");
    note(file.log.fields.is_some(), "log.fields", "lines have fixed fields");
    note(file.log.reportcaller.is_some(), "log.reportcaller", "lines have fixed fields");
    let debug = file.http.debug.as_ref();
    note(
        debug.is_some_and(|debug| debug.prometheus.is_some() && is_empty(debug.addr.as_ref())),
        "http.debug.prometheus",
        "without http.debug.addr, /metrics is served on http.addr",
    );
    note(
        file.http.relativeurls == Some(true) && !is_empty(file.http.host.as_ref()),
        "http.host",
        "http.relativeurls is true",
    );
    note(file.http.secret.is_some(), "http.secret", "uploads hold no state that needs a signature");
    note(file.http.http2.is_some(), "http.http2", "HTTP/1.1 is served");
    note(file.http.h2c.is_some(), "http.h2c", "HTTP/1.1 is served");
    for (max, key) in [
        (file.catalog.maxentries, "catalog.maxentries above 100000"),
        (file.tags.maxtags, "tags.maxtags above 100000"),
    ] {
        note(max.is_some_and(|max| max > PAGE_MAX), key, "one answer holds no more");
    }
    for (present, key) in [
        (file.validation.enabled.is_some(), "validation.enabled"),
        (file.validation.disabled.is_some(), "validation.disabled"),
        (file.validation.manifests.indexes.is_some(), "validation.manifests.indexes"),
    ] {
        note(present, key, "use validation.manifests.missing");
    }
}

fn is_empty(text: Option<&String>) -> bool {
    text.is_none_or(String::is_empty)
}

fn resolve(file: &File) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    // Whoever has a file of distribution gets distribution's defaults.
    let distribution = file.version.is_some();
    if let Some(text) = &file.http.addr {
        config.addr = addr("http.addr", text)?;
    }
    config.accounts = accounts::settings(file.auth.as_ref())?;
    config.rules = access::settings(file, config.accounts.is_some())?;
    config.http.debug = debug(file)?;
    let filesystem = file.storage.filesystem.clone().unwrap_or_default();
    if let Some(root) = &filesystem.rootdirectory {
        if root.is_empty() {
            let what = "is empty: name a directory, or leave this key out".to_owned();
            return Err(ConfigError::Value { key: "storage.filesystem.rootdirectory", what });
        }
        config.root = root.into();
    } else if distribution {
        config.root = "/var/lib/registry".into();
    }
    if let Some(inmemory) = &file.storage.inmemory {
        let mut options = memory::Options::default();
        if let Some(limit) = size("storage.inmemory.limit", inmemory.limit.as_ref())? {
            options.limit = limit;
        }
        config.storage = Storage::Memory(options);
    }
    if let Some(level) = file.log.level.as_ref().or(file.loglevel.as_ref()) {
        config.log.level = level_name(level)?;
    }
    config.log.format = log_format(file.log.formatter.as_deref())?;
    config.http.access_log = !file.log.accesslog.disabled;
    config.http.headers = headers(file)?;
    config.http.host =
        file.http.host.as_deref().filter(|host| !host.is_empty()).map(host).transpose()?;
    config.http.relative_urls = file.http.relativeurls.unwrap_or(config.http.host.is_none());
    config.http.catalog_max = page(file.catalog.maxentries, config.http.catalog_max);
    config.http.tags_max = page(file.tags.maxtags, config.http.tags_max);
    if let Some(drain) = duration("http.draintimeout", file.http.draintimeout.as_ref())? {
        config.limits.drain = drain;
        config.store.wait_for_lock = drain;
    }
    limits(file, &mut config.limits)?;
    if let Some(bytes) = size("limits.manifests", file.limits.manifests.as_ref())? {
        config.http.manifests_bytes = manifests(bytes)?;
    }
    config.policy.delete_enabled = file.storage.delete.enabled.unwrap_or(!distribution);
    config.policy.read_only = file.storage.maintenance.readonly.enabled.unwrap_or(false);
    config.policy.missing = missing(file)?;
    config.store.reserve = size("storage.filesystem.reserve", filesystem.reserve.as_ref())?;
    match &filesystem.directfrom {
        Some(Value::Bool(false)) => config.store.direct_from = None,
        value => {
            let from = size("storage.filesystem.directfrom", value.as_ref())?;
            config.store.direct_from = from.or(config.store.direct_from);
        }
    }
    config.purge = purge(file, distribution)?;
    config.gc = gc(file, config.gc)?;
    config.scrub = scrub(file, config.scrub)?;
    Ok(config)
}

/// Most entries of a page: an answer is put together in memory.
const PAGE_MAX: usize = 100_000;

/// The size of a page. 0 is the default, as with distribution.
fn page(value: Option<usize>, default: usize) -> usize {
    match value.unwrap_or(0) {
        0 => default,
        max => max.min(PAGE_MAX),
    }
}

/// An address to listen on. Names are looked up when it is bound.
fn addr(key: &'static str, text: &str) -> Result<String, ConfigError> {
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) => Ok(text.to_owned()),
        None => {
            let what = format!("{text:?} has no port: write for example 127.0.0.1:5000, or :5000");
            Err(ConfigError::Value { key, what })
        }
    }
}

/// The second listener, if there is one.
fn debug(file: &File) -> Result<Option<crate::http::Debug>, ConfigError> {
    let Some(debug) = &file.http.debug else { return Ok(None) };
    let Some(text) = debug.addr.as_deref().filter(|addr| !addr.is_empty()) else { return Ok(None) };
    let prometheus = debug.prometheus.clone().unwrap_or_default();
    let path = prometheus.path.filter(|path| !path.is_empty());
    let path = path.unwrap_or_else(|| "/metrics".to_owned());
    if !path.starts_with('/') {
        let what = format!("{path:?} is no path: it begins with a slash");
        return Err(ConfigError::Value { key: "http.debug.prometheus.path", what });
    }
    let metrics = prometheus.enabled.unwrap_or(true).then_some(path);
    Ok(Some(crate::http::Debug { addr: addr("http.debug.addr", text)?, metrics }))
}

fn size(key: &'static str, value: Option<&Value>) -> Result<Option<u64>, ConfigError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    units::size(value).map(Some).ok_or_else(|| ConfigError::Value {
        key,
        what: format!("{value} is no size: write for example 64MiB"),
    })
}

fn duration(key: &'static str, value: Option<&Value>) -> Result<Option<Duration>, ConfigError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let found = units::duration(value);
    found.map(Some).ok_or_else(|| ConfigError::Value {
        key,
        what: format!("{value} is no duration: write for example 30s, 24h"),
    })
}

fn level_name(level: &str) -> Result<String, ConfigError> {
    match level.to_ascii_lowercase().as_str() {
        // Names of logrus, which distribution takes.
        "warning" => Ok("warn".to_owned()),
        "fatal" | "panic" => Ok("error".to_owned()),
        known @ ("error" | "warn" | "info" | "debug" | "trace") => Ok(known.to_owned()),
        // A filter of tracing's: `info,registry=debug`.
        filter if filter.contains(['=', ',']) && observe::is_level(level) => Ok(level.to_owned()),
        _ => Err(ConfigError::Value {
            key: "log.level",
            what: format!("{level:?} is none of error, warn, info, debug, trace"),
        }),
    }
}

fn log_format(formatter: Option<&str>) -> Result<Option<observe::Format>, ConfigError> {
    match formatter {
        None | Some("") => Ok(None),
        Some("text") => Ok(Some(observe::Format::Text)),
        Some("json" | "logstash") => Ok(Some(observe::Format::Json)),
        Some(other) => Err(ConfigError::Value {
            key: "log.formatter",
            what: format!("{other:?} is none of text, json, logstash"),
        }),
    }
}

fn headers(file: &File) -> Result<Vec<(String, String)>, ConfigError> {
    let mut found = Vec::new();
    for (name, values) in &file.http.headers {
        for value in values {
            if !crate::http::is_header(name, value) {
                let what = format!("{name}: {value} is no header");
                return Err(ConfigError::Value { key: "http.headers", what });
            }
            found.push((name.clone(), value.clone()));
        }
    }
    Ok(found)
}

/// A public address: scheme, host, optional port and path, nothing that would break a header.
fn host(text: &str) -> Result<String, ConfigError> {
    let rest = text.strip_prefix("https://").or(text.strip_prefix("http://"));
    let valid = rest.is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?')
    });
    if valid {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        let what = format!("{text:?} is no address: write for example https://registry.example");
        Err(ConfigError::Value { key: "http.host", what })
    }
}

fn limits(file: &File, limits: &mut Limits) -> Result<(), ConfigError> {
    for (key, value, target) in [
        ("limits.head", &file.limits.head, &mut limits.head),
        ("limits.body", &file.limits.body, &mut limits.body),
        ("limits.disconnect", &file.limits.disconnect, &mut limits.disconnect),
        ("limits.idle", &file.limits.idle, &mut limits.idle),
        ("limits.write", &file.limits.write, &mut limits.write),
    ] {
        if let Some(found) = duration(key, value.as_ref())? {
            if found.is_zero() {
                let what =
                    "must be more than 0: no limit would let clients hold connections for ever";
                return Err(ConfigError::Value { key, what: what.to_owned() });
            }
            *target = found;
        }
    }
    if let Some(connections) = file.limits.connections {
        if connections == 0 {
            let what = "must be more than 0: nobody could connect".to_owned();
            return Err(ConfigError::Value { key: "limits.connections", what });
        }
        limits.connections = connections;
    }
    Ok(())
}

fn manifests(bytes: u64) -> Result<usize, ConfigError> {
    usize::try_from(bytes).ok().filter(|bytes| *bytes >= 16 << 20).ok_or_else(|| {
        ConfigError::Value {
            key: "limits.manifests",
            what: "must be at least 16MiB, so that the largest manifest can be sent".to_owned(),
        }
    })
}

fn missing(file: &File) -> Result<Missing, ConfigError> {
    match file.validation.manifests.missing.as_deref() {
        None | Some("refuse") => Ok(Missing::Refuse),
        Some("accept") => Ok(Missing::Accept),
        Some(other) => Err(ConfigError::Value {
            key: "validation.manifests.missing",
            what: format!("{other:?} is neither refuse nor accept"),
        }),
    }
}

fn purge(file: &File, distribution: bool) -> Result<Option<Purge>, ConfigError> {
    let purging = &file.storage.maintenance.uploadpurging;
    if purging.enabled == Some(false) || purging.dryrun == Some(true) {
        return Ok(None);
    }
    let defaults = if distribution { (168 * HOUR, 24 * HOUR) } else { (24 * HOUR, HOUR) };
    let age = duration("storage.maintenance.uploadpurging.age", purging.age.as_ref())?;
    let interval =
        duration("storage.maintenance.uploadpurging.interval", purging.interval.as_ref())?;
    Ok(Some(Purge { age: age.unwrap_or(defaults.0), interval: interval.unwrap_or(defaults.1) }))
}

fn gc(file: &File, mut gc: collect::Settings) -> Result<collect::Settings, ConfigError> {
    for (key, value, target) in [
        ("gc.grace", &file.gc.grace, &mut gc.grace),
        ("gc.reviewdelay", &file.gc.reviewdelay, &mut gc.review_delay),
        ("gc.interval", &file.gc.interval, &mut gc.interval),
    ] {
        if let Some(found) = duration(key, value.as_ref())? {
            *target = found;
        }
    }
    gc.pace = file.gc.pace.unwrap_or(gc.pace);
    Ok(gc)
}

fn scrub(file: &File, mut scrub: scrub::Settings) -> Result<scrub::Settings, ConfigError> {
    if let Some(value) = &file.scrub.rate {
        scrub.rate = units::size(value).ok_or_else(|| ConfigError::Value {
            key: "scrub.rate",
            what: format!("{value} is no size per second: write for example 8MiB, or 0 for off"),
        })?;
    }
    if let Some(found) = duration("scrub.interval", file.scrub.interval.as_ref())? {
        scrub.interval = found;
    }
    Ok(scrub)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yml");
        std::fs::write(&path, yaml).unwrap();
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Config::load_with(Some(&path), &variables)
    }

    /// The file in distribution's image.
    const DISTRIBUTION: &str = "\
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
";

    #[test]
    fn a_file_of_distribution_is_taken_with_its_defaults() {
        let loaded = load(DISTRIBUTION, &[]).unwrap();
        assert_eq!(loaded.config.addr, ":5000");
        assert_eq!(loaded.config.root, Path::new("/var/lib/registry"));
        assert!(!loaded.config.policy.delete_enabled);
        assert_eq!(loaded.config.http.headers.len(), 1);
        assert_eq!(loaded.notes.len(), 3, "{:?}", loaded.notes);
        assert!(load("", &[]).unwrap().config.policy.delete_enabled);
    }

    #[test]
    fn variables_override_the_file() {
        let config = load(
            DISTRIBUTION,
            &[
                ("REGISTRY_HTTP_ADDR", "127.0.0.1:1"),
                ("REGISTRY_STORAGE_DELETE_ENABLED", "true"),
                ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "12"),
                ("REGISTRY_VALIDATION_MANIFESTS_MISSING", "accept"),
                ("REGISTRY_HTTP_HEADERS", "{A: [b]}"),
                ("REGISTRY_LOG_LEVEL", "debug"),
                ("REGISTRY_GC_GRACE", "90m"),
                ("OTHER_HTTP_ADDR", "x"),
            ],
        )
        .unwrap()
        .config;
        assert_eq!((config.addr.as_str(), config.root), ("127.0.0.1:1", "12".into()));
        assert!(config.policy.delete_enabled);
        assert_eq!(config.policy.missing, Missing::Accept);
        assert_eq!(config.http.headers, [("A".to_owned(), "b".to_owned())]);
        assert_eq!(config.log.level, "debug");
        assert_eq!(config.gc.grace, Duration::from_secs(5400));
    }

    #[test]
    fn variables_of_kubernetes_are_not_ours_and_unknown_ones_are_told() {
        let loaded = load(
            "",
            &[
                ("REGISTRY_PORT", "tcp://10.0.0.1:5000"),
                ("REGISTRY_PORT_5000_TCP_ADDR", "10.0.0.1"),
                ("REGISTRY_SERVICE_HOST", "10.0.0.1"),
                ("REGISTRY_HTTP_ADR", "x"),
            ],
        )
        .unwrap();
        assert_eq!(loaded.notes.len(), 1, "{:?}", loaded.notes);
        assert!(loaded.notes[0].contains("did you mean \"addr\""), "{}", loaded.notes[0]);
    }

    #[test]
    fn variables_are_read_as_the_file_is() {
        for (key, value) in [
            ("http.headers.Access-Control-Allow-Credentials", "[true]"),
            ("http.headers.Access-Control-Max-Age", "[1728000]"),
            ("http.headers.X-Version", "[1.10, 0x1F, '007', ~, no]"),
            ("http.headers.X-Nothing", "null"),
            ("http.headers.X-Empty", "[]"),
            ("http.headers.X-Scalar", "nosniff"),
            ("http.headers", "{X: [true], Y: }"),
            ("http.addr", "null"),
            ("http.host", "https://a.example"),
            ("http.secret", "12345678901234567890123"),
            ("http.tls.minimumtls", "tls1.2"),
            ("http.relativeurls", "'yes'"),
            ("catalog.maxentries", "-1"),
            ("catalog.maxentries", "10"),
            ("gc.grace", "1.5h"),
            ("scrub.rate", "1MiB"),
            ("storage.filesystem.rootdirectory", "1.10"),
            ("storage.filesystem", "null"),
            ("storage.inmemory", "null"),
            ("storage.inmemory", "{}"),
            ("log.level", "debug"),
            ("log.accesslog.disabled", "null"),
            ("redis", "{addr: x}"),
            ("redis", "x"),
        ] {
            let mut file = String::new();
            for (depth, word) in key.split('.').enumerate() {
                file.push_str(&format!("\n{}{word}:", "  ".repeat(depth)));
            }
            let by_file = load(&format!("{file} {value}\n"), &[]);
            let variable = format!("REGISTRY_{}", key.replace('.', "_"));
            let by_variable = load("", &[(&variable, value)]);
            let said = |loaded: Result<Loaded, ConfigError>| match loaded {
                Ok(loaded) => Ok((loaded.effective.to_lowercase(), loaded.notes)),
                Err(_) => Err(()),
            };
            assert_eq!(said(by_file), said(by_variable), "{variable}={value}");
        }
        let list = load("", &[("REGISTRY_HTTP_HEADERS_X", "[1.10, 0x1F, '007', no]")]).unwrap();
        let values: Vec<_> =
            list.config.http.headers.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["1.10", "0x1F", "007", "no"]);
        let replaced = load(
            "http: {headers: {X-A: [b]}}",
            &[("REGISTRY_HTTP_HEADERS_X-A", "[c]"), ("REGISTRY_HTTP_HEADERS_X-A_1", "d")],
        );
        let pair = |value: &str| ("X-A".to_owned(), value.to_owned());
        assert_eq!(replaced.unwrap().config.http.headers, [pair("c"), pair("d")]);
    }

    /// Kubernetes sets these in every pod beside a Service of such a name.
    #[test]
    fn what_others_set_under_our_prefix_stops_no_start() {
        let mut variables = vec![
            ("REGISTRY_AUTH_FILE".to_owned(), "/run/auth.json".to_owned()),
            ("REGISTRY_HTTP_ADDR_EXTRA".to_owned(), "x".to_owned()),
            ("REGISTRY_LOG_LEVEL_X_Y".to_owned(), "x".to_owned()),
            ("REGISTRY_WHATEVER".to_owned(), "{".to_owned()),
            ("REGISTRY_HTTP_ADR".to_owned(), "x".to_owned()),
        ];
        let sections = ["", "REDIS_", "PROXY_", "NOTIFICATIONS_", "AUTH_", "STORAGE_", "HTTP_TLS_"];
        for section in sections {
            for (name, value) in [
                ("SERVICE_HOST", "10.0.0.1"),
                ("SERVICE_PORT", "6379"),
                ("SERVICE_PORT_HTTP_METRICS", "6379"),
                ("PORT", "tcp://10.0.0.1:6379"),
                ("PORT_6379_TCP", "tcp://10.0.0.1:6379"),
                ("PORT_6379_TCP_ADDR", "10.0.0.1"),
                ("PORT_6379_TCP_PORT", "6379"),
                ("PORT_6379_TCP_PROTO", "tcp"),
            ] {
                variables.push((format!("REGISTRY_{section}{name}"), value.to_owned()));
            }
        }
        let loaded = Config::load_with(None, &variables).unwrap();
        assert_eq!(loaded.notes.len(), 4, "{:?}", loaded.notes);
        assert!(loaded.notes.iter().all(|note| note.contains("has no effect")));
        assert_eq!(loaded.effective, load("", &[]).unwrap().effective);
    }

    #[test]
    fn what_should_have_restricted_is_never_passed_over() {
        for name in ["AUTH_HTPASSWD_REALM", "AUTH_X", "ACCESS", "ACCESS_RULES_0_WHO", "TOKENS_KEY"]
        {
            let name = format!("REGISTRY_{name}");
            let error = load("", &[(&name, "x")]).unwrap_err().to_string();
            assert!(error.starts_with(&name), "{error}");
        }
        for yaml in [
            "access: {}",
            "tokens: {key: x}",
            "auth: {x: {}}",
            "auth: silly",
            "auth: htpasswd",
            "auth: [htpasswd]",
            "auth: {htpasswd: }",
            "auth: {htpasswd: {realm: r}}",
            "auth: {htpasswd: {path: p}}",
            "auth: {htpasswd: {realm: r, path: ''}}",
            "auth: {htpasswd: {realm: r, path: p, x: y}}",
            "auth: {htpasswd: {realm: \"a\\nb\", path: p}}",
            "auth: {htpasswd: {realm: r, path: p}, none: {}}",
            "auth: {token: {realm: r, service: s, issuer: i, rootcertbundle: c}}",
        ] {
            load(yaml, &[]).unwrap_err();
        }
        for (yaml, variables) in [
            ("auth: none", &[][..]),
            ("auth: {none: {}}", &[]),
            ("auth:", &[]),
            ("", &[("REGISTRY_AUTH", "none")]),
            ("access: {rules: [{who: anonymous, may: [pull], in: ['**', '!a/*']}]}", &[]),
        ] {
            load(yaml, variables).unwrap();
        }
    }

    #[test]
    fn a_refusal_names_the_variable_that_it_comes_from() {
        for (name, value, key) in [
            ("REGISTRY_HTTP_ADDR", "5000", "http.addr"),
            ("REGISTRY_AUTH_HTPASSWD_PATH", "x", "auth.htpasswd.realm"),
            ("REGISTRY_STORAGE", "{s3: {bucket: b}}", "storage.s3"),
            ("REGISTRY_STORAGE_S3_BUCKET", "b", "storage.s3"),
            ("REGISTRY_HTTP_TLS_MINIMUMTLS", "ssl3", "http.tls"),
            ("REGISTRY_HTTP_HEADERS_X", "[\"\\a\"]", "http.headers"),
            ("REGISTRY_PROXY_REMOTEURL", "https://r.example", "proxy.remoteurl"),
        ] {
            let error = load("version: 0.1", &[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}: ")) && error.contains(key), "{error}");
        }
        let by_file = load("http: {addr: '5000'}", &[("REGISTRY_LOG_LEVEL", "info")]);
        assert!(by_file.unwrap_err().to_string().starts_with("http.addr: "));
    }

    /// What stands there decides, not what stands behind it: the data would lie elsewhere.
    #[test]
    fn a_driver_that_is_named_is_meant() {
        for yaml in [
            "storage:\n  s3:\n",
            "storage: {inmemory: {}, filesystem: {}}",
            "storage: {s3: {bucket: b}, filesystem: }",
        ] {
            let error = load(yaml, &[]).unwrap_err().to_string();
            assert!(error.starts_with("storage."), "{error}");
            assert_eq!(error.contains("beside storage.filesystem"), yaml.contains("filesystem"));
        }
        let file = "storage: {filesystem: {rootdirectory: /x}}";
        load(file, &[("REGISTRY_STORAGE_INMEMORY", "null")]).unwrap_err();
        load("storage: {filesystem: }", &[]).unwrap();
        for yaml in ["storage: {inmemory: }", "storage: {inmemory: {limit: 512MiB}}"] {
            let loaded = load(yaml, &[]).unwrap();
            assert_eq!(loaded.config.storage, Storage::Memory(memory::Options::default()));
        }
    }

    #[test]
    fn the_debug_listener_is_configured_as_distributions() {
        let debug = |yaml: &str| load(yaml, &[]).unwrap().config.http.debug;
        assert_eq!(debug("http: {debug: {addr: ''}}"), None);
        let both = debug("http: {debug: {addr: ':5001', prometheus: {enabled: true}}}").unwrap();
        assert_eq!((both.addr.as_str(), both.metrics.as_deref()), (":5001", Some("/metrics")));
        let path = debug("http: {debug: {addr: ':5001', prometheus: {path: /m}}}").unwrap();
        assert_eq!(path.metrics.as_deref(), Some("/m"));
        let off = debug("http: {debug: {addr: ':5001', prometheus: {enabled: false}}}").unwrap();
        assert_eq!(off.metrics, None);
        for yaml in
            ["http: {debug: {addr: x}}", "http: {debug: {addr: ':1', prometheus: {path: m}}}"]
        {
            load(yaml, &[]).unwrap_err();
        }
        let idle = load("http: {debug: {prometheus: {enabled: true}}}", &[]).unwrap();
        assert_eq!(idle.notes.len(), 1, "{:?}", idle.notes);
        let idle = load("http: {host: 'https://a.example', relativeurls: true}", &[]).unwrap();
        assert_eq!(idle.notes.len(), 1, "{:?}", idle.notes);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let error = load("http:\n  addr: x\n  hots: y\n", &[]).unwrap_err().to_string();
        assert!(error.contains("config.yml:3:3"), "{error}");
        assert!(error.contains("did you mean \"host\""), "{error}");
        for (yaml, told) in [
            ("gc: 5", ":1:5: a section is expected"),
            ("http: {headers: {A: b}}", ":1:21: a list is expected"),
            ("gc: {pace: fast}", ":1:12: a number is expected"),
            ("storage: {delete: {enabled: 1}}", ":1:29: true or false is expected"),
            ("gc: {pace: 1, pace: 2}", "the key \"pace\" is given twice"),
            ("foo: 1", "unknown key \"foo\""),
        ] {
            let error = load(yaml, &[]).unwrap_err().to_string();
            assert!(error.contains(told), "{yaml}: {error}");
            assert!(!error.contains("at line") && !error.contains("did you"), "{yaml}: {error}");
        }
        let error = load("http: [\n", &[]).unwrap_err();
        assert!(matches!(error, ConfigError::File { line: 1.., .. }), "{error}");
        let error = load("", &[("REGISTRY_LOG_ACCESSLOG_DISABLED", "perhaps")]).unwrap_err();
        assert!(error.to_string().contains("REGISTRY_LOG_ACCESSLOG_DISABLED"), "{error}");
    }

    #[test]
    fn what_would_serve_something_else_is_refused() {
        for yaml in [
            "auth: {htpasswd: {realm: x, path: y}}",
            "auth: {}",
            "access: {rules: []}",
            "access: {rules: [{who: ann, may: pull, in: '**'}]}",
            "access: {rules: [{who: anonymous, may: fly, in: '**'}]}",
            "access: {rules: [{who: anonymous, may: create, in: '**'}]}",
            "access: {rules: [{who: anonymous, may: pull}]}",
            "access: {rules: [{who: anonymous, may: pull, in: 'A'}]}",
            "access: {rules: [{who: anonymous, may: pull, in: '!a'}]}",
            "access: {rules: [{who: 'group:x', may: pull, in: a}], groups: {y: [ann]}}",
            "access: {rules: [{who: anonymous, may: pull, in: a, tags: [b]}]}",
            "access: {rules: [{who: anonymous, may: pull, in: a}], immutable: [{in: a}]}",
            "auth: htpasswd",
            "middleware: {registry: [{name: x}]}",
            "validation: {manifests: {urls: {deny: [x]}}}",
            "proxy: {remoteurl: 'https://registry-1.docker.io'}",
            "storage: {s3: {bucket: b}}",
            "storage: {inmemory: {limit: much}}",
            "http: {prefix: /x}",
            "http: {net: unix}",
            "http: {host: 'registry.example'}",
            "http: {headers: {'a b': [c]}}",
            "http: {draintimeout: soon}",
            "log: {level: loud}",
            "log: {formatter: xml}",
            "validation: {manifests: {missing: maybe}}",
            "storage: {filesystem: {reserve: much}}",
            "storage: {filesystem: {directfrom: true}}",
            "limits: {head: 0}",
            "limits: {connections: 0}",
            "version: 0.2",
            "http: {addr: 5000}",
            "http: {addr: localhost}",
            "storage: {filesystem: {rootdirectory: ''}}",
            "log: {level: 'a=b=c'}",
        ] {
            assert!(load(yaml, &[]).is_err(), "{yaml}");
        }
        for (name, value) in [
            ("REGISTRY_AUTH_HTPASSWD_PATH", "x"),
            ("REGISTRY_AUTH", "htpasswd"),
            ("REGISTRY_STORAGE", "s3"),
            ("REGISTRY_STORAGE", "other"),
        ] {
            assert!(load("", &[(name, value)]).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        for yaml in [
            "http: {secret: hunter2}",
            "redis: {password: hunter2}",
            "notifications: {endpoints: [{headers: {Authorization: [hunter2]}}]}",
            "log: {hooks: [{options: {smtp: {password: hunter2}}}]}",
        ] {
            assert!(!load(yaml, &[]).unwrap().effective.contains("hunter2"), "{yaml}");
        }
    }

    #[test]
    fn empty_sections_and_zero_pages_are_as_if_left_out() {
        let defaults = load("", &[]).unwrap().effective;
        for yaml in [
            "# http:",
            "null",
            "gc:",
            "log:\n  accesslog:\n    disabled:\nhttp:\n  headers:\n  host: ''\n  net: ''\n",
            "catalog: {maxentries: 0}\ntags: {maxtags: 0}",
            "proxy: {remoteurl: ''}",
            "middleware: {registry: [], storage: }",
            "validation: {manifests: {urls: {allow: []}}}",
            "log: {formatter: ''}",
        ] {
            let loaded = load(yaml, &[]).unwrap();
            assert_eq!(loaded.effective, defaults, "{yaml}");
            assert!(loaded.notes.is_empty(), "{yaml}: {:?}", loaded.notes);
        }
        let large = load("tags: {maxtags: 100001}", &[]).unwrap();
        assert_eq!((large.config.http.tags_max, large.notes.len()), (100_000, 1));
        let named = load("", &[("REGISTRY_STORAGE", "filesystem")]).unwrap();
        assert_eq!(named.effective, defaults);
        let versioned = load("", &[("REGISTRY_VERSION", "2.8.3")]).unwrap();
        assert_eq!((versioned.effective, versioned.notes.len()), (defaults, 1));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_error_and_no_panic(text in "\\PC{0,200}") {
            let _ = load(&text, &[("REGISTRY_HTTP_ADDR", &text)]);
        }
    }
}
