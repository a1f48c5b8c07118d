//! From a source to whoever wants to hear of its events, through real `beat` and `worker` processes, with Redis away in
//! between.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_cache::{Cache, Source};
use holdfast_core::config::{Settings, Sources as ConfigSources, load_from};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::audit::{Actor, By};
use holdfast_jobs::{Jobs, State};
use holdfast_tasks::discovery::{Definition, Filter, NewSource, SourceKind, Sources, Subscriptions};
use holdfast_tasks::interactions::UserName;
use holdfast_tasks::notices::Notices;
use holdfast_tasks::recommend::{MlRecommend, Recommender};
use holdfast_tasks::webhooks::WebhookDraft;
use holdfast_testkit::{
    Child, PostgresServer, Receiver, RedisOptions, RedisServer, SmtpServer, eventually, free_port,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// A server of one calendar with one event, whose title a test may change. It ends with the test.
async fn calendar(title: &Arc<Mutex<String>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let title = Arc::clone(title);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8_192];
            // A request fits into one segment here; a client that breaks off asks again.
            if stream.read(&mut head).await.unwrap_or_default() == 0 {
                continue;
            }
            let body = format!(
                "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nUID:a\r\nSUMMARY:{}\r\nDTSTART:20900601T180000Z\r\nEND:VEVENT\r\n\
                 END:VCALENDAR\r\n",
                title.lock().unwrap()
            );
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/calendar\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream
                .write_all(format!("{head}{body}").as_bytes())
                .await
                .unwrap();
        }
    });
    format!("http://{address}/all.ics")
}

fn source(url: String) -> NewSource {
    NewSource {
        name: "city".to_owned(),
        enabled: true,
        definition: Definition {
            kind: SourceKind::Ical,
            url: Some(url),
            mapping: None,
            subreddit: None,
            listing: None,
            pages: None,
            interval_seconds: 3_600,
            time_zone: None,
            category: None,
            place: None,
            lat: None,
            lon: None,
        },
    }
}

/// The servers around, and the two processes.
struct Stand {
    postgres: PostgresServer,
    redis: RedisServer,
    smtp: SmtpServer,
    receiver: Receiver,
    settings: Settings,
    database: Database,
    jobs: Jobs,
    children: Vec<Child>,
    _directory: TempDir,
}

impl Stand {
    async fn start() -> Self {
        let postgres = PostgresServer::start().await.unwrap();
        let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
        let smtp = SmtpServer::start().await.unwrap();
        let directory = TempDir::new().unwrap();
        let env: Vec<(String, String)> = [
            ("DATABASE_URL", postgres.url()),
            ("REDIS_URL", redis.url()),
            ("SMTP_URL", smtp.url()),
            ("HOLDFAST__SMTP__FROM", "no-reply@example.com".to_owned()),
            ("HOLDFAST__HTTP_REQUEST__ALLOW_PRIVATE", "true".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let settings = load_from(ConfigSources {
            env: env.iter().cloned().collect(),
            file: None,
        })
        .unwrap();
        migrate(&settings.database).await.unwrap();
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
        let jobs = Jobs::new(&settings, holdfast_tasks::registry(), &database, &gate);
        let start = |name| {
            Child::binary(name)
                .envs(env.iter().map(|(name, value)| (name.as_str(), value.as_str())))
                .env("PORT", free_port().unwrap().to_string())
                .current_dir(directory.path())
                .start()
                .unwrap()
        };
        Self {
            children: ["worker", "beat"].map(start).into(),
            receiver: Receiver::start().await.unwrap(),
            postgres,
            redis,
            smtp,
            settings,
            database,
            jobs,
            _directory: directory,
        }
    }

    /// Waits until so much of each has come.
    async fn heard(&self, count: usize) -> (Value, String) {
        let requests = u64::try_from(count).unwrap();
        self.receiver.wait_for_requests(requests, DEADLINE).await.unwrap();
        let taken = async || (self.smtp.mails().len() >= count).then_some(());
        eventually("the mail to be taken", DEADLINE, POLL, taken)
            .await
            .unwrap();
        let request = self.receiver.recorded().pop().unwrap();
        let mail = self.smtp.mails().pop().unwrap();
        assert_eq!(mail.to, "anna@example.com");
        (serde_json::from_slice(&request.body).unwrap(), mail.data)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_says_reaches_a_webhook_and_a_mailbox_while_redis_comes_and_goes() {
    let mut stand = Stand::start().await;
    let by = By::new(Actor::system());
    let sources = Sources::new(&stand.settings, &stand.database, stand.jobs.clone());
    let notices = Notices::new(&stand.settings, &stand.database, stand.jobs.clone());
    let events = ["event.*".to_owned()];
    let draft = WebhookDraft::parse(&stand.receiver.url("/hook"), None, &events, true).unwrap();
    notices.webhooks().create(&by, &draft, None).await.unwrap();
    let made = Subscriptions::of(&sources)
        .create("anna", Some("anna@example.com"), &Filter::default())
        .await;
    assert!(made.unwrap().is_some());
    let title = Arc::new(Mutex::new("Jazz".to_owned()));
    let url = calendar(&title).await;

    let city = sources.create(&by, &source(url)).await.unwrap();
    let (body, mail) = stand.heard(1).await;
    assert_eq!(
        (&body["type"], &body["data"]["event"]["title"]),
        (&json!("event.discovered"), &json!("Jazz"))
    );
    assert_eq!(body["data"]["subscriptions"][0]["user"], "anna");
    assert!(mail.contains("Subject: Jazz\r\n"), "{mail}");
    assert!(mail.contains("Thu, 1 Jun 2090, 18:00 (UTC)"), "{mail}");

    stand.redis.kill9().await.unwrap();
    "Jazz, outdoors".clone_into(&mut title.lock().unwrap());
    // An hour later.
    let due = "update holdfast_sources set next_run_at = now()";
    stand.postgres.psql(due).await.unwrap();
    let (body, mail) = stand.heard(2).await;
    assert_eq!(
        (&body["type"], &body["data"]["event"]["title"]),
        (&json!("event.changed"), &json!("Jazz, outdoors"))
    );
    assert!(mail.contains("Jazz, outdoors (changed)"), "{mail}");

    stand.redis.restart().await.unwrap();
    let gate = RedisGate::open(
        Role::Cache,
        stand.settings.redis.cache.as_ref(),
        &stand.settings.redis,
    )
    .unwrap();
    gate.wait_ready(DEADLINE).await;
    let user: UserName = "anna".parse().unwrap();
    // The worker's own gate may need another probe until it sees Redis; then its list is in the cache.
    let cached = async || {
        let job = stand
            .jobs
            .enqueue(MlRecommend { user: user.clone() })
            .await
            .unwrap();
        let job = stand.jobs.wait(job.id, DEADLINE).await.unwrap().unwrap();
        assert_eq!(job.state, State::Completed, "{job:?}");
        let lists = stand
            .redis
            .keys("holdfast:cache:*:recommendations.*")
            .await
            .unwrap();
        (!lists.is_empty()).then_some(())
    };
    eventually("the list to be cached", DEADLINE, POLL, cached)
        .await
        .unwrap();
    // Another process finds it there; a look that takes too long for a busy machine finds nothing, and is no proof.
    let found = async || {
        let cache = Cache::open(gate.clone(), &stand.settings.cache);
        let recommender = Recommender::new(&stand.settings, &stand.database, &cache);
        let found = recommender.list(&user).await.unwrap();
        (found.source == Source::Redis).then_some(found.value.items.len())
    };
    let listed = eventually("the list to be found on Redis", DEADLINE, POLL, found).await;
    assert_eq!(listed.unwrap(), 1);
    assert_eq!((stand.receiver.requests(), stand.smtp.mails().len()), (2, 2));
    let shown = sources.get(city.id).await.unwrap();
    assert_eq!(
        (shown.failures, shown.report.unwrap().mails),
        (0, 1),
        "of the last run"
    );
    for mut child in stand.children.drain(..) {
        child.sigterm().unwrap();
        assert_eq!(child.wait_exit(DEADLINE).await.unwrap().code(), Some(0));
    }
}
