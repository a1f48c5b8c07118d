//! What the integration tests share: settings by environment, and a ledger on either database.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::{Settings, Sources, load_from};
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::ledger::{
    self, JobFilter, JobRecord, Ledger, NewJob, Options, Priority, RunAt, WorkerReport,
};
use holdfast_jobs::sql::Sql;
use holdfast_jobs::{JobId, WorkerId, search};
use holdfast_testkit::{PgBouncer, PostgresOptions, PostgresServer};
use serde_json::value::RawValue;
use tempfile::TempDir;

pub(crate) const LOST_AFTER: Duration = Duration::from_secs(15);

pub(crate) fn settings(env: &[(&str, &str)]) -> Settings {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    load_from(Sources { env, file: None }).expect("sound settings")
}

/// What must live as long as the database.
pub(crate) enum Host {
    Postgres(Box<(PostgresServer, Option<PgBouncer>)>),
    Sqlite(TempDir),
}

pub(crate) struct Fixture {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) database: Database,
    pub(crate) settings: Settings,
    pub(crate) host: Host,
}

pub(crate) async fn postgres() -> Fixture {
    postgres_with(PostgresOptions::fast()).await
}

pub(crate) async fn postgres_with(options: PostgresOptions) -> Fixture {
    let server = PostgresServer::start_with(options)
        .await
        .expect("a PostgreSQL server");
    let url = server.url();
    fixture(
        &[("DATABASE_URL", &url)],
        Host::Postgres(Box::new((server, None))),
    )
    .await
}

/// PostgreSQL behind PgBouncer in transaction mode, as a pooler too old to carry prepared statements.
pub(crate) async fn pgbouncer() -> Fixture {
    let server = PostgresServer::start_with(PostgresOptions::fast())
        .await
        .expect("a PostgreSQL server");
    let pooler = PgBouncer::start(&server).await.expect("a PgBouncer");
    let url = pooler.url();
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("HOLDFAST__DATABASE__PREPARED_STATEMENTS", "false"),
    ];
    fixture(&env, Host::Postgres(Box::new((server, Some(pooler))))).await
}

pub(crate) async fn sqlite() -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite://{}", dir.path().join("ledger.db").display());
    fixture(&[("DATABASE_URL", &url)], Host::Sqlite(dir)).await
}

async fn fixture(env: &[(&str, &str)], host: Host) -> Fixture {
    let settings = settings(env);
    migrate(&settings.database).await.expect("migrated");
    let database = Database::open(&settings.database).expect("opened");
    Fixture {
        ledger: ledger::open(&database, &settings.database),
        database,
        settings,
        host,
    }
}

impl Fixture {
    /// Runs SQL that only tests need, such as moving rows in time.
    pub(crate) async fn sql(&self, postgres: &'static str, sqlite: &'static str) {
        match &self.database {
            Database::Postgres(pool) => {
                sqlx::raw_sql(postgres).execute(pool).await.expect("statement");
            }
            Database::Sqlite(database) => {
                sqlx::raw_sql(sqlite)
                    .execute(&database.writer)
                    .await
                    .expect("statement");
            }
        }
    }

    /// The same with text that a test makes.
    pub(crate) async fn sql_text(&self, postgres: &str, sqlite: &str) {
        match &self.database {
            Database::Postgres(pool) => {
                let text = sqlx::AssertSqlSafe(postgres);
                sqlx::raw_sql(text).execute(pool).await.expect("statement");
            }
            Database::Sqlite(database) => {
                let text = sqlx::AssertSqlSafe(sqlite);
                sqlx::raw_sql(text)
                    .execute(&database.writer)
                    .await
                    .expect("statement");
            }
        }
    }

    /// Moves a job's time into the past: an insert takes a time that has passed for now.
    pub(crate) async fn set_due_ago(&self, id: JobId, ago: Duration) {
        let (id, ms) = (id.as_uuid(), ago.as_millis());
        self.sql_text(
            &format!(
                "update holdfast_jobs set run_at = now() - {ms} * interval '1 millisecond' where id = '{id}'"
            ),
            &format!(
                "update holdfast_jobs set run_at = cast(unixepoch('subsec') * 1000 as integer) - {ms}
                 where id = unhex('{}')",
                id.simple()
            ),
        )
        .await;
    }

    /// Makes every worker's last heartbeat `seconds` older.
    pub(crate) async fn age_workers(&self) {
        self.sql(
            "update holdfast_workers set seen_at = seen_at - interval '60 seconds'",
            "update holdfast_workers set seen_at = seen_at - 60000",
        )
        .await;
    }

    /// Jobs, newest first.
    pub(crate) async fn list(&self, filter: &JobFilter) -> Vec<JobRecord> {
        let sql = Sql::new(&self.database, &self.settings.database);
        search::list(&sql, filter).await.expect("jobs")
    }

    pub(crate) async fn worker(&self) -> WorkerId {
        let report = report(WorkerId::generate());
        self.ledger.register(&report).await.expect("registered");
        report.id
    }
}

pub(crate) fn report(id: WorkerId) -> WorkerReport {
    WorkerReport {
        id,
        name: format!("test-{id}"),
        queues: vec!["default".to_owned()],
        started_at: holdfast_core::clock::now(),
        stats: std::collections::BTreeMap::new(),
        client: None,
    }
}

pub(crate) fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("JSON")
}

pub(crate) fn new_job() -> NewJob {
    NewJob {
        id: JobId::generate(),
        kind: Arc::from("test.kind"),
        queue: Arc::from("default"),
        payload: Arc::from(raw(r#"{"a":1}"#)),
        priority: Priority::Normal,
        run_at: RunAt::Now,
        max_attempts: 4,
        timeout: Duration::from_secs(30),
        unique_key: None,
        idempotency_key: None,
        limit_key: None,
        options: Options::default(),
        tags: Vec::new(),
        enqueued_by: None,
        batch: None,
        attempt: 0,
        crashes: 0,
        errors: Vec::new(),
        doubtful: false,
        discarded: false,
        encryption: holdfast_core::encryption::Encryption::default(),
    }
}
