//! What repeats, within bounds.
//!
//! Rules run in local time without a zone: an event at eight is at eight, winter and summer. The crate that follows them is
//! told that the local times are UTC, so that no zone interferes.

use chrono::{NaiveDateTime, NaiveTime};
use rrule::{RRule, RRuleSet, Tz, Unvalidated};

use super::when::{Clock, clock};

/// Steps of one rule from its beginning to the end of the window: every minute for ten weeks, every day for 273 years.
pub const MAX_STEPS: usize = 100_000;

/// Steps of all rules of one calendar.
pub const MAX_ALL_STEPS: usize = 5_000_000;

/// Occurrences of one event within the window.
pub const MAX_OCCURRENCES: usize = 1_000;

/// What a calendar's rules may still cost.
#[derive(Debug)]
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(MAX_ALL_STEPS)
    }
}

/// Where a rule led.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Followed {
    /// Within the window, in their order.
    pub(super) dates: Vec<NaiveDateTime>,
    /// There are more than [`MAX_OCCURRENCES`] of them; these are the first.
    pub(super) cut: bool,
}

/// Follows a rule from `start`, and keeps what lies from `from` to `until`; all times local. `to_local` is for the end of a
/// rule, which is in UTC.
///
/// # Errors
/// Why the rule cannot be followed.
pub(super) fn follow(
    rule: &str,
    start: NaiveDateTime,
    whole_days: bool,
    to_local: &dyn Fn(NaiveDateTime) -> NaiveDateTime,
    from: NaiveDateTime,
    until: NaiveDateTime,
    budget: &mut Budget,
) -> Result<Followed, String> {
    let fault = |reason: &dyn std::fmt::Display| format!("its rule {rule:?} is of no use: {reason}");
    let (text, ends) = normalised(rule, whole_days, to_local).map_err(|reason| fault(&reason))?;
    if ends.is_some_and(|ends| ends < start) {
        return Ok(Followed::default());
    }
    let zoned = start.and_utc().with_timezone(&Tz::UTC);
    let parsed: RRule<Unvalidated> = text.parse().map_err(|error| fault(&error))?;
    let validated = parsed.validate(zoned).map_err(|error| fault(&error))?;
    let set = RRuleSet::new(zoned).rrule(validated).limit();
    let mut followed = Followed::default();
    for (steps, at) in (&set).into_iter().enumerate() {
        if steps == MAX_STEPS || budget.0 == 0 {
            let limit = if budget.0 == 0 { MAX_ALL_STEPS } else { MAX_STEPS };
            return Err(fault(&format!("it takes more than {limit} steps")));
        }
        budget.0 -= 1;
        let local = at.naive_utc();
        if local > until {
            break;
        }
        if local < from {
            continue;
        }
        if followed.dates.len() == MAX_OCCURRENCES {
            followed.cut = true;
            break;
        }
        followed.dates.push(local);
    }
    Ok(followed)
}

/// The rule with its end in local time, and that end.
fn normalised(
    rule: &str,
    whole_days: bool,
    to_local: &dyn Fn(NaiveDateTime) -> NaiveDateTime,
) -> Result<(String, Option<NaiveDateTime>), String> {
    let mut ends = None;
    let mut parts = Vec::new();
    for part in rule.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| format!("{part:?} has no value"))?;
        let (name, value) = (name.trim().to_ascii_uppercase(), value.trim());
        match name.as_str() {
            "UNTIL" => {
                let end = match clock(value)? {
                    Clock::Day(day) if whole_days => day.and_time(NaiveTime::MIN),
                    // The whole last day is meant.
                    Clock::Day(day) => day
                        .and_hms_opt(23, 59, 59)
                        .unwrap_or(day.and_time(NaiveTime::MIN)),
                    Clock::Local(at) => at,
                    Clock::Utc(at) => to_local(at),
                };
                parts.push(format!("UNTIL={}Z", end.format("%Y%m%dT%H%M%S")));
                ends = Some(end);
            }
            "INTERVAL" if value.bytes().all(|byte| byte == b'0') => {
                return Err("its interval is nothing".to_owned());
            }
            _ => parts.push(format!("{name}={}", value.to_ascii_uppercase())),
        }
    }
    if parts.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok((parts.join(";"), ends))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> NaiveDateTime {
        match clock(text).unwrap() {
            Clock::Local(at) => at,
            other => panic!("{other:?}"),
        }
    }

    fn dates(rule: &str, start: &str, from: &str, until: &str) -> Result<Followed, String> {
        follow(
            rule,
            at(start),
            false,
            &|moment| moment,
            at(from),
            at(until),
            &mut Budget::default(),
        )
    }

    fn days(rule: &str) -> Vec<String> {
        let followed = dates(rule, "20300501T180000", "20300501T000000", "20310501T000000").unwrap();
        followed
            .dates
            .iter()
            .map(|at| at.format("%m%d").to_string())
            .collect()
    }

    #[test]
    fn rules_are_followed() {
        assert_eq!(days("FREQ=DAILY;COUNT=3"), ["0501", "0502", "0503"]);
        assert_eq!(
            days("freq=weekly;until=20300515T180000Z"),
            ["0501", "0508", "0515"]
        );
        assert_eq!(days("FREQ=WEEKLY;UNTIL=20300515"), ["0501", "0508", "0515"]);
        assert_eq!(days("FREQ=MONTHLY;BYDAY=-1FR;COUNT=2"), ["0531", "0628"]);
        assert_eq!(days("FREQ=MONTHLY;BYMONTHDAY=31;COUNT=2"), ["0531", "0731"]);
        assert_eq!(
            days("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1;COUNT=2"),
            ["0531", "0628"]
        );
        assert_eq!(days("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29"), Vec::<String>::new());
        assert_eq!(days("FREQ=DAILY;UNTIL=20290101"), Vec::<String>::new());
    }

    #[test]
    fn a_rule_without_end_ends_with_the_window_and_its_limits() {
        let daily = dates(
            "FREQ=DAILY",
            "19700101T080000",
            "20300101T000000",
            "20300110T000000",
        )
        .unwrap();
        assert_eq!((daily.dates.len(), daily.cut), (9, false));
        let hourly = dates(
            "FREQ=HOURLY",
            "20300101T000000",
            "20300101T000000",
            "20310101T000000",
        )
        .unwrap();
        assert_eq!((hourly.dates.len(), hourly.cut), (MAX_OCCURRENCES, true));
        let error = dates(
            "FREQ=SECONDLY",
            "20000101T000000",
            "20300101T000000",
            "20310101T000000",
        )
        .unwrap_err();
        assert!(error.contains("100000 steps"), "{error}");
        let never = dates(
            "FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30",
            "20300101T000000",
            "20300101T000000",
            "20310101T000000",
        );
        assert_eq!(never, Ok(Followed::default()));
    }

    #[test]
    fn all_rules_share_a_budget() {
        let mut budget = Budget(15);
        let mut ten = || {
            let (start, until) = (at("20300101T000000"), at("20300110T000000"));
            follow(
                "FREQ=DAILY",
                start,
                false,
                &|moment| moment,
                start,
                until,
                &mut budget,
            )
        };
        assert_eq!(ten().unwrap().dates.len(), 10);
        assert!(ten().unwrap_err().contains("steps"));
    }

    #[test]
    fn rules_of_no_use_are_refused() {
        for odd in [
            "",
            "FREQ",
            "FREQ=OFTEN",
            "COUNT=3",
            "FREQ=DAILY;INTERVAL=0",
            "FREQ=DAILY;UNTIL=soon",
            "FREQ=DAILY;BYMONTH=13",
        ] {
            let refused = dates(odd, "20300101T000000", "20300101T000000", "20310101T000000");
            assert!(refused.is_err(), "{odd}: {refused:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_rule_ends(
            freq in "(YEARLY|MONTHLY|WEEKLY|DAILY|HOURLY|MINUTELY)", interval in 1..400_u16,
            by in "(|;BYMONTH=[1-9]|;BYMONTHDAY=-?[1-9]|;BYDAY=-?[1-5]?MO|;BYYEARDAY=-?[1-9]{2}|;BYSETPOS=[1-9]|;BYHOUR=[1-9])",
        ) {
            let rule = format!("FREQ={freq};INTERVAL={interval}{by}");
            if let Ok(followed) = dates(&rule, "20290101T000000", "20300101T000000", "20310101T000000") {
                prop_assert!(followed.dates.len() <= MAX_OCCURRENCES);
                prop_assert!(followed.dates.is_sorted());
            }
        }
    }
}
