//! A backup taken beside running services, restored into another database: nothing is stuck, and what waits runs.

use std::time::Duration;

use holdfast_testkit::http::Client;
use holdfast_testkit::place::{Dev, Place};
use holdfast_testkit::{Child, PostgresServer, Receiver};
use serde_json::{Value, json};

use crate::until;

const DEADLINE: Duration = Duration::from_mins(2);

/// Jobs that wait, some behind a paused queue, while others run.
async fn traffic(api: &mut Client, receiver: &Receiver) {
    let pause = api.post_json("/v1/queues/ml/pause", &json!({})).await.unwrap();
    assert!(pause.status < 300, "{}", pause.text());
    for number in 0..40 {
        // Slow enough that some run while the backup is taken.
        let (queue, delay) = if number % 2 == 0 {
            ("ml", 1)
        } else {
            ("default", 2_000)
        };
        let url = receiver.url(&format!("/slow/{delay}?id=job-{number}"));
        let job = json!({"kind": "http.request", "payload": {"url": url}, "queue": queue});
        let answer = api.post_json("/v1/jobs", &job).await.unwrap();
        assert!(answer.status < 300, "{}", answer.text());
    }
}

/// Services on the restored database finish everything: a job that the backup shows as running or waiting runs (again).
async fn runs_out(place: &mut Place, receiver: &Receiver) {
    receiver.clear();
    let dev = Dev::start(place).await;
    let resumed = place.run(&["queues", "resume", "ml"]).await;
    assert_eq!(resumed.code, Some(0), "{}", resumed.text);
    let mut api = Client::new(dev.address);
    until("every job is completed", async || {
        let path = "/v1/jobs?kind=http.request&limit=100";
        let page: Value = api.get(path).await.unwrap().json().unwrap();
        let jobs = page["jobs"].as_array().unwrap();
        assert_eq!(jobs.len(), 40);
        jobs.iter().all(|job| job["state"] == "completed")
    })
    .await;
    for number in (0..40).step_by(2) {
        assert_eq!(
            receiver.count(&format!("job-{number}")),
            1,
            "job-{number} waited, and ran once"
        );
    }
    dev.stop().await;
}

async fn run(program: &str, args: &[&str]) {
    let mut child = Child::program(program).args(args).start().unwrap();
    let status = child.wait_exit(DEADLINE).await.unwrap();
    assert!(
        status.success(),
        "{program}: {}",
        child.printed(DEADLINE).await.unwrap().text
    );
}

#[tokio::test]
async fn a_dump_of_postgresql_taken_while_jobs_flow_restores_to_a_system_that_runs_on() {
    let receiver = Receiver::start().await.unwrap();
    let postgres = PostgresServer::start().await.unwrap();
    let mut place = Place::new().with_env("DATABASE_URL", postgres.url());
    let dev = Dev::start(&mut place).await;
    traffic(&mut Client::new(dev.address), &receiver).await;
    receiver.wait_for_distinct(1, DEADLINE).await.unwrap();
    let dump = place.path().join("holdfast.dump");
    let dump = dump.to_str().unwrap();
    run(
        "pg_dump",
        &["--format=custom", "--file", dump, "--dbname", &postgres.url()],
    )
    .await;
    dev.stop().await;

    let restored = postgres.create_database("restored").await.unwrap();
    run(
        "pg_restore",
        &["--exit-on-error", "--no-owner", "--dbname", &restored, dump],
    )
    .await;
    let mut place = Place::new().with_env("DATABASE_URL", restored);
    let checked = place.run(&["migrate", "--check"]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    runs_out(&mut place, &receiver).await;
}

#[tokio::test]
async fn a_backup_of_sqlite_taken_while_jobs_flow_restores_to_a_system_that_runs_on() {
    let receiver = Receiver::start().await.unwrap();
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    traffic(&mut Client::new(dev.address), &receiver).await;
    receiver.wait_for_distinct(1, DEADLINE).await.unwrap();
    let report = place.json(&["backup", "--to", "backup.db"]).await;
    dev.stop().await;
    let file = place.path().join("backup.db");
    assert_eq!(report["bytes"], file.metadata().unwrap().len());
    #[cfg(unix)]
    assert_eq!(
        std::os::unix::fs::MetadataExt::mode(&file.metadata().unwrap()) & 0o777,
        0o600
    );

    let again = place.run(&["backup", "--to", "backup.db"]).await;
    assert_eq!(again.code, Some(1));
    assert!(
        again.text.contains("an existing file is not overwritten"),
        "{}",
        again.text
    );

    let mut restored = Place::new();
    std::fs::create_dir(restored.path().join(".holdfast")).unwrap();
    std::fs::copy(file, restored.path().join(".holdfast/holdfast.db")).unwrap();
    runs_out(&mut restored, &receiver).await;
}

#[tokio::test]
async fn a_backup_of_what_is_not_sqlite_says_what_to_use() {
    let place = Place::new();
    let ended = place.run(&["backup", "--to", "x.db"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .text
            .contains("there is no database at .holdfast/holdfast.db"),
        "{}",
        ended.text
    );
    assert!(!place.path().join("x.db").exists());
    let place = place.with_env("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:9/db");
    let ended = place.run(&["backup", "--to", "x.db"]).await;
    assert!(ended.text.contains("pg_dump"), "{}", ended.text);
    assert!(!ended.text.contains("hunter2"), "{}", ended.text);
}
