//! Discovery, from a server that may do anything, on both databases.

mod calendars;
mod news;
mod reddit;
mod sources;
mod stopping;

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_cache::Cache;
use holdfast_core::clock;
use holdfast_core::config::{Settings, Sources as ConfigSources};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_events::Events;
use holdfast_events::discovery::parse::Mapping;
use holdfast_events::discovery::{
    AnnouncementCounts, Announcer, Definition, Discoverer, DiscoverySummary, Filter, NewSource, News,
    SourceError, SourceId, SourceKind, SourceRecord, Sources, Status, Subscriptions,
};
use holdfast_jobs::audit::{Actor, AuditContext, AuditFilter};
use holdfast_jobs::ledger::{JobFilter, LedgerError};
use holdfast_jobs::{Jobs, LedgerTx};
use holdfast_outbound::Outbound;
use holdfast_testkit::PostgresServer;
use serde_json::json;
use tempfile::TempDir;

use holdfast_testkit::scripted_server::{Reply, Request, Server, Then};

const MAX_BYTES: usize = 65_536;

/// Who hears of everything, for a test to look at.
#[derive(Default)]
struct Ear(Mutex<Vec<String>>);

impl Announcer for Ear {
    fn endpoints(&self) -> BoxFuture<'_, Result<usize, LedgerError>> {
        async { Ok(1) }.boxed()
    }

    fn announce<'a>(
        &'a self,
        _: LedgerTx<'a>,
        news: &'a [News<'a>],
    ) -> BoxFuture<'a, Result<AnnouncementCounts, LedgerError>> {
        let mut heard = self.0.lock().unwrap();
        for one in news {
            let (what, title) = (one.happened.event_type(), &one.event.title);
            heard.extend(
                one.wanted
                    .iter()
                    .map(|wish| format!("{} {what} {title}", wish.user)),
            );
        }
        async { Ok(AnnouncementCounts::default()) }.boxed()
    }

    fn ring(&self, _: &AnnouncementCounts) {}
}

struct Fixture {
    settings: Settings,
    database: Database,
    jobs: Jobs,
    sources: Sources,
    discoverer: Discoverer,
    ear: Arc<Ear>,
    directory: TempDir,
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
        let settings: Settings = holdfast_services::load_from(ConfigSources {
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
            holdfast_services::registry(),
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
            directory,
        }
    }

    async fn source(&self, name: &str, kind: SourceKind, url: &str) -> SourceId {
        self.sources
            .create(&by(), &new_source(name, kind, url))
            .await
            .unwrap()
            .id
    }

    async fn discover(&self, id: SourceId) -> DiscoverySummary {
        self.discoverer.discover(id).await.unwrap()
    }

    async fn shown(&self, id: SourceId) -> SourceRecord {
        self.sources.get(id).await.unwrap()
    }

    fn settings_url(&self) -> String {
        format!("sqlite://{}", self.directory.path().join("sources.db").display())
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

fn by() -> AuditContext {
    AuditContext::new(Actor::user("a test"))
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
    let events: Vec<String> = events
        .iter()
        .map(|(uid, title)| {
            format!("BEGIN:VEVENT\r\nUID:{uid}\r\nSUMMARY:{title}\r\nDTSTART:{start}\r\nEND:VEVENT\r\n")
        })
        .collect();
    format!("BEGIN:VCALENDAR\r\n{}END:VCALENDAR\r\n", events.concat())
}

fn rss(titles: &[&str]) -> String {
    let at = "Thu, 01 Jun 2090 18:00:00 +0000";
    let items: Vec<String> = titles
        .iter()
        .map(|title| {
            format!("<item><title>{title}</title><guid>{title}</guid><pubDate>{at}</pubDate></item>")
        })
        .collect();
    let items = items.concat();
    format!("<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>x</title>{items}</channel></rss>")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
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
use on_both;
