//! `examples/shell-worker`: jobs that a shell runs, and a worker that is killed in the middle of one.

use std::time::Duration;

use holdfast_testkit::Child;
use serde_json::Value;

use crate::readme::{DEADLINE, root};
use crate::snippets::{Dev, path_with_binaries};

const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];

/// Enqueues a job; its id.
async fn enqueue(dev: &Dev) -> String {
    let job = r#"{"kind": "thumbnail.make", "payload": {"url": "https://example.com/a.png"}}"#;
    let accepted = dev.ask("/v1/jobs", &[JSON[0], JSON[1], "-d", job]).await;
    accepted["id"].as_str().unwrap().to_owned()
}

fn worker(dev: &Dev, handler: &str) -> Child {
    Child::program("sh")
        .arg(root().join("examples/shell-worker/worker.sh"))
        .env("PATH", path_with_binaries())
        .env("HOLDFAST_URL", format!("http://127.0.0.1:{}", dev.port()))
        .env("QUEUE", "media")
        .env("HANDLER", handler)
        .start()
        .unwrap()
}

async fn ended(dev: &Dev, id: &str) -> Value {
    let asking = async {
        loop {
            let job = dev.ask(&format!("/v1/jobs/{id}?wait=20"), &[]).await;
            if job["state"] == "completed" {
                return job;
            }
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.unwrap()
}

#[tokio::test]
async fn a_shell_runs_jobs_and_a_killed_one_loses_none() {
    let dev = Dev::start_with(&[
        ("HOLDFAST__WORKER__HEARTBEAT_SECONDS", "0.3"),
        ("HOLDFAST__WORKER__LOST_AFTER_SECONDS", "2"),
        ("HOLDFAST__WORKER__MAINTENANCE_SECONDS", "0.3"),
    ])
    .await;
    let kind = r#"{"queue": "media"}"#;
    dev.ask(
        "/v1/kinds/thumbnail.make",
        &["-X", "PUT", JSON[0], JSON[1], "-d", kind],
    )
    .await;
    let caught = enqueue(&dev).await;
    // It runs until the worker is gone.
    let mut killed = worker(&dev, "while kill -0 $PPID; do sleep 0.1; done");
    let running = async {
        while dev.ask(&format!("/v1/jobs/{caught}"), &[]).await["state"] != "running" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, running).await.unwrap();
    killed.sigkill().await.unwrap();
    let mut sound = worker(&dev, "cat");
    let next = enqueue(&dev).await;
    for (id, crashes) in [(next, 0), (caught, 1)] {
        let job = ended(&dev, &id).await;
        assert_eq!(job["crashes"], crashes, "{job}");
        assert_eq!(job["result"], r#"{"url": "https://example.com/a.png"}"#, "{job}");
    }
    sound.sigkill().await.unwrap();
    dev.stop().await;
}
