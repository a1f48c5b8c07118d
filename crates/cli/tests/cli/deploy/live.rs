//! The check of the public address that follows a deployment.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;

use holdfast_testkit::free_port;
use serde_json::json;

use super::fake::{Fake, deployment};
use super::{assert_says, document};
use crate::support::{Dev, Place};

const KEY: &str = "a-key-of-the-test-0123456789";

/// Answers every request with the same bytes, or never.
struct Canned {
    address: SocketAddr,
    /// Dropped with it: then the connections close.
    _open: mpsc::Sender<()>,
}

impl Canned {
    fn start(answer: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (open, closed) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                if let Some(answer) = answer {
                    let mut request = [0; 4096];
                    let _read = stream.read(&mut request);
                    stream.write_all(answer.as_bytes()).ok();
                } else {
                    held.push(stream);
                }
                if matches!(closed.try_recv(), Err(mpsc::TryRecvError::Disconnected)) {
                    return;
                }
            }
        });
        Self { address, _open: open }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Patient with the machine, except where nothing will ever come.
const PATIENT: [&str; 3] = ["--yes", "--max-p95-ms", "60000"];

#[tokio::test]
async fn a_healthy_address_is_checked_and_measured() {
    let mut place = Place::new().with_env("HOLDFAST_API_KEY", KEY);
    let dev = Dev::start(&mut place).await;
    let fake = Fake::healthy();
    let ended = fake
        .deploy(&[&PATIENT[..], &["--url", &dev.url(), "--json"]].concat())
        .await;
    assert_says(&ended, 0, &["a request without a key is refused"], "healthy");
    let live = document(&ended)["live"].clone();
    // Without a Redis it is degraded, which is to serve.
    assert!(
        matches!(live["status"].as_str(), Some("healthy" | "degraded")),
        "{live}"
    );
    assert_eq!(live["wants_key"], true);
    assert_eq!(
        (&live["speed"]["requests"], &live["speed"]["failed"]),
        (&json!(200), &json!(0))
    );
    dev.stop().await;
}

#[tokio::test]
async fn an_address_that_wants_no_key_fails_the_check() {
    let mut place = Place::new();
    let dev = Dev::start(&mut place).await;
    let fake = Fake::healthy();
    let ended = fake
        .deploy(&[&PATIENT[..], &["--url", &dev.url()]].concat())
        .await;
    assert_says(&ended, 1, &["answers without an API key"], "no key");
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
            "something that is no JSON",
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 75\r\nconnection: close\r\n\r\n{\"status\":\"unhealthy\",\"services\":{\"database\":{\"status\":\"unhealthy\"},\"x\":1}}",
            "is unhealthy: database",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "cannot be reached"),
    ];
    for (answer, says) in cases {
        let server = Canned::start(Some(answer));
        assert_check_fails(&server.url(), says).await;
    }

    let silent = Canned::start(None);
    assert_check_fails(&silent.url(), "gave no answer in time").await;
    let nobody = format!("http://127.0.0.1:{}", free_port().unwrap());
    assert_check_fails(&nobody, "cannot be reached").await;
    // TLS where there is none.
    let plain = Canned::start(Some("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"));
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
