//! The two forms of metrics as text: OpenMetrics, and the classic one that every scraper reads.

/// How the metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Prometheus' text format 0.0.4.
    Classic,
    OpenMetrics,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl Form {
    /// What an `Accept` field asks for: OpenMetrics only by name, and not below `text/plain`.
    pub fn accepted(accept: &str) -> Self {
        let quality = |wanted: &str| {
            accept.split(',').find_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                parts.next().filter(|name| name.eq_ignore_ascii_case(wanted))?;
                let quality = parts.find_map(|part| part.strip_prefix("q="));
                Some(quality.map_or(1.0, |text| text.parse::<f32>().unwrap_or(0.0)))
            })
        };
        match (quality(OPEN_METRICS), quality("text/plain")) {
            (Some(open), classic) if open > 0.0 && open >= classic.unwrap_or(0.0) => {
                Self::OpenMetrics
            }
            _ => Self::Classic,
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes OpenMetrics text in the classic form: the suffix of a counter or an info belongs to its
/// name there, an info is a gauge, and there are neither units nor an end.
///
/// `text` has `HELP` before `TYPE`, and both before their samples.
pub(super) fn classic(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                classic.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            classic.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            classic.push_str(line);
            classic.push('\n');
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_given_to_those_who_ask_for_it() {
        for (accept, want) in [
            ("", Form::Classic),
            ("*/*", Form::Classic),
            ("text/plain", Form::Classic),
            ("application/openmetrics-text; version=1.0.0", Form::OpenMetrics),
            ("Application/OpenMetrics-Text", Form::OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                Form::OpenMetrics,
            ),
            ("text/plain, application/openmetrics-text;q=0.5", Form::Classic),
            ("application/openmetrics-text;q=0", Form::Classic),
            ("application/openmetrics-text;q=x", Form::Classic),
        ] {
            assert_eq!(Form::accepted(accept), want, "{accept}");
        }
    }

    #[test]
    fn the_classic_form() {
        let open = "\
# HELP a_b Things.
# TYPE a_b counter
a_b_total{x=\"# TYPE\"} 1
# HELP c_seconds Time.
# TYPE c_seconds histogram
# UNIT c_seconds seconds
c_seconds_bucket{le=\"+Inf\"} 0
c_seconds_sum 0
# HELP d Build.
# TYPE d info
d_info{version=\"1\"} 1
# TYPE e gauge
e 3
# EOF
";
        let want = "\
# HELP a_b_total Things.
# TYPE a_b_total counter
a_b_total{x=\"# TYPE\"} 1
# HELP c_seconds Time.
# TYPE c_seconds histogram
c_seconds_bucket{le=\"+Inf\"} 0
c_seconds_sum 0
# HELP d_info Build.
# TYPE d_info gauge
d_info{version=\"1\"} 1
# TYPE e gauge
e 3
";
        assert_eq!(classic(open), want);
    }
}
