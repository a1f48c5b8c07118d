//! What is bounded, and what happens at the bounds.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{ADMIN, TestApp, TestSettings};

/// Sends bytes as they are and reads until the server closes.
pub(crate) async fn raw_exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .unwrap()
        .unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let app = TestSettings::new()
        .with("HOLDFAST__SERVER__REQUEST_TIMEOUT_SECONDS", "0.5")
        .with("HOLDFAST__DATABASE__ACQUIRE_TIMEOUT_SECONDS", "0.2")
        .with("HOLDFAST__CACHE__LOAD_TIMEOUT_SECONDS", "0.3")
        .start()
        .await;
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ADMIN}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{\"kind\":"
    );
    let answer = raw_exchange(app.address, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("urn:holdfast:problem:body-timed-out"), "{answer}");
}

#[tokio::test]
async fn what_is_not_http_is_refused_without_harm() {
    let app = TestApp::start().await;
    for request in [
        "nonsense\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET /\0 HTTP/1.1\r\n\r\n",
    ] {
        let answer = raw_exchange(app.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request:?}: {answer}");
    }
    assert_eq!(app.admin().get("/v1/queues").await.unwrap().status, 200);
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_a_stop() {
    let app = TestApp::start().await;
    let mut kept = app.admin();
    kept.get("/v1/queues").await.unwrap();
    let silent = TcpStream::connect(app.address).await.unwrap();
    tokio::time::timeout(Duration::from_secs(4), app.stop())
        .await
        .expect("stops within the grace period");
    drop(silent);
}
