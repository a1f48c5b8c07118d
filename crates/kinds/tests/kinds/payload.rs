//! What a producer hears of a bad `http.request` payload, at enqueue.

use holdfast_jobs::PayloadFault;
use holdfast_kinds::HttpRequest;
use serde_json::{Value, json};

use crate::check;

fn fault(payload: &Value) -> (String, String) {
    let PayloadFault { field, reason } = check("http.request", payload).unwrap_err();
    (field, reason)
}

/// The fault of a good payload with `field` set to `value`.
fn fault_with(field: &str, value: &Value) -> (String, String) {
    let mut payload = json!({"url": "http://example.org/"});
    payload[field] = value.clone();
    fault(&payload)
}

#[test]
fn good_payloads_pass() {
    for payload in [
        json!({"url": "https://example.org/a?b#c"}),
        json!({"url": "http://[2001:db8::1]:8080/"}),
        json!({"url": "https://user:word@bücher.example/"}),
        json!({"url": "http://example.org", "method": "DELETE", "headers": {}, "body": {"a": [null]},
               "timeout_seconds": 0.5, "expected_status": [200, 404]}),
        json!({"url": "http://example.org", "headers": {"X-Empty": "", "X-Utf8": "grüße", "x-tab": "a\tb"}}),
    ] {
        assert_eq!(check("http.request", &payload), Ok(()), "{payload}");
    }
}

#[test]
fn a_bad_url_is_named() {
    for (url, reason) in [
        ("", "is not an absolute URL: relative URL without a base"),
        ("/path", "is not an absolute URL: relative URL without a base"),
        (
            "example.org",
            "is not an absolute URL: relative URL without a base",
        ),
        ("http://", "is not an absolute URL: empty host"),
        (
            "http://exa mple.org",
            "is not an absolute URL: invalid international domain name",
        ),
        (
            "http://1.2.3.4.5/",
            "is not an absolute URL: invalid IPv4 address",
        ),
        (
            "http://example.org:99999/",
            "is not an absolute URL: invalid port number",
        ),
        ("ftp://example.org/", "must begin with http:// or https://"),
        ("file:///etc/passwd", "must begin with http:// or https://"),
        ("example.org:80/", "must begin with http:// or https://"),
        ("http://example.org:0/", "names port 0, where nothing can listen"),
    ] {
        assert_eq!(
            fault_with("url", &json!(url)),
            ("url".into(), reason.into()),
            "{url}"
        );
    }
    let long = format!("http://example.org/{}", "x".repeat(9000));
    assert_eq!(
        fault_with("url", &json!(long)),
        ("url".into(), "is longer than 8192 bytes".into())
    );
}

#[test]
fn a_bad_header_is_named() {
    for (name, value, reason) in [
        ("Host", "a", "is set by the client itself and cannot be given"),
        (
            "content-length",
            "1",
            "is set by the client itself and cannot be given",
        ),
        (
            "Transfer-Encoding",
            "chunked",
            "is set by the client itself and cannot be given",
        ),
        (
            "connection",
            "upgrade",
            "is set by the client itself and cannot be given",
        ),
        (
            "Proxy-Authorization",
            "x",
            "is set by the client itself and cannot be given",
        ),
        (
            "Holdfast-Attempt",
            "1",
            "has a name that is reserved for Holdfast",
        ),
        ("a b", "x", "is not a header name"),
        ("a:", "x", "is not a header name"),
        ("", "x", "is not a header name"),
        (
            "x",
            "a\r\nHost: b",
            "has a control character in its value, such as a line break",
        ),
        (
            "x",
            "a\u{0}",
            "has a control character in its value, such as a line break",
        ),
    ] {
        let expected = (format!("headers.{name}"), reason.to_owned());
        assert_eq!(fault_with("headers", &json!({name: value})), expected);
    }
    let twice = fault_with("headers", &json!({"Accept": "a", "accept": "b"}));
    assert_eq!(
        twice,
        (
            "headers.accept".into(),
            "is given twice, in different spellings".into()
        )
    );
    let many: Value = (0..65)
        .map(|index| (format!("x-{index}"), json!("")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert_eq!(
        fault_with("headers", &many),
        ("headers".into(), "has more than 64 entries".into())
    );
    let long = fault_with("headers", &json!({"x": "y".repeat(20_000)}));
    assert_eq!(long, ("headers".into(), "is longer than 16384 bytes".into()));
    let number = fault_with("headers", &json!({"x": 1}));
    assert_eq!(number.0, "headers.x");
    assert!(
        number
            .1
            .starts_with("invalid type: integer `1`, expected a string"),
        "{}",
        number.1
    );
}

#[test]
fn other_bad_fields_are_named() {
    for seconds in [json!(0), json!(-1), json!(300.5), json!(1e300)] {
        let expected = (
            "timeout_seconds".into(),
            "must be more than 0 and at most 300".into(),
        );
        assert_eq!(fault_with("timeout_seconds", &seconds), expected);
    }
    for (field, value, at) in [
        ("expected_status", json!([200, 700]), "expected_status[1]"),
        ("expected_status", json!([101]), "expected_status[0]"),
        ("expected_status", json!(vec![200; 33]), "expected_status"),
        ("expected_status", json!(200), "expected_status"),
        ("expected_status", json!([-1]), "expected_status[0]"),
        ("method", json!("CONNECT"), "method"),
        ("method", json!("get"), "method"),
        ("timeout_seconds", json!("5"), "timeout_seconds"),
        ("retries", json!(1), "retries"),
    ] {
        assert_eq!(fault_with(field, &value).0, at, "{field} {value}");
    }
    assert_eq!(
        fault(&json!({})),
        (String::new(), "missing field `url` at line 1 column 2".into())
    );
    assert_eq!(fault(&json!("http://example.org/")).0, "");
    let body = fault(&json!({"url": "http://example.org/", "method": "GET", "body": {}}));
    assert_eq!(
        body,
        ("body".into(), "has no meaning in a GET or HEAD request".into())
    );
    let both = fault(&json!({"url": "http://a:b@example.org/", "headers": {"Authorization": "x"}}));
    assert_eq!(
        both,
        (
            "url".into(),
            "has a user and password besides headers.authorization".into()
        )
    );
}

#[test]
fn debug_output_shows_no_secret() {
    let job: HttpRequest = serde_json::from_value(json!({
        "url": "https://user:word@example.org/path?token=secret", "headers": {"Authorization": "Bearer secret"},
        "body": "secret"
    }))
    .unwrap();
    let text = format!("{job:?}");
    assert!(
        text.contains("https://example.org/path") && text.contains("Authorization"),
        "{text}"
    );
    assert!(!text.contains("secret") && !text.contains("word"), "{text}");
}

#[test]
fn a_payload_built_in_rust_is_one_that_the_kind_parses() {
    let job = HttpRequest::to("https://example.org/");
    let payload = serde_json::to_value(&job).unwrap();
    assert_eq!(payload, json!({"url": "https://example.org/"}));
    assert_eq!(check("http.request", &payload), Ok(()));
}
