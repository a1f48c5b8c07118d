//! The table of zones is held against an implementation that knows no cron library and no search: it walks every minute
//! of UTC around each change of the clocks and looks at the wall clock.

use std::collections::BTreeSet;

use chrono::Timelike;

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn cron(expression: &str, zone_name: &str) -> Timing {
    Timing::cron(expression, zone(zone_name).unwrap()).unwrap()
}

fn fault(expression: &str) -> String {
    Timing::cron(expression, Tz::UTC).unwrap_err().to_string()
}

/// Minutes and hours that an expression names; every day.
struct Face {
    expression: &'static str,
    minutes: &'static [u32],
    hours: &'static [u32],
}

const EVERY_HOUR: &[u32] = &[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];

const FACES: [Face; 9] = [
    Face {
        expression: "30 2 * * *",
        minutes: &[30],
        hours: &[2],
    },
    Face {
        expression: "0 0 * * *",
        minutes: &[0],
        hours: &[0],
    },
    Face {
        expression: "15 1 * * *",
        minutes: &[15],
        hours: &[1],
    },
    Face {
        expression: "*/30 1-3 * * *",
        minutes: &[0, 30],
        hours: &[1, 2, 3],
    },
    Face {
        expression: "0 */2 * * *",
        minutes: &[0],
        hours: &[0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22],
    },
    Face {
        expression: "45 23,0 * * *",
        minutes: &[45],
        hours: &[23, 0],
    },
    Face {
        expression: "*/15 * * * *",
        minutes: &[0, 15, 30, 45],
        hours: EVERY_HOUR,
    },
    Face {
        expression: "0 * * * *",
        minutes: &[0],
        hours: EVERY_HOUR,
    },
    Face {
        expression: "20 0-23 * * *",
        minutes: &[20],
        hours: EVERY_HOUR,
    },
];

/// Four zones as they are, two that were odd: Lord Howe moves by half an hour, Cairo and São Paulo at midnight, and Samoa
/// once skipped a whole day.
const ZONES: [(&str, i32); 6] = [
    ("Europe/Berlin", 2026),
    ("America/New_York", 2026),
    ("Australia/Lord_Howe", 2026),
    ("Africa/Cairo", 2026),
    ("America/Sao_Paulo", 2018),
    ("Pacific/Apia", 2011),
];

impl Face {
    fn shows(&self, face: NaiveDateTime) -> bool {
        self.minutes.contains(&face.minute()) && self.hours.contains(&face.hour())
    }

    /// Every tick of a window, minute by minute.
    fn walk(&self, zone: Tz, from: DateTime<Utc>, until: DateTime<Utc>) -> BTreeSet<DateTime<Utc>> {
        let minute = TimeDelta::minutes(1);
        let face_at = |moment: DateTime<Utc>| moment.with_timezone(&zone).naive_local();
        let (mut ticks, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut before = face_at(from - minute);
        let mut moment = from;
        while moment <= until {
            let face = face_at(moment);
            let is_new = seen.insert(face);
            if self.hours.len() == 24 {
                if self.shows(face) {
                    ticks.insert(moment);
                }
            } else {
                let mut skipped = before + minute;
                while skipped < face {
                    if self.shows(skipped) {
                        ticks.insert(moment);
                    }
                    skipped += minute;
                }
                if is_new && self.shows(face) {
                    ticks.insert(moment);
                }
            }
            before = face;
            moment += minute;
        }
        ticks
    }
}

/// The changes of a zone's offset in a year, to the hour.
fn changes(zone: Tz, year: i32) -> Vec<DateTime<Utc>> {
    let mut hour = midnight(year).and_utc();
    let end = midnight(year + 1).and_utc();
    let mut found = Vec::new();
    while hour < end {
        let next = hour + TimeDelta::hours(1);
        if offset_at(zone, hour) != offset_at(zone, next) {
            found.push(next);
        }
        hour = next;
    }
    found
}

#[test]
fn ticks_around_every_change_of_the_clocks_agree_with_a_walk_through_the_minutes() {
    for (name, year) in ZONES {
        let zone = zone(name).unwrap();
        let changes = changes(zone, year);
        assert!(
            changes.len() >= 2,
            "{name} changes its clocks {} times",
            changes.len()
        );
        for change in changes {
            let (from, until) = (change - TimeDelta::days(2), change + TimeDelta::days(2));
            for face in &FACES {
                let timing = Timing::cron(face.expression, zone).unwrap();
                let mut ticks = BTreeSet::new();
                let mut last = from - TimeDelta::seconds(1);
                while let Some(tick) = timing.next_after(last).filter(|tick| *tick <= until) {
                    assert!(tick > last, "{name} {}: {tick} after {last}", face.expression);
                    ticks.insert(tick);
                    last = tick;
                }
                let walked = face.walk(zone, from, until);
                assert_eq!(ticks, walked, "{name} {} around {change}", face.expression);
                // From whatever moment the question is asked, the answer is the same.
                let mut moment = from;
                while moment < until - TimeDelta::days(1) {
                    let expected = walked.range(moment + TimeDelta::seconds(1)..).next();
                    let next = timing.next_after(moment);
                    assert_eq!(
                        next.as_ref(),
                        expected,
                        "{name} {} after {moment}",
                        face.expression
                    );
                    moment += TimeDelta::minutes(37);
                }
            }
        }
    }
}

#[test]
fn a_skipped_time_comes_once_after_the_gap_and_a_repeated_one_once() {
    let night = cron("30 2 * * *", "Europe/Berlin");
    // 29 March 2026: 02:00 to 03:00 does not exist, and 03:00 is 01:00 UTC.
    assert_eq!(
        night.next_ticks(at("2026-03-28T12:00:00Z"), 2),
        [at("2026-03-29T01:00:00Z"), at("2026-03-30T00:30:00Z")]
    );
    // 25 October 2026: 02:30 comes twice, first in summer time.
    assert_eq!(
        night.next_ticks(at("2026-10-24T12:00:00Z"), 2),
        [at("2026-10-25T00:30:00Z"), at("2026-10-26T01:30:00Z")]
    );
}

#[test]
fn seconds_are_a_sixth_field_and_names_stand_for_expressions() {
    let timing = cron("*/20 * * * * *", "UTC");
    assert_eq!(
        timing.next_ticks(at("2026-01-01T00:00:00.5Z"), 3),
        [
            at("2026-01-01T00:00:20Z"),
            at("2026-01-01T00:00:40Z"),
            at("2026-01-01T00:01:00Z")
        ]
    );
    assert_eq!(
        cron("@daily", "UTC").next_after(at("2026-01-01T00:00:00Z")),
        Some(at("2026-01-02T00:00:00Z"))
    );
    assert_eq!(
        cron("0 9 * * MON", "UTC").next_after(at("2026-01-01T00:00:00Z")),
        Some(at("2026-01-05T09:00:00Z"))
    );
}

#[test]
fn an_interval_is_anchored_and_does_not_drift() {
    let timing = Timing::every(7);
    let ticks = timing.next_ticks(at("2026-01-01T00:00:03.25Z"), 1_000);
    assert!(ticks.iter().all(|tick| tick.timestamp() % 7 == 0));
    assert!(
        ticks
            .windows(2)
            .all(|pair| pair[1] - pair[0] == TimeDelta::seconds(7))
    );
    // A tick that is on the spot is over.
    assert_eq!(timing.next_after(ticks[0]), Some(ticks[1]));
}

#[test]
fn missed_ticks_are_the_newest_ones_however_long_ago_the_first_was() {
    let now = at("2026-06-01T12:00:30Z");
    let minutely = cron("* * * * *", "Europe/Berlin");
    let ticks = minutely.due(at("2026-06-01T11:58:00Z"), now, 100);
    assert_eq!(
        ticks,
        [
            at("2026-06-01T11:58:00Z"),
            at("2026-06-01T11:59:00Z"),
            at("2026-06-01T12:00:00Z")
        ]
    );
    let since_years = minutely.due(at("2016-01-01T00:00:00Z"), now, 3);
    assert_eq!(
        since_years,
        [
            at("2026-06-01T11:58:00Z"),
            at("2026-06-01T11:59:00Z"),
            at("2026-06-01T12:00:00Z")
        ]
    );
    let yearly = cron("@yearly", "UTC").due(at("2020-01-01T00:00:00Z"), now, 100);
    assert_eq!(yearly.len(), 7);
    assert_eq!(Timing::every(1).due(at("2020-01-01T00:00:00Z"), now, 1), [now]);
    assert!(Timing::every(60).due(now, now, 5).is_empty());
}

#[test]
fn a_fault_names_the_field() {
    for (expression, names) in [
        ("61 * * * *", "minute field \"61\""),
        ("0 25 * * *", "hour field \"25\""),
        ("0 0 32 * *", "day-of-month field \"32\""),
        ("0 0 * 13 *", "month field \"13\""),
        ("0 0 * * FRIDAY", "day-of-week field \"FRIDAY\""),
        ("99 0 0 * * *", "second field \"99\""),
        ("*/0 * * * *", "minute field \"*/0\""),
        ("5-1 * * * *", "minute field \"5-1\""),
        ("a * * * *", "minute field \"a\""),
        ("* * * *", "has 4 fields"),
        ("* * * * * * *", "has 7 fields"),
        ("", "has 0 fields"),
        ("@sometimes", "not a name that is known"),
        ("0 0 30 2 *", "never comes"),
    ] {
        let text = fault(expression);
        assert!(text.contains(names), "{expression}: {text}");
    }
    assert!(fault(&"1,".repeat(200)).contains("longer than"));
    for name in ["Mars/Olympus", "CEST", "europe/berlin", ""] {
        assert!(zone(name).unwrap_err().to_string().contains("IANA"), "{name}");
    }
}
