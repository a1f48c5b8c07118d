//! `result: "json"`: the body of the answer is the job's result.

use holdfast_kinds::HttpOutput;
use holdfast_testkit::scripted_server::{Reply, Server};
use serde_json::json;

use crate::{check, context, open, run, told};

#[tokio::test]
async fn the_body_is_the_result_as_it_came() {
    for (status, body, result) in [
        (
            200,
            r#"{"b": 1e400, "a": [12345678901234567890123, "\u0000"]}"#,
            None,
        ),
        (200, "  [1]\n", Some("[1]")),
        (201, "null", None),
        (200, r#""text""#, None),
        (204, "", Some("null")),
    ] {
        let server = Server::start(move |_| Reply::new(status, &["content-type: text/plain"], body)).await;
        let payload = json!({"url": server.url("/"), "result": "json"});
        let output = run(context(1, open()), payload).await.unwrap();
        let HttpOutput::Json(json) = &output else {
            panic!("{output:?}")
        };
        assert_eq!(json.get(), result.unwrap_or(body));
        assert_eq!(serde_json::to_string(&output).unwrap(), result.unwrap_or(body));
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_fails_the_attempt_and_one_that_cannot_be_a_result_the_job() {
    let deep = format!("{}{}", "[".repeat(125), "]".repeat(125));
    let large = format!("\"{}\"", "x".repeat(70 * 1024));
    for (status, body, class, reason) in [
        (
            200,
            "<html>",
            "transient",
            "is not JSON: expected value at line 1 column 1",
        ),
        (200, "", "transient", "is not JSON"),
        (200, "{\"a\":1} x", "transient", "is not JSON"),
        (200, "{\"a\":", "transient", "is not JSON"),
        (200, &deep, "permanent", "nested deeper than 120"),
        (200, &large, "permanent", "larger than a result may be"),
        (404, "{}", "permanent", "404"),
        (503, "{}", "transient", "503"),
    ] {
        let answer = body.to_owned();
        let server = Server::start(move |_| Reply::new(status, &[], &answer)).await;
        let payload = json!({"url": server.url("/x?secret"), "result": "json"});
        let told = told(run(context(1, open()), payload).await);
        assert_eq!(told.0, class, "{body:.20}: {}", told.1);
        assert!(
            told.1.contains(reason) && !told.1.contains("secret"),
            "{}",
            told.1
        );
        assert_eq!(server.seen().len(), 1);
    }
}

#[test]
fn only_known_forms_are_taken_and_a_head_has_no_body() {
    let payload =
        |method: &str, result: &str| json!({"url": "http://a.example/", "method": method, "result": result});
    assert_eq!(check("http.request", &payload("POST", "json")), Ok(()));
    assert_eq!(check("http.request", &payload("HEAD", "response")), Ok(()));
    assert_eq!(
        check("http.request", &payload("HEAD", "json")).unwrap_err().field,
        "result"
    );
    assert_eq!(
        check("http.request", &payload("POST", "xml")).unwrap_err().field,
        "result"
    );
}
