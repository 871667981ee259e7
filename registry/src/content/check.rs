//! Reading a manifest that somebody pushes: what it is, what it names, whether it may be stored.
//!
//! The bytes are stored as they came. What is refused here is what two readers could understand
//! differently: a manifest that is also an index (CVE-2021-41190), a media type that contradicts
//! the request's, keys that repeat or differ in case only (Go's readers take the last one and
//! ignore case, others do not).

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use shared::{Digest, media_type};

use crate::records::{Child, ChildKind, Referrer};

/// Descriptors in a manifest at most. The largest images in use have a few hundred.
const DESCRIPTORS_MAX: usize = 10_000;

/// Deepest nesting, which is where Go's readers end, and with them most clients. Source: Go,
/// encoding/json, `maxNestingDepth`.
const DEPTH_MAX: usize = 10_000;

/// Why a manifest cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum InvalidManifest {
    #[error("the manifest is not valid: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "Docker's schema 1 manifests are not supported: push the image with docker 1.10 or newer, \
         or convert it with `skopeo copy --format v2s2`"
    )]
    Schema1,
    #[error(
        "manifests of type {0} are not supported: use an OCI or Docker image manifest or index"
    )]
    UnsupportedType(String),
    #[error("the request's Content-Type is {request}, the manifest's mediaType is {manifest}")]
    TypeConflict { request: String, manifest: String },
    #[error("schemaVersion must be 2")]
    SchemaVersion,
    #[error("an image manifest must not have `manifests`, an index neither `layers` nor `config`")]
    Ambiguous,
    #[error("an image manifest needs a `config`")]
    NoConfig,
    #[error("an index needs `manifests`")]
    NoManifests,
    #[error("the manifest is nested more than {DEPTH_MAX} deep")]
    TooDeep,
    #[error("the manifest has {0} descriptors, more than {DESCRIPTORS_MAX}")]
    TooManyDescriptors(usize),
}

/// What a valid manifest says.
#[derive(Debug)]
pub(super) struct Checked {
    pub media_type: &'static str,
    pub children: Vec<Child>,
    pub referrer: Option<Referrer>,
}

/// Checks `bytes` as a manifest of the type that the request gave, if it gave one.
pub(super) fn check(
    content_type: Option<&str>,
    bytes: &[u8],
    digest: &Digest,
) -> Result<Checked, InvalidManifest> {
    if content_type.is_some_and(is_schema1) {
        return Err(InvalidManifest::Schema1);
    }
    if depth(bytes) > DEPTH_MAX {
        return Err(InvalidManifest::TooDeep);
    }
    refuse_ambiguous_keys(bytes)?;
    let head: Head = serde_json::from_slice(bytes)?;
    if head.schema_version == Some(1) || head.media_type.as_deref().is_some_and(is_schema1) {
        return Err(InvalidManifest::Schema1);
    }
    let manifest: Manifest = serde_json::from_slice(bytes)?;
    let media_type = media_type_of(content_type, &manifest)?;
    if manifest.schema_version != Some(2) {
        return Err(InvalidManifest::SchemaVersion);
    }
    let children = children(media_type, &manifest)?;
    let referrer = referrer(media_type, &manifest, digest, bytes.len());
    Ok(Checked { media_type, children, referrer })
}

/// The fields that the registry uses. Whatever else stands in a manifest is its readers' business
/// and decides nothing here; Go's tools write null for what they have not.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    /// `Some(None)` is null.
    #[serde(default, deserialize_with = "present")]
    manifests: Option<Option<Vec<Descriptor>>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: Option<String>,
    digest: Digest,
    /// Not used, and yet read: no client can pull what has less than nothing.
    #[serde(rename = "size")]
    _size: Option<u64>,
}

fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: de::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// How deep `bytes` are nested, if they are JSON.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut text, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match (text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => text = !text,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What tells schema 1 from everything else, whatever the rest looks like.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    schema_version: Option<i64>,
    #[serde(default)]
    media_type: Option<String>,
}

fn is_schema1(text: &str) -> bool {
    matches!(text, media_type::DOCKER_SCHEMA1 | media_type::DOCKER_SCHEMA1_SIGNED)
}

/// The manifest's type as one of the four supported ones.
fn media_type_of(
    content_type: Option<&str>,
    manifest: &Manifest,
) -> Result<&'static str, InvalidManifest> {
    let own = manifest.media_type.as_deref().filter(|own| !own.is_empty());
    if let (Some(request), Some(own)) = (content_type, own)
        && request != own
    {
        let (request, manifest) = (request.to_owned(), own.to_owned());
        return Err(InvalidManifest::TypeConflict { request, manifest });
    }
    let by_form =
        if manifest.manifests.is_some() { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST };
    let named = content_type.or(own).unwrap_or(by_form);
    [
        media_type::OCI_MANIFEST,
        media_type::OCI_INDEX,
        media_type::DOCKER_MANIFEST,
        media_type::DOCKER_LIST,
    ]
    .into_iter()
    .find(|known| *known == named)
    .ok_or_else(|| InvalidManifest::UnsupportedType(named.chars().take(100).collect()))
}

fn children(media_type: &str, manifest: &Manifest) -> Result<Vec<Child>, InvalidManifest> {
    let child = |descriptor: &Descriptor, kind, required| Child {
        digest: descriptor.digest.clone(),
        kind,
        required,
    };
    let children: Vec<Child> = if media_type::is_index(media_type) {
        if manifest.layers.is_some() || manifest.config.is_some() {
            return Err(InvalidManifest::Ambiguous);
        }
        let entries = manifest.manifests.as_ref().ok_or(InvalidManifest::NoManifests)?;
        entries
            .iter()
            .flatten()
            .map(|entry| child(entry, ChildKind::ManifestOrBlob, true))
            .collect()
    } else {
        if manifest.manifests.is_some() {
            return Err(InvalidManifest::Ambiguous);
        }
        let config = manifest.config.as_ref().ok_or(InvalidManifest::NoConfig)?;
        let layers = manifest.layers.iter().flatten().map(|layer| {
            let kind = layer.media_type.as_deref().unwrap_or_default();
            child(layer, ChildKind::Blob, !media_type::is_nondistributable(kind))
        });
        std::iter::once(child(config, ChildKind::Blob, true)).chain(layers).collect()
    };
    if children.len() > DESCRIPTORS_MAX {
        return Err(InvalidManifest::TooManyDescriptors(children.len()));
    }
    Ok(children)
}

/// The entry in its subject's list. Source: distribution-spec, "Listing Referrers".
fn referrer(
    media_type: &str,
    manifest: &Manifest,
    digest: &Digest,
    size: usize,
) -> Option<Referrer> {
    let subject = manifest.subject.as_ref()?;
    let own = manifest.artifact_type.as_deref().filter(|own| !own.is_empty());
    // An index has no config to fall back to: its entry has no artifactType then.
    let config = manifest.config.as_ref().map(|config| config.media_type.as_deref());
    let artifact_type = own.or(config.map(Option::unwrap_or_default));
    let mut descriptor = json!({ "mediaType": media_type, "digest": digest, "size": size });
    if let Some(artifact_type) = artifact_type {
        descriptor["artifactType"] = artifact_type.into();
    }
    if let Some(annotations) = &manifest.annotations {
        // A null is an empty text to Go's readers, and no text at all to others.
        let texts = annotations.iter().map(|(key, text)| (key, text.as_deref().unwrap_or("")));
        descriptor["annotations"] = texts.collect::<BTreeMap<_, _>>().into_iter().collect();
    }
    Some(Referrer {
        subject: subject.digest.clone(),
        artifact_type: artifact_type.unwrap_or_default().to_owned(),
        descriptor: descriptor.to_string(),
    })
}

/// Refuses keys that repeat, and keys that differ from a known field in case only, wherever a field
/// that has a meaning stands.
fn refuse_ambiguous_keys(bytes: &[u8]) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Place::Manifest.deserialize(&mut reader)?;
    reader.end()
}

/// Where in a manifest a value stands.
#[derive(Clone, Copy)]
enum Place {
    Manifest,
    Descriptor,
    Descriptors,
    Platform,
    Annotations,
    Other,
}

impl Place {
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Manifest => &[
                "schemaVersion",
                "mediaType",
                "artifactType",
                "config",
                "layers",
                "manifests",
                "subject",
                "annotations",
            ],
            Self::Descriptor => &[
                "mediaType",
                "digest",
                "size",
                "urls",
                "annotations",
                "data",
                "artifactType",
                "platform",
            ],
            Self::Platform => {
                &["architecture", "os", "os.version", "os.features", "variant", "features"]
            }
            Self::Descriptors | Self::Annotations | Self::Other => &[],
        }
    }

    fn below(self, key: &str) -> Self {
        match (self, key) {
            (Self::Manifest, "config" | "subject") => Self::Descriptor,
            (Self::Manifest, "layers" | "manifests") => Self::Descriptors,
            (Self::Descriptor, "platform") => Self::Platform,
            (Self::Manifest | Self::Descriptor, "annotations") => Self::Annotations,
            _ => Self::Other,
        }
    }
}

/// Folds as Go's encoding/json does: ASCII case, the long s and the Kelvin sign.
fn fold(key: &str) -> impl Iterator<Item = char> + '_ {
    key.chars().map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    })
}

impl<'de> DeserializeSeed<'de> for Place {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self {
            // Skipped without recursion, however deep, and without a look at its numbers.
            Self::Other => IgnoredAny::deserialize(deserializer).map(drop),
            place => deserializer.deserialize_any(place),
        }
    }
}

impl<'de> Visitor<'de> for Place {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Manifest) { "an object" } else { "any JSON" })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let variant =
                self.fields().iter().find(|field| **field != key && fold(field).eq(fold(&key)));
            if let Some(field) = variant {
                let key: String = key.chars().take(100).collect();
                return Err(de::Error::custom(format!("the key {key:?} must be spelt {field:?}")));
            }
            map.next_value_seed(self.below(&key))?;
            let used = self.fields().contains(&key.as_str()) || matches!(self, Self::Annotations);
            if let Some(key) = seen.replace(key)
                && used
            {
                let key: String = key.chars().take(100).collect();
                return Err(de::Error::custom(format!("the key {key:?} stands there twice")));
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if matches!(self, Self::Manifest) {
            return Err(de::Error::invalid_type(de::Unexpected::Seq, &self));
        }
        let place = if matches!(self, Self::Descriptors) { Self::Descriptor } else { Self::Other };
        while seq.next_element_seed(place)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.scalar(de::Unexpected::Bool(value))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.scalar(de::Unexpected::Signed(value))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.scalar(de::Unexpected::Unsigned(value))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.scalar(de::Unexpected::Float(value))
    }
    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.scalar(de::Unexpected::Other("string"))
    }
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.scalar(de::Unexpected::Unit)
    }
}

impl Place {
    fn scalar<E: de::Error>(self, found: de::Unexpected<'_>) -> Result<(), E> {
        if matches!(self, Self::Manifest) { Err(E::invalid_type(found, &self)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn run(content_type: Option<&str>, text: &str) -> Result<Checked, InvalidManifest> {
        let text = text.replace("$D", &format!(r#""digest":"sha256:{HEX}","size":0"#));
        check(content_type, text.as_bytes(), &Digest::sha256(text.as_bytes()))
    }

    #[test]
    fn takes_what_the_specification_allows() {
        let config = r#""config":{"mediaType":"a/b",$D}"#;
        for (text, children) in [
            (format!(r#"{{"schemaVersion":2,{config},"layers":[]}}"#), 1),
            (format!(r#"{{"schemaVersion":2,{config}}}"#), 1),
            (format!(r#"{{"schemaVersion":2,{config},"layers":null,"x":{{"Y":[1,null]}}}}"#), 1),
            (format!(r#"{{"schemaVersion":2,{config},"layers":[{{"mediaType":"q",$D}}]}}"#), 2),
            (r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(), 0),
            (
                r#"{"schemaVersion":2,"manifests":[{"mediaType":"q",$D,"data":"e30="}]}"#
                    .to_owned(),
                1,
            ),
        ] {
            assert_eq!(run(None, &text).unwrap().children.len(), children, "{text}");
        }
    }

    #[test]
    fn what_the_registry_does_not_use_decides_nothing() {
        let deep = format!("{}0{}", "[".repeat(9_000), "]".repeat(9_000));
        let only = format!(r#""digest":"sha256:{HEX}""#);
        let config = r#""config":{"mediaType":"a/b",$D}"#;
        for text in [
            format!(r#"{{"schemaVersion":2,"config":{{{only}}},"layers":[{{{only}}}]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{{"mediaType":null,{only},"size":null}}}}"#),
            format!(
                r#"{{"schemaVersion":2,"config":{{{only},"urls":null,"platform":{{"os":null,"os.features":null,"variant":null}},"annotations":{{"a":null}},"data":null}}}}"#
            ),
            format!(r#"{{"schemaVersion":2,{config},"annotations":null,"subject":null}}"#),
            format!(r#"{{"schemaVersion":2,{config},"x":{deep}}}"#),
            format!(r#"{{"schemaVersion":2,{config},"x":1e999,"y":[-1e999,{}]}}"#, "9".repeat(400)),
            format!(r#"{{"schemaVersion":2,{config},"x":{{"a":1,"a":2,"A":3}},"x":null}}"#),
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{}","manifests":null}}"#,
                media_type::OCI_INDEX
            ),
        ] {
            run(None, &text).unwrap_or_else(|error| panic!("{error}: {text:.300}"));
        }
        let subject = format!(r#""subject":{{{only}}},"annotations":{{"k":null}}"#);
        let referrer = run(None, &format!(r#"{{"schemaVersion":2,{config},{subject}}}"#));
        let descriptor = referrer.unwrap().referrer.unwrap().descriptor;
        assert!(descriptor.contains(r#""annotations":{"k":""}"#), "{descriptor}");
        let deeper = format!("{}0{}", "[".repeat(10_000), "]".repeat(10_000));
        let deeper = run(None, &format!(r#"{{"schemaVersion":2,{config},"x":{deeper}}}"#));
        assert!(matches!(deeper, Err(InvalidManifest::TooDeep)));
        assert_eq!(depth(br#"{"[\"[[":[[]],"b":{}}"#), 3);
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways() {
        let config = r#""config":{"mediaType":"a/b",$D}"#;
        for text in [
            "",
            "[]",
            "3",
            "nul",
            "{} {}",
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            r#"{"schemaVersion":3,"manifests":[]}"#,
            r#"{"manifests":[]}"#,
            r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#,
            r#"{"schemaVersion":2,"manifests":[],"Manifests":[]}"#,
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
            r#"{"schemaVersion":2,"manifests":[],"annotations":{"a":"b","a":"c"}}"#,
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"q",$D,"Digest":"x"}]}"#,
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"q","digest":"sha256:0","size":0}]}"#,
            &format!(r#"{{"schemaVersion":2,{config},"manifests":[]}}"#),
            &format!(r#"{{"schemaVersion":2,{config},"layer\u017f":[]}}"#),
            &format!(r#"{{"schemaVersion":2,{config},"mediaType":"application/json"}}"#),
            &format!(r#"{{"schemaVersion":2,{}}}"#, config.replace("$D", r#""digest":1,"size":0"#)),
            &format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"a","digest":"sha256:{HEX}","size":-1}}}}"#
            ),
            &"[".repeat(100_000),
        ] {
            assert!(run(None, text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_types_must_agree() {
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert_eq!(
            run(Some(media_type::DOCKER_LIST), index).unwrap().media_type,
            media_type::DOCKER_LIST
        );
        assert_eq!(run(None, index).unwrap().media_type, media_type::OCI_INDEX);
        let own = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#,
            media_type::DOCKER_LIST
        );
        assert_eq!(run(None, &own).unwrap().media_type, media_type::DOCKER_LIST);
        let conflict = run(Some(media_type::OCI_INDEX), &own);
        assert!(matches!(conflict, Err(InvalidManifest::TypeConflict { .. })));
        let confused = run(Some(media_type::OCI_MANIFEST), index);
        assert!(matches!(confused, Err(InvalidManifest::Ambiguous)));
        let schema1 = run(Some(media_type::DOCKER_SCHEMA1_SIGNED), index);
        assert!(matches!(schema1, Err(InvalidManifest::Schema1)));
    }

    #[test]
    fn referrers_are_described_as_the_specification_says() {
        let subject = r#""subject":{"mediaType":"m",$D},"annotations":{"k":"v"}"#;
        let config = r#""config":{"mediaType":"a/b",$D}"#;
        let image = run(None, &format!(r#"{{"schemaVersion":2,{config},{subject}}}"#)).unwrap();
        let referrer = image.referrer.unwrap();
        assert_eq!(referrer.artifact_type, "a/b");
        assert!(referrer.descriptor.contains(r#""annotations":{"k":"v"}"#));
        let own = format!(r#"{{"schemaVersion":2,"artifactType":"t/u",{config},{subject}}}"#);
        assert_eq!(run(None, &own).unwrap().referrer.unwrap().artifact_type, "t/u");
        let index =
            run(None, &format!(r#"{{"schemaVersion":2,"manifests":[],{subject}}}"#)).unwrap();
        let referrer = index.referrer.unwrap();
        assert_eq!(referrer.artifact_type, "");
        assert!(!referrer.descriptor.contains("artifactType"));
    }
}
