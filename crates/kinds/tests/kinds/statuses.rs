//! What each status makes of the job, and the rest that `Retry-After` asks for.

use std::time::Duration;

use chrono::TimeDelta;
use holdfast_core::clock;
use holdfast_jobs::JobError;
use serde_json::json;

use crate::{request, told};
use holdfast_testkit::scripted_server::{Reply, Server};

/// Answers `/<status>` with that status.
async fn echo_status() -> Server {
    Server::start(|request| Reply::new(request.target[1..].parse().unwrap(), &[], "")).await
}

#[tokio::test]
async fn success_completes_other_statuses_are_transient_or_permanent() {
    let server = echo_status().await;
    for status in [200, 201, 202, 204, 299] {
        let result = request(json!({"url": server.url(&format!("/{status}"))}))
            .await
            .unwrap();
        assert_eq!(result.status, status);
    }
    for (class, statuses) in [
        (
            "transient",
            [408, 425, 429, 500, 501, 502, 503, 504, 599].as_slice(),
        ),
        (
            "permanent",
            [300, 302, 304, 400, 401, 403, 404, 409, 410, 413, 422, 451].as_slice(),
        ),
    ] {
        for status in statuses {
            let url = server.url(&format!("/{status}"));
            let (actual, text) = told(request(json!({"url": url})).await);
            assert_eq!(actual, class, "{status}");
            assert!(text.starts_with(&format!("{url} answered {status}")), "{text}");
        }
    }
}

#[tokio::test]
async fn expected_statuses_replace_the_2xx() {
    let server = echo_status().await;
    for status in [404, 204, 302] {
        let url = server.url(&format!("/{status}"));
        let result = request(json!({"url": url, "expected_status": [204, 302, 404]}))
            .await
            .unwrap();
        assert_eq!(result.status, status);
    }
    for (status, class) in [(200, "permanent"), (503, "transient")] {
        let url = server.url(&format!("/{status}"));
        assert_eq!(
            told(request(json!({"url": url, "expected_status": [204]})).await).0,
            class
        );
    }
}

async fn rest(status: u16, header: String) -> Option<Duration> {
    let server = Server::start(move |_| Reply::new(status, &[&header], "")).await;
    match request(json!({"url": server.url("/")})).await.unwrap_err() {
        JobError::RetryAfter(rest, _) => Some(rest),
        JobError::Transient(_) | JobError::Permanent(_) => None,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn retry_after_in_seconds_sets_the_rest() {
    for status in [429, 503, 500, 408] {
        assert_eq!(
            rest(status, "Retry-After: 17".into()).await,
            Some(Duration::from_secs(17)),
            "{status}"
        );
    }
    assert_eq!(
        rest(503, "retry-after: 31536000".into()).await,
        Some(Duration::from_hours(24))
    );
    assert_eq!(rest(503, "retry-after: soon".into()).await, None);
    assert_eq!(rest(404, "retry-after: 17".into()).await, None);
}

#[tokio::test]
async fn retry_after_as_a_date_sets_the_rest() {
    let date = httpdate::fmt_http_date((clock::now() + TimeDelta::seconds(90)).into());
    let seconds = rest(503, format!("Retry-After: {date}")).await.unwrap().as_secs();
    assert!((80..=90).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn an_error_repeats_what_the_server_said_but_no_secret() {
    let server = Server::start(|request| {
        let said = format!(
            "{{\"error\":\r\n\"no\u{0}pe\",\"you_sent\":\"{} {} {}\"}}",
            request.headers["authorization"], request.headers["x-api-key"], request.target
        );
        Reply::new(422, &["content-type: application/json"], said)
    })
    .await;
    let url = server
        .url("/path?token=querysecret&ok=1")
        .replace("http://", "http://user:password@");
    let (class, text) = told(request(json!({"url": url, "headers": {"X-Api-Key": "headersecret"}})).await);
    assert_eq!(class, "permanent");
    let expected = format!(
        "{} answered 422 Unprocessable Entity: {{\"error\": \"no pe\",\"you_sent\":\"[redacted] [redacted] /path?[redacted]\"}}",
        server.url("/path")
    );
    assert_eq!(text, expected);
}

#[tokio::test]
async fn a_long_or_binary_error_answer_stays_out_of_the_error() {
    let long = Server::start(|_| Reply::new(400, &["content-type: text/plain"], "é ".repeat(50_000))).await;
    let (_, text) = told(request(json!({"url": long.url("/")})).await);
    assert!(text.ends_with('…') && text.len() < 1000, "{text}");
    let binary = Server::start(|_| Reply::new(400, &["content-type: image/png"], "PNG")).await;
    let (_, text) = told(request(json!({"url": binary.url("/")})).await);
    assert_eq!(text, format!("{} answered 400 Bad Request", binary.url("/")));
}
