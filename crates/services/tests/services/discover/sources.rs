//! What becomes of sources, whatever their servers do.

use super::*;

on_both! {
    a_source_is_read_stored_and_asked_only_for_what_is_new
    the_same_event_of_two_sources_is_stored_once
    what_a_bad_server_does_is_told_at_its_source_and_the_others_go_on
    a_failing_source_rests_longer_each_time_and_recovers
    one_due_moment_is_one_job_however_many_beats_look
    an_edit_is_checked_and_begins_anew
}

async fn a_source_is_read_stored_and_asked_only_for_what_is_new(f: Fixture) {
    let body = Arc::new(Mutex::new(calendar(&[("a", "Jazz"), ("b", "Blues")])));
    let (served, tag) = (Arc::clone(&body), Arc::new(Mutex::new("\"1\"".to_owned())));
    let current = Arc::clone(&tag);
    let server = Server::start(move |request: &Request| {
        let tag = current.lock().unwrap().clone();
        if request.headers.get("if-none-match") == Some(&tag) {
            return Reply::raw("HTTP/1.1 304 Not Modified\r\n\r\n", Then::KeepAlive);
        }
        let etag = format!("etag: {tag}");
        let packed = gzip(served.lock().unwrap().as_bytes());
        Reply::new(
            200,
            &[&etag, "content-type: text/calendar", "content-encoding: gzip"],
            packed,
        )
    })
    .await;
    let id = f
        .source("calendar", SourceKind::Ical, &server.url("/a.ics"))
        .await;
    let first = f.discover(id).await;
    assert_eq!(
        (first.status, first.entries, first.inserted),
        (Status::Ok, 2, 2),
        "{first:?}"
    );
    assert_eq!(f.discover(id).await.status, Status::Unchanged);
    *body.lock().unwrap() = calendar(&[("a", "Jazz, outdoors"), ("b", "Blues"), ("c", "Rock")]);
    "\"2\"".clone_into(&mut tag.lock().unwrap());
    let third = f.discover(id).await;
    assert_eq!(
        (third.inserted, third.changed, third.entries),
        (1, 1, 3),
        "{third:?}"
    );
    let shown = f.shown(id).await;
    let report = shown.report.unwrap();
    assert_eq!(
        (report.unchanged, report.changes.len(), shown.failures),
        (1, 2, 0)
    );
    assert_eq!(shown.etag.as_deref(), Some("\"2\""));
    assert!(shown.last_success_at.is_some());
    assert_eq!(f.stored().await, 3);
    assert_eq!(server.seen().len(), 3);
}

async fn the_same_event_of_two_sources_is_stored_once(f: Fixture) {
    let server = Server::start(|request: &Request| match request.target.as_str() {
        "/one" => Reply::new(200, &[], calendar(&[("a", "Jazz"), ("b", "Blues")])),
        _ => Reply::new(
            200,
            &[],
            calendar(&[("x", "Jazz"), ("y", "Rock"), ("z", "Rock"), ("y", "Again")]),
        ),
    })
    .await;
    let one = f.source("one", SourceKind::Ical, &server.url("/one")).await;
    let two = f.source("two", SourceKind::Ical, &server.url("/two")).await;
    assert_eq!(f.discover(one).await.inserted, 2);
    let found = f.discover(two).await;
    assert_eq!(
        (found.inserted, found.entries, found.skipped),
        (1, 3, 1),
        "{found:?}"
    );
    assert_eq!(f.shown(two).await.report.unwrap().duplicates, 2);
    assert_eq!(f.stored().await, 3);
    let again = f.discover(two).await;
    assert_eq!((again.inserted, again.changed), (0, 0));
}

async fn what_a_bad_server_does_is_told_at_its_source_and_the_others_go_on(f: Fixture) {
    let server = Server::start(|request: &Request| match request.target.as_str() {
        "/html" => Reply::new(
            200,
            &["content-type: text/html"],
            "<!DOCTYPE html><title>x</title>",
        ),
        "/empty" => Reply::new(200, &[], ""),
        "/flood" => Reply::raw("HTTP/1.1 200 OK\r\n\r\n<rss>", Then::Flood),
        "/hang" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n<rss", Then::Hang),
        "/short" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n<rss", Then::Close),
        "/long" => {
            let text = rss(&["a"]);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
                text.len() / 2
            );
            Reply::raw(&head, Then::Close)
        }
        "/bomb" => Reply::new(
            200,
            &["content-encoding: gzip"],
            gzip(&vec![b' '; 50 * MAX_BYTES]),
        ),
        "/torn" => Reply::new(
            200,
            &["content-encoding: gzip"],
            &gzip(rss(&["a"]).as_bytes())[..40],
        ),
        "/brotli" => Reply::new(200, &["content-encoding: br"], "x"),
        "/entities" => Reply::new(
            200,
            &[],
            "<!DOCTYPE r [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><rss/>",
        ),
        "/gone" => Reply::new(410, &[], ""),
        "/busy" => Reply::new(503, &["retry-after: 7200"], ""),
        "/elsewhere" => Reply::new(302, &["location: ftp://example.com/"], ""),
        _ => Reply::new(200, &[], rss(&["good"])),
    })
    .await;
    for (path, error) in [
        ("/html", "HTML page"),
        ("/empty", "is empty"),
        ("/flood", "more than 65536 bytes"),
        ("/hang", "did not end within 2 s"),
        ("/short", "broke off"),
        ("/long", "is not a feed"),
        ("/bomb", "unpack to more than 65536"),
        ("/torn", "broken gzip"),
        ("/brotli", "\"br\""),
        ("/entities", "entities"),
        ("/gone", "410"),
        ("/busy", "503"),
        ("/elsewhere", "redirects"),
    ] {
        let id = f.source(path, SourceKind::Rss, &server.url(path)).await;
        let found = f.discover(id).await;
        assert_eq!(found.status, Status::Failed, "{path}");
        let shown = f.shown(id).await;
        let told = shown.report.unwrap().error.unwrap();
        assert!(told.contains(error), "{path}: {told}");
        assert_eq!((shown.failures, shown.last_success_at), (1, None), "{path}");
        let rest = shown.next_run_at.unwrap() - clock::now();
        // Half of the interval at least; what the server asks for, if that is more.
        let least = if path == "/busy" { 7_190 } else { 290 };
        assert!(rest.num_seconds() >= least, "{path}: {rest}");
        assert!(rest.num_seconds() <= 7_200.max(least), "{path}: {rest}");
    }
    let good = f.source("good", SourceKind::Rss, &server.url("/good")).await;
    assert_eq!(f.discover(good).await.inserted, 1);
}

async fn a_failing_source_rests_longer_each_time_and_recovers(f: Fixture) {
    let sound = Arc::new(Mutex::new(false));
    let answer = Arc::clone(&sound);
    let server = Server::start(move |_: &Request| {
        if *answer.lock().unwrap() {
            Reply::new(200, &[], rss(&["a"]))
        } else {
            Reply::new(500, &[], "")
        }
    })
    .await;
    let id = f.source("moody", SourceKind::Rss, &server.url("/")).await;
    for (failures, least) in [(1, 295), (2, 595), (3, 1_195), (4, 2_395)] {
        f.discover(id).await;
        let shown = f.shown(id).await;
        let rest = (shown.next_run_at.unwrap() - clock::now()).num_seconds();
        assert_eq!(shown.failures, failures);
        assert!((least..=least * 2 + 20).contains(&rest), "{failures}: {rest}");
    }
    *sound.lock().unwrap() = true;
    assert_eq!(f.discover(id).await.status, Status::Ok);
    assert_eq!(f.shown(id).await.failures, 0);
}

async fn one_due_moment_is_one_job_however_many_beats_look(f: Fixture) {
    for n in 0..150 {
        f.source(&format!("s{n}"), SourceKind::Rss, "http://127.0.0.1:1/")
            .await;
    }
    let mut off = new_source("off", SourceKind::Rss, "http://127.0.0.1:1/");
    off.enabled = false;
    let off = f.sources.create(&by(), &off).await.unwrap();
    assert_eq!(off.next_run_at, None);
    let beats: Vec<_> = (0..4)
        .map(|_| {
            let sources = Sources::new(&f.settings, &f.database, f.jobs.clone());
            tokio::spawn(async move { while sources.make_due().await.unwrap() > 0 {} })
        })
        .collect();
    for beat in beats {
        beat.await.unwrap();
    }
    let filter = JobFilter {
        kind: Some("events.discover".to_owned()),
        limit: 1_000,
        ..JobFilter::default()
    };
    assert_eq!(f.jobs.list(&filter).await.unwrap().len(), 150);
    assert_eq!(f.sources.make_due().await.unwrap(), 0);
    for shown in f.sources.list(None, 1_000).await.unwrap() {
        let Some(next) = shown.next_run_at else { continue };
        let rest = (next - clock::now()).num_seconds();
        assert!((560..=661).contains(&rest), "{rest}");
    }
}

async fn an_edit_is_checked_and_begins_anew(f: Fixture) {
    let server = Server::start(|_: &Request| Reply::new(500, &[], "")).await;
    let id = f.source("a", SourceKind::Rss, &server.url("/")).await;
    f.source("b", SourceKind::Rss, &server.url("/")).await;
    f.discover(id).await;
    let renamed = f
        .sources
        .replace(
            &by(),
            id,
            &new_source("b", SourceKind::Rss, "https://example.com/"),
        )
        .await;
    assert!(matches!(renamed, Err(SourceError::NameTaken(_))));
    let mut odd = new_source("c", SourceKind::Json, "ftp://example.com/");
    odd.definition.interval_seconds = 1;
    odd.definition.time_zone = Some("Mars/Base".to_owned());
    odd.definition.lon = None;
    odd.definition.mapping = None;
    odd.definition.pages = Some(2);
    let Err(SourceError::Invalid(faults)) = f.sources.create(&by(), &odd).await else {
        panic!("it was taken");
    };
    let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        fields,
        ["url", "pages", "mapping", "interval_seconds", "time_zone", "lon"]
    );
    let edited = f
        .sources
        .replace(
            &by(),
            id,
            &new_source("c", SourceKind::Rss, "https://example.com/"),
        )
        .await
        .unwrap();
    assert_eq!(
        (edited.failures, edited.revision, edited.name.as_str()),
        (0, 2, "c")
    );
    assert!(edited.next_run_at.unwrap() <= clock::now() + chrono::TimeDelta::seconds(5));
    f.sources.delete(&by(), id).await.unwrap();
    assert!(matches!(f.sources.get(id).await, Err(SourceError::Unknown(_))));
    assert!(f.discoverer.discover(id).await.is_err());
}

#[tokio::test]
async fn a_run_ends_at_its_limit_of_entries() {
    let names: Vec<String> = (0..1_200).map(|n| n.to_string()).collect();
    let entries: Vec<_> = names
        .iter()
        .map(|name| json!({"id": name, "title": name, "at": "2090-01-01"}))
        .collect();
    let body = json!(entries).to_string();
    let server = Server::start(move |_: &Request| Reply::new(200, &[], &body)).await;
    let f = Fixture::start(None, None).await;
    let id = f.source("json", SourceKind::Json, &server.url("/")).await;
    let found = f.discover(id).await;
    assert_eq!(
        (found.status, found.entries, found.inserted),
        (Status::Ok, 1_000, 1_000)
    );
    let notes = f.shown(id).await.report.unwrap().notes;
    assert!(notes[0].reason.contains("discovery.max_entries"), "{notes:?}");
}

#[tokio::test]
async fn private_addresses_are_refused_unless_they_are_permitted() {
    let f = Fixture::start(None, None).await;
    let settings: Settings = holdfast_services::load_from(ConfigSources {
        env: [
            ("DATABASE_URL".to_owned(), f.settings_url()),
            (
                "HOLDFAST__HTTP_REQUEST__ALLOW_PRIVATE".to_owned(),
                "false".to_owned(),
            ),
        ]
        .into_iter()
        .collect(),
        file: None,
    })
    .unwrap();
    let gate = RedisGate::open(Role::Cache, None, &settings.redis).unwrap();
    let events = Events::new(&settings, &f.database, &Cache::open(gate, &settings.cache));
    let outbound = Outbound::new(&settings.http_request).unwrap();
    let strict = Discoverer::new(&settings, f.sources.clone(), events, &outbound, None);
    let id = f
        .source("inside", SourceKind::Rss, "http://169.254.169.254/latest")
        .await;
    let found = strict.discover(id).await.unwrap();
    assert!(found.error.unwrap().contains("link-local"));
}
