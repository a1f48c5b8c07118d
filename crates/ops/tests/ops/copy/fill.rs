//! An installation on SQLite with a row in every table: made over HTTP as far as that goes, the rest in SQL.

use std::path::PathBuf;

use holdfast_testkit::Receiver;
use holdfast_testkit::http::Client;
use holdfast_testkit::place::{Dev, Place};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _};

use super::DEADLINE;
use crate::until;

/// Legal JSON that a parser which writes it again would change: spaces, a repeated field, escapes that `jsonb` refuses, numbers
/// beyond 64 bits.
pub(super) const PAYLOAD: &str =
    r#"{ "b" : 1.50, "a":[1e400,"\u0000\ud800 é\\"], "b":123456789012345678901234567890 }"#;

/// What the receiver hears when the target has run everything: jobs alone, of a batch with its callback, of a chain, and of a
/// worker that was lost.
pub(super) const WAITING: [&str; 7] = [
    "batch-1", "batch-2", "callback", "chained", "lost", "next", "single",
];

pub(super) fn database(place: &Place) -> PathBuf {
    place.path().join(".holdfast/holdfast.db")
}

pub(super) fn url(place: &Place) -> String {
    format!("sqlite://{}", database(place).display())
}

pub(super) async fn open(place: &Place) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(database(place))
        .foreign_keys(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

/// A stopped installation. Its waiting jobs ask the receiver when they run.
pub(super) async fn installation(receiver: &Receiver) -> Place {
    installation_in(Place::new(), receiver).await
}

/// The same with the place's environment.
pub(super) async fn installation_in(mut place: Place, receiver: &Receiver) -> Place {
    let dev = Dev::start(&mut place).await;
    over_http(&mut Client::new(dev.address), receiver).await;
    dev.stop().await;
    let mut connection = open(&place).await;
    in_sql(&mut connection, receiver).await;
    fill_the_rest(&mut connection).await;
    assert_eq!(empty_tables(&mut connection).await, Vec::<String>::new());
    connection.close().await.unwrap();
    place
}

async fn over_http(api: &mut Client, receiver: &Receiver) {
    let hook = json!({"url": receiver.url("/status/200"), "events": ["order.*"]});
    post(api, "/v1/webhooks", &hook).await;
    post(
        api,
        "/v1/notifications",
        &json!({"type": "order.paid", "data": {"order": 17}}),
    )
    .await;
    let track = post(api, "/v1/tracks", &json!({"name": "regatta"})).await;
    let point = json!({"track_id": track["id"], "recorded_at": "2026-06-01T10:00:00.123456Z", "lat": 0.1, "lon": -11.4});
    post(api, "/v1/points", &json!({"points": [point]})).await;
    let event = json!([{"uid": "jazz", "title": "Jazz an der Donau 🎷", "starts_at": "2030-06-01T18:00:00Z", "lat": 47.27, "lon": 11.4}]);
    post(api, "/v1/events", &event).await;
    let schedule =
        json!({"name": "nightly", "cron": "0 3 1 1 *", "kind": "debug.echo", "payload": {"b": 1, "a": 2}});
    post(api, "/v1/schedules", &schedule).await;
    post(api, "/v1/queues/ml/pause", &json!({})).await;

    let done = post(
        api,
        "/v1/jobs",
        &json!({"kind": "debug.echo", "payload": "x", "then": {"kind": "debug.echo", "payload": 2}}),
    )
    .await;
    let failed = post(
        api,
        "/v1/jobs",
        &json!({"kind": "debug.fail", "payload": {"mode": "permanent"}}),
    )
    .await;
    let cancelled = post(
        api,
        "/v1/jobs",
        &json!({"kind": "debug.echo", "payload": 1, "delay_seconds": 3600}),
    )
    .await;
    post(
        api,
        &format!("/v1/jobs/{}/cancel", text(&cancelled["id"])),
        &json!({}),
    )
    .await;
    for (id, state) in [
        (&done, "completed"),
        (&failed, "discarded"),
        (&cancelled, "cancelled"),
    ] {
        let path = format!("/v1/jobs/{}?wait=20", text(&id["id"]));
        let job: Value = api.get(&path).await.unwrap().json().unwrap();
        assert_eq!(job["state"], state, "{job}");
    }
    receiver.wait_for_requests(1, DEADLINE).await.unwrap();
    let jobs = [
        json!({"kind": "http.request", "payload": {"url": receiver.hit_url("batch-1")}, "queue": "ml"}),
        json!({"kind": "http.request", "payload": {"url": receiver.hit_url("batch-2")}, "queue": "ml"}),
    ];
    let callback =
        json!({"kind": "http.request", "payload": {"url": receiver.hit_url("callback")}, "queue": "ml"});
    post(api, "/v1/batches", &json!({"jobs": jobs, "callback": callback})).await;
    for id in ["single", "chained"] {
        let mut job = json!({"kind": "http.request", "payload": {"url": receiver.hit_url(id)}, "queue": "ml", "unique_key": id});
        if id == "chained" {
            job["then"] =
                json!({"kind": "http.request", "payload": {"url": receiver.hit_url("next")}, "queue": "ml"});
        }
        post(api, "/v1/jobs", &job).await;
    }
    // What is packed and written behind the answer.
    until("the point and the delivery are stored", async || {
        let points: Value = api.get("/v1/jobs?state=running").await.unwrap().json().unwrap();
        points["jobs"].as_array().unwrap().is_empty()
    })
    .await;
}

/// What HTTP does not make: payloads of an odd form, and what a worker leaves that was killed.
async fn in_sql(connection: &mut SqliteConnection, receiver: &Receiver) {
    sqlx::query(
        "insert into holdfast_jobs (id, queue, kind, run_at, max_attempts, timeout_ms, created_at, payload)
         values (?1, 'ml', 'debug.echo', 4102444800000, 3, 1000, 1700000000123, ?2)",
    )
    .bind(vec![0xEE_u8; 16])
    .bind(PAYLOAD)
    .execute(&mut *connection)
    .await
    .unwrap();
    let payload = json!({"url": receiver.hit_url("lost")}).to_string();
    sqlx::query(
        "insert into holdfast_jobs (id, queue, kind, state, run_at, max_attempts, timeout_ms, worker, created_at, started_at, payload)
         values (?1, 'default', 'http.request', 'running', 1700000000000, 3, 60000, ?2, 1700000000000, 1700000000123, ?3)",
    )
    .bind(vec![0xAB_u8; 16])
    .bind(vec![0xCD_u8; 16])
    .bind(payload)
    .execute(&mut *connection)
    .await
    .unwrap();
    sqlx::query(
        "insert into holdfast_workers (id, name, queues, stats, started_at, seen_at)
         values (?1, 'lost', '[\"default\"]', '{}', 1700000000000, 1700000000000)",
    )
    .bind(vec![0xCD_u8; 16])
    .execute(&mut *connection)
    .await
    .unwrap();
    sqlx::query(
        "insert into holdfast_limit_buckets (queue, key, full_at) values ('q', 'k', 1700000000123.4567)",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
}

/// A row in each table that has none, its values by the types of the catalogue.
async fn fill_the_rest(connection: &mut SqliteConnection) {
    // A table comes after those that it refers to, which may take a round each.
    for _ in 0..4 {
        for table in empty_tables(connection).await {
            let columns: Vec<(String, String)> =
                sqlx::query_as("select name, type from pragma_table_info(?1)")
                    .bind(&table)
                    .fetch_all(&mut *connection)
                    .await
                    .unwrap();
            let references: Vec<(String, String, String)> =
                sqlx::query_as(r#"select "from", "table", "to" from pragma_foreign_key_list(?1)"#)
                    .bind(&table)
                    .fetch_all(&mut *connection)
                    .await
                    .unwrap();
            let values = columns.iter().map(|(name, type_name)| {
                let reference = references.iter().find(|(from, ..)| from == name);
                match (reference, type_name.to_lowercase().as_str()) {
                    (Some((_, table, to)), _) => format!("(select {to} from {table} limit 1)"),
                    (None, "blob") => "randomblob(16)".to_owned(),
                    (None, "real") => "1.5".to_owned(),
                    (None, "text") => "'{}'".to_owned(),
                    _ => "1".to_owned(),
                }
            });
            let values = values.collect::<Vec<_>>().join(", ");
            let names = columns
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect::<Vec<_>>()
                .join(", ");
            let insert = format!("insert into {table} ({names}) values ({values})");
            // A table that refers to one which is still empty is filled in the next round.
            sqlx::query(AssertSqlSafe(insert))
                .execute(&mut *connection)
                .await
                .ok();
        }
    }
}

/// Every table of ours is to have a row. Beats and frontiers are deleted at a stop, and made here by [`fill_the_rest`].
async fn empty_tables(connection: &mut SqliteConnection) -> Vec<String> {
    let mut empty = Vec::new();
    for table in tables(connection).await {
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {table}")))
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        if rows == 0 {
            empty.push(table);
        }
    }
    empty
}

pub(super) async fn tables(connection: &mut SqliteConnection) -> Vec<String> {
    sqlx::query_scalar(r"select name from sqlite_schema where type = 'table' and name like 'holdfast\_%' escape '\' order by name")
        .fetch_all(connection)
        .await
        .unwrap()
}

pub(super) async fn post(api: &mut Client, path: &str, body: &Value) -> Value {
    let response = api.post_json(path, body).await.unwrap();
    assert!(
        response.status < 300,
        "{path}: {} {}",
        response.status,
        response.text()
    );
    serde_json::from_slice(&response.body).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
