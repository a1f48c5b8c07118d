//! iCalendar: versions, replaced occurrences, durations over changes of the clocks, zones, and what cannot be read.

use chrono_tz::Tz;
use holdfast_events::discovery::parse::Form;

use super::{Harvest, read, short};

fn calendar(events: &str) -> Harvest {
    in_zone(events, None)
}

fn in_zone(events: &str, zone: Option<Tz>) -> Harvest {
    let text = format!("BEGIN:VCALENDAR\nVERSION:2.0\n{events}\nEND:VCALENDAR\n");
    read(Form::Calendar, text.as_bytes(), zone).unwrap()
}

fn event(lines: &[&str]) -> String {
    format!("BEGIN:VEVENT\nSUMMARY:x\n{}\nEND:VEVENT\n", lines.join("\n"))
}

/// `start end title` of each, sorted.
fn times(harvest: &Harvest) -> Vec<String> {
    let mut times: Vec<_> = harvest
        .entries
        .iter()
        .map(|entry| {
            let end = entry.ends_at.map_or_else(|| "-".to_owned(), short);
            format!("{} {end} {}", short(entry.starts_at), entry.title)
        })
        .collect();
    times.sort();
    times
}

#[test]
fn this_and_future_moves_all_that_follow_and_their_lengths_and_keeps_their_names() {
    let series = event(&[
        "UID:a",
        "DTSTART:20300601T100000Z",
        "DTEND:20300601T110000Z",
        "RRULE:FREQ=WEEKLY;COUNT=5",
    ]);
    let later = "BEGIN:VEVENT\nUID:a\nSUMMARY:later\nRECURRENCE-ID;RANGE=THISANDFUTURE:20300615T100000Z\n\
                 DTSTART:20300615T120000Z\nDTEND:20300615T140000Z\nEND:VEVENT\n";
    let single = event(&[
        "UID:a",
        "RECURRENCE-ID:20300622T100000Z",
        "DTSTART:20300623T090000Z",
    ]);
    let expected = [
        "2030-06-01T10:00 2030-06-01T11:00 x",
        "2030-06-08T10:00 2030-06-08T11:00 x",
        "2030-06-15T12:00 2030-06-15T14:00 later",
        "2030-06-23T09:00 - x",
        "2030-06-29T12:00 2030-06-29T14:00 later",
    ];
    for events in [
        format!("{series}{later}{single}"),
        format!("{single}{later}{series}"),
    ] {
        let harvest = calendar(&events);
        assert_eq!(times(&harvest), expected);
        assert_eq!(
            short(harvest.find("a#20300629T100000Z").starts_at),
            "2030-06-29T12:00"
        );
        assert_eq!((harvest.skipped.len(), harvest.noted.len()), (0, 0));
    }
    let off = later.replace("SUMMARY:later", "SUMMARY:off\nSTATUS:CANCELLED");
    let harvest = calendar(&format!("{series}{off}"));
    let cancelled: Vec<_> = harvest
        .entries
        .iter()
        .filter(|entry| entry.cancelled)
        .map(|entry| &entry.title)
        .collect();
    assert_eq!(cancelled, ["off", "off", "off"]);
}

#[test]
fn the_newest_version_of_an_event_counts_wherever_it_stands() {
    let version = |lines: &[&str], start: &str| {
        let start = format!("DTSTART:{start}Z");
        let all: Vec<_> = ["UID:a", start.as_str()]
            .into_iter()
            .chain(lines.iter().copied())
            .collect();
        event(&all)
    };
    for (newer, older) in [
        (
            &["SEQUENCE:2"][..],
            &["SEQUENCE:0", "DTSTAMP:20300101T000000Z"][..],
        ),
        (&["SEQUENCE:10"], &["SEQUENCE:9"]),
        (
            &["LAST-MODIFIED:20300102T000000Z"],
            &["LAST-MODIFIED:20300101T000000Z", "DTSTAMP:20300301T000000Z"],
        ),
        (&["DTSTAMP:20300102T000000Z"], &["DTSTAMP:20300101T000000Z"]),
    ] {
        let (newer, older) = (
            version(newer, "20300602T100000"),
            version(older, "20300601T100000"),
        );
        for events in [format!("{newer}{older}"), format!("{older}{newer}")] {
            let harvest = calendar(&events);
            assert_eq!(harvest.starts(), ["a 2030-06-02T10:00"], "{events}");
            assert!(
                harvest.skipped[0].reason.contains("newer version"),
                "{:?}",
                harvest.skipped
            );
        }
    }
    let series = event(&["UID:a", "DTSTART:20300601T100000Z", "RRULE:FREQ=DAILY;COUNT=2"]);
    let moved = |sequence: u32, start: &str| {
        let (sequence, start) = (format!("SEQUENCE:{sequence}"), format!("DTSTART:{start}"));
        event(&["UID:a", "RECURRENCE-ID:20300602T100000Z", &sequence, &start])
    };
    let harvest = calendar(&[series, moved(3, "20300602T150000Z"), moved(1, "20300602T120000Z")].concat());
    assert_eq!(
        harvest.starts(),
        [
            "a#20300601T100000Z 2030-06-01T10:00",
            "a#20300602T100000Z 2030-06-02T15:00"
        ]
    );
}

#[test]
fn a_day_may_have_23_hours_and_24_hours_are_24_hours() {
    for (duration, end) in [
        ("DURATION:P1D", "2031-03-30T10:00"),
        ("DURATION:PT24H", "2031-03-30T11:00"),
        ("DURATION:P1DT2H", "2031-03-30T12:00"),
        ("DURATION:P1W", "2031-04-05T10:00"),
        ("DTEND;TZID=Europe/Vienna:20310330T120000", "2031-03-30T10:00"),
        ("DTEND:20310330T120000", "2031-03-30T10:00"),
    ] {
        let harvest = calendar(&event(&[
            "UID:a",
            "DTSTART;TZID=Europe/Vienna:20310329T120000",
            duration,
        ]));
        assert_eq!(
            harvest.find("a").ends_at.map(short).as_deref(),
            Some(end),
            "{duration}"
        );
    }
    let days = in_zone(
        &event(&["UID:a", "DTSTART;VALUE=DATE:20310330"]),
        Some(Tz::Europe__Vienna),
    );
    assert_eq!(times(&days), ["2031-03-29T23:00 2031-03-30T22:00 x"]);
}

#[test]
fn an_optional_property_that_cannot_be_read_costs_itself_and_a_note() {
    for (lines, at) in [
        (&["GEO:"][..], "GEO"),
        (&["GEO:91;0"], "GEO"),
        (&["GEO:NaN;NaN"], "GEO"),
        (&["DTEND:"], "DTEND"),
        (&["DTEND:tomorrow"], "DTEND"),
        (&["DTEND;TZID=Mars/Base:20300601T200000"], "DTEND"),
        (&["DTEND:20300601T100000Z"], "before the beginning"),
        (&["DURATION:pt1h"], "DURATION"),
        (&["DURATION:-PT1H"], "before the beginning"),
        (&["DURATION:P99999999999999W"], "DURATION"),
        (&["URL:mailto:a@example.com"], "URL"),
        (&["EXDATE:20300608T180000Z,soon"], "EXDATE"),
        (
            &[
                "RRULE:FREQ=DAILY;COUNT=1",
                "EXDATE;TZID=Mars/Base:20300608T180000",
            ],
            "EXDATE",
        ),
        (&["RDATE:never"], "RDATE"),
        (&["RDATE;VALUE=PERIOD:20300602T180000Z/1H"], "RDATE"),
        (&["RRULE:FREQ=SOMETIMES"], "RRULE"),
        (&["RRULE:FREQ=DAILY;BYMONTH=13"], "RRULE"),
        (&["EXRULE:FREQ=NEVER", "RRULE:FREQ=DAILY;COUNT=1"], "EXRULE"),
    ] {
        let lines: Vec<_> = ["UID:a", "DTSTART:20300601T180000Z"]
            .into_iter()
            .chain(lines.iter().copied())
            .collect();
        let harvest = calendar(&event(&lines));
        assert_eq!(
            short(harvest.entries[0].starts_at),
            "2030-06-01T18:00",
            "{lines:?}"
        );
        assert_eq!(
            (harvest.entries[0].ends_at, harvest.entries[0].position),
            (None, None),
            "{lines:?}"
        );
        assert_eq!(
            (harvest.entries.len(), harvest.skipped.len()),
            (1, 0),
            "{lines:?}"
        );
        let [note] = &harvest.noted[..] else {
            panic!("{lines:?}: {:?}", harvest.noted)
        };
        assert!(note.reason.contains(at), "{lines:?}: {}", note.reason);
    }
    let many = format!("EXDATE:{}", vec!["x"; 5_000].join(","));
    let harvest = calendar(&event(&["UID:a", "DTSTART:20300601T180000Z", &many]));
    assert_eq!(
        (harvest.entries.len(), harvest.noted.len()),
        (1, 1),
        "an event has one note"
    );
}

#[test]
fn properties_of_rfc_7986_and_unknown_ones_do_no_harm() {
    let harvest = calendar(
        "NAME:All of it\nCOLOR:tomato\nREFRESH-INTERVAL;VALUE=DURATION:P1D\nSOURCE;VALUE=URI:https://example.com/a.ics\n\
         IMAGE;VALUE=URI;DISPLAY=BADGE;FMTTYPE=image/png:https://example.com/a.png\n\
         begin:vevent\nuid:a\nsummary;language=de;x-a=\"b;c:d\":Jazz\\, laut\\; gut\\nviel\n\
         dtstart;tzid=\"Europe/Vienna\":20300601T180000\nduration:PT1H\nCOLOR:red\nX-THING;X=1:?\n\
         CONFERENCE;VALUE=URI;FEATURE=AUDIO:https://chat.example.com/room\nend:vevent",
    );
    let entry = harvest.find("a");
    assert_eq!(entry.title, "Jazz, laut; gut viel");
    assert_eq!(
        (short(entry.starts_at), entry.ends_at.map(short)),
        ("2030-06-01T16:00".to_owned(), Some("2030-06-01T17:00".to_owned()))
    );
    assert_eq!(entry.url.as_deref(), Some("https://chat.example.com/room"));
    assert_eq!(
        (harvest.skipped.len(), harvest.noted.len()),
        (0, 0),
        "{:?}",
        harvest.noted
    );
}

#[test]
fn lines_end_and_begin_in_every_way() {
    let lines = "BEGIN:VCALENDAR\nBEGIN:VEVENT\nUID:a\nSUMMARY:Jazz in the\n  park\nDTSTART:20300601T180000Z\nEND:VEVENT\nEND:VCALENDAR\n";
    for end in ["\n", "\r\n", "\r"] {
        for mark in ["", "\u{feff}"] {
            let text = format!("{mark}{}", lines.replace('\n', end));
            let harvest = read(Form::Calendar, text.as_bytes(), None).unwrap();
            assert_eq!(harvest.find("a").title, "Jazz in the park", "{end:?} {mark:?}");
        }
    }
    let long = event(&[
        "UID:a",
        "DTSTART:20300601T180000Z",
        &format!("DESCRIPTION:{}", "word ".repeat(200_000)),
    ]);
    assert_eq!(
        calendar(&long).find("a").description.as_ref().unwrap().len(),
        20_000
    );
}

#[test]
fn zones_have_many_names() {
    let vtimezone = "BEGIN:VTIMEZONE\nTZID:Eigene\nBEGIN:STANDARD\nDTSTART:16010101T000000\nTZOFFSETFROM:+0300\n\
                     TZOFFSETTO:+0300\nEND:STANDARD\nEND:VTIMEZONE\n";
    for (zone, start, name) in [
        ("Europe/Vienna", "2030-06-01T16:00", Some("Europe/Vienna")),
        ("europe/vienna", "2030-06-01T16:00", Some("Europe/Vienna")),
        (
            "/example.com/Europe/Vienna",
            "2030-06-01T16:00",
            Some("Europe/Vienna"),
        ),
        (
            "W. Europe Standard Time",
            "2030-06-01T16:00",
            Some("Europe/Berlin"),
        ),
        (
            "Eastern Standard Time",
            "2030-06-01T22:00",
            Some("America/New_York"),
        ),
        ("UTC+05:30", "2030-06-01T12:30", None),
        ("Eigene", "2030-06-01T15:00", None),
    ] {
        let start_of = format!(
            "DTSTART;TZID={}:20300601T180000",
            if zone.contains(':') {
                format!("\"{zone}\"")
            } else {
                zone.to_owned()
            }
        );
        let harvest = calendar(&format!("{vtimezone}{}", event(&["UID:a", &start_of])));
        assert_eq!(short(harvest.find("a").starts_at), start, "{zone}");
        assert_eq!(harvest.find("a").time_zone.as_deref(), name, "{zone}");
        let own = calendar(&format!(
            "X-WR-TIMEZONE:{zone}\n{vtimezone}{}",
            event(&["UID:a", "DTSTART:20300601T180000"])
        ));
        assert_eq!(short(own.find("a").starts_at), start, "X-WR-TIMEZONE:{zone}");
    }
    // What the calendar itself defines counts, whatever its name means elsewhere.
    let own = vtimezone.replace("Eigene", "Tokyo Standard Time");
    let harvest = calendar(&format!(
        "{own}{}",
        event(&["UID:a", "DTSTART;TZID=Tokyo Standard Time:20300601T180000"])
    ));
    assert_eq!(short(harvest.find("a").starts_at), "2030-06-01T15:00");
}

#[test]
fn a_rule_passes_gaps_and_folds_of_the_clock() {
    let at = |start: &str, zone: &str, rule: &str| {
        let start = format!("DTSTART;TZID={zone}:{start}");
        let harvest = calendar(&event(&["UID:a", &start, &format!("RRULE:{rule}")]));
        harvest
            .entries
            .iter()
            .map(|entry| short(entry.starts_at))
            .collect::<Vec<_>>()
    };
    // 02:30 does not exist on the 30th: it is read by the offset before.
    assert_eq!(
        at("20310329T023000", "Europe/Vienna", "FREQ=DAILY;COUNT=3"),
        ["2031-03-29T01:30", "2031-03-30T01:30", "2031-03-31T00:30"]
    );
    // 02:30 comes twice on the 27th: the first one is meant.
    assert_eq!(
        at("20301026T023000", "Europe/Vienna", "FREQ=DAILY;COUNT=3"),
        ["2030-10-26T00:30", "2030-10-27T00:30", "2030-10-28T01:30"]
    );
}

#[test]
fn an_exception_is_found_however_it_is_written() {
    for exception in [
        "EXDATE;TZID=Europe/Vienna:20300602T180000",
        "EXDATE:20300602T160000Z",
        "EXDATE:20300602T180000",
        "EXDATE;VALUE=DATE:20300602",
        "EXDATE;TZID=America/New_York:20300602T120000",
        "EXRULE:FREQ=DAILY;COUNT=1;BYMONTHDAY=2",
    ] {
        let lines = [
            "UID:a",
            "DTSTART;TZID=Europe/Vienna:20300601T180000",
            "RRULE:FREQ=DAILY;COUNT=3",
            exception,
        ];
        let harvest = calendar(&event(&lines));
        assert_eq!(
            harvest.starts(),
            [
                "a#20300601T160000Z 2030-06-01T16:00",
                "a#20300603T160000Z 2030-06-03T16:00"
            ],
            "{exception}"
        );
    }
    for exception in [
        "EXDATE;VALUE=DATE:20300602",
        "EXDATE:20300602T000000",
        "EXDATE:20300602T000000Z",
    ] {
        let harvest = in_zone(
            &event(&[
                "UID:a",
                "DTSTART;VALUE=DATE:20300601",
                "RRULE:FREQ=DAILY;COUNT=3",
                exception,
            ]),
            Some(Tz::America__New_York),
        );
        assert_eq!(harvest.entries.len(), 2, "{exception}");
    }
}

#[test]
fn an_occurrence_may_be_replaced_by_its_day_and_without_a_title() {
    let series = event(&[
        "UID:a",
        "DTSTART;TZID=Europe/Vienna:20300601T180000",
        "RRULE:FREQ=DAILY;COUNT=2",
    ]);
    let moved = "BEGIN:VEVENT\nUID:a\nRECURRENCE-ID;VALUE=DATE:20300602\nDTSTART;TZID=Europe/Vienna:20300602T200000\nEND:VEVENT\n";
    let harvest = calendar(&format!("{series}{moved}"));
    assert_eq!(times(&harvest), ["2030-06-01T16:00 - x", "2030-06-02T18:00 - x"]);
    assert_eq!(
        short(harvest.find("a#20300602T160000Z").starts_at),
        "2030-06-02T18:00"
    );
}
