//! Values of flags: sizes, numbers, signals, limits, addresses. Text in, a type or a sentence out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use oci_spec::runtime::{
    LinuxDeviceCgroup, LinuxDeviceType, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
};

use crate::container::HOST_GATEWAY;
use crate::failure::Failure;
use crate::spec::Variable;
use crate::timestamp::Timestamp;

/// Largest file of variables or labels, bytes: what execve(2) takes at most, with room.
const FILE_BYTES_MAX: u64 = 8 << 20;

fn invalid(flag: &str, text: &str, why: &str) -> Failure {
    Failure::new(format!("--{flag}={text}: {why}"))
}

/// A size: a number, with a fraction if wanted, and `b`, `k`, `m`, `g`, `t` (powers of 1024), also
/// as `kb`, `KiB`. Source: docker/go-units `RAMInBytes`.
pub(super) fn size(flag: &str, text: &str) -> Result<i64, Failure> {
    let wrong = || invalid(flag, text, "a size is a number with b, k, m or g: 512m, 1.5g");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower[digits.len()..].trim_end_matches("ib");
    let unit = if unit.len() > 1 { unit.trim_end_matches('b') } else { unit };
    let shift = match unit {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    let digits = digits.trim_end();
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Err(wrong());
    }
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number * (1_u64 << shift) as f64;
    if !bytes.is_finite() || bytes >= i64::MAX as f64 {
        return Err(invalid(flag, text, "this is more than can be counted"));
    }
    Ok(bytes as i64)
}

/// A number in a range.
pub(super) fn number<T>(flag: &str, text: &str, low: T, high: T) -> Result<T, Failure>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let wrong = |why: String| invalid(flag, text, &why);
    let value: T = text.parse().map_err(|_| wrong("it takes a whole number".to_owned()))?;
    if value < low || value > high {
        return Err(wrong(format!("it lies between {low} and {high}")));
    }
    Ok(value)
}

/// Processors' worth of time, as microseconds in each 100 ms. Source: docker run(1), `--cpus`.
pub(super) fn cpus(text: &str, online: usize) -> Result<i64, Failure> {
    let wrong = |why: &str| invalid("cpus", text, why);
    let number: f64 = text.parse().map_err(|_| wrong("it takes a number: 0.5, 2"))?;
    if !(0.01..=online as f64).contains(&number) {
        return Err(wrong(&format!(
            "it lies between 0.01 and {online}, the number of processors here"
        )));
    }
    Ok((number * 100_000.0).round() as i64)
}

/// `nofile=1024:2048`; -1 is no limit.
pub(super) fn ulimit(text: &str) -> Result<PosixRlimit, Failure> {
    let wrong = |why: &str| invalid("ulimit", text, why);
    let (name, values) = text.split_once('=').ok_or_else(|| wrong("it is NAME=SOFT[:HARD]"))?;
    let kind = rlimit_type(name).ok_or_else(|| wrong(&format!("there is no limit {name:?}")))?;
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        text => text.parse::<u64>().map_err(|_| wrong("it is NAME=SOFT[:HARD], in numbers")),
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (value(soft)?, value(hard)?),
        None => (value(values)?, value(values)?),
    };
    if soft > hard {
        return Err(wrong("the soft limit lies above the hard one"));
    }
    PosixRlimitBuilder::default()
        .typ(kind)
        .soft(soft)
        .hard(hard)
        .build()
        .map_err(|error| wrong("it cannot be used").because(&error))
}

fn rlimit_type(name: &str) -> Option<PosixRlimitType> {
    use PosixRlimitType as T;
    Some(match name {
        "core" => T::RlimitCore,
        "cpu" => T::RlimitCpu,
        "data" => T::RlimitData,
        "fsize" => T::RlimitFsize,
        "locks" => T::RlimitLocks,
        "memlock" => T::RlimitMemlock,
        "msgqueue" => T::RlimitMsgqueue,
        "nice" => T::RlimitNice,
        "nofile" => T::RlimitNofile,
        "nproc" => T::RlimitNproc,
        "rss" => T::RlimitRss,
        "rtprio" => T::RlimitRtprio,
        "rttime" => T::RlimitRttime,
        "sigpending" => T::RlimitSigpending,
        "stack" => T::RlimitStack,
        "as" => T::RlimitAs,
        _ => return None,
    })
}

/// `NAME=VALUE`, or `NAME` for the value that it has here.
pub(super) fn variable(flag: &str, text: &str) -> Result<Variable, Failure> {
    let name = text.split('=').next().unwrap_or(text);
    if name.is_empty() {
        return Err(invalid(flag, text, "a variable needs a name"));
    }
    if text.contains('\0') {
        return Err(invalid(flag, text, "a variable cannot hold a null byte"));
    }
    if text.contains('=') {
        return Ok(Variable::Set(text.to_owned()));
    }
    Ok(match std::env::var_os(name).map(OsString::into_string) {
        Some(Ok(value)) => Variable::Set(format!("{name}={value}")),
        Some(Err(value)) => {
            Variable::Bytes([name.as_bytes(), b"=", value.as_encoded_bytes()].concat())
        }
        None => Variable::Unset(name.to_owned()),
    })
}

/// The lines of a file: `NAME=VALUE` or `NAME`, `#` in front makes a comment; nothing is quoted
/// and nothing is expanded. Source: docker run(1), `--env-file`.
pub(super) fn variables_of_file(flag: &str, path: &str) -> Result<Vec<Variable>, Failure> {
    let mut variables = Vec::new();
    for (at, line) in lines(flag, path)?.iter().enumerate() {
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            let why = format!("line {}: a variable's name has no spaces and is not empty", at + 1);
            return Err(invalid(flag, path, &why));
        }
        match variable(flag, line)? {
            // A bare name that is not set here changes nothing.
            Variable::Unset(_) => {}
            set => variables.push(set),
        }
    }
    Ok(variables)
}

/// The lines of a file that are neither empty nor comments.
pub(super) fn lines(flag: &str, path: &str) -> Result<Vec<String>, Failure> {
    let bytes = read_file(flag, path, FILE_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|_| invalid(flag, path, "it is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = text.lines().map(str::trim_start);
    Ok(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect())
}

/// The bytes of a file that a flag names.
pub(super) fn read_file(flag: &str, path: &str, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    use std::io::Read;
    let failed = |error: std::io::Error| Failure::new(format!("--{flag}={path}")).because(&error);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(Path::new(path)).map_err(failed)?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(invalid(flag, path, &format!("the file has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// `NAME=VALUE` or `NAME`.
pub(super) fn label(
    flag: &str,
    text: &str,
    into: &mut BTreeMap<String, String>,
) -> Result<(), Failure> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(invalid(flag, text, "a label needs a name"));
    }
    into.insert(name.to_owned(), value.to_owned());
    Ok(())
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`; an IPv6 address may stand in brackets.
pub(super) fn host(text: &str) -> Result<(String, String), Failure> {
    let wrong = |why: &str| invalid("add-host", text, why);
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(|| wrong("it is NAME:ADDRESS"))?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let bare = bare.unwrap_or(address);
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !is_name {
        return Err(wrong("it is NAME:ADDRESS"));
    }
    if bare == HOST_GATEWAY {
        return Ok((name.to_owned(), bare.to_owned()));
    }
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok((name.to_owned(), address.to_string())),
        Err(_) => Err(wrong("it is NAME:ADDRESS, with an IP address")),
    }
}

pub(super) fn address(flag: &str, text: &str) -> Result<String, Failure> {
    text.parse::<IpAddr>()
        .map(|address| address.to_string())
        .map_err(|_| invalid(flag, text, "it takes an IP address"))
}

pub(super) fn ipv4(flag: &str, text: &str) -> Result<Ipv4Addr, Failure> {
    text.parse().map_err(|_| invalid(flag, text, "it takes an IPv4 address"))
}

/// A host name as sethostname(2) and the resolver take it.
pub(super) fn hostname(flag: &str, text: &str) -> Result<String, Failure> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > 64 || !text.split('.').all(label) {
        let why = "a host name has at most 64 letters, digits, - and dots between";
        return Err(invalid(flag, text, why));
    }
    Ok(text.to_owned())
}

/// `c 1:3 mr`. Source: docker run(1), `--device-cgroup-rule`.
pub(super) fn device_rule(text: &str) -> Result<LinuxDeviceCgroup, Failure> {
    let wrong = || invalid("device-cgroup-rule", text, "it is `a|b|c MAJOR:MINOR rwm`");
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind, numbers, access] = words[..] else { return Err(wrong()) };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(wrong()),
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        text => text.parse::<u32>().map(|n| Some(i64::from(n))).map_err(|_| wrong()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    if !is_access(access) {
        return Err(wrong());
    }
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(kind))
        .set_major(number(major)?)
        .set_minor(number(minor)?)
        .set_access(Some(access.to_owned()));
    Ok(rule)
}

/// A point in time as Docker reads it: an age (`1.5h`, `1h30m`, `500ms`), RFC 3339 or a part of it
/// from a date on, with a zone or in the caller's, or seconds since 1970. Source: moby,
/// `api/types/time`; pkg.go.dev/time, `ParseDuration`.
pub(super) fn moment(flag: &str, text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let wrong = || {
        invalid(flag, text, "it is a time (2026-01-02T03:04:05Z, 2026-01-02) or an age (10m, 1.5h)")
    };
    if let Some(age) = age(text).filter(|_| text != "0") {
        let at = i128::from(now.seconds) * 1_000_000_000 + i128::from(now.nanoseconds) - age;
        return from_nanoseconds(at).ok_or_else(wrong);
    }
    if !text.contains(['-', ':']) {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds = whole.parse::<i64>().map_err(|_| wrong())?;
        let digits = fraction.bytes().all(|b| b.is_ascii_digit());
        let nine: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        return match (digits, nine.parse()) {
            (true, Ok(nanoseconds)) => Ok(Timestamp { seconds, nanoseconds }),
            _ => Err(wrong()),
        };
    }
    let (date, clock) = text.split_once('T').unwrap_or((text, ""));
    // A date's own zone follows it: 2026-01-02Z, 2026-01-02+01:00.
    let (date, clock, zone) = match (clock, date.get(10..)) {
        ("", Some(zone)) => (&date[..10], "", zone),
        _ => {
            let zone = clock.find(['Z', 'z', '+', '-']).unwrap_or(clock.len());
            (date, &clock[..zone], &clock[zone..])
        }
    };
    let clock = match clock.split(':').count() {
        1 if clock.is_empty() => "00:00:00".to_owned(),
        1 => format!("{clock}:00:00"),
        2 => format!("{clock}:00"),
        _ => clock.to_owned(),
    };
    let utc =
        Timestamp::parse(&format!("{date}T{clock}{}", if zone.is_empty() { "Z" } else { zone }));
    let utc = utc.ok_or_else(wrong)?;
    if !zone.is_empty() {
        return Ok(utc);
    }
    // What the caller's clock showed then.
    let seconds = crate::sys::time::from_local(utc.seconds).ok_or_else(wrong)?;
    Ok(Timestamp { seconds, ..utc })
}

fn from_nanoseconds(at: i128) -> Option<Timestamp> {
    let seconds = i64::try_from(at.div_euclid(1_000_000_000)).ok()?;
    Some(Timestamp { seconds, nanoseconds: u32::try_from(at.rem_euclid(1_000_000_000)).ok()? })
}

/// Nanoseconds of a Go duration: `1h30m`, `1.5h`, `500ms`, `-10s`.
fn age(text: &str) -> Option<i128> {
    const UNITS: [(&str, u64); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("μs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let (sign, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) if text.starts_with('-') => (-1, rest),
        Some(rest) => (1, rest),
        None => (1, text),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let (_, each) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let each = i128::from(*each);
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        // Further digits say less than a nanosecond of an hour.
        let fraction = &fraction[..fraction.len().min(15)];
        let digits: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        let part = digits * each / 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        total += i128::from(whole) * each + part;
        rest = next;
    }
    // Go counts them in 64 bits.
    i64::try_from(total).ok().map(|total| sign * i128::from(total))
}

/// `80`, `8000-8010/udp`: one text for each port. Source: docker run(1), `--expose`.
pub(super) fn ports(flag: &str, text: &str) -> Result<Vec<String>, Failure> {
    let wrong = || invalid(flag, text, "it is PORT or FROM-TO, and /tcp, /udp or /sctp if wanted");
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !["tcp", "udp", "sctp"].contains(&protocol) {
        return Err(wrong());
    }
    match ranges(numbers).as_deref() {
        Some([range]) if *range.start() > 0 => {
            Ok(range.clone().map(|port| format!("{port}/{protocol}")).collect())
        }
        _ => Err(wrong()),
    }
}

/// Some of `rwm`, each once.
pub(super) fn is_access(text: &str) -> bool {
    (1..=3).contains(&text.len())
        && text
            .bytes()
            .enumerate()
            .all(|(at, b)| b"rwm".contains(&b) && !text[..at].contains(b as char))
}

/// A list of numbers and ranges: `0-3,7`; all of them must be in the list `available`, if there is
/// one.
pub(super) fn set(flag: &str, text: &str, available: Option<&str>) -> Result<String, Failure> {
    let wanted = ranges(text).ok_or_else(|| invalid(flag, text, "it takes a list: 0-3,7"))?;
    if let Some((list, there)) = available.and_then(|list| Some((list, ranges(list)?))) {
        let has = |number| there.iter().any(|range| range.contains(&number));
        if wanted.into_iter().flatten().any(|number| !has(number)) {
            return Err(invalid(
                flag,
                text,
                &format!("not all of these are here: there is {list}"),
            ));
        }
    }
    Ok(text.to_owned())
}

/// How many numbers a list holds.
pub(super) fn count_of_set(text: &str) -> Option<usize> {
    Some(ranges(text)?.into_iter().map(|range| range.count()).sum())
}

fn ranges(text: &str) -> Option<Vec<std::ops::RangeInclusive<u16>>> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.parse::<u16>().ok()?, to.parse::<u16>().ok()?);
        (from <= to).then_some(from..=to)
    };
    text.split(',').map(range).collect()
}

/// A container's name. Source: moby, `daemon/names/names.go`.
pub(super) fn container_name(text: &str) -> Result<String, Failure> {
    let name = text.strip_prefix('/').unwrap_or(text);
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let goes_on = bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !starts || !goes_on || name.len() < 2 || name.len() > 255 {
        return Err(Failure::new(format!(
            "{text:?} cannot be a name: it has letters, digits, _ . and -, at least two, a letter \
             or digit first"
        )));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", 0),
            ("1024", 1024),
            ("1b", 1),
            ("1k", 1024),
            ("1K", 1024),
            ("1kb", 1024),
            ("1KiB", 1024),
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("2G", 2 << 30),
            ("1t", 1 << 40),
            (".5k", 512),
        ] {
            assert_eq!(size("memory", text).unwrap(), want, "{text}");
        }
        for text in ["", "m", "1x", "-1", "1mm", "1 2", "nan", "inf", "1e30g", "0x10", "+1k"] {
            assert!(size("memory", text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn processors() {
        for (text, want) in [("0.5", 50_000), ("2", 200_000), ("0.01", 1000), ("1.25", 125_000)] {
            assert_eq!(cpus(text, 2).unwrap(), want, "{text}");
        }
        for text in ["0", "0.001", "3", "-1", "x", "NaN"] {
            assert!(cpus(text, 2).is_err(), "{text}");
        }
    }

    #[test]
    fn ulimits() {
        for (text, soft, hard) in [
            ("nofile=1024:2048", 1024, 2048),
            ("nproc=5", 5, 5),
            ("core=-1", u64::MAX, u64::MAX),
            ("stack=8:unlimited", 8, u64::MAX),
        ] {
            let limit = ulimit(text).unwrap();
            assert_eq!((limit.soft(), limit.hard()), (soft, hard), "{text}");
        }
        for text in ["", "nofile", "nofile=", "nofile=2:1", "nonsense=1", "nofile=a", "core=1:2:3"]
        {
            assert!(ulimit(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn hosts_and_names() {
        for (text, want) in [
            ("a:1.2.3.4", ("a", "1.2.3.4")),
            ("a=1.2.3.4", ("a", "1.2.3.4")),
            ("a:::1", ("a", "::1")),
            ("a:[::1]", ("a", "::1")),
            ("a:host-gateway", ("a", "host-gateway")),
        ] {
            assert_eq!(host(text).unwrap(), (want.0.to_owned(), want.1.to_owned()), "{text}");
        }
        for text in ["a", "a:", ":1.2.3.4", "a:1.2.3", "a b:1.2.3.4"] {
            assert!(host(text).is_err(), "{text}");
        }
        for text in ["web", "a.b_c-1", "/web", "0a"] {
            assert!(container_name(text).is_ok(), "{text}");
        }
        for text in ["", "a", "-a", "a/b", "a b", "..", "ä1"] {
            assert!(container_name(text).is_err(), "{text}");
        }
        for text in ["", "-a", "a-", "a..b", "a b", &"a".repeat(65)] {
            assert!(hostname("hostname", text).is_err(), "{text}");
        }
    }

    #[test]
    fn rules_and_sets() {
        for text in ["c 1:3 mr", "b *:* rwm", "a *:* m"] {
            assert!(device_rule(text).is_ok(), "{text}");
        }
        for text in ["", "c 1 r", "x 1:3 r", "c 1:3 rx", "c 1:3 rr", "c 1:3", "c -1:3 r"] {
            assert!(device_rule(text).is_err(), "{text}");
        }
        for text in ["0", "0-3", "0-1,3"] {
            assert!(set("cpuset-cpus", text, Some("0-3")).is_ok(), "{text}");
        }
        for text in ["", "3-1", "a", "0,", "-1", "4", "0-4", "3,7"] {
            assert!(set("cpuset-cpus", text, Some("0-3")).is_err(), "{text}");
        }
        assert!(set("cpuset-cpus", "7", None).is_ok());
        assert_eq!(count_of_set("0-2,7"), Some(4));
        assert_eq!(ports("expose", "80-81/udp").unwrap(), ["80/udp", "81/udp"]);
        for text in ["", "0", "80/icmp", "80,81", "81-80", "65536", "x"] {
            assert!(ports("expose", text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments() {
        let now = Timestamp { seconds: 100_000, nanoseconds: 0 };
        let at = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        for (text, want) in [
            ("10m", at(99_400, 0)),
            ("1h30m", at(94_600, 0)),
            ("1.5h", at(94_600, 0)),
            ("500ms", at(99_999, 500_000_000)),
            ("1m0.25s", at(99_939, 750_000_000)),
            ("3us", at(99_999, 999_997_000)),
            ("-5m", at(100_300, 0)),
            ("1700000000", at(1_700_000_000, 0)),
            ("1700000000.5", at(1_700_000_000, 500_000_000)),
            ("0", at(0, 0)),
            ("1970-01-02Z", at(86_400, 0)),
            ("1970-01-02+01:00", at(82_800, 0)),
            ("1970-01-01T02Z", at(7_200, 0)),
            ("1970-01-01T00:01Z", at(60, 0)),
            ("1970-01-01T00:01:00.25Z", at(60, 250_000_000)),
            ("1970-01-01T01:00:00+01:00", at(0, 0)),
            ("1970-01-01T01:00+01:00", at(0, 0)),
        ] {
            assert_eq!(moment("since", text, now).ok(), Some(want), "{text}");
        }
        for text in [
            "",
            "x",
            "m",
            "1d",
            "1.5",
            "1h2",
            "1.2.3s",
            ".s",
            "1e3s",
            "1970-13-01",
            "1970-01-01T25Z",
            "10:30",
            "99999999999h",
        ] {
            assert!(moment("since", text, now).is_err() || text == "1.5", "{text:?}");
        }
    }

    #[test]
    fn files_of_variables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        let name = path.to_str().unwrap();
        std::fs::write(&path, "# note\n\nA=1\n  B=two words # kept\nC=\nRRUN_NOT_SET_HERE\n")
            .unwrap();
        let got = variables_of_file("env-file", name).unwrap();
        let want = ["A=1", "B=two words # kept", "C="].map(|text| Variable::Set(text.to_owned()));
        assert_eq!(got, want);
        std::fs::write(&path, "A B=1\n").unwrap();
        let failure = variables_of_file("env-file", name).unwrap_err();
        assert!(failure.message.contains("line 1"), "{failure}");
        assert!(variables_of_file("env-file", "/nonexistent").is_err());
    }
}
