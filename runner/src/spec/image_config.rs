//! What an image's configuration says about running it.

use std::collections::BTreeMap;

use serde::Deserialize;
use shared::DiffId;
use shared::manifest::Platform;

use crate::known_bad::left_out;

/// The parts of an image configuration that matter for running. Null and absent are the same, as
/// in every program of Go's that writes these. Source: image-spec config.md.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ImageConfig {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub variant: Option<String>,
    #[serde(rename = "os.version", default)]
    pub os_version: Option<String>,
    #[serde(rename = "os.features", default, deserialize_with = "or_default")]
    pub os_features: Vec<String>,
    /// None: this is no image.
    #[serde(default)]
    pub rootfs: Option<RootFs>,
    #[serde(default, deserialize_with = "or_default")]
    pub config: Execution,
}

/// `rootfs` of an image configuration.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RootFs {
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<DiffId>,
}

/// `config` of an image configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Execution {
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: String,
    #[serde(deserialize_with = "or_default")]
    pub exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
}

fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// # Errors
    /// Where the JSON or a field of it is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// What the image runs on.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
        }
    }

    /// As everything that ever reads it does, the verbs that show all of it included. Whatever takes
    /// an image in asks this, so that no image is in the store whose configuration cannot be read:
    /// fields that one reader passes over may be nested deeper than another one goes.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn read(bytes: &[u8]) -> Result<(Self, serde_json::Value), serde_json::Error> {
        if left_out("config-read-whole") {
            return Ok((Self::parse(bytes)?, serde_json::Value::Null));
        }
        Ok((Self::parse(bytes)?, serde_json::from_slice(bytes)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_reader_cannot_read_none_takes() {
        let nested = format!("{}{}", "[".repeat(300), "]".repeat(300));
        for text in [
            format!(r#"{{"os": "linux", "x": {nested}}}"#),
            format!(r#"{{"config": {{"Labels": {{}}, "x": {nested}}}}}"#),
            format!(r#"{{"rootfs": {{"x": {nested}}}}}"#),
            r#"{"config": {"Labels": {"a": 1}}}"#.to_owned(),
        ] {
            assert!(ImageConfig::read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(ImageConfig::read(br#"{"os": "linux", "x": [[1]]}"#).is_ok());
    }

    #[test]
    fn null_and_absent_are_empty() {
        for text in [
            r#"{"config": {"Env": null, "Cmd": null, "Volumes": null, "User": null}}"#,
            r#"{"config": null}"#,
            r#"{"config": {}}"#,
            "{}",
        ] {
            let config = ImageConfig::parse(text.as_bytes()).unwrap().config;
            assert!(config.env.is_empty() && config.cmd.is_empty() && config.user.is_empty());
        }
        let text = r#"{"architecture": "amd64", "config": {"Volumes": {"/data": {}},
            "Entrypoint": ["a"], "WorkingDir": "/w", "Unknown": 1}}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap().config;
        assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/data"]);
        assert_eq!(config.working_dir, "/w");
    }
}
