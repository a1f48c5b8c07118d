//! JSON with a mapping, and Reddit's listings.

use chrono_tz::Tz;
use holdfast_events::discovery::parse::{Form, Mapping, ParseFault};
use serde_json::json;

use super::{Harvest, read, short};

const MAPPED: &str = include_str!("corpus/mapped.json");

fn mapping() -> Mapping {
    serde_json::from_value(json!({
        "entries": "/result/events", "uid": "/id", "title": "/name", "starts_at": "/when/from", "ends_at": "/when/to",
        "description": "/text", "url": "/link", "category": "/tag", "time_zone": "/tz", "lat": "/where/lat",
        "lon": "/where/lng", "place": "/where/label", "cancelled": "/state",
    }))
    .unwrap()
}

fn mapped(body: &str) -> Result<Harvest, ParseFault> {
    read(Form::Json(&mapping()), body.as_bytes(), Some(Tz::Asia__Tokyo))
}

#[test]
fn fields_are_found_where_the_mapping_says() {
    let harvest = mapped(MAPPED).unwrap();
    let entry = harvest.find("7");
    assert_eq!(entry.title, "Concert");
    assert_eq!(short(entry.starts_at), "2030-06-01T16:00");
    assert_eq!(entry.ends_at.map(short).as_deref(), Some("2030-06-01T18:00"));
    assert_eq!(entry.position, Some((48.2, 16.37)));
    assert_eq!(entry.place.as_deref(), Some("Hall"));
    assert_eq!(entry.category.as_deref(), Some("music"));
    assert_eq!(entry.url.as_deref(), Some("https://example.com/c/7"));
    assert_eq!(entry.description.as_deref(), Some("Loud"));
    assert_eq!(entry.time_zone.as_deref(), Some("Europe/Vienna"));
    assert!(!entry.cancelled);
    let epoch = harvest.find("8");
    assert_eq!(
        (short(epoch.starts_at).as_str(), epoch.cancelled),
        ("2030-06-01T16:00", true)
    );
    assert_eq!(harvest.find("9").starts_at, epoch.starts_at);
    assert_eq!(harvest.find("9").time_zone.as_deref(), Some("Asia/Tokyo"));
    assert_eq!((harvest.entries.len(), harvest.outside), (5, 1));
}

#[test]
fn entries_of_no_use_are_skipped_with_the_place_that_is_wrong() {
    let harvest = mapped(MAPPED).unwrap();
    for (at, reason) in [
        ("entry 4", "/when/from"),
        ("entry 5", "no title at /name"),
        ("entry 6", "where a time is expected"),
        ("entry 7", "Mars/Base"),
        ("entry 9", "is not an object"),
    ] {
        assert!(
            harvest.reason(at).contains(reason),
            "{at}: {}",
            harvest.reason(at)
        );
    }
    assert_eq!(harvest.skipped.len(), 5);
    assert_eq!(harvest.find("14").position, None);
    assert!(
        harvest.noted[0].reason.contains("\"north\""),
        "{:?}",
        harvest.noted
    );
}

#[test]
fn an_optional_field_that_cannot_be_read_costs_itself_and_a_note() {
    for field in [
        json!({"where": {"lat": "", "lng": ""}}),
        json!({"where": {"lat": 95, "lng": 16}}),
        json!({"when": {"from": "2030-06-01T18:00:00Z", "to": "late"}}),
        json!({"when": {"from": "2030-06-01T18:00:00Z", "to": ["x"]}}),
        json!({"when": {"from": "2030-06-01T18:00:00Z", "to": "2030-06-01T17:00:00Z"}}),
        json!({"tz": "Mars/Base"}),
        json!({"link": "mailto:a@example.com"}),
    ] {
        let mut entry = json!({"id": 1, "name": "x", "when": {"from": "2030-06-01T18:00:00Z"}});
        let fields = field.as_object().unwrap().clone();
        entry.as_object_mut().unwrap().extend(fields);
        let harvest = mapped(&json!({"result": {"events": [entry]}}).to_string()).unwrap();
        let read = harvest.find("1");
        assert_eq!(short(read.starts_at), "2030-06-01T18:00", "{field}");
        assert_eq!(
            (read.ends_at, read.position, &read.url),
            (None, None, &None),
            "{field}"
        );
        assert_eq!((harvest.noted.len(), harvest.skipped.len()), (1, 0), "{field}");
    }
    let windows = json!({"result": {"events": [
        {"id": 1, "name": "x", "when": {"from": "2030-06-01 18:00"}, "tz": "W. Europe Standard Time"}
    ]}});
    let harvest = mapped(&windows.to_string()).unwrap();
    assert_eq!(short(harvest.find("1").starts_at), "2030-06-01T16:00");
    assert_eq!(harvest.find("1").time_zone.as_deref(), Some("Europe/Berlin"));
}

#[test]
fn what_is_not_the_mapped_json_is_a_fault() {
    assert_eq!(mapped("").unwrap_err(), ParseFault::Empty);
    assert!(matches!(mapped("<html>").unwrap_err(), ParseFault::Html(_)));
    for (body, reason) in [
        ("{\"result\":1}", "nothing at /result/events"),
        ("{\"result\":{\"events\":{}}}", "is not a list"),
        ("{\"result\":{\"events\":[{}", "EOF"),
        ("[]", "nothing at"),
        ("nonsense", "expected"),
    ] {
        let fault = mapped(body).unwrap_err().to_string();
        assert!(fault.contains(reason), "{body}: {fault}");
    }
    // An entry that is too deep is skipped; the others are not.
    let deep = format!(
        "{{\"result\":{{\"events\":[{}{},{{\"name\":\"a\",\"when\":{{\"from\":\"2030-06-01\"}}}}]}}}}",
        "[".repeat(5_000),
        "]".repeat(5_000)
    );
    let harvest = mapped(&deep).unwrap();
    assert_eq!((harvest.entries.len(), harvest.skipped.len()), (1, 1));
}

#[test]
fn a_mapping_is_checked() {
    type Spoil = fn(&mut Mapping);
    assert_eq!(mapping().fault(), None);
    let faults: [(&str, Spoil); 5] = [
        ("entries", |m| m.entries = "events".to_owned()),
        ("title", |m| m.title = String::new()),
        ("starts_at", |m| m.starts_at = "when".to_owned()),
        ("uid", |m| m.uid = Some("/x".repeat(200))),
        ("lat", |m| m.lon = None),
    ];
    for (field, spoil) in faults {
        let mut mapping = mapping();
        spoil(&mut mapping);
        assert_eq!(mapping.fault().map(|(field, _)| field), Some(field));
    }
}

#[test]
fn a_page_of_reddit_is_read() {
    let post = |name: &str, created: f64| {
        json!({"kind": "t3", "data": {"name": name, "title": "A post", "selftext": "Text", "created_utc": created,
            "permalink": "/r/vienna/comments/x/a_post/", "link_flair_text": "Music", "over_18": false}})
    };
    let body = json!({"kind": "Listing", "data": {"after": "t3_b", "children": [
        post("t3_a", 1_906_560_000.0), post("t3_old", 1_000_000_000.0), {"kind": "t3", "data": {"name": "t3_c"}},
    ]}});
    let harvest = read(Form::Reddit, body.to_string().as_bytes(), None).unwrap();
    let entry = harvest.find("t3_a");
    assert_eq!(
        entry.url.as_deref(),
        Some("https://www.reddit.com/r/vienna/comments/x/a_post/")
    );
    assert_eq!(entry.category.as_deref(), Some("music"));
    assert_eq!((harvest.outside, harvest.skipped.len()), (1, 1));
    assert!(harvest.reason("post 3").contains("title"));
    for odd in ["{}", "{\"kind\":\"t5\",\"data\":{\"children\":[]}}", "[]", "x"] {
        let fault = read(Form::Reddit, odd.as_bytes(), None).unwrap_err();
        assert!(matches!(fault, ParseFault::Not { .. }), "{odd}: {fault}");
    }
}
