//! Which endpoint a path names. Repository names may contain the words that paths are made of
//! (`a/blobs/uploads` is a legal name), so paths are read from the right.

/// An endpoint of the specification, with the parts of its path as they came, percent-decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/`, which load balancers and charts probe.
    Root,
    /// `/v2/` (end-1).
    Base,
    /// `/v2/_catalog`, distribution's.
    Catalog,
    /// `/v2/<name>/blobs/<digest>` (end-2, end-10).
    Blob {
        name: String,
        digest: String,
    },
    /// `/v2/<name>/blobs/uploads/` (end-4, end-11).
    Uploads {
        name: String,
    },
    /// `/v2/<name>/blobs/uploads/<id>` (end-5, end-6, end-13, end-14).
    Upload {
        name: String,
        id: String,
    },
    /// `/v2/<name>/manifests/<reference>` (end-3, end-7, end-9).
    Manifest {
        name: String,
        reference: String,
    },
    /// `/v2/<name>/tags/list` (end-8).
    Tags {
        name: String,
    },
    /// `/v2/<name>/referrers/<digest>` (end-12).
    Referrers {
        name: String,
        digest: String,
    },
    /// `/livez`, `/readyz` and their kin.
    Health(Probe),
    /// `/debug/health`, distribution's.
    Checks,
    /// `/metrics`.
    Metrics,
    Unknown,
    /// What does not decode to text.
    Malformed,
}

/// An endpoint, without what its path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Root,
    Base,
    Catalog,
    Blob,
    Uploads,
    Upload,
    Manifest,
    Tags,
    Referrers,
    Health,
    Checks,
    Metrics,
}

impl Kind {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 12] = [
        Self::Root,
        Self::Base,
        Self::Catalog,
        Self::Blob,
        Self::Uploads,
        Self::Upload,
        Self::Manifest,
        Self::Tags,
        Self::Referrers,
        Self::Health,
        Self::Checks,
        Self::Metrics,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    Live,
    Ready,
}

impl Route {
    /// Reads the path of a request to the registry, percent-encoded as it came.
    ///
    /// A slash too many at either end changes nothing: scripts put `http://host/` before `/v2/`.
    pub(crate) fn parse(path: &str) -> Self {
        let Some(path) = decode(path) else { return Self::Malformed };
        let path = path.trim_start_matches('/');
        match path.strip_suffix('/').unwrap_or(path) {
            // `*` is the whole server. Source: RFC 9110 §9.3.7.
            "" | "*" => Self::Root,
            "v2" => Self::Base,
            "v2/_catalog" => Self::Catalog,
            "metrics" => Self::Metrics,
            path => match (path.strip_prefix("v2/"), Self::parse_probe(path)) {
                (Some(path), _) => Self::parse_repository(path).unwrap_or(Self::Unknown),
                (None, Some(probe)) => probe,
                (None, None) => Self::Unknown,
            },
        }
    }

    /// Reads the path of a request to the debug listener, which has metrics under `metrics`, if
    /// anywhere.
    pub(crate) fn parse_debug(path: &str, metrics: Option<&str>) -> Self {
        match decode(path) {
            None => Self::Malformed,
            Some(path) if Some(path.as_str()) == metrics => Self::Metrics,
            Some(path) => Self::parse_probe(path.trim_start_matches('/')).unwrap_or(Self::Unknown),
        }
    }

    fn parse_probe(path: &str) -> Option<Self> {
        Some(match path {
            "livez" | "healthz" => Self::Health(Probe::Live),
            "readyz" | "startupz" => Self::Health(Probe::Ready),
            "debug/health" => Self::Checks,
            _ => return None,
        })
    }

    fn parse_repository(path: &str) -> Option<Self> {
        let own = str::to_owned;
        if let Some(name) = path.strip_suffix("/blobs/uploads") {
            return Some(Self::Uploads { name: own(name) });
        }
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Some(Self::Tags { name: own(name) });
        }
        let (rest, last) = path.rsplit_once('/')?;
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            return Some(Self::Upload { name: own(name), id: own(last) });
        }
        let (name, kind) = rest.rsplit_once('/')?;
        let (name, last) = (own(name), own(last));
        match kind {
            "blobs" => Some(Self::Blob { name, digest: last }),
            "manifests" => Some(Self::Manifest { name, reference: last }),
            "referrers" => Some(Self::Referrers { name, digest: last }),
            _ => None,
        }
    }

    /// Which endpoint it is; `None` where there is none.
    pub(crate) fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Root => Kind::Root,
            Self::Base => Kind::Base,
            Self::Catalog => Kind::Catalog,
            Self::Blob { .. } => Kind::Blob,
            Self::Uploads { .. } => Kind::Uploads,
            Self::Upload { .. } => Kind::Upload,
            Self::Manifest { .. } => Kind::Manifest,
            Self::Tags { .. } => Kind::Tags,
            Self::Referrers { .. } => Kind::Referrers,
            Self::Health(_) => Kind::Health,
            Self::Checks => Kind::Checks,
            Self::Metrics => Kind::Metrics,
            Self::Unknown | Self::Malformed => return None,
        })
    }

    /// The endpoint's name in metrics: distribution's, so that dashboards keep working.
    pub(crate) fn handler(&self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Blob { .. } => "blob",
            Self::Uploads { .. } => "blob_upload",
            Self::Upload { .. } => "blob_upload_chunk",
            Self::Manifest { .. } => "manifest",
            Self::Tags { .. } => "tags",
            Self::Referrers { .. } => "referrers",
            Self::Health(_) | Self::Checks => "health",
            Self::Metrics => "metrics",
            Self::Unknown | Self::Malformed => "unknown",
        }
    }

    /// The repository in the path, as it came.
    pub(crate) fn repository(&self) -> Option<&str> {
        match self {
            Self::Blob { name, .. }
            | Self::Uploads { name }
            | Self::Upload { name, .. }
            | Self::Manifest { name, .. }
            | Self::Tags { name }
            | Self::Referrers { name, .. } => Some(name),
            Self::Root
            | Self::Base
            | Self::Catalog
            | Self::Health(_)
            | Self::Checks
            | Self::Metrics
            | Self::Unknown
            | Self::Malformed => None,
        }
    }

    /// The reference or digest in the path, as it came.
    pub(crate) fn reference(&self) -> Option<&str> {
        match self {
            Self::Blob { digest, .. } | Self::Referrers { digest, .. } => Some(digest),
            Self::Manifest { reference, .. } => Some(reference),
            _ => None,
        }
    }
}

/// Longest host taken from a client: a name of 253 bytes, a port. Source: RFC 1035 §2.3.4.
const HOST_BYTES_MAX: usize = 259;

/// Whether a `Host` field names a host, with a port or without: nothing that a URL would read as
/// something else.
pub(crate) fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            _ => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: &str| digits(text) && text.parse::<u16>().is_ok();
    let port = port.is_empty() || port.strip_prefix(':').is_some_and(number);
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    port && text.len() <= HOST_BYTES_MAX && !host.is_empty() && host.bytes().all(name)
}

/// Percent-decodes a path once, an encoded slash too, as distribution does: what it names is judged
/// after that. `None` where it does not decode to text.
fn decode(path: &str) -> Option<String> {
    if !path.contains('%') {
        return Some(path.to_owned());
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        match u8::try_from(high << 4 | low).ok()? {
            0 => return None,
            byte => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_the_right() {
        let own = str::to_owned;
        for (path, want) in [
            ("/v2", Route::Base),
            ("/v2/", Route::Base),
            ("/v2/_catalog", Route::Catalog),
            ("/v2/a/blobs/x", Route::Blob { name: own("a"), digest: own("x") }),
            ("/v2/a/blobs/sha256%3Ax", Route::Blob { name: own("a"), digest: own("sha256:x") }),
            ("/v2/a/blobs/uploads", Route::Uploads { name: own("a") }),
            ("/v2/a/blobs/uploads/", Route::Uploads { name: own("a") }),
            ("/v2/a/blobs/uploads/i", Route::Upload { name: own("a"), id: own("i") }),
            (
                "/v2/a/blobs/uploads/manifests/t",
                Route::Manifest { name: own("a/blobs/uploads"), reference: own("t") },
            ),
            ("/v2/tags/list/x/tags/list", Route::Tags { name: own("tags/list/x") }),
            (
                "/v2/a/manifests/b/manifests/c",
                Route::Manifest { name: own("a/manifests/b"), reference: own("c") },
            ),
            ("/v2/a/referrers/d", Route::Referrers { name: own("a"), digest: own("d") }),
            ("/v2//manifests/x", Route::Manifest { name: own(""), reference: own("x") }),
            ("/v2/a/manifests/", Route::Unknown),
            ("/v2/a/tags/list/", Route::Tags { name: own("a") }),
            ("//v2/_catalog", Route::Catalog),
            ("/v2/a%2Fb/manifests/x", Route::Manifest { name: own("a/b"), reference: own("x") }),
            ("/v2/a%00/manifests/x", Route::Malformed),
            ("/v2/a%zz/manifests/x", Route::Malformed),
            ("/v2/a%", Route::Malformed),
            ("/v2/a", Route::Unknown),
            ("/v1/", Route::Unknown),
            ("/livez", Route::Health(Probe::Live)),
            ("/debug/health", Route::Checks),
            ("/debug", Route::Unknown),
            ("/", Route::Root),
            ("*", Route::Root),
            ("", Route::Root),
        ] {
            assert_eq!(Route::parse(path), want, "{path}");
        }
    }

    #[test]
    fn the_debug_listener_serves_nothing_else() {
        for (path, want) in [
            ("/m", Route::Metrics),
            ("/metrics", Route::Unknown),
            ("/readyz", Route::Health(Probe::Ready)),
            ("/debug/health", Route::Checks),
            ("/v2/", Route::Unknown),
            ("/", Route::Unknown),
            ("/%zz", Route::Malformed),
        ] {
            assert_eq!(Route::parse_debug(path, Some("/m")), want, "{path}");
        }
        assert_eq!(Route::parse_debug("/metrics", None), Route::Unknown);
    }

    #[test]
    fn hosts() {
        for text in ["a", "registry.example:5000", "10.0.0.1", "[::1]:5000", "[fe80::1]", "a_b"] {
            assert!(is_host(text), "{text}");
        }
        for text in [
            "",
            ":5000",
            "a:",
            "a:x",
            "a:99999",
            "a:+1",
            "a/b",
            "a@b",
            "a b",
            "a:1:2",
            "[::1",
            "[a]",
            "[::1]x",
            "é",
            &"a".repeat(260),
        ] {
            assert!(!is_host(text), "{text}");
        }
    }

    #[test]
    fn dots_decode_and_are_no_name() {
        let Route::Manifest { name, .. } = Route::parse("/v2/%2e%2e/manifests/x") else {
            panic!("a manifest path")
        };
        assert!(name.parse::<shared::RepoName>().is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(path in "\\PC*") {
            let _ = Route::parse(&path);
        }
    }
}
