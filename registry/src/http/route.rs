//! Which endpoint a path names. Repository names may contain the words that paths are made of
//! (`a/blobs/uploads` is a legal name), so paths are read from the right.

use shared::RepoName;

/// An endpoint of the specification, with the parts of its path as they came, percent-decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
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
    /// `/metrics`.
    Metrics,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    Live,
    Ready,
}

impl Route {
    /// Reads a request's path, percent-encoded as it came.
    pub(crate) fn parse(path: &str) -> Self {
        let Some(path) = decode(path) else { return Self::Unknown };
        match path.as_str() {
            "/v2" | "/v2/" => return Self::Base,
            "/v2/_catalog" => return Self::Catalog,
            "/livez" | "/healthz" => return Self::Health(Probe::Live),
            "/readyz" | "/startupz" => return Self::Health(Probe::Ready),
            "/metrics" => return Self::Metrics,
            _ => {}
        }
        path.strip_prefix("/v2/").and_then(Self::parse_repository).unwrap_or(Self::Unknown)
    }

    fn parse_repository(path: &str) -> Option<Self> {
        let own = str::to_owned;
        if let Some(name) =
            path.strip_suffix("/blobs/uploads").or(path.strip_suffix("/blobs/uploads/"))
        {
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

    /// The methods that the endpoint knows, as an `Allow` header has them.
    pub(crate) fn allowed(&self) -> &'static str {
        match self {
            Self::Base | Self::Catalog | Self::Tags { .. } | Self::Referrers { .. } => "GET, HEAD",
            Self::Health(_) | Self::Metrics => "GET, HEAD",
            Self::Blob { .. } => "GET, HEAD, DELETE",
            Self::Uploads { .. } => "POST",
            Self::Upload { .. } => "GET, HEAD, PATCH, PUT, DELETE",
            Self::Manifest { .. } => "GET, HEAD, PUT, DELETE",
            Self::Unknown => "",
        }
    }

    /// The endpoint's name in metrics: distribution's, so that dashboards keep working.
    pub(crate) fn handler(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Blob { .. } => "blob",
            Self::Uploads { .. } => "blob_upload",
            Self::Upload { .. } => "blob_upload_chunk",
            Self::Manifest { .. } => "manifest",
            Self::Tags { .. } => "tags",
            Self::Referrers { .. } => "referrers",
            Self::Health(_) => "health",
            Self::Metrics => "metrics",
            Self::Unknown => "unknown",
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
            Self::Base | Self::Catalog | Self::Health(_) | Self::Metrics | Self::Unknown => None,
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

/// A repository name that came in a path or a query.
pub(crate) fn repo_name(text: &str) -> Result<RepoName, super::error::ApiError> {
    text.parse().map_err(super::error::ApiError::invalid_name)
}

/// Percent-decodes a path once. `None` where it does not decode to text, and for an encoded slash,
/// which must not become a separator that the client did not write.
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
            b'/' | 0 => return None,
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
            ("/v2/a/manifests/", Route::Manifest { name: own("a"), reference: own("") }),
            ("/v2/a%2Fb/manifests/x", Route::Unknown),
            ("/v2/a%00/manifests/x", Route::Unknown),
            ("/v2/a%zz/manifests/x", Route::Unknown),
            ("/v2/a%", Route::Unknown),
            ("/v2/a", Route::Unknown),
            ("/v1/", Route::Unknown),
            ("/livez", Route::Health(Probe::Live)),
            ("", Route::Unknown),
        ] {
            assert_eq!(Route::parse(path), want, "{path}");
        }
    }

    #[test]
    fn dots_decode_and_are_no_name() {
        let Route::Manifest { name, .. } = Route::parse("/v2/%2e%2e/manifests/x") else {
            panic!("a manifest path")
        };
        assert!(repo_name(&name).is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(path in "\\PC*") {
            let _ = Route::parse(&path);
        }
    }
}
