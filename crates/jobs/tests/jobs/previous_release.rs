//! The release before this one beside the migrations of this one: its statements, over one connection that has prepared them,
//! before, in the middle of and after them. The statements are out of its sources: `scripts/previous-release`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use crate::support;

use std::collections::BTreeMap;

use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::JobId;
use holdfast_jobs::ledger::{self, InsertOutcome, Outcome};
use holdfast_testkit::{PostgresOptions, PostgresServer};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};
use support::{LOST_AFTER, new_job, raw, settings};
use uuid::Uuid;

const INSERT: &str = include_str!("previous_release/insert.sql");
const CLAIM: &str = include_str!("previous_release/claim.sql");
const FINISH: &str = include_str!("previous_release/finish.sql");
const RESCUE: &str = include_str!("previous_release/rescue.sql");
const RECORD: &str = include_str!("previous_release/record.sql");
const INSERT_SCHEDULE: &str = include_str!("previous_release/insert_schedule.sql");
const REPLACE_SCHEDULE: &str = include_str!("previous_release/replace_schedule.sql");

/// Its last migration.
const LAST: usize = 12;

/// The one of this release after which both kinds of columns are written.
const EXPANDED: usize = 15;

/// A payload that only this release can store.
const NEW_SHAPE: &str = r#"{"nul":"\u0000","half":"\ud800","d":1,"d":2,"tiny":1e-20000}"#;

struct Old {
    connection: PgConnection,
    worker: Uuid,
}

impl Old {
    async fn start(url: &str) -> Self {
        let mut connection = PgConnection::connect(url).await.unwrap();
        let worker = Uuid::from_u128(1);
        sqlx::query("insert into holdfast_workers (id, name, queues, stats, started_at) values ($1, 'old', '[]', '{}', now())")
            .bind(worker)
            .execute(&mut connection)
            .await
            .unwrap();
        Self { connection, worker }
    }

    async fn insert(&mut self, payload: &str) -> JobId {
        let id = JobId::generate();
        let inserted = sqlx::query(INSERT)
            .bind(vec![id.as_uuid()])
            .bind(vec!["default"])
            .bind(vec!["test.kind"])
            .bind(vec![payload])
            .bind(vec![1_i16])
            .bind(vec![None::<chrono::DateTime<chrono::Utc>>])
            .bind(vec![0_i64])
            .bind(vec![4])
            .bind(vec![30_000_i64])
            .bind(vec![None::<&str>])
            .bind(vec![None::<&str>])
            .bind(vec![Some(r#"{"traceparent":"x"}"#)])
            .bind(vec![0])
            .bind(vec![0])
            .bind(vec![None::<&str>])
            .bind(vec![false])
            .bind(vec![false])
            .bind(vec![None::<&str>])
            .bind(None::<Uuid>)
            .fetch_all(&mut self.connection)
            .await
            .unwrap();
        assert_eq!(inserted.len(), 1);
        id
    }

    async fn claim(&mut self) -> Vec<PgRow> {
        sqlx::query("update holdfast_workers set seen_at = now() where id = $1")
            .bind(self.worker)
            .execute(&mut self.connection)
            .await
            .unwrap();
        sqlx::query(CLAIM)
            .bind("default")
            .bind(self.worker)
            .bind(100_i64)
            .bind(60_000_i64)
            .bind(None::<chrono::DateTime<chrono::Utc>>)
            .bind(None::<chrono::DateTime<chrono::Utc>>)
            .bind(None::<chrono::DateTime<chrono::Utc>>)
            .fetch_all(&mut self.connection)
            .await
            .unwrap()
    }

    async fn finish(&mut self, claimed: &[PgRow]) {
        let ids: Vec<Uuid> = claimed.iter().map(|row| row.get("id")).collect();
        let all = |value| vec![value; ids.len()];
        let held = sqlx::query(FINISH)
            .bind(self.worker)
            .bind(&ids)
            .bind(all(0))
            .bind(all(0))
            .bind(vec!["completed"; ids.len()])
            .bind(all(1))
            .bind(vec![None::<i64>; ids.len()])
            .bind(vec![Some(r#"{"n": 1e2}"#); ids.len()])
            .bind(vec![None::<&str>; ids.len()])
            .fetch_all(&mut self.connection)
            .await
            .unwrap();
        assert_eq!(held.len(), ids.len());
    }

    /// What it does all day.
    async fn round(&mut self, name: &str) {
        let id = self.insert(&format!(r#"{{"in": "{name}"}}"#)).await;
        let claimed = self.claim().await;
        assert!(
            claimed.iter().any(|row| row.get::<Uuid, _>("id") == id.as_uuid()),
            "{name}"
        );
        self.finish(&claimed).await;
        let rescued = sqlx::query(RESCUE)
            .bind(60_000_i64)
            .bind(3)
            .bind(500_i64)
            .fetch_all(&mut self.connection)
            .await
            .unwrap();
        assert_eq!(rescued.len(), 0, "{name}");
        let record = sqlx::query(AssertSqlSafe(format!("{RECORD} where id = $1")))
            .bind(id.as_uuid())
            .fetch_one(&mut self.connection)
            .await
            .unwrap();
        assert_eq!(record.get::<&str, _>("payload"), format!(r#"{{"in": "{name}"}}"#));
        for sql in [INSERT_SCHEDULE, REPLACE_SCHEDULE] {
            let query = sqlx::query(sql)
                .bind(name)
                .bind("api")
                .bind(true)
                .bind(None::<&str>)
                .bind(Some(60_i64))
                .bind("UTC")
                .bind("test.kind")
                .bind(r#"{"a":1}"#)
                .bind(None::<&str>)
                .bind("latest")
                .bind(1)
                .bind(0_i64)
                .bind(None::<chrono::DateTime<chrono::Utc>>);
            let query = if sql == REPLACE_SCHEDULE {
                query.bind(1_i64)
            } else {
                query
            };
            assert_eq!(
                query.execute(&mut self.connection).await.unwrap().rows_affected(),
                1
            );
        }
    }
}

#[tokio::test]
async fn the_release_before_works_before_in_the_middle_of_and_after_the_migrations() {
    let server = PostgresServer::start_with(PostgresOptions::fast()).await.unwrap();
    let url = server.url();
    let settings = settings(&[("DATABASE_URL", &url)]);
    apply(&server, 0, LAST).await;
    let mut old = Old::start(&url).await;
    old.round("before").await;
    // Claimed and finished before any backfill has come to it.
    old.insert(r#"{"n": 100}"#).await;
    apply(&server, LAST, EXPANDED).await;
    old.round("in the middle").await;
    let report = migrate(&settings.database).await.unwrap();
    assert_eq!(report.already_applied, EXPANDED);
    old.round("after").await;

    // Both releases take from one queue what both of them put there: each job ends once.
    let database = Database::open(&settings.database).unwrap();
    let new = ledger::open(&database, &settings.database);
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(old.insert(r#"{"old": true}"#).await);
        let job = holdfast_jobs::ledger::NewJob {
            payload: std::sync::Arc::from(raw(NEW_SHAPE)),
            ..new_job()
        };
        ids.push(job.id);
        assert_eq!(
            new.insert(std::slice::from_ref(&job)).await.unwrap(),
            [InsertOutcome::New(job.id)]
        );
    }
    let report = support::report(holdfast_jobs::WorkerId::generate());
    new.register(&report).await.unwrap();
    let taken = new.claim("default", report.id, 4, LOST_AFTER).await.unwrap();
    assert_eq!(taken.len(), 4);
    let rest = old.claim().await;
    let mut ends: BTreeMap<Uuid, u32> = BTreeMap::new();
    for row in &rest {
        *ends.entry(row.get("id")).or_default() += 1;
        let payload: &str = row.get("payload");
        assert!(
            [NEW_SHAPE, r#"{"old": true}"#, r#"{"n": 100}"#].contains(&payload),
            "{payload}"
        );
    }
    old.finish(&rest).await;
    for job in &taken {
        *ends.entry(job.id.as_uuid()).or_default() += 1;
        let outcome = Outcome::Completed {
            fence: job.fence(),
            result: None,
        };
        assert_eq!(new.finish(report.id, &[outcome]).await.unwrap(), [job.id]);
    }
    ids.sort();
    assert!(
        ids.iter().all(|id| ends.get(&id.as_uuid()) == Some(&1)),
        "{ends:?}"
    );
    let open = "select count(*) from holdfast_jobs where state <> 'completed'";
    assert_eq!(server.psql(open).await.unwrap(), "0");
}

/// Applies the migrations after `from`, to `to`, and records them.
async fn apply(server: &PostgresServer, from: usize, to: usize) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations/postgres");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let table =
        "CREATE TABLE IF NOT EXISTS holdfast_migrations (version bigint PRIMARY KEY, name text NOT NULL,
                     checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP)";
    server.psql_at(&server.url(), table).await.unwrap();
    for (file, version) in files[..to].iter().zip(1..).skip(from) {
        let sql = std::fs::read_to_string(file).unwrap();
        let name = file.file_stem().unwrap().to_string_lossy();
        let entry = format!(
            "INSERT INTO holdfast_migrations (version, name, checksum)
             VALUES ({version}, '{name}', encode(sha256(convert_to($file${sql}$file$, 'UTF8')), 'hex'))"
        );
        server.psql_at(&server.url(), &sql).await.unwrap();
        server.psql_at(&server.url(), &entry).await.unwrap();
    }
}
