//! Query strings, and lists in pages.

use actix_web::http::header::HeaderValue;
use shared::ErrorCode;

use super::error::ApiError;
use super::respond::text_value;

/// The values of a query parameter, in order, decoded. Broken escapes stay as they are.
pub(crate) fn query_values(query: &str, name: &str) -> Vec<String> {
    if query.is_empty() {
        return Vec::new();
    }
    query
        .split('&')
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
        .collect()
}

/// Decodes one part of a query: `+` is a space, `%xx` a byte.
fn decode(text: &str) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match (byte, digit(at), digit(at + 1)) {
            (b'+', _, _) => decoded.push(b' '),
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high << 4 | low).unwrap_or(b'?'));
                at += 2;
            }
            _ => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Encodes a text as the value of a query parameter.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// What `n` asks for: at most `max`, which is also what is given without it.
pub(crate) fn page_size(n: Option<&str>, max: usize) -> Result<usize, ApiError> {
    let Some(text) = n else { return Ok(max) };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(ApiError::bad_request(
            ErrorCode::Unsupported,
            "n must be a number that is not negative",
        ));
    }
    // More digits than fit ask for more than there is.
    Ok(text.parse().unwrap_or(usize::MAX).min(max))
}

/// A `Link` to the next page. Source: RFC 8288; clients read only the first one, up to the `;`.
pub(crate) fn next_link(url: &str) -> HeaderValue {
    text_value(&format!("<{url}>; rel=\"next\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = "a=1&b=x%20y+z&a=2&c&d=%zz&%61=3&a=%2";
        assert_eq!(query_values(query, "a"), ["1", "2", "3", "%2"]);
        assert_eq!(query_values(query, "b"), ["x y z"]);
        assert_eq!(query_values(query, "c"), [""]);
        assert_eq!(query_values(query, "d"), ["%zz"]);
        assert!(query_values("", "").is_empty());
        for text in ["", "a/b", "x y+z&?=", "ä"] {
            assert_eq!(query_values(&format!("k={}", encode(text)), "k"), [text]);
        }
    }

    #[test]
    fn page_sizes() {
        for (n, want) in [(None, 100), (Some("0"), 0), (Some("7"), 7), (Some("101"), 100)] {
            assert_eq!(page_size(n, 100).unwrap(), want);
        }
        assert_eq!(page_size(Some(&"9".repeat(40)), 100).unwrap(), 100);
        for n in ["", "-1", "x", "1.5", "+1", " 1"] {
            assert!(page_size(Some(n), 100).is_err(), "{n:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(query in "\\PC*", name in "\\PC*") {
            let _ = query_values(&query, &name);
        }
    }
}
