//! Odd images: each a trap that a specification, a public bug or this project's design names,
//! with the tree that a container of it shows, or with the reason for which it is refused.
//!
//! Only `std`, and no test harness: `conformance` takes the module in by its path.

#![allow(dead_code, reason = "not every program that takes this in uses all of it")]

mod hostile;
pub(crate) use hostile::OUTSIDE;
pub(crate) mod tar;
mod trees;
mod whiteouts;

/// How a layer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Gzip,
    Zstd,
    /// Two gzip members, cut in the middle.
    GzipTwice,
    /// A skippable zstd frame, then two frames.
    ZstdFrames,
    /// gzip, but the media type says that it is not compressed.
    GzipUnsaid,
}

/// One image.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Where the trap is described.
    pub(crate) source: &'static str,
    pub(crate) layers: Vec<(Vec<u8>, Encoding)>,
    pub(crate) expected: Expected,
}

#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// Lines as [`Case::tree`] describes them, in the order of their paths.
    Tree(Vec<String>),
    /// The error has all of these words.
    Refused(Vec<&'static str>),
}

impl Case {
    fn new(name: &'static str, source: &'static str) -> Self {
        Self { name, source, layers: Vec::new(), expected: Expected::Tree(Vec::new()) }
    }

    fn layer(mut self, entries: impl IntoIterator<Item = tar::Entry>) -> Self {
        self.layers.push((tar::tar(entries), Encoding::Plain));
        self
    }

    fn raw(mut self, bytes: Vec<u8>) -> Self {
        self.layers.push((bytes, Encoding::Plain));
        self
    }

    fn encoded(mut self, encoding: Encoding) -> Self {
        if let Some(last) = self.layers.last_mut() {
            last.1 = encoding;
        }
        self
    }

    /// What is seen, one line a path, the root first:
    ///
    /// ```text
    /// d 0755 0:0 path            directory
    /// f 0644 0:0 path =content   file; #sha256:length where it is long or not printable
    /// l 0:0 path -> target       symbolic link
    /// c 0600 0:0 path 1,3        character device; b: block device
    /// p 0600 0:0 path            fifo
    /// ```
    ///
    /// After a path's line its marks: `x path name=value` for each xattr, `h path path…` where it is
    /// the first of several names of one file, `t path seconds.nanoseconds` where its time is not
    /// [`tar::MTIME`] (files, and directories that have an entry). Bytes outside printable ASCII are
    /// written `%xx`.
    fn tree(mut self, lines: &[&str]) -> Self {
        self.expected = Expected::Tree(lines.iter().map(|&line| line.to_owned()).collect());
        self
    }

    fn tree_of(mut self, lines: Vec<String>) -> Self {
        self.expected = Expected::Tree(lines);
        self
    }

    fn refused(mut self, words: &[&'static str]) -> Self {
        self.expected = Expected::Refused(words.to_vec());
        self
    }
}

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = trees::cases();
    cases.extend(whiteouts::cases());
    cases.extend(hostile::cases());
    cases
}
