//! How an upload is called.

use std::str::FromStr;

use uuid::Uuid;

/// The name of an upload: unguessable, because whoever knows it may write to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(Uuid);

impl UploadId {
    pub(super) fn new() -> Self {
        Self(Uuid::new_v4())
    }
}

/// A text that names no upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an upload is named by a lower-case, hyphenated uuid")]
pub struct InvalidUploadId;

impl FromStr for UploadId {
    type Err = InvalidUploadId;
    /// Only the form that this program hands out: hyphenated, lower case.
    fn from_str(text: &str) -> Result<Self, InvalidUploadId> {
        let id: Uuid = text.parse().map_err(|_| InvalidUploadId)?;
        let mut buffer = Uuid::encode_buffer();
        let own_form = id.hyphenated().encode_lower(&mut buffer) == text;
        if own_form { Ok(Self(id)) } else { Err(InvalidUploadId) }
    }
}

impl std::fmt::Display for UploadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_form_of_an_id() {
        let id = UploadId::new();
        assert_eq!(id.to_string().parse::<UploadId>().unwrap(), id);
        let text = id.to_string();
        for bad in [&text.to_uppercase(), &format!("{{{text}}}"), &text.replace('-', ""), "", ".."]
        {
            // A version 4 id holds a letter with overwhelming odds, but be exact about it.
            if *bad != text {
                assert!(bad.parse::<UploadId>().is_err(), "{bad}");
            }
        }
    }
}
