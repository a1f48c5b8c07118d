//! A large calendar takes little memory. Alone in its process: the peak is the whole process'.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

use std::fmt::Write as _;
use std::ops::ControlFlow;

use chrono::DateTime;
use holdfast_events::discovery::parse::{Form, ParsedItem, Reading, parse};

const EVENTS: usize = 20_000;
const SIZE: usize = 10 << 20;
const LIMIT_KIB: u64 = 150 << 10;

/// The most memory this process has had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn calendar() -> String {
    let mut text = String::with_capacity(SIZE + (1 << 20));
    text.push_str("BEGIN:VCALENDAR\r\n");
    for event in 0..EVENTS {
        let _ = write!(
            text,
            "BEGIN:VEVENT\r\nUID:{event}@example.com\r\nSUMMARY:Event {event}\r\n\
             DTSTART;TZID=Europe/Vienna:203006{:02}T180000\r\nDTEND;TZID=Europe/Vienna:203006{:02}T200000\r\n",
            event % 28 + 1,
            event % 28 + 1,
        );
        // One in ten repeats, and is written out.
        if event % 10 == 0 {
            text.push_str("RRULE:FREQ=WEEKLY\r\n");
        }
        let _ = write!(text, "DESCRIPTION:{}\r\nEND:VEVENT\r\n", "many words ".repeat(34));
    }
    text.push_str("END:VCALENDAR\r\n");
    text
}

#[test]
fn a_calendar_of_ten_mib_with_20000_events_takes_no_more_than_150_mib() {
    let text = calendar();
    assert!(text.len() >= SIZE, "{}", text.len());
    let url = "https://example.com/".parse().unwrap();
    let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
    let reading = Reading {
        zone: None,
        from: at("2030-05-01T00:00:00Z"),
        until: at("2031-05-01T00:00:00Z"),
        content_type: None,
        url: &url,
    };
    let (mut entries, mut others) = (0_usize, 0_usize);
    parse(Form::Calendar, text.as_bytes(), &reading, &mut |found| {
        match found {
            ParsedItem::Entry(_) => entries += 1,
            _ => others += 1,
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(others, 0);
    // 18,000 once, and 2,000 for some 47 weeks each.
    assert!(
        (18_000 + 2_000 * 44..18_000 + 2_000 * 49).contains(&entries),
        "{entries}"
    );
    let peak = peak_kib();
    assert!(peak <= LIMIT_KIB, "{} MiB", peak >> 10);
}
