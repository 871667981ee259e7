//! Settings, each given to both, and what they change.

use anyhow::Result;

use super::requests::{DOCKER, image, push_blobs};
use super::{Pair, Seen, describe, send};

/// Method, path, headers.
type Ask = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// Variables, and a request that shows what they do.
struct Setting {
    name: &'static str,
    environment: &'static [(&'static str, &'static str)],
    ask: &'static [Ask],
}

const SETTINGS: [Setting; 7] = [
    Setting {
        name: "storage.delete.enabled: false",
        environment: &[("REGISTRY_STORAGE_DELETE_ENABLED", "false")],
        ask: &[("DELETE", "/v2/app/manifests/DIGEST", &[]), ("DELETE", "/v2/app/blobs/BLOB", &[])],
    },
    Setting {
        name: "storage.maintenance.readonly.enabled: true",
        environment: &[("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: true}")],
        ask: &[
            ("POST", "/v2/app/blobs/uploads/", &[]),
            ("DELETE", "/v2/app/manifests/DIGEST", &[]),
            ("GET", "/v2/none/tags/list", &[]),
        ],
    },
    Setting {
        name: "http.relativeurls: true",
        environment: &[("REGISTRY_HTTP_RELATIVEURLS", "true")],
        ask: &[("POST", "/v2/app/blobs/uploads/", &[])],
    },
    Setting {
        name: "http.relativeurls: false",
        environment: &[("REGISTRY_HTTP_RELATIVEURLS", "false")],
        ask: &[
            ("POST", "/v2/app/blobs/uploads/", &[]),
            ("POST", "/v2/app/blobs/uploads/", &[("X-Forwarded-Proto", "https")]),
            ("POST", "/v2/app/blobs/uploads/", &[("X-Forwarded-Host", "other.example")]),
            ("POST", "/v2/app/blobs/uploads/", &[("Forwarded", "host=other.example")]),
        ],
    },
    Setting {
        name: "http.host",
        environment: &[("REGISTRY_HTTP_HOST", "https://public.example")],
        ask: &[("POST", "/v2/app/blobs/uploads/", &[("X-Forwarded-Proto", "http")])],
    },
    Setting {
        name: "http.headers of numbers and booleans",
        environment: &[
            ("REGISTRY_HTTP_HEADERS_Access-Control-Allow-Origin", "['http://ui.example']"),
            ("REGISTRY_HTTP_HEADERS_Access-Control-Allow-Credentials", "[true]"),
            ("REGISTRY_HTTP_HEADERS_Access-Control-Max-Age", "[1728000]"),
        ],
        ask: &[("GET", "/v2/", &[]), ("OPTIONS", "/v2/app/manifests/DIGEST", &[])],
    },
    Setting {
        name: "http.debug.addr",
        environment: &[
            ("REGISTRY_HTTP_DEBUG_ADDR", "127.0.0.1:0"),
            ("REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED", "true"),
        ],
        ask: &[("GET", "/metrics", &[]), ("GET", "/debug/health", &[])],
    },
];

pub(crate) fn at_work() -> Result<Seen> {
    let mut seen = Seen::default();
    for Setting { name, environment, ask } in SETTINGS {
        let pair = Pair::start(environment)?;
        for registry in [&pair.theirs, &pair.ours] {
            if !name.contains("readonly") {
                push_blobs(registry, "app")?;
                let path = "/v2/app/manifests/t";
                registry.send("PUT", path, DOCKER, image().as_bytes())?.expect(201)?;
            }
        }
        for (method, path, headers) in ask {
            let with: String =
                headers.iter().map(|(name, value)| format!(", {name}: {value}")).collect();
            pair.ask(&mut seen, format!("{name}: {method} {path}{with}"), |registry| {
                let path = path
                    .replace("DIGEST", &super::requests::digest(image().as_bytes()))
                    .replace("BLOB", &super::requests::digest(b"0123456789"));
                let answer = send(registry, method, &path, headers, b"")?;
                let mut text = describe(&answer);
                // What the URL begins with, and what was configured.
                if let Some(location) = answer.header("location")
                    && let Some((before, _)) = location.split_once("/v2/")
                {
                    let port = registry.address().to_string();
                    text += &format!(" at {}", before.replace(&port, "HOST"));
                }
                let mut headers: Vec<_> = answer
                    .headers
                    .iter()
                    .map(|(name, value)| format!(", {}: {value}", name.to_ascii_lowercase()))
                    .filter(|line| line.starts_with(", access-control-"))
                    .collect();
                headers.sort();
                text += &headers.concat();
                Ok(text)
            })?;
        }
    }
    Ok(seen)
}
