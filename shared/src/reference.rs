//! Names of things: repositories, tags, and what a person types to name an image.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, InvalidDigest};

/// Longest repository name. The specification leaves it open; clients cap host plus name at 255.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest tag. Source: distribution-spec, "Pulling manifests".
pub const TAG_BYTES_MAX: usize = 128;

/// Why a text names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    #[error(
        "a repository name has lower-case letters, digits, and single separators (. _ __ -) \
         between them, in parts divided by /"
    )]
    Name,
    #[error("a repository name has at most {NAME_BYTES_MAX} characters")]
    NameTooLong,
    #[error("a tag starts with a letter, digit or _ and goes on with up to 127 of these, . and -")]
    Tag,
    #[error("the registry host is not a host name or address with an optional port")]
    Host,
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
}

/// A repository name, `library/alpine`.
///
/// Invariant: matches the specification's grammar, so it has no empty part, no `.` or `..` part,
/// and nothing outside ASCII. Source: distribution-spec, "Pulling manifests".
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoName(Box<str>);

impl RepoName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepoName {
    type Err = InvalidReference;
    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        if text.len() > NAME_BYTES_MAX {
            return Err(InvalidReference::NameTooLong);
        }
        if text.split('/').all(is_path_component) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidReference::Name)
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        let word = at;
        while bytes.get(at).is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            at += 1;
        }
        if at == word {
            return false;
        }
        if at == bytes.len() {
            return true;
        }
        at += match &bytes[at..] {
            [b'.', ..] => 1,
            [b'_', b'_', ..] => 2,
            [b'_', ..] => 1,
            [b'-', ..] => bytes[at..].iter().take_while(|&&b| b == b'-').count(),
            _ => return false,
        };
    }
}

/// A tag, `v1.2`. Source: distribution-spec, "Pulling manifests".
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InvalidReference;
    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let bytes = text.as_bytes();
        let valid = bytes.len() <= TAG_BYTES_MAX
            && bytes.first().is_some_and(|&b| word(b))
            && bytes.iter().all(|&b| word(b) || b == b'.' || b == b'-');
        if valid { Ok(Self(text.into())) } else { Err(InvalidReference::Tag) }
    }
}

/// What names a manifest inside a repository. A text with a colon is a digest, never a tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = InvalidReference;
    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        if text.contains(':') {
            Ok(Self::Digest(text.parse()?))
        } else {
            Ok(Self::Tag(text.parse()?))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => fmt::Display::fmt(tag, f),
            Self::Digest(digest) => fmt::Display::fmt(digest, f),
        }
    }
}

macro_rules! shows_as_its_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

shows_as_its_text!(RepoName, Tag);

/// An image as a person names it: `[host[:port]/]name[:tag][@digest]`.
///
/// The rules are Docker's (distribution/reference): the first part is a host only if it holds a
/// dot or a colon or is `localhost`; without a host the image is Docker Hub's, where one-part
/// names live under `library/`; without tag and digest the tag is `latest`; with both, the digest
/// decides and the tag is only kept to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// `host` or `host:port`; an IPv6 address stands in brackets.
    pub registry: String,
    pub repository: RepoName,
    pub tag: Option<Tag>,
    pub digest: Option<Digest>,
}

/// The registry meant by a name without a host.
pub const DEFAULT_REGISTRY: &str = "docker.io";

impl ImageRef {
    /// What to ask the registry for.
    pub fn reference(&self) -> Reference {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Reference::Digest(digest.clone()),
            (None, Some(tag)) => Reference::Tag(tag.clone()),
            (None, None) => Reference::Tag(Tag("latest".into())),
        }
    }

    /// Whether the registry is this host, where plain HTTP is the default.
    pub fn is_loopback(&self) -> bool {
        let host = match self.registry.strip_prefix('[') {
            Some(bracketed) => bracketed.split(']').next().unwrap_or(""),
            None => self.registry.split(':').next().unwrap_or(""),
        };
        host == "localhost"
            || host.ends_with(".localhost")
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for ImageRef {
    type Err = InvalidReference;
    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let (text, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        let (registry, path) = match text.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':', '[']) || first == "localhost" => {
                (first, rest)
            }
            _ => (DEFAULT_REGISTRY, text),
        };
        if !is_host(registry) {
            return Err(InvalidReference::Host);
        }
        let (name, tag) = match path.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag.parse()?)),
            None => (path, None),
        };
        let repository = if registry == DEFAULT_REGISTRY && !name.contains('/') {
            format!("library/{name}").parse()?
        } else {
            name.parse()?
        };
        let tag = match (tag, &digest) {
            (None, None) => Some(Tag("latest".into())),
            (tag, _) => tag,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']') {
            Some((host, rest)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                (None, rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("x") }))
            }
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let host_valid = host.is_none_or(|host| {
        host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    });
    host_valid && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names() {
        for name in ["a", "a/b", "a.b", "a_b", "a__b", "a-b", "a---b", "0/1", "a/blobs/uploads"] {
            assert!(name.parse::<RepoName>().is_ok(), "{name}");
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for name in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a.", ".a", "-a", "a_", "..",
            "a/..", "ä", "a b", "a\0", "a:b", "a._b", &long,
        ] {
            assert!(name.parse::<RepoName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn tags() {
        for tag in ["a", "A", "_", "1.0", "v1-rc.2_x", &"t".repeat(128)] {
            assert!(tag.parse::<Tag>().is_ok(), "{tag}");
        }
        for tag in ["", ".a", "-a", "a/b", "a:b", "a b", "ä", &"t".repeat(129)] {
            assert!(tag.parse::<Tag>().is_err(), "{tag:?}");
        }
    }

    #[test]
    fn image_references() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let pinned = format!("localhost:5000/app@sha256:{hex}");
        for (text, want) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("a/b:c", "docker.io/a/b:c"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("r.example/a/b", "r.example/a/b:latest"),
            ("[::1]:5000/app:x", "[::1]:5000/app:x"),
            (&pinned, &pinned),
        ] {
            assert_eq!(text.parse::<ImageRef>().unwrap().to_string(), want);
        }
        for text in ["", "A", "a:", ":a", "a@", "a@sha256:1", "[::1/a", "a..b/c", "h:0/a", "x y"] {
            assert!(text.parse::<ImageRef>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn loopback() {
        for (text, want) in [
            ("localhost:5000/a", true),
            ("x.localhost/a", true),
            ("127.0.0.9:1/a", true),
            ("[::1]:5000/a", true),
            ("alpine", false),
            ("localhost.example/a", false),
        ] {
            assert_eq!(text.parse::<ImageRef>().unwrap().is_loopback(), want, "{text}");
        }
    }
}
