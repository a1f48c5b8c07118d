//! A database with everything over it, and a worker of the test's own process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_core::config::{Additions, Settings, Sources, load_from_with};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::audit::{Actor, AuditContext, AuditFilter, AuditRecord};
use holdfast_jobs::ledger::{JobFilter, JobRecord};
use holdfast_jobs::worker::{Worker, WorkerError, WorkerParts};
use holdfast_jobs::{JobId, Jobs};
use holdfast_notify::NotifyProduct;
use holdfast_notify::notifications::{Notice, Notices, PublishedNotice};
use holdfast_notify::webhooks::{
    Delivery, DeliveryFilter, MadeWebhook, WebhookDraft, WebhookId, WebhookRecord, Webhooks,
};
use holdfast_product::Product as _;
use holdfast_testkit::{PostgresServer, RecordedRequest, SmtpServer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Failed deliveries come back at once.
const FILE: &str = "[kinds.\"notify.webhook\".retry]
base_seconds = 0.01
cap_seconds = 0.02
[kinds.\"notify.email\".retry]
base_seconds = 0.01
cap_seconds = 0.02
";

pub(crate) struct Fixture {
    pub(crate) settings: Settings,
    pub(crate) jobs: Jobs,
    pub(crate) notices: Notices,
    pub(crate) database: Database,
    gate: RedisGate,
    worker: Option<(Shutdown, JoinHandle<Result<(), WorkerError>>)>,
    _directory: TempDir,
    _postgres: Option<PostgresServer>,
}

impl Fixture {
    pub(crate) async fn postgres() -> Self {
        Self::start(Some(PostgresServer::start().await.unwrap()), &[]).await
    }

    pub(crate) async fn sqlite() -> Self {
        Self::start(None, &[]).await
    }

    pub(crate) async fn with(more: &[(&str, &str)]) -> Self {
        Self::start(None, more).await
    }

    /// On either database, with a mail server.
    pub(crate) async fn mailing(postgres: bool, server: &SmtpServer, more: &[(&str, &str)]) -> Self {
        let url = server.url();
        let mut env = vec![
            ("SMTP_URL", url.as_str()),
            ("HOLDFAST__SMTP__FROM", "Holdfast <no-reply@example.com>"),
            ("HOLDFAST__SMTP__TIMEOUT_SECONDS", "2"),
            ("HOLDFAST__NOTIFICATIONS__PUBLIC_URL", "https://jobs.example.com/"),
        ];
        env.extend_from_slice(more);
        let postgres = if postgres {
            Some(PostgresServer::start().await.unwrap())
        } else {
            None
        };
        Self::start(postgres, &env).await
    }

    async fn start(postgres: Option<PostgresServer>, more: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = match &postgres {
            Some(server) => server.url(),
            None => format!("sqlite://{}", directory.path().join("test.db").display()),
        };
        let mut env: BTreeMap<String, String> = [
            ("DATABASE_URL", url.as_str()),
            ("HOLDFAST__HTTP_REQUEST__ALLOW_PRIVATE", "true"),
            ("HOLDFAST__NOTIFICATIONS__WEBHOOK_TIMEOUT_SECONDS", "2"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        env.extend(
            more.iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned())),
        );
        let file = Some((PathBuf::from("holdfast.toml"), FILE.to_owned()));
        let settings = load_from_with(
            Sources { env, file },
            Additions {
                sections: NotifyProduct.settings(),
                ..Additions::default()
            },
        )
        .unwrap();
        migrate(&settings.database).await.unwrap();
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
        let jobs = Jobs::new(&settings, crate::registry(), &database, &gate);
        Self {
            notices: Notices::new(&settings, &database, jobs.clone()),
            settings,
            jobs,
            database,
            gate,
            worker: None,
            _directory: directory,
            _postgres: postgres,
        }
    }

    /// Begins to work off what was published.
    pub(crate) fn work(&mut self) {
        let stop = Shutdown::new();
        let resources = crate::resources(&self.settings)
            .with(self.webhooks().clone())
            .with(self.notices.mail().clone());
        let parts = WorkerParts {
            settings: self.settings.clone(),
            jobs: self.jobs.clone(),
            gate: self.gate.clone(),
            resources,
        };
        let worker = Worker::new(parts, stop.clone()).unwrap();
        self.worker = Some((stop, tokio::spawn(worker.run())));
    }

    pub(crate) async fn stop(&mut self) {
        let (stop, running) = self.worker.take().unwrap();
        stop.trigger();
        running.await.unwrap().unwrap();
    }

    pub(crate) fn webhooks(&self) -> &Webhooks {
        self.notices.webhooks()
    }

    pub(crate) async fn endpoint(&self, url: &str, events: &[&str]) -> MadeWebhook {
        let draft = draft(url, events, true);
        self.webhooks().create(&by(), &draft, None).await.unwrap()
    }

    pub(crate) async fn webhook(&self, id: WebhookId) -> WebhookRecord {
        self.webhooks().get(id).await.unwrap()
    }

    pub(crate) async fn publish(&self, event: &str, data: Value) -> PublishedNotice {
        self.notices.publish(&notice(event, &data, None)).await.unwrap()
    }

    /// The one job of its kind, once it is final.
    pub(crate) async fn only_job(&self, kind: &str) -> JobRecord {
        let jobs = self.jobs_of(kind).await;
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        self.ended(jobs[0].id).await
    }

    pub(crate) async fn ended(&self, id: JobId) -> JobRecord {
        let job = self.jobs.wait(id, DEADLINE).await.unwrap().unwrap();
        assert!(job.finished_at.is_some(), "{job:?}");
        job
    }

    pub(crate) async fn jobs_of(&self, kind: &str) -> Vec<JobRecord> {
        let filter = JobFilter {
            kind: Some(kind.to_owned()),
            limit: 100,
            ..JobFilter::default()
        };
        self.jobs.list(&filter).await.unwrap()
    }

    /// Newest first.
    pub(crate) async fn deliveries(&self, id: WebhookId) -> Vec<Delivery> {
        let filter = DeliveryFilter {
            limit: 100,
            ..DeliveryFilter::default()
        };
        self.webhooks().deliveries(id, filter).await.unwrap()
    }

    /// Entries of the audit log about it, oldest first.
    pub(crate) async fn audited(&self, target: impl std::fmt::Display) -> Vec<AuditRecord> {
        let filter = AuditFilter {
            target: Some(target.to_string()),
            limit: 100,
            ..AuditFilter::default()
        };
        let mut entries = self.jobs.audit().list(&filter).await.unwrap();
        entries.reverse();
        entries
    }

    /// Runs a statement that both databases understand: to move rows in time, and to count them.
    pub(crate) async fn sql(&self, statement: &str) -> u64 {
        let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()));
        match &self.database {
            Database::Postgres(pool) => statement.execute(pool).await.unwrap().rows_affected(),
            Database::Sqlite(database) => statement.execute(&database.writer).await.unwrap().rows_affected(),
        }
    }

    /// An id as the database writes it, of 32 hexadecimal digits.
    #[allow(dead_code, reason = "the tests of services use it")]
    pub(crate) fn uuid_literal(&self, hex: &str) -> String {
        match &self.database {
            Database::Postgres(_) => format!("'{hex}'"),
            Database::Sqlite(_) => format!("x'{hex}'"),
        }
    }

    /// So long ago, as the database writes times.
    pub(crate) fn ago(&self, seconds: u64) -> String {
        match &self.database {
            Database::Postgres(_) => format!("now() - interval '{seconds} seconds'"),
            Database::Sqlite(_) => format!("(unixepoch() - {seconds}) * 1000"),
        }
    }
}

pub(crate) fn draft(url: &str, events: &[&str], enabled: bool) -> WebhookDraft {
    let events: Vec<String> = events.iter().map(|&event| event.to_owned()).collect();
    WebhookDraft::parse(url, Some("of the tests"), &events, enabled).unwrap()
}

pub(crate) fn notice(event: &str, data: &Value, key: Option<&str>) -> Notice {
    Notice {
        event_type: event.parse().unwrap(),
        data: serde_json::value::to_raw_value(data).unwrap(),
        key: key.map(str::to_owned),
    }
}

pub(crate) fn by() -> AuditContext {
    AuditContext::new(Actor::system())
}

pub(crate) fn body_of(request: &RecordedRequest) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

pub(crate) fn header<'a>(request: &'a RecordedRequest, name: &str) -> &'a str {
    request
        .header(name)
        .unwrap_or_else(|| panic!("{name} is missing"))
}
