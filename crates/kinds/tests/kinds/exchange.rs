//! What goes over the wire, what the result keeps of the answer, and answers that never come to an end.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{JOB, RESULT_LIMIT, open, request, request_with, told};
use holdfast_testkit::scripted_server::{Reply, Server, Then};

#[tokio::test]
async fn a_request_carries_the_payload_and_introduces_itself() {
    let server = Server::start(|_| Reply::new(200, &[], "")).await;
    let body = json!({"big": 12_345_678_901_234_567_890_u64});
    request(json!({"url": server.url("/a?b=c#d"), "headers": {"X-One": "1"}, "body": body}))
        .await
        .unwrap();
    let seen = server.seen();
    assert_eq!(
        (seen[0].method.as_str(), seen[0].target.as_str()),
        ("POST", "/a?b=c")
    );
    assert_eq!(seen[0].body, r#"{"big":12345678901234567890}"#);
    for (name, value) in [
        ("x-one", "1"),
        ("content-type", "application/json"),
        ("idempotency-key", JOB),
        ("holdfast-attempt", "2"),
        ("user-agent", concat!("holdfast/", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(seen[0].headers[name], value, "{name}");
    }
}

#[tokio::test]
async fn the_method_follows_the_body_and_the_content_type_its_form() {
    let server = Server::start(|_| Reply::new(200, &[], "")).await;
    let url = server.url("/");
    for (payload, method, content_type, body) in [
        (json!({"url": url}), "GET", None, ""),
        (json!({"url": url, "body": null}), "GET", None, ""),
        (
            json!({"url": url, "body": "a \"text\"\n"}),
            "POST",
            Some("text/plain; charset=utf-8"),
            "a \"text\"\n",
        ),
        (
            json!({"url": url, "body": [1, 2.5]}),
            "POST",
            Some("application/json"),
            "[1,2.5]",
        ),
        (
            json!({"url": url, "method": "PUT", "body": false}),
            "PUT",
            Some("application/json"),
            "false",
        ),
        (
            json!({"url": url, "body": "<a/>", "headers": {"Content-Type": "text/xml"}}),
            "POST",
            Some("text/xml"),
            "<a/>",
        ),
        (json!({"url": url, "method": "DELETE"}), "DELETE", None, ""),
    ] {
        request(payload.clone()).await.unwrap();
        let seen = server.seen().pop().unwrap();
        assert_eq!(seen.method, method, "{payload}");
        assert_eq!(
            seen.headers.get("content-type").map(String::as_str),
            content_type,
            "{payload}"
        );
        assert_eq!(seen.body, body, "{payload}");
    }
}

#[tokio::test]
async fn the_payload_may_bring_its_own_idempotency_key_and_user_agent() {
    let server = Server::start(|_| Reply::new(200, &[], "")).await;
    let headers = json!({"idempotency-key": "mine", "user-agent": "me/1"});
    request(json!({"url": server.url("/"), "headers": headers}))
        .await
        .unwrap();
    let seen = server.seen().remove(0).headers;
    assert_eq!(
        (seen["idempotency-key"].as_str(), seen["user-agent"].as_str()),
        ("mine", "me/1")
    );
}

#[tokio::test]
async fn user_and_password_of_the_url_become_basic_authorization() {
    let server = Server::start(|_| Reply::new(200, &[], "")).await;
    let url = server.url("/").replace("http://", "http://us%C3%A9r:p%3Aw@");
    request(json!({"url": url})).await.unwrap();
    // base64 of `usér:p:w`
    assert_eq!(server.seen()[0].headers["authorization"], "Basic dXPDqXI6cDp3");
}

#[tokio::test]
async fn the_result_keeps_text_as_text_and_the_rest_as_base64() {
    let server = Server::start(|request| {
        let body: &[u8] = match request.target.as_str() {
            "/text" => "grüße".as_bytes(),
            "/nul" => b"a\0b",
            "/binary" => &[0xff, 0xfe],
            _ => b"",
        };
        Reply::new(
            200,
            &["content-type: text/x", "x-request-id: 7", "set-cookie: secret=1"],
            body,
        )
    })
    .await;
    for (target, body, base64) in [
        ("/text", Some("grüße"), None),
        ("/nul", None, Some("YQBi")),
        ("/binary", None, Some("//4=")),
        ("/empty", None, None),
    ] {
        let result = request(json!({"url": server.url(target)})).await.unwrap();
        assert_eq!(
            (result.body.as_deref(), result.body_base64.as_deref()),
            (body, base64),
            "{target}"
        );
        let headers: Vec<_> = result
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        assert_eq!(headers, [("content-type", "text/x"), ("x-request-id", "7")]);
    }
    let result = request(json!({"url": server.url("/text")})).await.unwrap();
    let stored = serde_json::to_value(&result).unwrap();
    assert_eq!(
        stored,
        json!({"status": 200, "headers": {"content-type": "text/x", "x-request-id": "7"}, "body": "grüße",
               "elapsed_ms": result.elapsed_ms})
    );
}

#[tokio::test]
async fn an_answer_is_read_up_to_the_limit_and_no_further() {
    let exact = Server::start(|_| Reply::new(200, &[], "x".repeat(64 * 1024))).await;
    let result = request(json!({"url": exact.url("/")})).await.unwrap();
    assert_eq!((result.body.unwrap().len(), result.truncated), (64 * 1024, false));

    // The limit falls into the middle of an `é`.
    let long = Server::start(|_| Reply::new(200, &[], format!("x{}", "é".repeat(64 * 1024)))).await;
    let result = request(json!({"url": long.url("/")})).await.unwrap();
    assert_eq!(
        (result.body.unwrap().len(), result.truncated),
        (64 * 1024 - 1, true)
    );

    let flood = Server::start(|_| Reply::raw("HTTP/1.1 200 OK\r\n\r\n", Then::Flood)).await;
    let result = request(json!({"url": flood.url("/")})).await.unwrap();
    assert_eq!((result.body.unwrap().len(), result.truncated), (64 * 1024, true));
}

#[tokio::test]
async fn a_result_that_outgrows_the_ledger_loses_text_and_not_the_job() {
    // 64 KiB that JSON writes as 384 KiB.
    let server = Server::start(|_| Reply::new(200, &[], "\u{1}".repeat(64 * 1024))).await;
    let result = request(json!({"url": server.url("/")})).await.unwrap();
    assert!(result.truncated);
    let stored = serde_json::to_string(&result).unwrap().len();
    assert!((RESULT_LIMIT - 32..=RESULT_LIMIT).contains(&stored), "{stored}");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_after_the_timeout() {
    for (answer, says) in [
        ("", "did not answer within 0.3 s"),
        ("HTTP/1.1 200 OK\r\nx: ", "did not answer within 0.3 s"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
            "answered 200 OK, but did not end within 0.3 s",
        ),
    ] {
        let server = Server::start(move |_| Reply::raw(answer, Then::Hang)).await;
        let started = Instant::now();
        let (class, text) = told(request(json!({"url": server.url("/x"), "timeout_seconds": 0.3})).await);
        assert_eq!(
            (class, text),
            ("transient", format!("{} {says}", server.url("/x")))
        );
        assert!(started.elapsed() >= Duration::from_millis(300));
    }
}

#[tokio::test]
async fn an_error_whose_text_never_ends_is_still_known_by_its_status() {
    for then in [Then::Hang, Then::Flood, Then::Close] {
        let head = "HTTP/1.1 503 No\r\nretry-after: 9\r\ncontent-length: 99999999\r\n\r\nhalf";
        let server = Server::start(move |_| Reply::raw(head, then)).await;
        let (class, text) = told(request(json!({"url": server.url("/")})).await);
        assert_eq!(
            (class, text),
            (
                "transient",
                format!("{} answered 503 Service Unavailable", server.url("/"))
            )
        );
    }
}

#[tokio::test]
async fn network_faults_are_transient() {
    for (answer, says) in [
        ("", "ended the exchange without an answer"),
        ("SSH-2.0-OpenSSH\r\n", "ended the exchange without an answer"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
            "answered 200 OK, but broke off",
        ),
    ] {
        let server = Server::start(move |_| Reply::raw(answer, Then::Close)).await;
        let (class, text) = told(request(json!({"url": server.url("/x?secret=1")})).await);
        assert_eq!(class, "transient");
        assert!(
            text.starts_with(&format!("{} {says}", server.url("/x"))),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    let (class, text) = told(request(json!({"url": url})).await);
    assert_eq!(class, "transient");
    assert!(
        text.starts_with(&format!("{url} cannot be reached")) && text.contains("refused"),
        "{text}"
    );
    let (class, text) = told(request(json!({"url": "http://no-such-host.invalid/"})).await);
    assert_eq!(class, "transient");
    assert!(
        text.starts_with("http://no-such-host.invalid/ cannot be reached"),
        "{text}"
    );
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let server = Server::start(|request| match request.target.as_str() {
        "/503" => Reply::new(503, &[], "busy"),
        "/302" => Reply::new(302, &["location: /"], "moved"),
        _ => Reply::new(200, &[], "ok"),
    })
    .await;
    let outbound = open();
    for target in ["/", "/503", "/302", "/"].iter().cycle().take(40) {
        let outcome = request_with(outbound.clone(), json!({"url": server.url(target)})).await;
        assert_eq!(outcome.is_ok(), *target != "/503");
    }
    assert_eq!(server.seen().len(), 50);
    assert_eq!(server.connections(), 1);
}
