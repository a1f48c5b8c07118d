//! iCalendar: RFC 5545's corners, and what is no calendar.

use chrono_tz::Tz;
use holdfast_events::discovery::parse::ical::MAX_OCCURRENCES;
use holdfast_events::discovery::parse::{Form, ParseFault};

use super::{Harvest, read, short};

const CORNERS: &str = include_str!("corpus/corners.ics");
const BROKEN: &str = include_str!("corpus/broken.ics");

fn corners(zone: Option<Tz>) -> Harvest {
    read(Form::Calendar, CORNERS.as_bytes(), zone).unwrap()
}

fn calendar(events: &str) -> Result<Harvest, ParseFault> {
    let text = format!("BEGIN:VCALENDAR\n{events}\nEND:VCALENDAR\n");
    read(Form::Calendar, text.as_bytes(), None)
}

#[test]
fn each_kind_of_time_is_the_right_moment() {
    let harvest = corners(None);
    for (uid, starts, ends, zone) in [
        (
            "utc",
            "2030-06-01T18:00",
            Some("2030-06-01T20:00"),
            Some("Europe/Vienna"),
        ),
        (
            "zoned",
            "2030-06-01T16:00",
            Some("2030-06-01T17:30"),
            Some("Europe/Vienna"),
        ),
        ("floating", "2030-06-01T16:00", None, Some("Europe/Vienna")),
        (
            "all-day",
            "2030-05-31T22:00",
            Some("2030-06-01T22:00"),
            Some("Europe/Vienna"),
        ),
        (
            "three-days",
            "2030-05-31T22:00",
            Some("2030-06-03T22:00"),
            Some("Europe/Vienna"),
        ),
        ("by-hand-summer", "2030-07-01T16:00", None, Some("Europe/Vienna")),
        ("by-hand-winter", "2030-12-01T17:00", None, Some("Europe/Vienna")),
        ("named-elsewhere", "2030-07-01T03:00", None, Some("Asia/Tokyo")),
        ("prefixed", "2030-07-01T10:00", None, Some("Europe/Vienna")),
        ("gap", "2031-03-30T01:30", None, Some("Europe/Vienna")),
        (
            "goes-on",
            "2030-04-30T18:00",
            Some("2030-05-02T18:00"),
            Some("Europe/Vienna"),
        ),
    ] {
        let entry = harvest.find(uid);
        assert_eq!(short(entry.starts_at), starts, "{uid}");
        assert_eq!(entry.ends_at.map(short).as_deref(), ends, "{uid}");
        assert_eq!(entry.time_zone.as_deref(), zone, "{uid}");
    }
    assert_eq!(harvest.outside, 1, "the one that is over");
}

#[test]
fn floating_times_are_in_the_sources_zone_before_the_calendars() {
    let harvest = corners(Some(Tz::America__New_York));
    assert_eq!(short(harvest.find("floating").starts_at), "2030-06-01T22:00");
    assert_eq!(short(harvest.find("all-day").starts_at), "2030-06-01T04:00");
    assert_eq!(short(harvest.find("zoned").starts_at), "2030-06-01T16:00");
    let silent = calendar("BEGIN:VEVENT\nUID:a\nSUMMARY:x\nDTSTART:20300601T180000\nEND:VEVENT").unwrap();
    assert_eq!(short(silent.find("a").starts_at), "2030-06-01T18:00");
    assert_eq!(silent.find("a").time_zone, None);
}

#[test]
fn texts_are_unfolded_and_unescaped() {
    let harvest = corners(None);
    let entry = harvest.find("zoned");
    assert_eq!(entry.title, "In Vienna, outdoors; bring a coat");
    let description = "A long text that is folded overlines\nand has lines of its own";
    assert_eq!(entry.description.as_deref(), Some(description));
    assert_eq!(entry.place.as_deref(), Some("Volksgarten"));
    assert_eq!(entry.category.as_deref(), Some("music, live"));
    assert_eq!(entry.position, Some((48.2065, 16.3621)));
    assert_eq!(entry.url.as_deref(), Some("https://example.com/zoned"));
}

#[test]
fn what_repeats_is_written_out_in_local_time() {
    let harvest = corners(None);
    let of = |uid: &str| -> Vec<String> {
        let prefix = format!("{uid}#");
        let mut starts: Vec<_> = harvest
            .entries
            .iter()
            .filter(|entry| entry.uid.starts_with(&prefix))
            .map(|entry| format!("{} {}", short(entry.starts_at), entry.title))
            .collect();
        starts.sort();
        starts
    };
    let weekly = "Weekly over the change of the clocks";
    assert_eq!(
        of("weekly"),
        [
            format!("2030-10-13T16:00 {weekly}"),
            format!("2030-10-27T17:00 {weekly}"),
            format!("2030-11-03T17:00 {weekly}"),
            format!("2030-11-06T19:00 {weekly}"),
        ]
    );
    assert_eq!(
        of("replaced"),
        [
            "2030-06-01T07:00 Replaced",
            "2030-06-08T08:00 Moved by an hour",
            "2030-06-15T07:00 Called off",
            "2030-06-22T07:00 Replaced",
        ]
    );
    assert_eq!(of("birthdays"), ["2030-06-02T22:00 Since long ago, for ever"]);
    assert_eq!(of("until-a-day").len(), 2);
    assert_eq!(of("day-excluded").len(), 2);
}

#[test]
fn a_replaced_occurrence_keeps_the_name_it_had() {
    let harvest = corners(None);
    let moved = harvest.find("replaced#20300608T070000Z");
    assert_eq!(
        (moved.title.as_str(), moved.cancelled),
        ("Moved by an hour", false)
    );
    assert!(harvest.find("replaced#20300615T070000Z").cancelled);
    let names: std::collections::HashSet<_> = harvest.entries.iter().map(|entry| &entry.uid).collect();
    assert_eq!(names.len(), harvest.entries.len());
}

#[test]
fn unknown_zones_are_skipped_and_named() {
    let harvest = corners(None);
    assert_eq!(harvest.skipped.len(), 2, "{:?}", harvest.skipped);
    let unknown = harvest.reason("Unknown zone");
    assert!(unknown.contains("Mars/Base"), "{unknown}");
    let half = harvest.reason("Half a zone");
    assert!(half.contains("offset"), "{half}");
    assert_eq!(harvest.noted, []);
}

#[test]
fn broken_lines_and_events_are_passed_by_and_told() {
    let harvest = read(Form::Calendar, BROKEN.as_bytes(), None).unwrap();
    assert_eq!(harvest.find("good-1").title, "Good, in spite of its lines");
    assert_eq!(harvest.find("good-2").title, "Good");
    let hourly = harvest
        .entries
        .iter()
        .filter(|entry| entry.uid.starts_with("hourly#"));
    assert_eq!(hourly.count(), MAX_OCCURRENCES);
    assert_eq!(harvest.find("backwards").ends_at, None);
    assert_eq!(harvest.find("bad-geo").position, None);
    assert_eq!(
        short(harvest.find("bad-rule#20300601T180000Z").starts_at),
        "2030-06-01T18:00"
    );
    assert_eq!(harvest.entries.len(), 5 + 2 * MAX_OCCURRENCES);
    for (at, reason) in [
        ("No start", "no DTSTART"),
        ("Bad start", "next friday"),
        ("line 20", "no SUMMARY"),
        ("line 55", "does not end"),
        ("line 64", "does not end"),
    ] {
        assert!(
            harvest.reason(at).contains(reason),
            "{at}: {}",
            harvest.reason(at)
        );
    }
    assert_eq!(harvest.skipped.len(), 5, "{:?}", harvest.skipped);
    let noted: Vec<_> = harvest.noted.iter().map(|note| note.at.as_str()).collect();
    let expected = [
        "line 2",
        "line 6",
        "line 7",
        "line 9",
        "line 24 (Backwards)",
        "line 30 (Bad rule)",
        "line 36 (Every second since 1970)",
        "line 42 (Every hour)",
        "line 48 (Bad place)",
        "line 54",
    ];
    assert_eq!(noted, expected, "{:?}", harvest.noted);
}

#[test]
fn what_is_no_calendar_is_a_fault() {
    let fault = |body: &[u8]| read(Form::Calendar, body, None).unwrap_err();
    assert_eq!(fault(b""), ParseFault::Empty);
    assert_eq!(fault(b" \r\n "), ParseFault::Empty);
    assert!(matches!(fault(b"<!doctype html><p>404"), ParseFault::Html(_)));
    for odd in [
        "{\"error\":1}",
        "\u{0}\u{1}\u{2}",
        "hello",
        "<rss version='2.0'/>",
    ] {
        let fault = fault(odd.as_bytes());
        assert!(matches!(fault, ParseFault::Not { .. }), "{odd}: {fault}");
    }
    let deep = format!("BEGIN:VEVENT\n{}", "BEGIN:X\n".repeat(40));
    assert!(matches!(calendar(&deep), Err(ParseFault::Not { .. })));
    // An event in an event is not deeper: the one before it does not end.
    let unended = calendar(&"BEGIN:VEVENT\nBEGIN:X\n".repeat(40)).unwrap();
    assert_eq!((unended.skipped.len(), unended.entries.len()), (40, 0));
}

#[test]
fn a_calendar_in_another_encoding_is_read() {
    let latin = b"BEGIN:VCALENDAR\nBEGIN:VEVENT\nUID:a\nSUMMARY:Caf\xe9\nDTSTART:20300601T180000Z\nEND:VEVENT\nEND:VCALENDAR";
    let harvest = read(Form::Calendar, latin, None).unwrap();
    assert_eq!(harvest.find("a").title, "Café");
    assert_eq!(harvest.noted.len(), 1);
    let parted = b"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nUID:a\r\nSUMMARY:Caf\xc3\r\n \xa9\r\nDTSTART:20300601T180000Z\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";
    let harvest = read(Form::Calendar, parted, None).unwrap();
    assert_eq!(harvest.find("a").title, "Café");
    assert_eq!(harvest.noted, []);
}

#[test]
fn an_event_that_lists_too_many_dates_is_read_as_far_as_it_goes() {
    let dates: Vec<String> = (0..6_000)
        .map(|day| {
            let day = chrono::NaiveDate::from_ymd_opt(2030, 5, 1).unwrap() + chrono::Days::new(day);
            day.format("%Y%m%dT180000Z").to_string()
        })
        .collect();
    let event = format!(
        "BEGIN:VEVENT\nUID:a\nSUMMARY:x\nDTSTART:20300501T180000Z\nRDATE:{}\nEND:VEVENT",
        dates.join(",")
    );
    let harvest = calendar(&event).unwrap();
    assert_eq!((harvest.entries.len(), harvest.noted.len()), (365, 0));
    let many = event.replace(
        "RDATE:",
        &format!("RDATE:{}", "20300501T180000Z,".repeat(200_000)),
    );
    let harvest = calendar(&many).unwrap();
    assert_eq!((harvest.entries.len(), harvest.noted.len()), (1, 1));
    assert!(harvest.noted[0].reason.contains("more rules or dates"));
}
