//! Times of one thing, and how they are told.

use std::time::Duration;

/// Wall and CPU time of each round.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Samples {
    pub fn add(&mut self, wall: Duration, cpu: Duration) {
        self.wall.push(wall.as_secs_f64() * 1e3);
        self.cpu.push(cpu.as_secs_f64() * 1e3);
    }

    /// Median of the wall times, ms; 0 without samples.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(&self.wall)
    }

    /// Median of the CPU times, ms.
    #[must_use]
    pub fn cpu(&self) -> f64 {
        median(&self.cpu)
    }

    #[must_use]
    pub fn min(&self) -> f64 {
        self.wall.iter().copied().fold(f64::INFINITY, f64::min)
    }

    #[must_use]
    pub fn max(&self) -> f64 {
        self.wall.iter().copied().fold(0.0, f64::max)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// What was aimed at, as the lines of a table: the aim, the ratio that was reached, and whether that
/// is enough.
#[must_use]
pub fn aims(aims: &[(String, f64, f64)]) -> String {
    let mut text = "| aim | reached | |\n|---|---|---|\n".to_owned();
    for (aim, wanted, reached) in aims {
        let verdict = if reached >= wanted { "met" } else { "not met" };
        text += &format!("| {aim} | {reached:.2} | {verdict} |\n");
    }
    text
}

/// User and system time of this process's children that have ended and been waited for.
#[must_use]
pub fn children_cpu() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN);
    usage.map_or(Duration::ZERO, |usage| {
        let micros = |t: nix::sys::time::TimeVal| {
            t.tv_sec().unsigned_abs() * 1_000_000 + t.tv_usec().unsigned_abs()
        };
        Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
    })
}

/// The three load averages, as the kernel tells them.
#[must_use]
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_met_or_not() {
        let text = aims(&[("fast".into(), 3.0, 3.0), ("faster".into(), 3.0, 2.9)]);
        assert!(text.contains("| fast | 3.00 | met |"));
        assert!(text.contains("| faster | 2.90 | not met |"));
    }

    #[test]
    fn the_median_is_the_middle() {
        let mut samples = Samples::default();
        for ms in [9, 1, 5, 3] {
            samples.add(Duration::from_millis(ms), Duration::ZERO);
        }
        assert!((samples.median() - 4.0).abs() < 1e-9);
        assert!((samples.min() - 1.0).abs() < 1e-9 && (samples.max() - 9.0).abs() < 1e-9);
    }
}
