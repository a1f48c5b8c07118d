//! An SQLite file of the release before is upgraded: what it holds is there, and what waits runs exactly once.
//!
//! `scripts/previous-release file` wrote it with the binaries of that release. PostgreSQL has its own tests
//! (`crates/jobs/tests/jobs/previous_release.rs`).

use std::time::Duration;

use holdfast_testkit::Receiver;
use holdfast_testkit::http::Client;
use holdfast_testkit::place::{Dev, Place};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::until;

const RELEASE_BEFORE: &str = include_str!("release_before.sql");

/// The address that stands in the file (`make_file.py`).
const RECEIVER: &str = "http://127.0.0.1:48999";

/// What the receiver hears: what waited, one that was due while nothing ran, and the job that the killed worker had.
const WAITING: [&str; 9] = [
    "batch-1", "batch-2", "callback", "chained", "due", "limited", "lost", "next", "single",
];

/// The file grows old: what has ended is still retained, and the job of a later time is still not due.
const OF_TODAY: &str = "
    update holdfast_jobs set finished_at = cast(unixepoch('subsec') * 1000 as integer) where finished_at is not null;
    update holdfast_jobs set run_at = 4102444800000 where payload like '%/hit/later\"%'";

const DEADLINE: Duration = Duration::from_mins(2);

/// The file, with the receiver's address in its jobs.
async fn release_before(receiver: &Receiver) -> Place {
    let place = Place::new();
    let directory = place.path().join(".holdfast");
    std::fs::create_dir(&directory).unwrap();
    let options = SqliteConnectOptions::new()
        .filename(directory.join("holdfast.db"))
        .create_if_missing(true)
        // The tables are written in the order of their names.
        .foreign_keys(false);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let statements = RELEASE_BEFORE.replace(RECEIVER, receiver.url("").as_str());
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::raw_sql(OF_TODAY).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    place
}

async fn get(api: &mut Client, path: &str) -> Value {
    let answer = api.get(path).await.unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json().unwrap()
}

async fn states(api: &mut Client, state: &str) -> usize {
    let page = get(api, &format!("/v1/jobs?state={state}&limit=100")).await;
    page["jobs"].as_array().unwrap().len()
}

#[tokio::test]
async fn an_sqlite_file_of_the_release_before_is_upgraded_and_loses_and_repeats_nothing() {
    let receiver = Receiver::start().await.unwrap();
    let mut place = release_before(&receiver).await;
    let behind = place.run(&["migrate", "--check"]).await;
    assert_ne!(behind.code, Some(0), "{}", behind.text);
    let migrated = place.run(&["migrate"]).await;
    assert_eq!(migrated.code, Some(0), "{}", migrated.text);

    let dev = Dev::start(&mut place).await;
    let mut api = Client::new(dev.address);
    // What had ended is as it was.
    let dead = get(&mut api, "/v1/dead-letters").await;
    assert_eq!(dead["dead_letters"].as_array().unwrap().len(), 1, "{dead}");
    assert_eq!(states(&mut api, "cancelled").await, 1);
    let schedule = get(&mut api, "/v1/schedules/yearly").await;
    assert_eq!(schedule["time_zone"], "Europe/Vienna");
    assert_eq!(schedule["payload"], json!({"a": 2, "b": 1}));
    let webhooks = get(&mut api, "/v1/webhooks").await;
    assert_eq!(webhooks["webhooks"].as_array().unwrap().len(), 1, "{webhooks}");
    let events = get(&mut api, "/v1/events").await;
    assert_eq!(events["events"][0]["title"], "Jazz 🎷", "{events}");

    // A key of before holds what it held.
    let repeat = json!({"kind": "http.request", "payload": {"url": receiver.hit_url("repeat")}, "queue": "ml", "unique_key": "single"});
    let answer = api.post_json("/v1/jobs", &repeat).await.unwrap();
    let answer: Value = answer.json().unwrap();
    assert_eq!(answer["duplicate"], true, "{answer}");

    // What waits runs.
    let resumed = place.run(&["queues", "resume", "ml"]).await;
    assert_eq!(resumed.code, Some(0), "{}", resumed.text);
    receiver.wait_for_distinct(WAITING.len(), DEADLINE).await.unwrap();
    until("nothing runs and nothing is due", async || {
        states(&mut api, "running").await == 0 && states(&mut api, "available").await == 0
    })
    .await;
    let later = get(&mut api, "/v1/jobs?state=scheduled").await;
    assert!(
        later["jobs"][0]["payload"]["url"]
            .as_str()
            .unwrap()
            .ends_with("/hit/later"),
        "{later}"
    );
    assert_eq!(receiver.ids(), WAITING);
    assert_eq!(receiver.duplicates(), []);
    dev.stop().await;
}
