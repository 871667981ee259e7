//! What the configuration of an image says, as far as verbs show it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::failure::Failure;
use crate::images::{Image, Store, StoreError, familiar_name, repository_of};
use crate::known_bad::left_out;
use crate::spec::ImageConfig;
use crate::timestamp::Timestamp;

/// 0001-01-01, seconds.
pub(super) const YEAR_ONE: i64 = -62_135_596_800;

/// An image with its configuration.
pub(super) struct Described {
    pub(super) image: Image,
    /// As it is, whatever is in it.
    pub(super) config: Value,
}

impl Described {
    pub(super) fn read(store: &Store, image: Image) -> Result<Self, StoreError> {
        let bytes = store.blob(&image.config)?;
        let (_, config) = ImageConfig::read(&bytes).map_err(|error| StoreError::Damaged {
            what: format!("configuration {}", image.config),
            why: error.to_string(),
        })?;
        Ok(Self { image, config })
    }

    /// Every image of the store. One whose configuration cannot be read is told of and shown by what
    /// else is known of it, and keeps no other from being shown.
    pub(super) fn all(store: &Store) -> Result<Vec<Self>, StoreError> {
        let mut found = Vec::new();
        for record in store.image_records()? {
            let image = match record {
                Ok(image) => image,
                Err(error) => {
                    crate::cli::tell(Failure::from(error));
                    continue;
                }
            };
            match Self::read(store, image.clone()) {
                Ok(described) => found.push(described),
                // Removed since the list was read.
                Err(StoreError::NoSuchBlob(_)) => {}
                Err(error) if left_out("bad-row-shown") => return Err(error),
                Err(error) => {
                    crate::cli::tell(Failure::from(error));
                    found.push(Self { image, config: Value::Null });
                }
            }
        }
        Ok(found)
    }

    /// When it was built; 1970 where it does not say.
    pub(super) fn created(&self) -> Timestamp {
        let text = self.config.get("created").and_then(Value::as_str);
        text.and_then(Timestamp::parse).unwrap_or(Timestamp { seconds: 0, nanoseconds: 0 })
    }

    /// `3 weeks ago`; Docker's word where it does not say.
    pub(super) fn created_since(&self, now: Timestamp) -> String {
        match self.created() {
            // What Go writes for no time at all.
            created if created.seconds <= YEAR_ONE => "N/A".to_owned(),
            _ if self.config.get("created").is_none_or(Value::is_null) => "N/A".to_owned(),
            created => format!("{} ago", created.age(now)),
        }
    }

    pub(super) fn labels(&self) -> BTreeMap<&str, &str> {
        let labels = self.config.pointer("/config/Labels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten();
        labels.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect()
    }

    pub(super) fn repository(&self) -> &str {
        familiar_name(repository_of(&self.image.reference))
    }

    /// None where only a digest names it.
    pub(super) fn tag(&self) -> Option<&str> {
        tag_of(&self.image.reference)
    }

    pub(super) fn has_label(&self, wanted: &str) -> bool {
        let labels = self.labels();
        match wanted.split_once('=') {
            Some((key, value)) => labels.get(key) == Some(&value),
            None => labels.contains_key(wanted),
        }
    }
}

pub(super) fn tag_of(reference: &str) -> Option<&str> {
    if reference.contains('@') {
        return None;
    }
    reference.rsplit_once(':').map(|(_, tag)| tag)
}
