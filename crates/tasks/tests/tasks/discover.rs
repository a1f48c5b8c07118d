//! Sources, discovered from a server that may do anything, on both databases.

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_cache::Cache;
use holdfast_core::clock;
use holdfast_core::config::{Settings, Sources as ConfigSources, load_from};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::Jobs;
use holdfast_jobs::ledger::{JobFilter, LedgerError};
use holdfast_tasks::discovery::parse::Mapping;
use holdfast_tasks::discovery::{
    Announcer, Definition, Discovered, Discoverer, Filter, NewSource, Notice, SourceError, SourceId,
    SourceKind, SourceRecord, Sources, Status, Subscriptions,
};
use holdfast_tasks::events::Events;
use holdfast_tasks::outbound::Outbound;
use holdfast_testkit::PostgresServer;
use serde_json::json;
use tempfile::TempDir;

use crate::server::{Reply, Request, Server, Then};

const MAX_BYTES: usize = 65_536;

/// Who hears of everything, for a test to look at.
#[derive(Default)]
struct Ear(Mutex<Vec<Notice>>);

impl Announcer for Ear {
    fn announce<'a>(&'a self, notices: &'a [Notice]) -> BoxFuture<'a, Result<(), LedgerError>> {
        self.0.lock().unwrap().extend_from_slice(notices);
        async { Ok(()) }.boxed()
    }
}

struct Fixture {
    settings: Settings,
    database: Database,
    jobs: Jobs,
    sources: Sources,
    discoverer: Discoverer,
    ear: Arc<Ear>,
    _directory: TempDir,
}

impl Fixture {
    async fn start(postgres: Option<&PostgresServer>, reddit: Option<&Server>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = match postgres {
            Some(server) => server.url(),
            None => format!("sqlite://{}", directory.path().join("sources.db").display()),
        };
        let mut env: Vec<(String, String)> = [
            ("DATABASE_URL", url.as_str()),
            ("HOLDFAST__HTTP_REQUEST__ALLOW_PRIVATE", "true"),
            ("HOLDFAST__DISCOVERY__TIMEOUT_SECONDS", "2"),
            ("HOLDFAST__DISCOVERY__MAX_BYTES", "65536"),
            ("HOLDFAST__DISCOVERY__MAX_ENTRIES", "1000"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        if let Some(reddit) = reddit {
            for (name, value) in [
                ("REDDIT_CLIENT_ID", "an-id".to_owned()),
                ("REDDIT_CLIENT_SECRET", "a-secret".to_owned()),
                ("HOLDFAST__REDDIT__AUTH_URL", reddit.url("")),
                ("HOLDFAST__REDDIT__API_URL", reddit.url("")),
            ] {
                env.push((name.to_owned(), value));
            }
        }
        let settings: Settings = load_from(ConfigSources {
            env: env.into_iter().collect(),
            file: None,
        })
        .unwrap();
        migrate(&settings.database).await.unwrap();
        let database = Database::open(&settings.database).unwrap();
        let gate = |role| RedisGate::open(role, None, &settings.redis).unwrap();
        let cache = Cache::open(gate(Role::Cache), &settings.cache);
        let jobs = Jobs::new(
            &settings,
            holdfast_tasks::registry(),
            &database,
            &gate(Role::Queue),
        );
        let sources = Sources::new(&settings, &database, jobs.clone());
        let ear = Arc::new(Ear::default());
        let discoverer = Discoverer::new(
            &settings,
            sources.clone(),
            Events::new(&settings, &database, &cache),
            &Outbound::new(&settings.http_request).unwrap(),
            Some(Arc::clone(&ear) as Arc<dyn Announcer>),
        );
        Self {
            settings,
            database,
            jobs,
            sources,
            discoverer,
            ear,
            _directory: directory,
        }
    }

    async fn source(&self, name: &str, kind: SourceKind, url: &str) -> SourceId {
        self.sources
            .create(&new_source(name, kind, url))
            .await
            .unwrap()
            .id
    }

    async fn discover(&self, id: SourceId) -> Discovered {
        self.discoverer.discover(id).await.unwrap()
    }

    async fn shown(&self, id: SourceId) -> SourceRecord {
        self.sources.get(id).await.unwrap()
    }

    async fn stored(&self) -> i64 {
        let count = "select count(*) from holdfast_events";
        match &self.database {
            Database::Postgres(pool) => sqlx::query_scalar(count).fetch_one(pool).await.unwrap(),
            Database::Sqlite(database) => sqlx::query_scalar(count)
                .fetch_one(&database.reader)
                .await
                .unwrap(),
        }
    }
}

fn new_source(name: &str, kind: SourceKind, url: &str) -> NewSource {
    let is_reddit = kind == SourceKind::Reddit;
    let mapping = json!({"uid": "/id", "title": "/title", "starts_at": "/at"});
    NewSource {
        name: name.to_owned(),
        enabled: true,
        definition: Definition {
            kind,
            url: (!is_reddit).then(|| url.to_owned()),
            mapping: (kind == SourceKind::Json).then(|| serde_json::from_value::<Mapping>(mapping).unwrap()),
            subreddit: is_reddit.then(|| "vienna".to_owned()),
            listing: None,
            pages: is_reddit.then_some(3),
            interval_seconds: 600,
            time_zone: Some("Europe/Vienna".to_owned()),
            category: Some("city".to_owned()),
            place: None,
            lat: Some(48.2),
            lon: Some(16.37),
        },
    }
}

/// A calendar of events that are not over for long.
fn calendar(events: &[(&str, &str)]) -> String {
    let start = "20900601T180000Z";
    let events: String = events
        .iter()
        .map(|(uid, title)| {
            format!("BEGIN:VEVENT\r\nUID:{uid}\r\nSUMMARY:{title}\r\nDTSTART:{start}\r\nEND:VEVENT\r\n")
        })
        .collect();
    format!("BEGIN:VCALENDAR\r\n{events}END:VCALENDAR\r\n")
}

fn rss(titles: &[&str]) -> String {
    let at = "Thu, 01 Jun 2090 18:00:00 +0000";
    let items: String = titles
        .iter()
        .map(|title| {
            format!("<item><title>{title}</title><guid>{title}</guid><pubDate>{at}</pubDate></item>")
        })
        .collect();
    format!("<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>x</title>{items}</channel></rss>")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
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
    *tag.lock().unwrap() = "\"2\"".to_owned();
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
    let server = Server::start(move |_: &Request| match *answer.lock().unwrap() {
        true => Reply::new(200, &[], rss(&["a"])),
        false => Reply::new(500, &[], ""),
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
    let off = f.sources.create(&off).await.unwrap();
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
        .replace(id, &new_source("b", SourceKind::Rss, "https://example.com/"))
        .await;
    assert!(matches!(renamed, Err(SourceError::NameTaken(_))));
    let mut odd = new_source("c", SourceKind::Json, "ftp://example.com/");
    odd.definition.interval_seconds = 1;
    odd.definition.time_zone = Some("Mars/Base".to_owned());
    odd.definition.lon = None;
    odd.definition.mapping = None;
    odd.definition.pages = Some(2);
    let Err(SourceError::Invalid(faults)) = f.sources.create(&odd).await else {
        panic!("it was taken");
    };
    let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        fields,
        ["url", "pages", "mapping", "interval_seconds", "time_zone", "lon"]
    );
    let edited = f
        .sources
        .replace(id, &new_source("c", SourceKind::Rss, "https://example.com/"))
        .await
        .unwrap();
    assert_eq!(
        (edited.failures, edited.revision, edited.name.as_str()),
        (0, 2, "c")
    );
    assert!(edited.next_run_at.unwrap() <= clock::now() + chrono::TimeDelta::seconds(5));
    f.sources.delete(id).await.unwrap();
    assert!(matches!(f.sources.get(id).await, Err(SourceError::Unknown(_))));
    assert!(f.discoverer.discover(id).await.is_err());
}

async fn subscriptions_hear_of_what_they_want_and_of_nothing_else(f: Fixture) {
    let title = Arc::new(Mutex::new("Jazz in the park"));
    let current = Arc::clone(&title);
    let server = Server::start(move |_: &Request| {
        let title = *current.lock().unwrap();
        Reply::new(200, &[], calendar(&[("a", title), ("b", "Blues")]))
    })
    .await;
    let subscriptions = Subscriptions::of(&f.sources);
    let filters = [
        ("all", Filter::default()),
        (
            "text",
            Filter {
                text: Some("PARK jazz".to_owned()),
                ..Filter::default()
            },
        ),
        (
            "other-text",
            Filter {
                text: Some("jazz opera".to_owned()),
                ..Filter::default()
            },
        ),
        (
            "category",
            Filter {
                category: Some("City".to_owned()),
                ..Filter::default()
            },
        ),
        (
            "other-category",
            Filter {
                category: Some("sport".to_owned()),
                ..Filter::default()
            },
        ),
        (
            "near",
            Filter {
                lat: Some(48.21),
                lon: Some(16.38),
                within_km: Some(5.0),
                ..Filter::default()
            },
        ),
        (
            "far",
            Filter {
                lat: Some(47.07),
                lon: Some(15.44),
                within_km: Some(50.0),
                ..Filter::default()
            },
        ),
    ];
    for (user, filter) in &filters {
        assert_eq!(filter.faults(), []);
        subscriptions.create(user, filter).await.unwrap().unwrap();
    }
    let id = f.source("calendar", SourceKind::Ical, &server.url("/")).await;
    f.discover(id).await;
    let heard = |f: &Fixture| -> Vec<String> {
        let mut heard: Vec<_> = std::mem::take(&mut *f.ear.0.lock().unwrap())
            .iter()
            .map(|notice| format!("{} {} {}", notice.user, notice.event_type, notice.title))
            .collect();
        heard.sort();
        heard
    };
    let both =
        |user: &str| ["Blues", "Jazz in the park"].map(|title| format!("{user} event.discovered {title}"));
    let mut expected: Vec<String> = [both("all"), both("category"), both("near")].concat();
    expected.push("text event.discovered Jazz in the park".to_owned());
    assert_eq!(heard(&f), expected);
    *title.lock().unwrap() = "Opera, and jazz";
    f.discover(id).await;
    let changed =
        ["all", "category", "near", "other-text"].map(|user| format!("{user} event.changed Opera, and jazz"));
    assert_eq!(heard(&f), changed);
    assert_eq!(f.shown(id).await.report.unwrap().notices, 4);
    f.discover(id).await;
    assert_eq!(heard(&f), Vec::<String>::new());
    let listed = subscriptions.list(Some("near"), None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(subscriptions.delete(listed[0].id).await.unwrap());
    assert!(!subscriptions.delete(listed[0].id).await.unwrap());
    assert_eq!(subscriptions.forget("far").await.unwrap(), 1);
    assert_eq!(
        subscriptions.list(None, None, 100).await.unwrap().len(),
        filters.len() - 2
    );
}

macro_rules! on_both {
    ($($name:ident)+) => {
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let postgres = super::PostgresServer::start().await.unwrap();
                super::$name(super::Fixture::start(Some(&postgres), None).await).await;
            })+
        }
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::Fixture::start(None, None).await).await;
            })+
        }
    };
}

on_both! {
    a_source_is_read_stored_and_asked_only_for_what_is_new
    the_same_event_of_two_sources_is_stored_once
    what_a_bad_server_does_is_told_at_its_source_and_the_others_go_on
    a_failing_source_rests_longer_each_time_and_recovers
    one_due_moment_is_one_job_however_many_beats_look
    an_edit_is_checked_and_begins_anew
    subscriptions_hear_of_what_they_want_and_of_nothing_else
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
    let settings: Settings = load_from(ConfigSources {
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

impl Fixture {
    fn settings_url(&self) -> String {
        format!("sqlite://{}", self._directory.path().join("sources.db").display())
    }
}

/// Reddit, as far as it matters here.
fn reddit(
    page: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Request) -> Reply + Send + Sync {
    let tokens = Mutex::new(0_usize);
    move |request: &Request| {
        if request.target == "/api/v1/access_token" {
            // an-id:a-secret
            let right = request.headers.get("authorization").map(String::as_str)
                == Some("Basic YW4taWQ6YS1zZWNyZXQ=");
            if !right || request.body != "grant_type=client_credentials" {
                return Reply::new(401, &[], "");
            }
            let mut count = tokens.lock().unwrap();
            *count += 1;
            let body =
                json!({"access_token": format!("token-{count}"), "token_type": "bearer", "expires_in": 3600});
            return Reply::new(200, &["content-type: application/json"], body.to_string());
        }
        page(request, *tokens.lock().unwrap())
    }
}

fn listing(names: &[&str], after: Option<&str>) -> String {
    let created = clock::now().timestamp() as f64;
    let posts: Vec<_> = names
        .iter()
        .map(|name| json!({"kind": "t3", "data": {"name": name, "title": name, "created_utc": created, "permalink": "/r/x"}}))
        .collect();
    json!({"kind": "Listing", "data": {"after": after, "children": posts}}).to_string()
}

#[tokio::test]
async fn reddit_is_read_page_by_page_with_a_token_that_is_renewed() {
    let server = Server::start(reddit(|request, tokens| {
        // The first token is refused at once, as after a change of the secret.
        if request.headers["authorization"] != "Bearer token-2" || tokens < 2 {
            return Reply::new(401, &[], "");
        }
        match request.target.as_str() {
            "/r/vienna/new?limit=100&raw_json=1" => {
                Reply::new(200, &[], listing(&["t3_a", "t3_b"], Some("t3_b")))
            }
            "/r/vienna/new?limit=100&raw_json=1&after=t3_b" => Reply::new(200, &[], listing(&["t3_c"], None)),
            _ => Reply::new(404, &[], ""),
        }
    }))
    .await;
    let f = Fixture::start(None, Some(&server)).await;
    let id = f.source("vienna", SourceKind::Reddit, "").await;
    let found = f.discover(id).await;
    assert_eq!(
        (found.status, found.entries, found.inserted),
        (Status::Ok, 3, 3),
        "{found:?}"
    );
    let asked: Vec<_> = server
        .seen()
        .iter()
        .map(|request| request.method.clone())
        .collect();
    assert_eq!(asked, ["POST", "GET", "POST", "GET", "GET"]);
}

#[tokio::test]
async fn reddits_refusals_are_told_and_its_limits_obeyed() {
    for (answer, error, rest) in [
        (Reply::new(401, &[], ""), "refuses the token", 0),
        (Reply::new(403, &[], ""), "private", 0),
        (Reply::new(404, &[], ""), "no such subreddit", 0),
        (Reply::new(429, &["retry-after: 5000"], ""), "429", 4_990),
        (Reply::new(500, &[], ""), "500", 0),
        (Reply::new(200, &[], "{\"kind\":\"t5\"}"), "is not a listing", 0),
    ] {
        let Reply(bytes, _) = answer;
        let server = Server::start(reddit(move |_, _| Reply(bytes.clone(), Then::KeepAlive))).await;
        let f = Fixture::start(None, Some(&server)).await;
        let id = f.source("vienna", SourceKind::Reddit, "").await;
        let found = f.discover(id).await;
        assert_eq!(found.status, Status::Failed);
        let told = found.error.unwrap();
        assert!(told.contains(error), "{error}: {told}");
        assert!(!told.contains("a-secret") && !told.contains("token-"), "{told}");
        let next = f.shown(id).await.next_run_at.unwrap();
        assert!((next - clock::now()).num_seconds() >= rest, "{error}");
    }
}

#[tokio::test]
async fn nobody_asks_reddit_before_its_rate_limit_is_reset() {
    let server = Server::start(reddit(|_, _| {
        let headers = ["x-ratelimit-remaining: 0.0", "x-ratelimit-reset: 900"];
        Reply::new(200, &headers, listing(&["t3_a"], None))
    }))
    .await;
    let f = Fixture::start(None, Some(&server)).await;
    let id = f.source("vienna", SourceKind::Reddit, "").await;
    assert_eq!(f.discover(id).await.status, Status::Ok);
    let asked = server.seen().len();
    let found = f.discover(id).await;
    assert!(found.error.unwrap().contains("rate limit"));
    assert_eq!(server.seen().len(), asked);
    let next = f.shown(id).await.next_run_at.unwrap();
    assert!((next - clock::now()) > chrono::TimeDelta::from_std(Duration::from_secs(880)).unwrap());
}

#[tokio::test]
async fn without_an_application_reddit_is_not_asked() {
    let f = Fixture::start(None, None).await;
    let id = f.source("vienna", SourceKind::Reddit, "").await;
    assert!(f.discover(id).await.error.unwrap().contains("REDDIT_CLIENT_ID"));
}
