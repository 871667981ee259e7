//! Points in time as records and people write them: RFC 3339 in UTC, and "3 weeks ago".

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds and nanoseconds since 1970-01-01 UTC; before it the seconds are negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

const DAY: i64 = 24 * 60 * 60;

impl Timestamp {
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: since.subsec_nanos(),
        }
    }

    /// Reads RFC 3339 (`2026-11-24T08:33:49.5Z`, `…+02:00`); anything else is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (date, rest) = text.split_once(['T', 't', ' '])?;
        let mut parts = date.splitn(3, '-');
        let (year, month, day) =
            (digits(parts.next()?)?, digits(parts.next()?)?, digits(parts.next()?)?);
        let zone = rest.find(['Z', 'z', '+', '-'])?;
        let (clock, zone) = rest.split_at(zone);
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
        let mut parts = clock.splitn(3, ':');
        let (hour, minute, second) =
            (digits(parts.next()?)?, digits(parts.next()?)?, digits(parts.next()?)?);
        let valid = (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && hour < 24
            && minute < 60
            && second <= 60
            && year <= 9999;
        if !valid {
            return None;
        }
        let offset = match zone {
            "Z" | "z" => 0,
            _ => {
                let (hours, minutes) = zone[1..].split_once(':')?;
                let offset = digits(hours)? * 3600 + digits(minutes)? * 60;
                if zone.starts_with('-') { -offset } else { offset }
            }
        };
        let seconds = days_from_civil(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
        Some(Self { seconds: seconds - offset, nanoseconds: nanoseconds(fraction)? })
    }

    /// `2026-11-24T08:33:49.123456789Z`, as Docker writes it.
    pub fn to_rfc3339(self) -> String {
        let (year, month, day) = civil_from_days(self.seconds.div_euclid(DAY));
        let second = self.seconds.rem_euclid(DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
        if self.nanoseconds != 0 {
            let fraction = format!(".{:09}", self.nanoseconds);
            text.push_str(fraction.trim_end_matches('0'));
        }
        text.push('Z');
        text
    }

    /// `2026-11-24 08:33:49 +0000 UTC`, as Docker's `CreatedAt` shows it.
    pub fn to_readable(self) -> String {
        let whole = Self { nanoseconds: 0, ..self }.to_rfc3339();
        format!("{} +0000 UTC", whole.trim_end_matches('Z').replacen('T', " ", 1))
    }

    /// How long ago this is at `now`, in Docker's words, without the "ago": `3 weeks`.
    pub fn age(self, now: Self) -> String {
        human_duration(now.seconds.saturating_sub(self.seconds).max(0))
    }
}

/// `About a minute`, `3 weeks`: the words and borders of docker/go-units `HumanDuration`.
pub fn human_duration(seconds: i64) -> String {
    // Docker rounds hours to the nearest and cuts the others.
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

fn digits(text: &str) -> Option<i64> {
    let valid = !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    if valid { text.parse().ok() } else { None }
}

fn nanoseconds(fraction: &str) -> Option<u32> {
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nine: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    nine.parse().ok()
}

/// Days since 1970-01-01 of a date of the Gregorian calendar. The year is shifted to begin in
/// March, so that the leap day is its last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, seconds, back) in [
            ("1970-01-01T00:00:00Z", 0, "1970-01-01T00:00:00Z"),
            ("2000-02-29T12:30:05.25Z", 951_827_405, "2000-02-29T12:30:05.25Z"),
            ("2026-11-24T10:33:49+02:00", 1_795_509_229, "2026-11-24T08:33:49Z"),
            ("1969-12-31T23:59:59Z", -1, "1969-12-31T23:59:59Z"),
            ("0001-01-01T00:00:00Z", -62_135_596_800, "0001-01-01T00:00:00Z"),
        ] {
            let time = Timestamp::parse(text).unwrap();
            assert_eq!(time.seconds, seconds, "{text}");
            assert_eq!(time.to_rfc3339(), back);
        }
        for text in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00",
            "x-01-01T00:00:00Z",
            "2026-01-01T00:00:00.xZ",
            "2026-01-01T25:00:00Z",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ages() {
        for (seconds, want) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (2 * DAY - 1801, "47 hours"),
            (2 * DAY, "2 days"),
            (21 * DAY, "3 weeks"),
            (70 * DAY, "2 months"),
            (800 * DAY, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), want, "{seconds}");
        }
    }
}
