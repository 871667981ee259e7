//! Paths of a layer as text.

/// A path as text for people and records: bytes outside printable ASCII, and `%`, as
/// `%xx`. Reversible by [`from_text`], and safe to print on a terminal.
pub fn to_text(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for &byte in path {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02x}")),
        }
    }
    text
}

/// The bytes that [`to_text`] showed.
pub fn from_text(text: &str) -> Vec<u8> {
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
    fn there_and_back() {
        for (path, text) in [
            (&b"etc/passwd"[..], "etc/passwd"),
            (b"caf\xe9 100%\n", "caf%e9 100%25%0a"),
            (b"\x1b[31m", "%1b[31m"),
            (b"", ""),
        ] {
            assert_eq!(to_text(path), text);
            assert_eq!(from_text(text), path);
        }
        assert_eq!(from_text("%zz%2"), b"%zz%2");
    }
}
