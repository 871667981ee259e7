//! Durations and sizes as people write them.

use std::time::Duration;

use serde_json::Value;

/// Longest duration taken: a century, so that sums never overflow.
const SECONDS_MAX: f64 = 100.0 * 365.0 * 86_400.0;

/// Reads a duration as Go writes it (`1h30m`, `500ms`); a bare number is seconds.
pub(super) fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(number) => seconds(number.as_f64()?),
        Value::String(text) => match text.parse::<f64>() {
            Ok(number) => seconds(number),
            Err(_) => go_duration(text),
        },
        _ => None,
    }
}

fn seconds(number: f64) -> Option<Duration> {
    (0.0..=SECONDS_MAX).contains(&number).then(|| Duration::from_secs_f64(number))
}

fn go_duration(text: &str) -> Option<Duration> {
    let (mut total, mut rest) = (0.0, text.trim());
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    seconds(total)
}

/// Reads a size in bytes: a number, with `KiB`, `MiB`, `GiB`, `KB`, `MB`, `GB` or nothing.
pub(super) fn size(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Number(number) => return number.as_u64(),
        Value::String(text) => text.trim(),
        _ => return None,
    };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let unit: u64 = match text[end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations() {
        for (value, want) in [
            (json!("24h"), Some(86_400.0)),
            (json!("1h30m"), Some(5400.0)),
            (json!("500ms"), Some(0.5)),
            (json!(10), Some(10.0)),
            (json!("10"), Some(10.0)),
            (json!("1.5s"), Some(1.5)),
            (json!("0s"), Some(0.0)),
            (json!("-1s"), None),
            (json!(-1), None),
            (json!("1x"), None),
            (json!("h"), None),
            (json!(""), None),
            (json!("nan"), None),
            (json!("1e300"), None),
            (json!(null), None),
        ] {
            assert_eq!(duration(&value).map(|found| found.as_secs_f64()), want, "{value}");
        }
    }

    #[test]
    fn sizes() {
        for (value, want) in [
            (json!(5), Some(5)),
            (json!("64MiB"), Some(64 << 20)),
            (json!("1 GB"), Some(1_000_000_000)),
            (json!("2k"), Some(2048)),
            (json!("99999999999999999999"), None),
            (json!("9999999999999GiB"), None),
            (json!("x"), None),
            (json!("-1"), None),
        ] {
            assert_eq!(size(&value), want, "{value}");
        }
    }
}
