//! The configuration file as distribution knows it, and our own keys.
//!
//! Keys that have no effect here are listed all the same: an existing file must be accepted, and a
//! key that is in neither list is a mistake that should be told.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// A section whose content does not matter here, because it has no effect or is refused whole.
type Foreign = BTreeMap<String, Value>;

/// A section whose keys are all commented out is empty, not a mistake.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A key that says something by being there, whatever stands behind it.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// The same of a section.
fn section<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    or_default(deserializer).map(Some)
}

/// Lists of texts by name; nothing behind a name is an empty list.
fn lists<'de, D>(deserializer: D) -> Result<BTreeMap<String, Vec<String>>, D::Error>
where
    D: Deserializer<'de>,
{
    let lists: Option<BTreeMap<String, Option<Vec<String>>>> = Option::deserialize(deserializer)?;
    let lists = lists.unwrap_or_default().into_iter();
    Ok(lists.map(|(name, list)| (name, list.unwrap_or_default())).collect())
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    /// `0.1` selects distribution's defaults where ours differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Value>,
    #[serde(deserialize_with = "or_default")]
    pub log: Log,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loglevel: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub storage: Storage,
    #[serde(deserialize_with = "or_default")]
    pub http: Http,
    #[serde(deserialize_with = "or_default")]
    pub validation: Validation,
    #[serde(deserialize_with = "or_default")]
    pub catalog: Catalog,
    #[serde(deserialize_with = "or_default")]
    pub tags: Tags,
    #[serde(deserialize_with = "or_default")]
    pub gc: Gc,
    #[serde(deserialize_with = "or_default")]
    pub scrub: Scrub,
    #[serde(deserialize_with = "or_default")]
    pub limits: Limits,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "section")]
    pub access: Option<Access>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub middleware: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notifications: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compatibility: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reporting: Option<Foreign>,
}

/// One text or a list of them.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(one) => Ok(vec![one]),
        other => serde_json::from_value(other).map_err(serde::de::Error::custom),
    }
}

/// What whoever it is may do.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Access {
    #[serde(deserialize_with = "lists", skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<AccessRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immutable: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workloads: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AccessRule {
    #[serde(deserialize_with = "words")]
    pub who: Vec<String>,
    #[serde(deserialize_with = "words")]
    pub may: Vec<String>,
    #[serde(rename = "in", deserialize_with = "words")]
    pub within: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub formatter: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub accesslog: AccessLog,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reportcaller: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AccessLog {
    #[serde(deserialize_with = "or_default")]
    pub disabled: bool,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct InMemory {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Storage {
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "section")]
    pub filesystem: Option<Filesystem>,
    #[serde(deserialize_with = "or_default")]
    pub delete: Enabled,
    #[serde(deserialize_with = "or_default")]
    pub maintenance: Maintenance,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "section")]
    pub inmemory: Option<InMemory>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub s3: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub s3aws: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub gcs: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub azure: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub swift: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub oss: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Filesystem {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootdirectory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maxthreads: Option<Value>,
    /// Ours: free space that pushes leave untouched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Value>,
    /// Ours: from which offset on uploads are written past the page cache; `false` is never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directfrom: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Enabled {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Maintenance {
    #[serde(deserialize_with = "or_default")]
    pub uploadpurging: UploadPurging,
    #[serde(deserialize_with = "or_default")]
    pub readonly: Enabled,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct UploadPurging {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dryrun: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relativeurls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draintimeout: Option<Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "lists")]
    pub headers: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug: Option<Debug>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub h2c: Option<Foreign>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clientcas: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clientauth: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimumtls: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ciphersuites: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub letsencrypt: Option<Foreign>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Debug {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Prometheus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Validation {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    #[serde(deserialize_with = "or_default")]
    pub manifests: ValidationManifests,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ValidationManifests {
    /// Ours: `refuse` or `accept`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub urls: Option<Foreign>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub indexes: Option<Foreign>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Catalog {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maxentries: Option<usize>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tags {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maxtags: Option<usize>,
}

/// Ours: collection.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Gc {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reviewdelay: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Value>,
    /// Blobs removed per second at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pace: Option<u32>,
}

/// Ours: reading everything back, to find rot before a client does.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Scrub {
    /// Bytes per second at most; 0 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Value>,
}

/// Ours: what bounds clients.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnect: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Value>,
}
