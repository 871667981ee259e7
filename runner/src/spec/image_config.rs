//! What an image's configuration says about running it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The parts of an image configuration that matter for running. Null and absent are the same, as
/// in every program of Go's that writes these. Source: image-spec config.md.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ImageConfig {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, deserialize_with = "or_default")]
    pub config: Execution,
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
