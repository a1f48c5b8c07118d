//! Statistics over HTTP, and the stream of what happens now.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{TestApp, body_of, problem_of};

#[tokio::test]
async fn what_pull_workers_did_is_shown_by_queue_and_kind() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let kind = json!({"queue": "media", "payload_schema": {}});
    let declared = admin
        .request(
            "PUT",
            "/v1/kinds/thumbnail.make",
            &[("content-type", "application/json")],
            kind.to_string().as_bytes(),
        )
        .await
        .unwrap();
    assert_eq!(declared.status, 201, "{}", declared.text());
    for _ in 0..3 {
        let job = json!({"kind": "thumbnail.make", "payload": {}});
        assert_eq!(admin.post_json("/v1/jobs", &job).await.unwrap().status, 202);
    }
    let worker = json!({"name": "host-1", "queues": ["media"], "concurrency": 4,
        "client": {"name": "test", "version": "1", "language": "sh"}});
    let worker = body_of(&admin.post_json("/v1/workers", &worker).await.unwrap());
    let id = worker["id"].as_str().unwrap();
    let pulled = json!({"max": 3, "wait_seconds": 5, "have": []});
    let pulled = admin
        .post_json(&format!("/v1/workers/{id}/pull"), &pulled)
        .await
        .unwrap();
    let pulled = body_of(&pulled);
    let outcomes: Vec<Value> = pulled["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(n, job)| {
            let outcome = if n == 0 { "discard" } else { "completed" };
            json!({"job": job["id"], "fence": job["fence"], "outcome": outcome})
        })
        .collect();
    assert_eq!(outcomes.len(), 3);
    let finished = json!({"outcomes": outcomes});
    let finished = admin
        .post_json(&format!("/v1/workers/{id}/finish"), &finished)
        .await
        .unwrap();
    assert_eq!(finished.status, 200, "{}", finished.text());
    app.jobs.statistics().flush().await.unwrap();

    for (by, name) in [("queue", "media"), ("kind", "thumbnail.make")] {
        let stats = body_of(&admin.get(&format!("/v1/stats?by={by}")).await.unwrap());
        let series = &stats["series"][0];
        assert_eq!(series["name"], name, "{stats}");
        let total = &series["total"];
        let told =
            ["enqueued", "completed", "failed", "discarded", "cancelled"].map(|name| total[name].clone());
        assert_eq!(told, [3, 2, 1, 1, 0].map(Value::from));
        assert!(total["run_seconds"]["p50"].is_number() && total["wait_seconds"]["p99"].is_number());
        let points = series["completed"].as_array().unwrap();
        assert_eq!(points.iter().filter_map(Value::as_u64).sum::<u64>(), 2);
        for list in ["enqueued", "available", "oldest_age_seconds"] {
            assert_eq!(series[list].as_array().unwrap().len(), points.len(), "{list}");
        }
        assert_eq!(stats["step_seconds"], 60);
    }
    let all = body_of(&admin.get("/v1/stats?kind=debug.echo").await.unwrap());
    assert_eq!(
        (&all["series"][0]["name"], &all["series"][0]["total"]["enqueued"]),
        (&Value::Null, &json!(0))
    );
    assert_eq!(all["outages"], json!([]));
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_names_its_parameter() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    for (query, field) in [
        ("step=7", "step"),
        ("from=yesterday", "from"),
        ("by=day", "by"),
        ("limit=5", "limit"),
        ("from=2020-01-01T00:00:00Z&step=60", "step"),
    ] {
        let refused = admin.get(&format!("/v1/stats?{query}")).await.unwrap();
        problem_of(&refused, 400, "invalid-parameter", field);
    }
}

/// A connection on which events arrive.
struct Events {
    stream: TcpStream,
    text: String,
}

impl Events {
    async fn open(app: &TestApp, token: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        let request = format!(
            "GET /v1/stream?topics=overview HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {token}\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        Self {
            stream,
            text: String::new(),
        }
    }

    /// Whether more has arrived; false: the server has ended the stream.
    async fn read(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1_024];
        let read = timeout(Duration::from_secs(30), self.stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        self.text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        // The last chunk of a chunked response is empty.
        read > 0 && !self.text.ends_with("0\r\n\r\n")
    }

    /// The id and the document of the next event that `wanted` accepts.
    async fn next(&mut self, wanted: impl Fn(&Value) -> bool) -> (String, Value) {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let line = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| Some(line.strip_prefix(name)?.to_owned()))
                };
                let found = line("id: ").zip(line("data: "));
                let rest = rest.to_owned();
                if let Some((id, data)) = found {
                    assert!(event.contains("event: overview"), "{event}");
                    let document: Value = serde_json::from_str(&data).unwrap();
                    self.text = rest;
                    if wanted(&document) {
                        return (id, document);
                    }
                } else {
                    self.text = rest;
                }
            }
            assert!(self.read().await, "the stream has ended: {}", self.text);
        }
    }
}

#[tokio::test]
async fn a_stream_shows_changes_resumes_and_ends_with_its_key() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let made = json!({"name": "console", "scopes": ["read"]});
    let made = body_of(&admin.post_json("/v1/keys", &made).await.unwrap());
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    let mut events = Events::open(&app, key, "").await;
    let (_, first) = events.next(|overview| !overview["counted_at"].is_null()).await;
    assert_eq!(
        (&first["database"]["mode"], &first["redis"]["mode"]),
        (&json!("normal"), &json!("absent"))
    );
    assert_eq!(
        (&first["status"], &first["problems"][0]["code"]),
        (&json!("degraded"), &json!("no-workers"))
    );
    app.enqueue().await;
    let available = |overview: &Value, count: u64| {
        let queues = overview["queues"].as_array().unwrap();
        queues
            .iter()
            .any(|queue| queue["name"] == "default" && queue["available"] == count)
    };
    events.next(|overview| available(overview, 1)).await;
    // Another reader gets the same snapshot.
    let mut other = Events::open(&app, key, "").await;
    let (newest, document) = other.next(|_| true).await;
    assert!(available(&document, 1), "{document}");
    // One that has the newest snapshot is sent the next one, or the same only once it is five seconds old.
    let began = Instant::now();
    let mut resumed = Events::open(&app, key, &format!("last-event-id: {newest}\r\n")).await;
    let (again, _) = resumed.next(|_| true).await;
    assert!(again != newest || began.elapsed() > Duration::from_secs(3));
    let revoke = format!("/v1/keys/{id}/revoke");
    let revoked = admin.request("POST", &revoke, &[], &[]).await.unwrap();
    assert!(revoked.status < 300, "{}", revoked.text());
    for events in [&mut events, &mut other, &mut resumed] {
        while events.read().await {}
    }
    let refused = app.client().with_bearer(key).get("/v1/stream").await.unwrap();
    assert_eq!(refused.status, 401);
}

#[tokio::test]
async fn a_stream_ends_when_it_was_asked_to() {
    let app = TestApp::start().await;
    let stream = app.admin().get("/v1/stream?end_after_seconds=1").await.unwrap();
    assert_eq!(stream.status, 200);
    assert!(stream.text().contains("event: overview"), "{}", stream.text());
}

#[tokio::test]
async fn a_stream_of_an_unknown_topic_or_length_is_refused() {
    let app = TestApp::start().await;
    for (query, field) in [
        ("topics=weather", "topics"),
        ("end_after_seconds=0.5", "end_after_seconds"),
        ("end_after_seconds=241", "end_after_seconds"),
    ] {
        let refused = app.admin().get(&format!("/v1/stream?{query}")).await.unwrap();
        problem_of(&refused, 400, "invalid-parameter", field);
    }
}
