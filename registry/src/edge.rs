//! Every parser of text from outside, for the fuzz targets in `registry/fuzz`. Each reads its
//! input, checks what must hold of the result, and forgets it.

use std::path::Path;

use shared::{Digest, ImageRef, RepoName, Tag};

use crate::config::Config;
use crate::{content, http};

/// A request's path.
pub fn read_path(text: &str) {
    http::edge::read_path(text);
}

/// A request's query string.
pub fn read_query(text: &str) {
    http::edge::read_query(text);
}

/// `Range` and `Content-Range`.
pub fn read_ranges(text: &str) {
    http::edge::read_ranges(text);
}

/// A request's head, beside actix's reading of it.
pub fn read_head(bytes: &[u8]) {
    http::edge::read_head(bytes);
}

/// A body in chunks, cut in many places, and beside actix's reading of it.
pub fn read_chunks(bytes: &[u8]) {
    http::edge::read_chunks(bytes);
}

/// What comes on a connection, cut in some places, and beside actix's reading of it.
pub fn read_connection(bytes: &[u8]) {
    http::edge::read_connection(bytes);
}

/// Names, tags, digests and references: what is taken prints as it came.
pub fn read_names(text: &str) {
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(name) = text.parse::<RepoName>() {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains("..") && !text.contains("//"));
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert_eq!(tag.as_str(), text);
    }
    if let Ok(reference) = text.parse::<ImageRef>() {
        let shown = reference.to_string();
        assert_eq!(shown.parse::<ImageRef>().as_ref(), Ok(&reference), "{shown}");
    }
}

/// A manifest of any type.
pub fn read_manifest(bytes: &[u8]) {
    content::read_manifest(bytes, &Digest::sha256(bytes));
}

/// A configuration file.
pub fn read_config(text: &str) {
    let _ = Config::parse(Path::new("config.yml"), text, &[]);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Inputs per parser: a few seconds. `make fuzz` goes on from there.
    pub(crate) const INPUTS: u64 = 20_000;

    /// What inputs are made of: whole ones, and pieces that parsers look for.
    const SEEDS: [&str; 22] = [
        "/v2/a/b/manifests/latest",
        "/v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000",
        "/v2/a/referrers/sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "/v2/_catalog",
        "n=10&last=a%2Fb&artifactType=x&artifactType=%zz&tag=a&mount=&from",
        "bytes=0-1,5-",
        "bytes=-500",
        "bytes 0-99/100",
        "18446744073709551615-18446744073709551616",
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"a/b","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[],"annotations":{"a":"b"}}"#,
        r#"{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"sha512:00","size":-1,"platform":{"os":"linux"}}],"subject":null}"#,
        "version: 0.1\nhttp: {addr: ':5000', headers: {X: [y]}}\nstorage: {filesystem: {rootdirectory: /x}, delete: {enabled: true}}\n",
        "gc: {grace: 2s}\nlog:\n  level: debug\n  fields: {a: b}\n",
        "%2e%2e%2f",
        "\"layers\":[],\"layers\":[]",
        "{\"a\":",
        "[[[[[[[[",
        "\0",
        "é",
        "localhost:5000/a/b_c:v1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "&anchor *anchor <<: !!binary",
        "\r\n\t \u{202e}",
    ];

    /// xorshift64*: an input is found again by its number.
    pub(crate) struct Random(u64);

    impl Random {
        pub(crate) fn of(number: u64) -> Self {
            Self(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
        }

        pub(crate) fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
        }
    }

    /// One of `seeds`, changed in a few places.
    pub(crate) fn input(seeds: &[&str], number: u64) -> String {
        let mut random = Random::of(number);
        let mut text: Vec<char> = seeds[random.below(seeds.len())].chars().collect();
        for _ in 0..random.below(6) {
            let (from, to) = (random.below(text.len()), random.below(text.len()));
            let (from, to) = (from.min(to), from.max(to));
            match random.below(5) {
                0 => drop(text.drain(from..to)),
                1 => text.splice(from..from, text[from..to].to_vec()).for_each(drop),
                2 => {
                    let other = seeds[random.below(seeds.len())].chars();
                    text.splice(from..from, other).for_each(drop);
                }
                3 if from < text.len() => {
                    let code = u32::try_from(random.below(0x180)).unwrap();
                    text[from] = char::from_u32(code).unwrap();
                }
                _ => {
                    let digits = "9".repeat(random.below(24));
                    text.splice(from..from, digits.chars()).for_each(drop);
                }
            }
        }
        text.into_iter().collect()
    }

    #[test]
    fn no_parser_panics_and_what_they_promise_holds() {
        for number in 0..INPUTS {
            let text = input(&SEEDS, number);
            let parsed = std::panic::catch_unwind(|| {
                read_path(&text);
                read_query(&text);
                read_ranges(&text);
                read_names(&text);
                read_manifest(text.as_bytes());
                // Dearer than the others together.
                if number % 8 == 0 {
                    read_config(&text);
                }
            });
            assert!(parsed.is_ok(), "input {number}: {text:?}");
        }
    }
}
