//! Request smuggling: requests whose end two servers might see at different places. Each is refused, its connection is closed, and what
//! follows it on the connection is never taken for a request.

use serde_json::json;

use crate::limits::raw_exchange;
use crate::support::{ADMIN, TestApp, body_of};

/// Pauses a queue, if it is taken for a request.
fn hidden() -> String {
    format!(
        "POST /v1/queues/default/pause HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN}\r\ncontent-length: 0\r\n\r\n"
    )
}

/// A request with these headers and this body, to a route that reads its body.
fn request(headers: &str, body: &str) -> String {
    format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN}\r\ncontent-type: application/json\r\n{headers}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn a_request_whose_end_is_ambiguous_is_refused_and_hides_no_other() {
    let app = TestApp::start().await;
    let hidden = hidden();
    let length = hidden.len();
    let in_chunk = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let after_end = format!("0\r\n\r\n{hidden}");
    let cases: Vec<(&str, String)> = vec![
        // Both, in either order: CL.TE and TE.CL.
        (
            "length, then chunked",
            request("content-length: 4\r\ntransfer-encoding: chunked", &after_end),
        ),
        (
            "chunked, then length",
            request("transfer-encoding: chunked\r\ncontent-length: 4", &after_end),
        ),
        (
            "chunked and no length",
            request("content-length: 0\r\ntransfer-encoding: chunked", &in_chunk),
        ),
        // More than one length, or one that is no number.
        (
            "two lengths",
            request(&format!("content-length: 0\r\ncontent-length: {length}"), &hidden),
        ),
        (
            "two lengths in one",
            request(&format!("content-length: 0, {length}"), &hidden),
        ),
        ("a sign", request("content-length: +0", &hidden)),
        ("a negative length", request("content-length: -1", &hidden)),
        ("a hexadecimal length", request("content-length: 0x0", &hidden)),
        (
            "a length too large",
            request("content-length: 18446744073709551616", &hidden),
        ),
        ("a blank inside a length", request("content-length: 0 0", &hidden)),
        ("no length", request("content-length:", &hidden)),
        // Encodings that another server may read as chunked, or not.
        (
            "two encodings",
            request(
                "transfer-encoding: chunked\r\ntransfer-encoding: identity",
                &after_end,
            ),
        ),
        (
            "chunked twice",
            request("transfer-encoding: chunked, chunked", &after_end),
        ),
        (
            "chunked, but not last",
            request("transfer-encoding: chunked, identity", &after_end),
        ),
        (
            "an unknown encoding",
            request("transfer-encoding: xchunked", &after_end),
        ),
        (
            "an encoding after a tabulator",
            request("transfer-encoding:\x0bchunked", &after_end),
        ),
        (
            "an encoding in quotes",
            request("transfer-encoding: \"chunked\"", &after_end),
        ),
        (
            "an encoding in HTTP/1.0",
            request("transfer-encoding: chunked", &after_end).replacen("HTTP/1.1", "HTTP/1.0", 1),
        ),
        // Names and lines that are read in two ways.
        (
            "a blank before the colon",
            request(&format!("content-length : {length}"), &hidden),
        ),
        (
            "a folded line",
            request(&format!("x-a: b\r\n content-length: {length}"), &hidden),
        ),
        (
            "a folded length",
            request(&format!("content-length:\r\n {length}"), &hidden),
        ),
        (
            "a bare CR",
            request(&format!("x-a: b\rcontent-length: {length}"), &hidden),
        ),
        (
            "a NUL in a value",
            request(&format!("x-a: b\0\r\ncontent-length: {length}"), &hidden),
        ),
        (
            "a line without a colon",
            request(&format!("x-a\r\ncontent-length: {length}"), &hidden),
        ),
        (
            "an empty name",
            request(&format!(": b\r\ncontent-length: {length}"), &hidden),
        ),
        // Chunks.
        (
            "a chunk too large",
            request(
                "transfer-encoding: chunked",
                &format!("ffffffffffffffff1\r\n{hidden}"),
            ),
        ),
        (
            "a negative chunk",
            request("transfer-encoding: chunked", &format!("-1\r\n{hidden}")),
        ),
        (
            "a chunk that is no number",
            request("transfer-encoding: chunked", &format!("0x0\r\n\r\n{hidden}")),
        ),
        (
            "a chunk that is longer",
            request("transfer-encoding: chunked", &format!("1\r\nabc\r\n{after_end}")),
        ),
        // Another protocol.
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned() + &hidden),
        ("HTTP/0.9", format!("GET /v1/jobs\r\n\r\n{hidden}")),
        (
            "an unknown version",
            request("content-length: 0", &hidden).replacen("HTTP/1.1", "HTTP/1.9", 1),
        ),
    ];
    for (what, request) in cases {
        let answer = raw_exchange(app.address, request.as_bytes()).await;
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answers == 1,
            "{what}: {answers} answers: {answer}"
        );
        let queue = app.admin().get("/v1/queues/default").await.unwrap();
        assert_eq!(body_of(&queue)["paused"], json!(false), "{what}");
    }
    let jobs = app.admin().get("/v1/jobs").await.unwrap();
    assert_eq!(body_of(&jobs)["jobs"], json!([]));
    // The hidden request is sound by itself.
    let answer = raw_exchange(
        app.address,
        hidden
            .replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1)
            .as_bytes(),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
