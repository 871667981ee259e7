//! `auth`: who is let in. What is not understood in here must not be passed over.

use serde_json::{Map, Value};

use super::ConfigError;
use crate::auth::Settings;

const HTPASSWD: &str = "auth.htpasswd";
const REALM: &str = "auth.htpasswd.realm";
const PATH: &str = "auth.htpasswd.path";

/// The accounts; `None` where the file says that there are none.
pub(super) fn settings(auth: Option<&Value>) -> Result<Option<Settings>, ConfigError> {
    let providers = match auth {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(name)) if name.eq_ignore_ascii_case("none") => return Ok(None),
        Some(Value::Object(providers)) => providers,
        Some(_) => {
            return refuse("auth", "is no section: write htpasswd: {realm: …, path: …} beneath it");
        }
    };
    let mut named = providers.iter();
    let Some((provider, parameters)) = named.next() else {
        return refuse("auth", "names nothing: write htpasswd: {realm: …, path: …}, or none");
    };
    if named.next().is_some() {
        return refuse("auth", "names more than one way to ask who somebody is: leave one");
    }
    match provider.to_ascii_lowercase().as_str() {
        "none" => Ok(None),
        "htpasswd" => htpasswd(parameters).map(Some),
        "token" => refuse(
            "auth.token",
            "token servers are not supported yet, and serving without is not safe: use \
             auth.htpasswd, or put a proxy before the registry that asks",
        ),
        other => {
            let what = format!(
                "{other:?} is not supported, and serving without is not safe: use \
                                htpasswd"
            );
            refuse("auth", &what)
        }
    }
}

fn htpasswd(parameters: &Value) -> Result<Settings, ConfigError> {
    let none = Map::new();
    let parameters = match parameters {
        Value::Object(parameters) => parameters,
        Value::Null => &none,
        _ => return refuse(HTPASSWD, "is no section: write realm: and path: beneath it"),
    };
    if let Some(other) = parameters.keys().find(|key| !matches!(key.as_str(), "realm" | "path")) {
        return refuse(HTPASSWD, &format!("knows realm and path, and no {other:?}"));
    }
    let realm = text(REALM, parameters.get("realm"))?;
    if realm.chars().any(char::is_control) {
        return refuse(REALM, "holds what cannot stand in a header");
    }
    Ok(Settings { realm, path: text(PATH, parameters.get("path"))?.into() })
}

fn text(key: &'static str, value: Option<&Value>) -> Result<String, ConfigError> {
    match value {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        // Unquoted, in a file or a variable.
        Some(Value::Number(number)) => Ok(number.to_string()),
        None | Some(Value::Null) => refuse(key, "is missing, and distribution wants it, too"),
        Some(_) => refuse(key, "is no text, or an empty one"),
    }
}

fn refuse<T>(key: &'static str, what: &str) -> Result<T, ConfigError> {
    Err(ConfigError::Value { key, what: what.to_owned() })
}
