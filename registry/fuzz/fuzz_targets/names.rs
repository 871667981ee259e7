#![no_main]
//! Names, tags, digests, references: what is taken prints as it came.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(digest) = text.parse::<shared::Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(name) = text.parse::<shared::RepoName>() {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains("..") && !text.contains("//"));
    }
    if let Ok(tag) = text.parse::<shared::Tag>() {
        assert_eq!(tag.as_str(), text);
    }
    if let Ok(reference) = text.parse::<shared::ImageRef>() {
        let shown = reference.to_string();
        assert_eq!(shown.parse::<shared::ImageRef>().as_ref(), Ok(&reference), "{shown}");
    }
});
