//! `Range` of a GET (RFC 9110 §14) and `Content-Range` of an upload (distribution-spec).

/// Ranges in one request at most. A partial pull of a zstd:chunked image asks for as many; of more,
/// RFC 9110 lets a server think what it likes (§14.2).
const RANGES_MAX: usize = 1024;

/// What parts of a blob a GET asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    /// First and last byte of each, inclusive, inside the blob, in the order of the request; together
    /// no more than the blob.
    Parts(Vec<(u64, u64)>),
    /// No byte of the blob is in any range.
    Unsatisfiable,
}

impl Wanted {
    /// Reads a `Range` header. What RFC 9110 lets a server ignore (other units, nonsense, more than
    /// the blob has) is `All`.
    pub(crate) fn parse(header: &str, size: u64) -> Self {
        let Some(specs) = header.trim().strip_prefix("bytes=") else { return Self::All };
        let (mut parts, mut bytes, mut named) = (Vec::new(), 0_u64, 0);
        // A list may have empty elements. Source: RFC 9110 §5.6.1.
        for spec in specs.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
            named += 1;
            let Some(part) = range(spec, size) else { return Self::All };
            if let Some((first, last)) = part {
                bytes = bytes.saturating_add(last - first + 1);
                parts.push((first, last));
            }
        }
        match (named, parts.len()) {
            (0, _) => Self::All,
            (_, 0) => Self::Unsatisfiable,
            (..=RANGES_MAX, _) if bytes <= size => Self::Parts(parts),
            _ => Self::All,
        }
    }
}

/// `None`: this is no range. `Some(None)`: none of its bytes are in the blob.
fn range(spec: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = spec.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let length = number(last)?;
        return Some((length > 0 && size > 0).then(|| (size.saturating_sub(length), size - 1)));
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    // RFC 9110 calls last < first invalid, to be ignored; the conformance suite wants 416, and the
    // whole blob is never what such a client means.
    Some((first < size && first <= last).then(|| (first, last.min(size - 1))))
}

/// A decimal number without sign; more digits than fit are "very large".
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// First and last byte, inclusive, of the chunk that an upload request carries.
///
/// The specification's form is `a-b`; `bytes a-b/total`, which RFC 9110 has, is taken as well.
pub(crate) fn parse_content_range(header: &str) -> Option<(u64, u64)> {
    let text = header.trim();
    let text = match text.strip_prefix("bytes") {
        Some(rest) => rest.trim_start_matches([' ', '=']),
        None => text,
    };
    let text = text.split('/').next()?;
    let (first, last) = text.split_once('-')?;
    let strict = |text: &str| number(text).filter(|number| *number != u64::MAX);
    let (first, last) = (strict(first)?, strict(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_get() {
        for (header, size, want) in [
            ("bytes=0-0", 10, Wanted::Parts(vec![(0, 0)])),
            ("bytes=2-5", 10, Wanted::Parts(vec![(2, 5)])),
            ("bytes=2-", 10, Wanted::Parts(vec![(2, 9)])),
            ("bytes=-3", 10, Wanted::Parts(vec![(7, 9)])),
            ("bytes=-30", 10, Wanted::Parts(vec![(0, 9)])),
            ("bytes=5-99999999999999999999999", 10, Wanted::Parts(vec![(5, 9)])),
            ("bytes=10-", 10, Wanted::Unsatisfiable),
            ("bytes=5-0", 10, Wanted::Unsatisfiable),
            ("bytes=-0", 10, Wanted::Unsatisfiable),
            ("bytes=0-", 0, Wanted::Unsatisfiable),
            ("bytes=-1", 0, Wanted::Unsatisfiable),
            ("bytes=-", 10, Wanted::All),
            ("bytes=0-1,3-4", 10, Wanted::Parts(vec![(0, 1), (3, 4)])),
            ("bytes= 8- , ,0-0,-1", 10, Wanted::Parts(vec![(8, 9), (0, 0), (9, 9)])),
            ("bytes=0-1,10-", 10, Wanted::Parts(vec![(0, 1)])),
            ("bytes=10-,11-", 10, Wanted::Unsatisfiable),
            ("bytes=0-1,x", 10, Wanted::All),
            ("bytes=0-9,0-0", 10, Wanted::All),
            ("bytes=,", 10, Wanted::All),
            ("items=0-1", 10, Wanted::All),
            ("bytes=a-b", 10, Wanted::All),
            ("bytes=+1-2", 10, Wanted::All),
            ("", 10, Wanted::All),
        ] {
            assert_eq!(Wanted::parse(header, size), want, "{header} of {size}");
        }
    }

    #[test]
    fn ranges_are_bounded_in_number() {
        let ranges = |number| format!("bytes={}", vec!["0-0"; number].join(","));
        let wanted = Wanted::parse(&ranges(RANGES_MAX), 5000);
        assert!(matches!(wanted, Wanted::Parts(parts) if parts.len() == RANGES_MAX));
        assert_eq!(Wanted::parse(&ranges(RANGES_MAX + 1), 5000), Wanted::All);
    }

    #[test]
    fn ranges_of_an_upload() {
        for (header, want) in [
            ("0-0", Some((0, 0))),
            ("5-9", Some((5, 9))),
            ("bytes 5-9/20", Some((5, 9))),
            ("bytes=5-9", Some((5, 9))),
            ("9-5", None),
            ("-", None),
            ("5-", None),
            ("-5", None),
            ("0-garbage", None),
            ("+0-1", None),
            ("0-99999999999999999999999", None),
            ("", None),
        ] {
            assert_eq!(parse_content_range(header), want, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parts_are_inside_the_blob(header in "(bytes=)?[0-9,-]{0,24}", size in 0u64..100) {
            if let Wanted::Parts(parts) = Wanted::parse(&header, size) {
                proptest::prop_assert!(parts.iter().all(|(first, last)| first <= last && *last < size));
                let bytes: u64 = parts.iter().map(|(first, last)| last - first + 1).sum();
                proptest::prop_assert!(!parts.is_empty() && bytes <= size);
            }
        }

        #[test]
        fn never_panics(header in "\\PC*") {
            let _ = (Wanted::parse(&header, 7), parse_content_range(&header));
        }
    }
}
