//! Why an image did not come in, and what a person does about it.

use shared::{Digest, ImageRef, InvalidReference};

use super::client::UNKNOWN_AUTHORITY;
use super::fence::{Fenced, TRUSTED_VARIABLE};
use super::resolve::{host_platform, parse_platform, platform_text, suits};
use crate::credentials::CredentialsError;
use crate::failure::Failure;
use crate::images::StoreError;
use crate::unpack::{Refusal, RefusalKind};

/// Why an image did not come into the store.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{text} names no image")]
    Reference { text: String, source: InvalidReference },
    /// `--pull never`
    #[error("no such image: {0}")]
    NotLocal(String),
    #[error("cannot pull {image}: nothing listens on {registry} (connection refused)")]
    Refused { image: String, registry: String },
    #[error("cannot pull {image}: {registry} cannot be reached: {why}")]
    Unreachable { image: String, registry: String, why: String },
    #[error("{registry} answered plain HTTP where TLS was expected")]
    PlainHttp { image: String, registry: String },
    #[error("cannot use {}: {why}", path.display())]
    CertificateFile { path: std::path::PathBuf, why: String },
    #[error("the certificate of {registry} is not trusted: {why}")]
    Certificate { registry: String, is_led_to: bool, why: String },
    #[error("{image} not found (404 {code})")]
    NotFound { image: String, name: String, code: String, tags: Vec<String> },
    #[error("{}", login_words(registry, repository, *status, code, message.as_deref(), known.as_ref()))]
    Login {
        registry: String,
        repository: String,
        status: u16,
        code: String,
        message: Option<String>,
        known: Option<Known>,
    },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("cannot pull {image}: {registry} answered {status}{said}")]
    Status { image: String, registry: String, status: u16, said: String },
    #[error("cannot pull {image}: {registry} {why}")]
    Protocol { image: String, registry: String, why: String },
    #[error("cannot pull {image}: {registry} {fenced}")]
    Fenced { image: String, registry: String, fenced: Fenced },
    #[error("{image} has no image for {wanted}; it has {}", first_of(available))]
    NoPlatform { image: String, wanted: String, available: Vec<String> },
    #[error("{image} is an image for {platform}: only those of Linux can be run here")]
    System { image: String, platform: String },
    #[error("{image} is not an image that can be run: {why}")]
    Manifest { image: String, why: String },
    #[error(
        "layer {layer} of {image} is not distributed by registries (a foreign layer, as Windows images have)"
    )]
    Foreign { image: String, layer: Digest },
    #[error("{what} arrived corrupt (got {got}); discarded, nothing was unpacked")]
    Corrupt { image: String, what: String, got: String },
    #[error("layer {layer} cannot be unpacked: {refusal}; nothing of it was kept")]
    Unpack { layer: Digest, refusal: Box<Refusal> },
    #[error("not enough space for {image}: {needed} more needed, {free} free on {}", root.display())]
    NoSpace { image: String, needed: String, free: String, root: std::path::PathBuf },
    #[error("cannot unpack layer {layer}: {why}")]
    Worker { layer: Digest, why: String },
}

/// Who had said who he is, and where that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub(crate) user: String,
    pub(crate) place: String,
}

fn login_words(
    registry: &str,
    repository: &str,
    status: u16,
    code: &str,
    message: Option<&str>,
    known: Option<&Known>,
) -> String {
    let said = match message {
        Some(message) => format!("{status} {code}: {message}"),
        None => format!("{status} {code}"),
    };
    let Some(Known { user, place }) = known else {
        return format!("{registry} needs a login to pull {repository} ({said})");
    };
    let who = if user.is_empty() { "the token" } else { user.as_str() };
    match status {
        403 => format!("{registry} does not let {who} pull {repository} ({said})"),
        _ => format!("{registry} refuses the credentials of {who} from {place} ({said})"),
    }
}

/// Platforms that a hint may offer: an image's own words stand in no command of ours.
const PLATFORMS: [&str; 10] = [
    "linux/amd64",
    "linux/arm64",
    "linux/arm64/v8",
    "linux/arm/v7",
    "linux/arm/v6",
    "linux/386",
    "linux/ppc64le",
    "linux/riscv64",
    "linux/s390x",
    "linux/loong64",
];

/// What may help where an image is not for the platform that was asked for: this machine's own, if
/// there is one, else another one of Linux.
fn other_platform(image: &str, available: &[String]) -> Option<String> {
    let platforms = available.iter().filter_map(|text| parse_platform(text).ok());
    let mut usable = platforms.filter(|platform| platform.os == "linux");
    let host = host_platform();
    if usable.any(|platform| suits(&platform, &host).is_some()) {
        return Some(format!(
            "there is one for this machine: rrun --platform {} {image}",
            platform_text(&host)
        ));
    }
    let known = available.iter().find_map(|one| PLATFORMS.iter().find(|known| *known == one));
    known.map(|first| format!("rrun --platform {first} {image}   (needs qemu binfmt)"))
}

impl PullError {
    /// What to do about it: lines for `hint:`.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Store(error) => error.hints(),
            Self::NotLocal(text) => vec![format!("rrun pull {text}")],
            Self::Refused { image, .. } if is_loopback(image) => {
                vec!["start one with `registry serve`".into()]
            }
            Self::Unreachable { image, why, .. } if why.contains("handshake") => {
                vec![format!("if it speaks plain HTTP: rrun --plain-http {image}")]
            }
            Self::PlainHttp { image, .. } => vec![format!("rrun --plain-http {image}")],
            Self::Certificate { registry, is_led_to, why } => {
                let place = if *is_led_to { "HOST:PORT" } else { registry.as_str() };
                let authority = format!("put the CA in /etc/containers/certs.d/{place}/ca.crt");
                let unchecked = "without any check: --tls-verify=false".to_owned();
                Some(authority)
                    .filter(|_| why == UNKNOWN_AUTHORITY)
                    .into_iter()
                    .chain([unchecked])
                    .collect()
            }
            Self::NotFound { name, tags, .. } => not_found_hints(name, tags),
            // Who is known and may not is helped by somebody else.
            Self::Login { registry, status: 401 | 400, .. } => {
                vec![format!("rrun login {registry}")]
            }
            Self::Login { registry, known: None, .. } => vec![format!("rrun login {registry}")],
            Self::Credentials(CredentialsError::Unreadable { .. }) => {
                vec!["mend the file, or name another: rrun --authfile FILE …".into()]
            }
            // Whoever led there wrote the name: it stands in no command of ours.
            Self::Fenced { .. } => {
                vec![format!(
                    "if that is meant to be, trust the host: {TRUSTED_VARIABLE}=HOST rrun …"
                )]
            }
            Self::NoPlatform { image, available, .. } => {
                other_platform(image, available).into_iter().collect()
            }
            Self::Corrupt { .. } => vec!["on the server: registry fsck".into()],
            Self::NoSpace { .. } => {
                vec!["rrun image prune -a, or another disk: rrun --root DIR …".into()]
            }
            Self::Unpack { refusal, .. } if refusal.kind == RefusalKind::Hostile => {
                vec!["the image is built wrongly, or against you: do not run it".into()]
            }
            _ => Vec::new(),
        }
    }
}

/// An index can name forty thousand.
fn first_of(words: &[String]) -> String {
    const SHOWN: usize = 12;
    let more = if words.len() > SHOWN { ", …" } else { "" };
    words[..words.len().min(SHOWN)].join(", ") + more
}

fn is_loopback(image: &str) -> bool {
    image.parse().is_ok_and(|image: ImageRef| image.is_loopback())
}

fn not_found_hints(name: &str, tags: &[String]) -> Vec<String> {
    if tags.is_empty() {
        return vec![format!(
            "that repository is empty, or the name is another: docker push {name}"
        )];
    }
    let shown = tags.iter().rev().take(5).cloned().collect::<Vec<_>>().join(", ");
    let wanted = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let nearest = tags.iter().min_by_key(|tag| distance(wanted, tag));
    match nearest.filter(|tag| distance(wanted, tag) <= 2) {
        Some(nearest) => vec![format!("did you mean `{nearest}`? tags there: {shown}")],
        None => vec![format!("tags there: {shown}")],
    }
}

/// How many letters have to be changed, added or removed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        let mut failure = Failure::new(error.to_string());
        if let Some(source) = std::error::Error::source(&error) {
            failure = failure.because(source);
        }
        for hint in error.hints() {
            failure = failure.hint(hint);
        }
        failure
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let mut failure = Failure::new(error.to_string());
        if let Some(source) = std::error::Error::source(&error) {
            failure = failure.because(source);
        }
        for hint in error.hints() {
            failure = failure.hint(hint);
        }
        failure
    }
}

/// Bytes as people read them: `12.1MB`, the units and three digits of Docker.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    // `%.3g` of C, without its trailing zeros.
    let decimals = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    let mut text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text + UNITS[unit]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_as_docker_writes_them() {
        for (bytes, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (12_345_678, "12.3MB"),
            (123_456_789, "123MB"),
            (72_800_000, "72.8MB"),
            (4_000_000_000, "4GB"),
        ] {
            assert_eq!(human_bytes(bytes), want);
        }
    }

    #[test]
    fn near_tags_are_suggested() {
        assert_eq!(distance("lates", "latest"), 1);
        assert_eq!(distance("", "abc"), 3);
        let tags = ["1.0".to_owned(), "latest".to_owned()];
        assert!(not_found_hints("localhost:5000/app:lates", &tags)[0].contains("`latest`"));
        assert!(!not_found_hints("localhost:5000/app:zzzzzzz", &tags)[0].contains("mean"));
    }
}
