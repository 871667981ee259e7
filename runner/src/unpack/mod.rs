//! Layers become directories: decoded, parsed, checked and written by separate single-threaded
//! processes (`rrun unpack-worker`), chrooted into the staging directory.
//!
//! ```text
//! blob ─▶ unpack-worker decode ─▶ unpack-worker extract (sha256 = DiffID, tar, files) ─▶ Report
//! ```
//!
//! The two are one process for small blobs. A process boundary, because rootless the extractor
//! has to live in a mapped user namespace, and because a parser of foreign bytes is a smaller
//! target with a memory limit, no network and nothing but the layer's own directory in reach.

mod decode;
#[cfg(test)]
mod differential;
mod entry;
mod extract;
mod limits;
mod report;
mod spawn;
mod stream;
mod tree;
pub mod worker;

pub use self::limits::Limits;
pub use self::report::{Refusal, RefusalKind, Report, Unpacked};
pub(crate) use self::spawn::{Outcome, Workers, command as worker_command};

/// Whether an extended attribute would be read by overlayfs as a mark of its own.
///
/// A layer must not speak to overlayfs: it could hide or redirect what other layers hold.
pub fn speaks_to_overlay(xattr: &str) -> bool {
    xattr.starts_with("trusted.overlay.") || xattr.starts_with("user.overlay.")
}

/// A path of a layer as text for people and records: bytes outside printable ASCII, and `%`, as
/// `%xx`. Reversible by [`path_from_text`], and safe to print on a terminal.
pub fn path_to_text(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for &byte in path {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02x}")),
        }
    }
    text
}

/// The bytes that [`path_to_text`] showed.
pub fn path_from_text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_text() {
        for (path, text) in [
            (&b"etc/passwd"[..], "etc/passwd"),
            (b"caf\xe9 100%\n", "caf%e9 100%25%0a"),
            (b"\x1b[31m", "%1b[31m"),
            (b"", ""),
        ] {
            assert_eq!(path_to_text(path), text);
            assert_eq!(path_from_text(text), path);
        }
        assert_eq!(path_from_text("%zz%2"), b"%zz%2");
    }
}
