//! The rows that every pair begins with, and the processes that meet over them.

use std::sync::Arc;

use holdfast_core::config::Settings;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::ledger::{self, Fence, Ledger};
use holdfast_jobs::limits::LimitStore;
use holdfast_jobs::sql::Sql;
use holdfast_jobs::{BatchId, Job, JobContext, JobError, JobId, Jobs, Registry, WorkerId};
use holdfast_testkit::{PostgresOptions, PostgresServer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::statement_pairs::operations::claims_for;
use crate::support::settings;

pub(crate) const KIND: &str = "test.kind";
pub(crate) const LIMITED: &str = "limited";

/// Alive. Its client has given up a claim, so its id is retired: it may be ended, and what it holds may be strays.
pub(crate) const WORKER: u8 = 1;
/// Not heard of for long.
pub(crate) const SILENT: u8 = 2;
/// Alive, of another process.
pub(crate) const OTHER: u8 = 3;
/// Brings everything to its end at last.
pub(crate) const FRESH: u8 = 9;

/// A batch of five, of which one is a dead letter.
pub(crate) const BATCH_MANY: u8 = 1;
/// A batch of one, which runs.
pub(crate) const BATCH_LAST: u8 = 2;
const STEM: u128 = 0x0190_0000_0000_0000_0000_0000_0000_0000;

fn id(of: u128, number: u8) -> Uuid {
    Uuid::from_u128(STEM | of << 16 | u128::from(number))
}

pub(crate) fn job(number: u8) -> JobId {
    JobId::from_uuid(id(1, number))
}

pub(crate) fn worker(number: u8) -> WorkerId {
    WorkerId::from_uuid(id(2, number))
}

pub(crate) fn batch(number: u8) -> BatchId {
    BatchId::from_uuid(id(3, number))
}

/// Of a job that never ended and never crashed.
pub(crate) fn fence(id: JobId) -> Fence {
    Fence {
        id,
        attempt: 0,
        crashes: 0,
    }
}

/// A kind that nobody runs: the test plays the worker.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Step {
    n: u32,
}

impl Job for Step {
    const KIND: &'static str = KIND;
    type Output = ();

    async fn run(self, _: JobContext) -> Result<(), JobError> {
        Ok(())
    }
}

/// B waits so long for a lock that A holds. Shorter than the default, because most pairs contend.
const LOCK_TIMEOUT_MS: &str = "100";

/// The schema of a test: stops and the log, and where the rows of the world are made.
const SCHEMA: &str = include_str!("schema.sql");

/// One server; an arena is a database of it.
pub(crate) struct Hall {
    server: PostgresServer,
}

impl Hall {
    pub(crate) async fn open() -> Self {
        let options = PostgresOptions::fast()
            .max_connections(200)
            .setting("jit", "off")
            .setting("autovacuum_naptime", "5s");
        let server = PostgresServer::start_with(options).await.unwrap();
        let hall = Self { server };
        migrate(&hall.settings("template").database).await.unwrap();
        hall.server
            .psql("create role victim login in role holdfast")
            .await
            .unwrap();
        let side = Side::open(hall.settings("template"), false);
        side.limits.declare(&side.settings.queues).await.unwrap();
        hall.server.psql(SCHEMA).await.unwrap();
        side.database.close(std::time::Duration::from_secs(30)).await;
        hall
    }

    /// A database of its own, made from the first one.
    pub(crate) async fn arena(&self, name: &str) {
        let sql = format!("create database {name} template holdfast owner holdfast");
        self.server.psql_in("template1", &sql).await.unwrap();
    }

    pub(crate) fn url(&self, arena: &str, role: &str) -> String {
        let name = if arena == "template" { "holdfast" } else { arena };
        let url = self.server.database_url(name);
        url.replacen("holdfast@", &format!("{role}@"), 1)
    }

    fn settings(&self, arena: &str) -> Settings {
        self.settings_as(arena, "holdfast")
    }

    pub(crate) fn settings_as(&self, arena: &str, role: &str) -> Settings {
        settings(&[
            ("DATABASE_URL", &self.url(arena, role)),
            ("HOLDFAST__DATABASE__STATEMENT_TIMEOUT_SECONDS", "20"),
            ("HOLDFAST__DATABASE__LOCK_TIMEOUT_MS", LOCK_TIMEOUT_MS),
            ("HOLDFAST__DATABASE__MAX_CONNECTIONS", "4"),
            ("HOLDFAST__QUEUES__LIMITED__MAX_RUNNING", "2"),
        ])
    }
}

/// A process, as far as the ledger is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) limits: LimitStore,
    pub(crate) sql: Sql,
    pub(crate) jobs: Jobs,
    pub(crate) settings: Arc<Settings>,
    pub(crate) database: Database,
    pub(crate) worker: WorkerId,
}

impl Side {
    /// A's is the one of the triggers' role.
    pub(crate) fn open(settings: Settings, is_first: bool) -> Self {
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Queue, None, &settings.redis).unwrap();
        let registry = Registry::new().register::<Step>();
        Self {
            jobs: Jobs::new(&settings, registry, &database, &gate),
            limits: LimitStore::new(&database, &settings.database),
            sql: Sql::new(&database, &settings.database),
            ledger: ledger::open(&database, &settings.database),
            settings: Arc::new(settings),
            database,
            worker: claims_for(is_first),
        }
    }

    /// The same process with nothing remembered of its claims.
    pub(crate) fn with_fresh_ledger(&self) -> Self {
        Self {
            ledger: ledger::open(&self.database, &self.settings.database),
            worker: worker(FRESH),
            ..self.clone()
        }
    }
}
