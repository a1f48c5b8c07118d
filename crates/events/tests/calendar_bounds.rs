//! Hostile calendars cost little time and memory. Alone in its process: the peak is the whole process'.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Duration;

use chrono::DateTime;
use holdfast_events::discovery::parse::{Form, ParseFault, ParsedItem, Reading, Stop, parse_until};

/// The baseline of a test process and one body of 16 MiB, and what reading it takes.
const LIMIT_KIB: u64 = 128 << 10;

/// Of the bodies that a source may have (`discovery.max_bytes`).
const LARGEST: usize = 16 << 20;

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How many entries there are, and the notes.
fn read(text: &str, stop: &Stop) -> Result<(usize, Vec<String>), ParseFault> {
    let url = "https://example.com/".parse().unwrap();
    let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
    let reading = Reading {
        zone: None,
        from: at("2030-05-01T00:00:00Z"),
        until: at("2031-05-01T00:00:00Z"),
        content_type: None,
        url: &url,
    };
    let (mut entries, mut notes) = (0, Vec::new());
    parse_until(Form::Calendar, text.as_bytes(), &reading, stop, &mut |found| {
        match found {
            ParsedItem::Entry(_) => entries += 1,
            ParsedItem::Noted(note) | ParsedItem::Skipped(note) if notes.len() < 20 => {
                notes.push(note.reason);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    Ok((entries, notes))
}

fn list(to: u32) -> String {
    (0..to).map(|n| n.to_string()).collect::<Vec<_>>().join(",")
}

fn calendar(events: &str) -> String {
    format!("BEGIN:VCALENDAR\r\n{events}END:VCALENDAR\r\n")
}

fn event(uid: usize, lines: &str) -> String {
    format!("BEGIN:VEVENT\r\nUID:{uid}\r\nSUMMARY:x\r\n{lines}\r\nEND:VEVENT\r\n")
}

/// As many events as fit into the largest body.
fn full(lines: &str) -> String {
    let mut events = String::with_capacity(LARGEST);
    for uid in 0.. {
        let event = event(uid, lines);
        if events.len() + event.len() + 100 > LARGEST {
            return calendar(&events);
        }
        events.push_str(&event);
    }
    events
}

fn dates(count: u64, name: &str) -> String {
    let mut text = format!("{name}:");
    let first = chrono::NaiveDate::from_ymd_opt(1_900, 1, 1).unwrap();
    for day in 0..count {
        let day = first + chrono::Days::new(day);
        write!(text, "{}T180000Z,", day.format("%Y%m%d")).unwrap();
    }
    text.pop();
    text
}

#[test]
fn no_calendar_takes_more_than_its_share_of_memory_or_goes_on_when_it_is_not_wanted() {
    let (hours, sixty) = (list(24), list(60));
    let product = format!("BYHOUR={hours};BYMINUTE={sixty};BYSECOND={sixty}");
    let yearly =
        format!("DTSTART:20300101T000000Z\r\nRRULE:FREQ=YEARLY;BYDAY=MO,TU,WE,TH,FR,SA,SU;{product}");
    let zone = "BEGIN:VTIMEZONE\r\nTZID:Own\r\n".to_owned()
        + &"BEGIN:STANDARD\r\nDTSTART:16010101T000000\r\nTZOFFSETFROM:+0100\r\nTZOFFSETTO:+0200\r\nRRULE:FREQ=SECONDLY\r\n\
            RRULE:FREQ=MINUTELY;BYSECOND=1,2,3;COUNT=99999999\r\nEND:STANDARD\r\n"
            .repeat(200)
        + "END:VTIMEZONE\r\n";
    let cases: [(&str, &dyn Fn() -> String, usize); 13] = [
        // Each keeps its first occurrence where that is in view, and says why the rule is refused.
        (
            "one product",
            &|| calendar(&event(1, &yearly.replace("2030", "2031"))),
            1,
        ),
        ("a body of products", &|| full(&yearly), 0),
        (
            "seconds since 1970",
            &|| full("DTSTART:19700101T000000Z\r\nRRULE:FREQ=SECONDLY"),
            usize::MAX,
        ),
        (
            "a billion",
            &|| full("DTSTART:19700101T000000Z\r\nRRULE:FREQ=SECONDLY;BYSECOND=1,2,3;COUNT=1000000000"),
            0,
        ),
        (
            "never",
            &|| full("DTSTART:00010101T000000Z\r\nRRULE:FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30;COUNT=9"),
            0,
        ),
        (
            "a large interval",
            &|| full("DTSTART:20300601T000000Z\r\nRRULE:FREQ=YEARLY;INTERVAL=9223372036854775807"),
            usize::MAX,
        ),
        (
            "a late end",
            &|| full("DTSTART:20000601T000000Z\r\nRRULE:FREQ=DAILY;UNTIL=99991231T235959Z"),
            usize::MAX,
        ),
        (
            "a zone of rules",
            &|| calendar(&(zone.clone() + &event(1, "DTSTART;TZID=Own:20300601T180000"))),
            0,
        ),
        (
            "zones without end",
            &|| full("DTSTART;TZID=Nowhere:20300601T180000"),
            0,
        ),
        (
            "dates",
            &|| {
                calendar(&event(
                    1,
                    &format!("DTSTART:20300601T180000Z\r\n{}", dates(100_000, "RDATE")),
                ))
            },
            365,
        ),
        (
            "exceptions",
            &|| {
                calendar(&event(
                    1,
                    &format!(
                        "DTSTART:20300601T180000Z\r\nRRULE:FREQ=DAILY\r\n{}",
                        dates(100_000, "EXDATE")
                    ),
                ))
            },
            0,
        ),
        (
            "a long rule",
            &|| {
                calendar(&event(
                    1,
                    &format!(
                        "DTSTART:20300601T180000Z\r\nRRULE:FREQ=DAILY;BYHOUR={}1",
                        "1,".repeat(8 << 20)
                    ),
                ))
            },
            1,
        ),
        (
            "no line ends",
            &|| format!("BEGIN:VCALENDAR\r\nX:{}", "a;b=\"".repeat(3 << 20)),
            0,
        ),
    ];
    for (what, text, expected) in cases {
        // One body at a time: the peak is of this process.
        let text = text();
        let (entries, notes) = read(&text, &Stop::default()).unwrap();
        if expected != usize::MAX {
            assert_eq!(entries, expected, "{what}: {notes:?}");
        }
        let peak = peak_kib();
        assert!(peak <= LIMIT_KIB, "{what}: {} MiB", peak >> 10);
    }
    ends_when_it_is_told_to(&full(
        "DTSTART:20000601T000000Z\r\nRRULE:FREQ=DAILY;UNTIL=99991231T235959Z",
    ));
}

fn ends_when_it_is_told_to(text: &str) {
    assert_eq!(
        read(text, &Stop::after(Duration::ZERO)).unwrap_err(),
        ParseFault::Stopped(Duration::ZERO)
    );
    let (stop, (sender, receiver)) = (Stop::default(), mpsc::channel());
    std::thread::scope(|scope| {
        scope.spawn(|| sender.send(read(text, &stop)).unwrap());
        stop.cancel();
        let ended = receiver.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(matches!(ended, Err(ParseFault::Stopped(_))));
    });
}
