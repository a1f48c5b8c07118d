//! Calendars that change their mind, and time that passes.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_events::{DiscoverySettings, Filter as EventFilter};
use holdfast_product::AddressAuthority;

use super::*;

on_both! {
    the_horizon_moves_on_while_the_server_says_that_nothing_has_changed
    a_calendar_too_large_to_keep_is_fetched_without_conditions_when_the_horizon_moves
    a_calendar_that_leaves_something_out_cancels_it_and_tells_and_takes_it_back
    nothing_is_cancelled_by_a_calendar_that_was_not_read_to_its_end
    an_event_under_a_new_name_is_not_cancelled_under_its_old_one
}

/// A calendar that a test may replace, behind a tag that says so.
struct Calendar {
    server: Server,
    body: Arc<Mutex<String>>,
    version: Arc<AtomicU32>,
    /// Answers with a body.
    sent: Arc<AtomicUsize>,
}

impl Calendar {
    async fn of(events: &str) -> Self {
        let body = Arc::new(Mutex::new(whole(events)));
        let (version, sent) = (Arc::new(AtomicU32::new(1)), Arc::new(AtomicUsize::new(0)));
        let answers = (Arc::clone(&body), Arc::clone(&version), Arc::clone(&sent));
        let server = Server::start(move |request: &Request| {
            let (body, version, sent) = &answers;
            let tag = format!("\"{}\"", version.load(Ordering::SeqCst));
            if request.headers.get("if-none-match") == Some(&tag) {
                return Reply::raw("HTTP/1.1 304 Not Modified\r\n\r\n", Then::KeepAlive);
            }
            sent.fetch_add(1, Ordering::SeqCst);
            Reply::new(200, &[&format!("etag: {tag}")], body.lock().unwrap().as_bytes())
        })
        .await;
        Self {
            server,
            body,
            version,
            sent,
        }
    }

    fn put(&self, body: String) {
        *self.body.lock().unwrap() = body;
        self.version.fetch_add(1, Ordering::SeqCst);
    }
}

fn whole(events: &str) -> String {
    format!("BEGIN:VCALENDAR\r\nVERSION:2.0\r\n{events}END:VCALENDAR\r\n")
}

fn event(uid: &str, lines: &[String]) -> String {
    format!(
        "BEGIN:VEVENT\r\nUID:{uid}\r\nSUMMARY:{uid}\r\n{}\r\nEND:VEVENT\r\n",
        lines.join("\r\n")
    )
}

/// At ten, so many days from now.
fn day(days: i64) -> String {
    (clock::now() + TimeDelta::days(days))
        .format("%Y%m%dT100000Z")
        .to_string()
}

fn starts(days: i64) -> String {
    format!("DTSTART:{}", day(days))
}

impl Fixture {
    /// A discoverer that looks so many days ahead: as if the others had been there earlier.
    fn looking_ahead(&self, days: u64) -> Discoverer {
        let discovery = DiscoverySettings {
            ahead: Duration::from_secs(days * 86_400),
            ..self.settings.section()
        };
        let settings = self.settings.clone().with_section(discovery);
        let gate = RedisGate::open(Role::Cache, None, &settings.redis).unwrap();
        let events = Events::new(&settings, &self.database, &Cache::open(gate, &settings.cache));
        let outbound = Outbound::new(&settings.http_request).unwrap();
        let sources = Sources::new(&settings, &self.database, self.jobs.clone());
        let ear = Arc::clone(&self.ear) as Arc<dyn Announcer>;
        Discoverer::new(&settings, sources, events, &outbound, Some(ear))
    }

    /// The beginnings of what is to come, in order.
    async fn to_come(&self) -> Vec<DateTime<Utc>> {
        let gate = RedisGate::open(Role::Cache, None, &self.settings.redis).unwrap();
        let events = Events::new(
            &self.settings,
            &self.database,
            &Cache::open(gate, &self.settings.cache),
        );
        let filter = EventFilter {
            from: Some(clock::now()),
            ..EventFilter::default()
        };
        let found = events.find(&filter, 1_000).await.unwrap();
        found.iter().map(|event| event.starts_at).collect()
    }

    async fn listener(&self) {
        let subscriptions = Subscriptions::of(&self.sources);
        subscriptions
            .create("ann", None, AddressAuthority::User, &Filter::default())
            .await
            .unwrap()
            .unwrap();
    }

    fn heard(&self) -> Vec<String> {
        let mut heard = std::mem::take(&mut *self.ear.0.lock().unwrap());
        heard.sort();
        heard
    }
}

async fn the_horizon_moves_on_while_the_server_says_that_nothing_has_changed(f: Fixture) {
    let calendar = Calendar::of(&event("daily", &[starts(-100), "RRULE:FREQ=DAILY".to_owned()])).await;
    let id = f
        .source("calendar", SourceKind::Ical, &calendar.server.url("/"))
        .await;
    let first = f.looking_ahead(30).discover(id).await.unwrap();
    assert_eq!(first.status, Status::Ok);
    let before = f.to_come().await.len();
    assert!((29..=31).contains(&before), "{before}");
    // Within a day there is nothing to do.
    let same = f.looking_ahead(30).discover(id).await.unwrap();
    assert_eq!((same.status, same.entries), (Status::Unchanged, 0));
    // 35 days later.
    let later = f.looking_ahead(65).discover(id).await.unwrap();
    assert_eq!(
        (later.status, later.inserted),
        (Status::Unchanged, 35),
        "{later:?}"
    );
    assert_eq!(f.to_come().await.len(), before + 35);
    let again = f.looking_ahead(65).discover(id).await.unwrap();
    assert_eq!(again.entries, 0, "the horizon has moved");
    assert_eq!(calendar.sent.load(Ordering::SeqCst), 1, "the body was sent once");
    // An edited source is another one: its kept body is not read.
    let edited = new_source("calendar", SourceKind::Ical, &calendar.server.url("/other"));
    f.sources.replace(&by(), id, &edited).await.unwrap();
    assert_eq!(f.looking_ahead(90).discover(id).await.unwrap().status, Status::Ok);
    assert_eq!(calendar.sent.load(Ordering::SeqCst), 2);
    calendar.put(whole(&event("once", &[starts(5)])));
    f.looking_ahead(90).discover(id).await.unwrap();
    assert_eq!(
        f.looking_ahead(120).discover(id).await.unwrap().entries,
        0,
        "nothing repeats any more"
    );
    f.sources.delete(&by(), id).await.unwrap();
}

async fn a_calendar_too_large_to_keep_is_fetched_without_conditions_when_the_horizon_moves(f: Fixture) {
    let noise: String = std::iter::repeat_with(|| char::from(b'0' + rand_digit()))
        .take(1_500_000)
        .collect();
    let series = [
        starts(-100),
        "RRULE:FREQ=DAILY".to_owned(),
        format!("COMMENT:{noise}"),
    ];
    let calendar = Calendar::of(&event("daily", &series)).await;
    let id = f
        .source("calendar", SourceKind::Ical, &calendar.server.url("/"))
        .await;
    let discovery = DiscoverySettings {
        max_bytes: 4 << 20,
        ..f.settings.section()
    };
    let settings = f.settings.clone().with_section(discovery);
    let f = Fixture { settings, ..f };
    f.looking_ahead(30).discover(id).await.unwrap();
    let before = f.to_come().await.len();
    let later = f.looking_ahead(65).discover(id).await.unwrap();
    assert_eq!((later.status, later.inserted), (Status::Ok, 35), "{later:?}");
    assert_eq!(f.to_come().await.len(), before + 35);
    assert_eq!(calendar.sent.load(Ordering::SeqCst), 2);
}

/// What does not compress well.
fn rand_digit() -> u8 {
    use std::hash::{BuildHasher, Hasher};
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    u8::try_from(hasher.finish() % 64).unwrap()
}

async fn a_calendar_that_leaves_something_out_cancels_it_and_tells_and_takes_it_back(f: Fixture) {
    let rule = "RRULE:FREQ=DAILY;COUNT=5".to_owned();
    let series = [starts(2), rule.clone()];
    let calendar = Calendar::of(&(event("daily", &series) + &event("once", &[starts(400)]))).await;
    let id = f
        .source("calendar", SourceKind::Ical, &calendar.server.url("/"))
        .await;
    f.listener().await;
    f.discover(id).await;
    assert_eq!(f.heard().len(), 6);
    assert_eq!(f.to_come().await.len(), 6);
    let excepted = [starts(2), rule.clone(), format!("EXDATE:{}", day(4))];
    for (what, events, told, left) in [
        (
            "a day is excluded",
            event("daily", &excepted) + &event("once", &[starts(400)]),
            vec!["cancelled daily"],
            5,
        ),
        (
            "it takes place after all",
            event("daily", &series) + &event("once", &[starts(400)]),
            vec!["changed daily"],
            6,
        ),
        (
            "an earlier end",
            event(
                "daily",
                &[starts(2), format!("RRULE:FREQ=DAILY;UNTIL={}", day(4))],
            ) + &event("once", &[starts(400)]),
            vec!["cancelled daily"; 2],
            4,
        ),
        (
            "an event is removed",
            event("daily", &series),
            vec!["cancelled once", "changed daily", "changed daily"],
            5,
        ),
        (
            "a date is added",
            event(
                "daily",
                &[
                    starts(2),
                    rule.clone(),
                    format!("RDATE;VALUE=PERIOD:{}/PT3H", day(20)),
                ],
            ),
            vec!["discovered daily"],
            6,
        ),
        ("and removed", event("daily", &series), vec!["cancelled daily"], 5),
        (
            "an occurrence is called off",
            event("daily", &series)
                + &event(
                    "daily",
                    &[
                        format!("RECURRENCE-ID:{}", day(3)),
                        starts(3),
                        "STATUS:CANCELLED".to_owned(),
                    ],
                ),
            vec!["cancelled daily"],
            4,
        ),
        (
            "it begins two days later",
            event("daily", &[starts(4), "RRULE:FREQ=DAILY;COUNT=3".to_owned()]),
            vec!["cancelled daily"],
            3,
        ),
        (
            "the whole series is off",
            event(
                "daily",
                &[
                    starts(4),
                    "RRULE:FREQ=DAILY;COUNT=3".to_owned(),
                    "STATUS:CANCELLED".to_owned(),
                ],
            ),
            vec!["cancelled daily"; 3],
            0,
        ),
    ] {
        calendar.put(whole(&events));
        f.discover(id).await;
        let expected: Vec<String> = told.iter().map(|told| format!("ann event.{told}")).collect();
        assert_eq!(f.heard(), expected, "{what}");
        assert_eq!(f.to_come().await.len(), left, "{what}");
        f.discover(id).await;
        assert_eq!(f.heard(), Vec::<String>::new(), "{what}, told twice");
    }
}

async fn nothing_is_cancelled_by_a_calendar_that_was_not_read_to_its_end(f: Fixture) {
    let (a, b) = (
        event("a", &[starts(2), "RRULE:FREQ=DAILY;COUNT=5".to_owned()]),
        event("b", &[starts(3)]),
    );
    let calendar = Calendar::of(&format!("{a}{b}")).await;
    let id = f
        .source("calendar", SourceKind::Ical, &calendar.server.url("/"))
        .await;
    f.listener().await;
    f.discover(id).await;
    assert_eq!(f.heard().len(), 6);
    for body in [
        String::new(),
        "<!DOCTYPE html><title>down</title>".to_owned(),
        // It breaks off between two events, and inside of one.
        whole(&a).replace("END:VCALENDAR\r\n", ""),
        whole(&format!("{a}{b}"))[..whole(&a).len() + 30].to_owned(),
        // An event that cannot be read any more is still there.
        whole(&(b.clone() + &event("a", &["DTSTART:soon".to_owned()]))),
        whole(&(b.clone() + &event("a", &[starts(2), "RRULE:FREQ=OFTEN".to_owned()]))),
        whole(&(a.clone() + &event("b", &["DTSTART;TZID=Mars/Base:20300101T000000".to_owned()]))),
        // More than is read.
        whole(&event(
            "a",
            &[
                starts(2),
                "RRULE:FREQ=SECONDLY".to_owned(),
                "STATUS:TENTATIVE".to_owned(),
            ],
        ))
        .replace("SUMMARY:a", "SUMMARY:x"),
    ] {
        let shown: String = body.chars().take(200).collect();
        calendar.put(body);
        f.discover(id).await;
        let heard = f.heard();
        let cancelled: Vec<_> = heard
            .iter()
            .filter(|told| told.contains("event.cancelled"))
            .collect();
        assert!(
            cancelled.iter().all(|told| told.ends_with(" b")) || cancelled.is_empty(),
            "{shown}: {cancelled:?}"
        );
        if !shown.contains("SECONDLY") {
            assert_eq!(cancelled, Vec::<&String>::new(), "{shown}");
            assert_eq!(f.to_come().await.len(), 6, "{shown}");
        }
    }
}

async fn an_event_under_a_new_name_is_not_cancelled_under_its_old_one(f: Fixture) {
    let calendar = Calendar::of(&event("a", &[starts(2)])).await;
    let id = f
        .source("calendar", SourceKind::Ical, &calendar.server.url("/"))
        .await;
    f.listener().await;
    f.discover(id).await;
    f.heard();
    // A program that makes new names each time.
    for name in ["b", "c"] {
        calendar.put(whole(
            &event(name, &[starts(2)]).replace(&format!("SUMMARY:{name}"), "SUMMARY:a"),
        ));
        f.discover(id).await;
        assert_eq!(f.heard(), Vec::<String>::new());
        assert_eq!(f.to_come().await.len(), 1);
    }
    calendar.put(whole(""));
    f.discover(id).await;
    assert_eq!(f.heard(), ["ann event.cancelled a"]);
}
