//! From when to when a certificate is good. The TLS library looks at the other side's only.

use std::time::SystemTime;

/// Unix times, both inclusive. Source: RFC 5280 §4.1.2.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

/// How long before its end an operator is told; of a short life, the last fifth.
const SOON_SECONDS: i64 = 7 * 86_400;

impl Validity {
    /// What is wrong with it at `now`.
    pub(super) fn trouble(self, now: i64) -> Option<String> {
        let days = |seconds: i64| seconds / 86_400;
        let soon = SOON_SECONDS.min((self.not_after - self.not_before) / 5);
        if now < self.not_before {
            Some("http.tls.certificate: it is not good yet: clients will refuse it".to_owned())
        } else if now > self.not_after {
            let ago = days(now - self.not_after);
            Some(format!("http.tls.certificate: it ended {ago} days ago: clients will refuse it"))
        } else if self.not_after - now < soon {
            let left = days(self.not_after - now);
            Some(format!("http.tls.certificate: it ends in {left} days: renew it"))
        } else {
            None
        }
    }
}

pub(super) fn now() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The dates in a certificate in DER. `None` where they are not where they should be.
pub(super) fn validity(certificate: &[u8]) -> Option<Validity> {
    let (SEQUENCE, outer, _) = element(certificate)? else { return None };
    let (SEQUENCE, mut rest, _) = element(outer)? else { return None };
    if let (VERSION, _, after) = element(rest)? {
        rest = after;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (SEQUENCE, dates, _) = element(rest)? else { return None };
    let (tag, first, rest) = element(dates)?;
    let not_before = time(tag, first)?;
    let (tag, second, _) = element(rest)?;
    Some(Validity { not_before, not_after: time(tag, second)? })
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Tag and content of what `bytes` begin with, and what follows it. Source: X.690 §8.1.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, short], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) if digits => {
            let year = text[..2].parse::<i64>().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) if digits => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let pair = |at: usize| rest[at..at + 2].parse::<i64>().ok();
    let (month, day) = (pair(0)?, pair(2)?);
    if !(1..=12).contains(&month) {
        return None;
    }
    Some(days(year, month, day) * 86_400 + pair(4)? * 3600 + pair(6)? * 60 + pair(8)?)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar: years that begin in March put the leap
/// day last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        let mut bytes = match length {
            0..=0x7f => vec![tag, length as u8],
            _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
        };
        bytes.extend_from_slice(content);
        bytes
    }

    fn certificate(version: bool, from: (u8, &str), to: (u8, &str)) -> Vec<u8> {
        let mut inner = if version { der(VERSION, &der(2, &[2])) } else { Vec::new() };
        inner.extend(der(2, &[7; 20]));
        inner.extend(der(SEQUENCE, b"algorithm"));
        inner.extend(der(SEQUENCE, &[0; 200]));
        let dates = [der(from.0, from.1.as_bytes()), der(to.0, to.1.as_bytes())].concat();
        inner.extend(der(SEQUENCE, &dates));
        der(SEQUENCE, &der(SEQUENCE, &inner))
    }

    #[test]
    fn dates_are_read() {
        for (version, from, to, want) in [
            // date -ud 2026-11-24T16:00:00Z +%s
            (
                true,
                (UTC_TIME, "261124160000Z"),
                (GENERALIZED_TIME, "20500301000001Z"),
                Some((1_795_536_000, 2_529_705_601)),
            ),
            (
                false,
                (UTC_TIME, "700101000000Z"),
                (UTC_TIME, "000229235959Z"),
                Some((0, 951_868_799)),
            ),
            (true, (UTC_TIME, "261124160000"), (UTC_TIME, "261124160000Z"), None),
            (true, (UTC_TIME, "261324160000Z"), (UTC_TIME, "261124160000Z"), None),
            (true, (4, "261124160000Z"), (UTC_TIME, "261124160000Z"), None),
        ] {
            let found = validity(&certificate(version, from, to));
            assert_eq!(found.map(|found| (found.not_before, found.not_after)), want, "{from:?}");
        }
    }

    #[test]
    fn anything_else_is_none_and_no_panic() {
        let whole = certificate(true, (UTC_TIME, "261124160000Z"), (UTC_TIME, "261124160000Z"));
        assert!(validity(&whole).is_some());
        for end in 0..whole.len() {
            let _ = validity(&whole[..end]);
            let mut changed = whole.clone();
            changed[end] = changed[end].wrapping_add(0x81);
            let _ = validity(&changed);
        }
        assert_eq!(validity(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn trouble_is_told_in_time() {
        let validity = Validity { not_before: 1000, not_after: 1000 + 30 * 86_400 };
        for (now, word) in [
            (0, Some("not good yet")),
            (2000, None),
            (1000 + 25 * 86_400, Some("ends in 5 days")),
            (1000 + 33 * 86_400, Some("ended 3 days ago")),
        ] {
            let trouble = validity.trouble(now);
            assert_eq!(trouble.is_some(), word.is_some(), "{now}: {trouble:?}");
            assert!(trouble.is_none_or(|trouble| trouble.contains(word.unwrap_or("?"))), "{now}");
        }
    }
}
