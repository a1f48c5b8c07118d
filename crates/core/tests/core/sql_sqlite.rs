//! The embedded database as its users meet it: files, pools and migrations.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at what it did not expect"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use holdfast_core::config::{DatabaseSettings, Sources, load_from};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, SqlError, SqliteDatabase, migrate};
use secrecy::SecretString;
use sqlx::sqlite::SqlitePool;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);

fn settings_of(file: &Path) -> DatabaseSettings {
    let mut settings = load_from(Sources::default()).unwrap().database;
    settings.url = SecretString::from(format!("sqlite://{}", file.display()));
    settings
}

fn embedded(database: &Database) -> &SqliteDatabase {
    match database {
        Database::Sqlite(embedded) => embedded,
        Database::Postgres(_) => panic!("not embedded"),
    }
}

async fn pragma(pool: &SqlitePool, statement: &'static str) -> String {
    let number: Result<i64, _> = sqlx::query_scalar(statement).fetch_one(pool).await;
    match number {
        Ok(number) => number.to_string(),
        Err(_) => sqlx::query_scalar(statement).fetch_one(pool).await.unwrap(),
    }
}

#[tokio::test]
async fn a_new_file_is_made_with_its_directories_and_commits_durably() {
    let scratch = TempDir::new().unwrap();
    let file = scratch.path().join("a/b/jobs.db");
    let database = Database::open(&settings_of(&file)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        mode(file.parent().unwrap()),
        0o700,
        "payloads and secrets are for this user alone"
    );
    assert_eq!(mode(&file), 0o600);
    assert_eq!(
        std::fs::metadata(&file).unwrap().len(),
        0,
        "opening does not connect"
    );
    let SqliteDatabase { writer, reader, .. } = embedded(&database);
    assert_eq!(pragma(writer, "PRAGMA journal_mode").await, "wal");
    assert_eq!(pragma(writer, "PRAGMA synchronous").await, "2", "FULL");
    assert_eq!(pragma(writer, "PRAGMA foreign_keys").await, "1");
    assert_eq!(pragma(writer, "PRAGMA busy_timeout").await, "5000");
    assert_eq!(pragma(reader, "PRAGMA query_only").await, "1");
    assert_eq!(writer.options().get_max_connections(), 1);
}

#[tokio::test]
async fn readers_refuse_to_write() {
    let scratch = TempDir::new().unwrap();
    let settings = settings_of(&scratch.path().join("jobs.db"));
    migrate(&settings).await.unwrap();
    let database = Database::open(&settings).unwrap();
    let writing = "DELETE FROM holdfast_jobs";
    assert!(
        sqlx::query(writing)
            .execute(&embedded(&database).reader)
            .await
            .is_err()
    );
    sqlx::query(writing)
        .execute(&embedded(&database).writer)
        .await
        .unwrap();
}

#[tokio::test]
async fn migrating_twice_applies_once() {
    let scratch = TempDir::new().unwrap();
    let settings = settings_of(&scratch.path().join("jobs.db"));
    let database = Database::open(&settings).unwrap();
    let pending = database.pending_migrations().await.unwrap();
    assert_eq!(pending[0], "0001_jobs");
    let first = migrate(&settings).await.unwrap();
    assert_eq!(
        (first.applied.clone(), first.already_applied),
        (pending.clone(), 0)
    );
    let second = migrate(&settings).await.unwrap();
    assert_eq!((second.applied.len(), second.already_applied), (0, pending.len()));
    assert_eq!(database.pending_migrations().await.unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_processes_may_migrate_the_same_new_file_at_once() {
    let scratch = TempDir::new().unwrap();
    let settings = settings_of(&scratch.path().join("jobs.db"));
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let settings = settings.clone();
            tokio::spawn(async move { migrate(&settings).await.unwrap().applied.len() })
        })
        .collect();
    let mut applied = Vec::new();
    for run in runs {
        applied.push(run.await.unwrap());
    }
    let migrations = Database::open(&settings)
        .unwrap()
        .pending_migrations()
        .await
        .unwrap();
    assert!(migrations.is_empty());
    assert_eq!(
        applied.iter().filter(|count| **count > 0).count(),
        1,
        "{applied:?}"
    );
}

#[tokio::test]
async fn an_edited_migration_is_refused() {
    let scratch = TempDir::new().unwrap();
    let settings = settings_of(&scratch.path().join("jobs.db"));
    migrate(&settings).await.unwrap();
    let database = Database::open(&settings).unwrap();
    let edit = "UPDATE holdfast_migrations SET checksum = '' WHERE version = 1";
    sqlx::query(edit)
        .execute(&embedded(&database).writer)
        .await
        .unwrap();
    let error = migrate(&settings).await.unwrap_err();
    assert!(
        matches!(
            error,
            SqlError::MigrationEdited {
                migration: "0001_jobs"
            }
        ) && !error.is_transient(),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_database_ahead_of_the_binary_is_accepted_and_reported() {
    let scratch = TempDir::new().unwrap();
    let settings = settings_of(&scratch.path().join("jobs.db"));
    migrate(&settings).await.unwrap();
    let database = Database::open(&settings).unwrap();
    let newer = "INSERT INTO holdfast_migrations (version, name, checksum) VALUES (9001, '9001_newer', '')";
    sqlx::query(newer)
        .execute(&embedded(&database).writer)
        .await
        .unwrap();
    assert_eq!(migrate(&settings).await.unwrap().ahead, [9001]);
}

#[tokio::test]
async fn it_answers_pings_and_counts_its_connections() {
    let scratch = TempDir::new().unwrap();
    let database = Database::open(&settings_of(&scratch.path().join("jobs.db"))).unwrap();
    assert_eq!(database.kind(), "sqlite");
    assert_eq!(database.pool_stats().size, 0);
    database.ping(DEADLINE).await.unwrap();
    database
        .wait_until_ready(DEADLINE, &Shutdown::new())
        .await
        .unwrap();
    let stats = database.pool_stats();
    assert!((1..=2).contains(&stats.size) && stats.max == 5, "{stats:?}");
    database.close(DEADLINE).await;
    assert_eq!(database.pool_stats().size, 0);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_told_at_once() {
    let scratch = TempDir::new().unwrap();
    let file = scratch.path().join("jobs.db");
    std::fs::write(&file, [b'x'; 4096]).unwrap();
    let database = Database::open(&settings_of(&file)).unwrap();
    let error = database
        .wait_until_ready(DEADLINE, &Shutdown::new())
        .await
        .unwrap_err();
    assert!(
        matches!(error, SqlError::Driver(_)) && !error.is_transient(),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let scratch = TempDir::new().unwrap();
    let blocker = scratch.path().join("file");
    std::fs::write(&blocker, "").unwrap();
    let error = Database::open(&settings_of(&blocker.join("jobs.db"))).unwrap_err();
    assert!(
        matches!(&error, SqlError::Directory { path, .. } if *path == blocker),
        "{error:?}"
    );
}
