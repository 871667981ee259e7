//! Routes, paths, queries, uploads.

use anyhow::{Context as _, Result};
use conformance::Registry;
use sha2::{Digest as _, Sha256};

use super::{Pair, Seen, describe, send, target};

const CONFIG: &[u8] = b"{}";
const LAYER: &[u8] = b"0123456789";
pub(crate) const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Docker's image manifest of [`CONFIG`] and [`LAYER`].
pub(crate) fn image() -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{DOCKER}","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","size":2,"digest":"{}"}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":10,"digest":"{}"}}]}}"#,
        digest(CONFIG),
        digest(LAYER)
    )
}

/// The blobs of [`image`] in a repository.
pub(crate) fn push_blobs(registry: &Registry, repo: &str) -> Result<()> {
    for blob in [CONFIG, LAYER] {
        let location = start(registry, repo)?;
        let join = if location.contains('?') { '&' } else { '?' };
        let last = format!("{location}{join}digest={}", digest(blob));
        send(registry, "PUT", &last, &[], blob)?.expect(201)?;
    }
    Ok(())
}

fn start(registry: &Registry, repo: &str) -> Result<String> {
    let begun = send(registry, "POST", &format!("/v2/{repo}/blobs/uploads/"), &[], b"")?;
    Ok(target(begun.expect(202)?.need("location")?))
}

fn push_image(registry: &Registry, repo: &str) -> Result<()> {
    push_blobs(registry, repo)?;
    let path = format!("/v2/{repo}/manifests/t");
    registry.send("PUT", &path, DOCKER, image().as_bytes())?.expect(201)?;
    Ok(())
}

const ROUTES: [&str; 19] = [
    "/",
    "/v2",
    "/v2/",
    "/v2/_catalog",
    "/v2/NAME/tags/list",
    "/v2/NAME/manifests/t",
    "/v2/NAME/manifests/none",
    "/v2/NAME/manifests/DIGEST",
    "/v2/NAME/blobs/BLOB",
    "/v2/NAME/blobs/uploads/",
    "UPLOAD",
    "/v2/NAME/referrers/DIGEST",
    "/v2/none/tags/list",
    "/v2/none/manifests/t",
    "/metrics",
    "/livez",
    "/readyz",
    "/debug/health",
    "/nothing",
];
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"];

pub(crate) fn routes(pair: &Pair) -> Result<Seen> {
    let mut seen = Seen::default();
    for (number, route) in ROUTES.iter().enumerate() {
        for method in METHODS {
            // What may change something has a repository of its own.
            let changes = ["POST", "PUT", "PATCH", "DELETE"].contains(&method);
            let repo = match changes {
                true => format!("route{number}/{}", method.to_ascii_lowercase()),
                false => format!("route{number}/read"),
            };
            let push = route.contains("NAME") && (changes || method == METHODS[0]);
            pair.ask(&mut seen, format!("{method} {route}"), |registry| {
                if push {
                    push_image(registry, &repo)?;
                }
                let path = match *route {
                    "UPLOAD" => start(registry, &repo)?,
                    route => route
                        .replace("NAME", &repo)
                        .replace("DIGEST", &digest(image().as_bytes()))
                        .replace("BLOB", &digest(LAYER)),
                };
                Ok(describe(&send(registry, method, &path, &[], b"")?))
            })?;
        }
    }
    Ok(seen)
}

/// GETs of a repository `app/web` with the tags `a`, `b`, `c`.
const PATHS: [&str; 46] = [
    "/v2/app/web/tags/list",
    "/v2/app/web/tags/list/",
    "//v2/app/web/tags/list",
    "/v2//app/web/tags/list",
    "/v2/app//web/tags/list",
    "/v2/app/./web/tags/list",
    "/v2/app/../app/web/tags/list",
    "/v2/app%2Fweb/tags/list",
    "/v2/app%2fweb/tags%2Flist",
    "/v2/%61pp/web/tags/list",
    "/v2/%2e%2e/tags/list",
    "/v2/app%00/tags/list",
    "/v2/app%zz/tags/list",
    "/v2/App/web/tags/list",
    "/v2/app_web/tags/list",
    "/v2/app..web/tags/list",
    "/v2/-app/tags/list",
    "/v2/app/web",
    "/v2/app/web/tags",
    "/v2/app/web/manifests/",
    "/v2/app/web/manifests/.a",
    "/v2/app/web/manifests/a/",
    "/v2/app/web/manifests/sha256:short",
    "/v2/app/web/manifests/md5:d41d8cd98f00b204e9800998ecf8427e",
    "/v2/app/web/blobs/sha256:short",
    "/v2/app/web/blobs/nonsense",
    "/v2/app/web/blobs/uploads/",
    "/v2/app/web/blobs/uploads/nonsense",
    "/v2/app/web/tags/list?n=1",
    "/v2/app/web/tags/list?n=1&last=a",
    "/v2/app/web/tags/list?last=b",
    "/v2/app/web/tags/list?last=aa",
    "/v2/app/web/tags/list?n=0",
    "/v2/app/web/tags/list?n=-1",
    "/v2/app/web/tags/list?n=x",
    "/v2/app/web/tags/list?n=99999999999999999999",
    "/v2/_catalog?n=1",
    "/v2/_catalog?n=1&last=app/web",
    "/v2/_catalog?n=0",
    "/v2/_catalog?n=-1",
    "/v2/_catalog?n=x",
    "/v2/_catalog?n=100000",
    "/v2/_catalog/",
    "/V2/",
    "/v1/",
    "/v2/?x=y",
];

pub(crate) fn paths(pair: &Pair) -> Result<Seen> {
    for registry in [&pair.theirs, &pair.ours] {
        push_blobs(registry, "app/web")?;
        for tag in ["a", "b", "c"] {
            let path = format!("/v2/app/web/manifests/{tag}");
            registry.send("PUT", &path, DOCKER, image().as_bytes())?.expect(201)?;
        }
    }
    let mut seen = Seen::default();
    for path in PATHS {
        pair.ask(&mut seen, format!("GET {path}"), |registry| {
            let answer = send(registry, "GET", path, &[], b"")?;
            let tags = answer.json().ok().and_then(|body| {
                let tags = body["tags"].as_array()?.iter().filter_map(|tag| tag.as_str());
                let mut tags: Vec<_> = tags.collect();
                // In the order of a directory there, which is the file system's.
                tags.sort_unstable();
                Some(tags.join(" "))
            });
            Ok([describe(&answer), tags.unwrap_or_default()].join(", "))
        })?;
    }
    Ok(seen)
}

type Flow = fn(&Registry, &str) -> Result<String>;

pub(crate) fn flows(pair: &Pair) -> Result<Seen> {
    let mut seen = Seen::default();
    for (number, (name, flow)) in FLOWS.iter().enumerate() {
        let repo = format!("flow{number}");
        for registry in [&pair.theirs, &pair.ours] {
            push_image(registry, &repo)?;
        }
        pair.ask(&mut seen, *name, |registry| flow(registry, &repo))?;
    }
    for (name, headers) in READS {
        pair.ask(&mut seen, format!("GET blob, {name}"), |registry| {
            let path = format!("/v2/flow0/blobs/{}", digest(LAYER));
            let etag = format!("\"{}\"", digest(LAYER));
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, if *value == "ETAG" { &etag } else { *value }))
                .collect();
            let answer = send(registry, "GET", &path, &headers, b"")?;
            Ok(format!("{}, {} bytes", describe(&answer), part_bytes(&answer)))
        })?;
    }
    for accept in ["", "*/*", "application/json", DOCKER, "application/vnd.oci.image.index.v1+json"]
    {
        pair.ask(&mut seen, format!("GET Docker's manifest, Accept: {accept:?}"), |registry| {
            let headers: &[_] = if accept.is_empty() { &[] } else { &[("Accept", accept)] };
            Ok(describe(&send(registry, "GET", "/v2/flow0/manifests/t", headers, b"")?))
        })?;
    }
    Ok(seen)
}

/// Bytes of the body; of several parts, those of the blob.
fn part_bytes(answer: &conformance::http::Response) -> usize {
    let text = answer.text();
    match text.matches("Content-Range:").count() {
        0 => answer.body.len(),
        _ => text.bytes().filter(u8::is_ascii_digit).count().min(LAYER.len()),
    }
}

const READS: [(&str, &[(&str, &str)]); 17] = [
    ("nothing", &[]),
    ("Range: bytes=0-0", &[("Range", "bytes=0-0")]),
    ("Range: bytes=2-", &[("Range", "bytes=2-")]),
    ("Range: bytes=-2", &[("Range", "bytes=-2")]),
    ("Range: bytes=2-99", &[("Range", "bytes=2-99")]),
    ("Range: bytes=10-", &[("Range", "bytes=10-")]),
    ("Range: bytes=5-2", &[("Range", "bytes=5-2")]),
    ("Range: bytes=-0", &[("Range", "bytes=-0")]),
    ("Range: bytes=0-1,4-5", &[("Range", "bytes=0-1,4-5")]),
    ("Range: bytes=0-9,0-9", &[("Range", "bytes=0-9,0-9")]),
    ("Range: pages=1-2", &[("Range", "pages=1-2")]),
    ("Range: bytes=x-", &[("Range", "bytes=x-")]),
    ("If-None-Match of it", &[("If-None-Match", "ETAG")]),
    ("If-None-Match: *", &[("If-None-Match", "*")]),
    ("If-Range of it", &[("Range", "bytes=0-1"), ("If-Range", "ETAG")]),
    ("If-Range of another", &[("Range", "bytes=0-1"), ("If-Range", "\"x\"")]),
    ("Accept-Encoding: gzip", &[("Accept-Encoding", "gzip")]),
];

const FLOWS: [(&str, Flow); 17] = [
    ("POST, PATCH, PUT", |registry, repo| {
        let at = start(registry, repo)?;
        let patched = send(registry, "PATCH", &at, &[], b"ab")?;
        let put = finish(registry, &patched, b"", b"ab")?;
        Ok(format!("{} / {}", describe(&patched), describe(&put)))
    }),
    ("POST?digest= with the bytes", |registry, repo| {
        let path = format!("/v2/{repo}/blobs/uploads/?digest={}", digest(b"one"));
        Ok(describe(&send(registry, "POST", &path, &[], b"one")?))
    }),
    ("PATCH with Content-Range in order", |registry, repo| {
        let at = start(registry, repo)?;
        Ok(describe(&send(registry, "PATCH", &at, &[("Content-Range", "0-1")], b"ab")?))
    }),
    ("PATCH with Content-Range ahead", |registry, repo| {
        let at = start(registry, repo)?;
        Ok(describe(&send(registry, "PATCH", &at, &[("Content-Range", "5-6")], b"ab")?))
    }),
    ("PATCH with Content-Range and another length", |registry, repo| {
        let at = start(registry, repo)?;
        Ok(describe(&send(registry, "PATCH", &at, &[("Content-Range", "0-9")], b"ab")?))
    }),
    ("PATCH with Content-Range: nonsense", |registry, repo| {
        let at = start(registry, repo)?;
        Ok(describe(&send(registry, "PATCH", &at, &[("Content-Range", "x")], b"ab")?))
    }),
    ("PATCH to the location before the last", |registry, repo| {
        let at = start(registry, repo)?;
        send(registry, "PATCH", &at, &[], b"ab")?.expect(202)?;
        Ok(describe(&send(registry, "PATCH", &at, &[], b"cd")?))
    }),
    ("GET of an upload's state", |registry, repo| {
        let at = start(registry, repo)?;
        Ok(describe(&send(registry, "GET", &at, &[], b"")?))
    }),
    ("PUT of an upload without digest", |registry, repo| {
        let at = start(registry, repo)?;
        Ok(describe(&send(registry, "PUT", &at, &[], b"ab")?))
    }),
    ("PUT of an upload with another digest", |registry, repo| {
        let begun = send(registry, "POST", &format!("/v2/{repo}/blobs/uploads/"), &[], b"")?;
        Ok(describe(&finish(registry, &begun, b"ab", b"cd")?))
    }),
    ("DELETE of an upload, twice", |registry, repo| {
        let at = start(registry, repo)?;
        let first = send(registry, "DELETE", &at, &[], b"")?;
        let second = send(registry, "DELETE", &at, &[], b"")?;
        Ok(format!("{} / {}", describe(&first), describe(&second)))
    }),
    ("mount", |registry, repo| {
        let path = format!("/v2/{repo}/to/blobs/uploads/?mount={}&from={repo}", digest(LAYER));
        Ok(describe(&send(registry, "POST", &path, &[], b"")?))
    }),
    ("mount from nowhere", |registry, repo| {
        let path = format!("/v2/{repo}/to/blobs/uploads/?mount={}&from=none", digest(b"?"));
        Ok(describe(&send(registry, "POST", &path, &[], b"")?))
    }),
    ("mount without from", |registry, repo| {
        let path = format!("/v2/{repo}/to/blobs/uploads/?mount={}", digest(LAYER));
        Ok(describe(&send(registry, "POST", &path, &[], b"")?))
    }),
    ("DELETE of a tag, then GET of its digest", |registry, repo| {
        let deleted = send(registry, "DELETE", &format!("/v2/{repo}/manifests/t"), &[], b"")?;
        let path = format!("/v2/{repo}/manifests/{}", digest(image().as_bytes()));
        let after = send(registry, "GET", &path, &[("Accept", DOCKER)], b"")?;
        Ok(format!("{} / {}", describe(&deleted), after.status))
    }),
    ("DELETE of a digest, then the list of tags", |registry, repo| {
        let path = format!("/v2/{repo}/manifests/{}", digest(image().as_bytes()));
        let deleted = send(registry, "DELETE", &path, &[], b"")?;
        let list = send(registry, "GET", &format!("/v2/{repo}/tags/list"), &[], b"")?;
        Ok(format!("{} / {}, {}", describe(&deleted), list.status, list.json()?["tags"]))
    }),
    ("DELETE of a blob, then HEAD", |registry, repo| {
        let path = format!("/v2/{repo}/blobs/{}", digest(LAYER));
        let deleted = send(registry, "DELETE", &path, &[], b"")?;
        let after = send(registry, "HEAD", &path, &[], b"")?;
        Ok(format!("{} / {}", describe(&deleted), after.status))
    }),
];

/// The `PUT` of `body` that makes a blob of `bytes`.
fn finish(
    registry: &Registry,
    before: &conformance::http::Response,
    body: &[u8],
    bytes: &[u8],
) -> Result<conformance::http::Response> {
    let at = target(before.header("location").context("a location")?);
    let join = if at.contains('?') { '&' } else { '?' };
    send(registry, "PUT", &format!("{at}{join}digest={}", digest(bytes)), &[], body)
}
