//! The check of the public address that follows a deployment.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_testkit::{Child, PostgresServer, eventually, free_port, http};
use serde_json::{Value, json};

use super::fake::{Fake, deployment};
use super::{assert_says, document};
use holdfast_testkit::place::{CannedServer, DEADLINE, Dev, Place};

const KEY: &str = "a-key-of-the-test-0123456789";
const POLL: Duration = Duration::from_millis(50);

/// Patient with the machine, except where nothing will ever come.
const PATIENT: [&str; 3] = ["--yes", "--max-p95-ms", "60000"];

/// What a deployment has made: production services and a database; no Redis, which is to serve.
struct Production {
    place: Place,
    _postgres: PostgresServer,
    url: String,
    services: Vec<Child>,
}

impl Production {
    /// With an API and nothing else yet.
    async fn start() -> Self {
        let postgres = PostgresServer::start().await.unwrap();
        let place = Place::new()
            .with_env("HOLDFAST_ENV", "production")
            .with_env("HOLDFAST_API_KEY", KEY)
            .with_env("DATABASE_URL", postgres.url());
        let migrated = place.run(&["migrate"]).await;
        assert_eq!(migrated.code, Some(0), "{}", migrated.text);
        let mut system = Self {
            place,
            _postgres: postgres,
            url: String::new(),
            services: Vec::new(),
        };
        let port = system.add("api").await;
        system.url = format!("http://127.0.0.1:{port}");
        system
    }

    /// Returns when it is ready.
    async fn add(&mut self, service: &str) -> u16 {
        let port = free_port().unwrap();
        self.services.push(self.place.service(service, port));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let is_ready = async || {
            let answer = http::get(address, "/health/ready").await.ok()?;
            (answer.status == 200).then_some(())
        };
        eventually("the service is ready", DEADLINE, POLL, is_ready)
            .await
            .unwrap();
        port
    }
}

fn verdict<'a>(live: &'a Value, name: &str) -> &'a Value {
    let (group, check) = name.split_once('.').unwrap();
    let checks = live["validation"]["checks"].as_array().unwrap();
    let found = checks
        .iter()
        .find(|found| found["group"] == group && found["name"] == check);
    &found.unwrap_or_else(|| panic!("there is no {name} in {live:#}"))["verdict"]
}

#[tokio::test]
async fn the_live_system_is_validated_and_measured() {
    let mut system = Production::start().await;
    let url = system.url.clone();

    // An API alone: jobs would be accepted and wait.
    let fake = Fake::healthy();
    let ended = fake
        .deploy(&[&PATIENT[..], &["--key", KEY, "--url", &url]].concat())
        .await;
    let words = ["does not pass its checks: workers.alive: no worker is alive"];
    assert_says(&ended, 1, &words, "no worker");
    assert_says(&ended, 1, &["hint: Start `worker`"], "no worker");

    system.add("worker").await;
    system.add("beat").await;
    let ended = Fake::healthy()
        .deploy(&[&PATIENT[..], &["--key", KEY, "--url", &url, "--json"]].concat())
        .await;
    assert_says(&ended, 0, &["pass  queue.round_trip"], "healthy");
    assert!(!ended.text.contains(KEY), "{}", ended.text);
    let live = document(&ended)["live"].clone();
    assert!(
        matches!(live["status"].as_str(), Some("healthy" | "degraded")),
        "{live}"
    );
    for name in [
        "api.reach",
        "api.key",
        "workers.alive",
        "workers.queues",
        "queue.round_trip",
        "beat.ticking",
        "health.report",
        "errors.format",
        "security.key_demanded",
        "security.wrong_key",
        "security.docs",
        "performance.requests",
    ] {
        assert_eq!(verdict(&live, name), "pass", "{name}: {live:#}");
    }
    assert_eq!(live["validation"]["counts"]["failed"], 0, "{live:#}");

    // Without a key less can be asked, and nothing is wrong with that.
    let ended = Fake::healthy()
        .deploy(&[&PATIENT[..], &["--url", &url, "--json"]].concat())
        .await;
    assert_says(&ended, 0, &["skip  api.key"], "without a key");
    let live = document(&ended)["live"].clone();
    assert_eq!(verdict(&live, "queue.round_trip"), "skipped", "{live:#}");
    assert_eq!(verdict(&live, "performance.requests"), "pass", "{live:#}");

    // Faster than anything answers.
    let ended = Fake::healthy()
        .deploy(&["--yes", "--max-p95-ms", "0.000001", "--url", &url])
        .await;
    assert_says(
        &ended,
        1,
        &["is slow: 95 % of requests within", "the aim is 0.000001 ms"],
        "slow",
    );
}

/// It may be the key of another system: the run says what it could not ask, and takes nothing back.
#[tokio::test]
async fn a_key_that_is_not_accepted_is_told_and_rolls_nothing_back() {
    let system = Production::start().await;
    let fake = Fake::healthy();
    let more = [
        "--rollback",
        "--key",
        "another-key-altogether",
        "--url",
        &system.url,
    ];
    let ended = fake.deploy(&[&PATIENT[..], &more].concat()).await;
    let words = [
        "deployed, but its workers and queues were not checked (401: the key is not accepted)",
        "holdfast validate --url",
    ];
    assert_says(&ended, 1, &words, "wrong key");
    assert_eq!(fake.calls_of("api"), Vec::<String>::new());
    assert!(!ended.text.contains("another-key"), "{}", ended.text);
}

/// On this machine it would be a convenience, and so would its docs; deployed it is neither.
#[tokio::test]
async fn an_address_that_wants_no_key_fails_the_check() {
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let fake = Fake::healthy();
    let ended = fake
        .deploy(&[&PATIENT[..], &["--url", &dev.url()]].concat())
        .await;
    let words = [
        "security.key_demanded: no API key is required: every client may enqueue",
        "security.docs: /docs answers",
    ];
    assert_says(&ended, 1, &words, "no key");
    dev.stop().await;
}

#[tokio::test]
async fn without_a_domain_the_check_is_left_out_and_said() {
    let fake = Fake::healthy();
    let ended = fake.deploy(&["--yes"]).await;
    assert_says(&ended, 0, &["railway domain --service api"], "no domain");
}

#[tokio::test]
async fn whatever_answers_there_the_message_says_what_is_wrong() {
    let cases = [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 28\r\nconnection: close\r\n\r\n<!doctype html><html></html>",
            "a web page instead of JSON",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\n{\"status\": ",
            "half a JSON document",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{\"status\": ",
            "cannot be reached",
        ),
        (
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 15\r\nconnection: close\r\n\r\n{\"error\":\"who\"}",
            "is not Holdfast",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: https://login.example\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            "something that is not JSON",
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 75\r\nconnection: close\r\n\r\n{\"status\":\"unhealthy\",\"services\":{\"database\":{\"status\":\"unhealthy\"},\"x\":1}}",
            "is unhealthy: database",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "cannot be reached"),
    ];
    for (answer, says) in cases {
        let server = CannedServer::start(Some(answer));
        assert_check_fails(&server.url(), says).await;
    }

    let silent = CannedServer::start(None);
    assert_check_fails(&silent.url(), "gave no answer in time").await;
    let nobody = format!("http://127.0.0.1:{}", free_port().unwrap());
    assert_check_fails(&nobody, "cannot be reached").await;
    // TLS where there is none.
    let plain = CannedServer::start(Some("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"));
    assert_check_fails(&plain.url().replace("http:", "https:"), "cannot be reached").await;
}

async fn assert_check_fails(url: &str, says: &str) {
    let fake = Fake::healthy();
    let ended = fake
        .deploy(&["--yes", "--live-timeout-seconds", "2", "--url", url])
        .await;
    assert_says(&ended, 1, &[says, "--rollback would have gone back"], url);
    assert_eq!(fake.calls_of("api"), Vec::<String>::new());
}

#[tokio::test]
async fn a_failed_check_rolls_everything_back() {
    let fake = Fake::healthy();
    for service in super::SERVICES {
        let now = ["back", "new"].map(|age| deployment(&format!("{age}-{service}"), "SUCCESS"));
        fake.json(&format!("list-{service}.6"), &json!(now));
    }
    let nobody = format!("http://127.0.0.1:{}", free_port().unwrap());
    let ended = fake
        .deploy(&[
            "--yes",
            "--rollback",
            "--live-timeout-seconds",
            "1",
            "--url",
            &nobody,
        ])
        .await;
    assert_says(
        &ended,
        1,
        &["cannot be reached", "api, worker, beat rolled back"],
        "rollback",
    );
    assert_eq!(fake.calls_of("api").len(), 3);
}
