//! Numbers and times as texts.

use chrono::{DateTime, Utc};
use holdfast_core::clock;

/// Seconds as a person says them: `240 ms`, `12 s`, `3 min`, `5 h`, `2 d`.
pub(crate) fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "0 s".to_owned();
    }
    match seconds {
        0.0 => "0 s".to_owned(),
        s if s < 0.95 => format!("{:.0} ms", (s * 1_000.0).max(1.0)),
        s if s < 10.0 => trimmed(s, "s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

fn trimmed(value: f64, unit: &str) -> String {
    let text = format!("{value:.1}");
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// How long ago, or in how long.
pub(crate) fn age(at: DateTime<Utc>) -> String {
    let passed = (clock::now() - at).num_milliseconds() as f64 / 1_000.0;
    match passed {
        passed if passed.abs() < 1.0 => "now".to_owned(),
        passed if passed < 0.0 => format!("in {}", seconds(-passed)),
        passed => format!("{} ago", seconds(passed)),
    }
}

/// From one point in time to another.
pub(crate) fn duration(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Option<String> {
    let passed = to? - from?;
    Some(seconds(
        passed.num_microseconds().unwrap_or_default() as f64 / 1_000_000.0,
    ))
}

/// `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 job`, `2 jobs`.
pub(crate) fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// Events in a second.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        rate if !rate.is_finite() || rate < 0.005 => "0".to_owned(),
        rate if rate < 10.0 => format!("{rate:.2}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        rate if rate < 100.0 => format!("{rate:.1}"),
        rate => grouped(rate.round() as u64),
    }
}

/// The end of an id: its start is a time, which is the same for many.
pub(crate) fn short_id(id: &str) -> String {
    let count = id.chars().count();
    if count <= 12 {
        return id.to_owned();
    }
    format!("…{}", id.chars().skip(count - 8).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let said: Vec<String> = [
            0.0, 0.0123, 0.99, 1.0, 2.55, 45.0, 119.0, 3_600.0, 90_000.0, 400_000.0,
        ]
        .map(seconds)
        .to_vec();
        assert_eq!(
            said,
            [
                "0 s", "12 ms", "1 s", "1 s", "2.5 s", "45 s", "119 s", "60 min", "25 h", "5 d"
            ]
        );
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(999), "999");
        assert_eq!(
            [0.0, 0.5, 3.25, 12.34, 1_234.5].map(rate),
            ["0", "0.5", "3.25", "12.3", "1,235"]
        );
        assert_eq!(short_id("01JD3V0S7W8Q4M2XKZC5T9R6BH"), "…C5T9R6BH");
        assert_eq!(plural(1, "job", "jobs"), "1 job");
    }
}
