//! `Range` of a GET (RFC 9110 §14) and `Content-Range` of an upload (distribution-spec).

/// What part of a blob a GET asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    /// First and last byte, inclusive, both inside the blob.
    Part(u64, u64),
    /// No byte of the blob is in the range.
    Unsatisfiable,
}

impl Wanted {
    /// Reads a `Range` header. What RFC 9110 lets a server ignore (other units, several ranges,
    /// nonsense) is `All`.
    pub(crate) fn parse(header: &str, size: u64) -> Self {
        let Some(spec) = header.trim().strip_prefix("bytes=") else { return Self::All };
        let Some((first, last)) = spec.trim().split_once('-') else { return Self::All };
        let (first, last) = (first.trim(), last.trim());
        match (first, last) {
            ("", "") => Self::All,
            ("", suffix) => match number(suffix) {
                None => Self::All,
                Some(0) => Self::Unsatisfiable,
                Some(_) if size == 0 => Self::Unsatisfiable,
                Some(length) => Self::Part(size.saturating_sub(length), size - 1),
            },
            (first, last) => {
                let Some(first) = number(first) else { return Self::All };
                let last = if last.is_empty() { Some(u64::MAX) } else { number(last) };
                let Some(last) = last else { return Self::All };
                // RFC 9110 calls last < first invalid, to be ignored; the conformance suite wants
                // 416, and the whole blob is never what such a client means.
                if first >= size || last < first {
                    Self::Unsatisfiable
                } else {
                    Self::Part(first, last.min(size - 1))
                }
            }
        }
    }
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
            ("bytes=0-0", 10, Wanted::Part(0, 0)),
            ("bytes=2-5", 10, Wanted::Part(2, 5)),
            ("bytes=2-", 10, Wanted::Part(2, 9)),
            ("bytes=-3", 10, Wanted::Part(7, 9)),
            ("bytes=-30", 10, Wanted::Part(0, 9)),
            ("bytes=5-99999999999999999999999", 10, Wanted::Part(5, 9)),
            ("bytes=10-", 10, Wanted::Unsatisfiable),
            ("bytes=5-0", 10, Wanted::Unsatisfiable),
            ("bytes=-0", 10, Wanted::Unsatisfiable),
            ("bytes=0-", 0, Wanted::Unsatisfiable),
            ("bytes=-1", 0, Wanted::Unsatisfiable),
            ("bytes=-", 10, Wanted::All),
            ("bytes=0-1,3-4", 10, Wanted::All),
            ("items=0-1", 10, Wanted::All),
            ("bytes=a-b", 10, Wanted::All),
            ("bytes=+1-2", 10, Wanted::All),
            ("", 10, Wanted::All),
        ] {
            assert_eq!(Wanted::parse(header, size), want, "{header} of {size}");
        }
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
        fn parts_are_inside_the_blob(header in "(bytes=)?[0-9-]{0,24}", size in 0u64..100) {
            if let Wanted::Part(first, last) = Wanted::parse(&header, size) {
                proptest::prop_assert!(first <= last && last < size);
            }
        }

        #[test]
        fn never_panics(header in "\\PC*") {
            let _ = (Wanted::parse(&header, 7), parse_content_range(&header));
        }
    }
}
