//! Manifests and indexes, as far as the two programs read them.
//!
//! A manifest is stored and served as the bytes that arrived and never written anew; this is only
//! how its meaning is read.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::media_type;

/// Largest manifest, in bytes: what the registry stores and the runner reads. Above the 4 MiB that
/// the specification wants taken, and what containerd reads at most (4 × 1048 × 1048), so that
/// everything stored can be pulled.
pub const BYTES_MAX: usize = 4 * 1048 * 1048;

/// What stands there, or nothing: Go's tools write null for a list or a text that they have not.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Texts by name; a null is an empty one, as Go reads it.
fn texts<'de, D>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error>
where
    D: Deserializer<'de>,
{
    let texts: Option<BTreeMap<String, Option<String>>> = Option::deserialize(deserializer)?;
    Ok(texts.map(|texts| {
        texts.into_iter().map(|(name, text)| (name, text.unwrap_or_default())).collect()
    }))
}

/// A pointer to content. Source: image-spec descriptor.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default, deserialize_with = "or_default")]
    pub media_type: String,
    pub digest: Digest,
    /// Bytes. Unsigned, so that a negative size is refused where it is parsed.
    pub size: u64,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, deserialize_with = "texts", skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What an image in an index runs on. Source: image-spec image-index.md.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
}

/// The fields of an image manifest or an index that have a meaning here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    #[serde(default)]
    pub schema_version: Option<u64>,
    #[serde(default)]
    pub media_type: Option<String>,
    #[serde(default)]
    pub artifact_type: Option<String>,
    #[serde(default)]
    pub config: Option<Descriptor>,
    #[serde(default)]
    pub layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    pub manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    pub subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "texts")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Reads `bytes`; checks the form of each field and nothing else.
    ///
    /// # Errors
    /// Where the JSON or a field of it is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Whether this lists manifests, by its own word or, without one, by its form.
    pub fn is_index(&self) -> bool {
        match self.media_type.as_deref() {
            Some(own) => media_type::is_index(own),
            None => self.manifests.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_nothing() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":null,"annotations":{{"a":null}},"layers":null,
            "manifests":[{{"mediaType":null,"digest":"{digest}","size":1,"urls":null,
            "annotations":null,"platform":{{"architecture":null,"os":null,"os.features":null,
            "os.version":null,"variant":null}}}}]}}"#
        );
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.annotations.unwrap()["a"], "");
        assert_eq!(manifest.manifests.unwrap()[0].platform, Some(Platform::default()));
    }
}
