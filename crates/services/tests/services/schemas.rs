//! The schema of every kind and the type that decodes its payloads agree: what one takes the other takes.
//!
//! They are asked apart, about payloads that are near to good ones. Two differences are known: a schema takes `1.0` for an integer,
//! which serde does not, and it cannot say everything ([`beyond_a_schema`]).

use std::collections::BTreeSet;

use holdfast_jobs::Kind;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Good payloads, which together have every field of every kind.
fn good() -> Vec<(&'static str, Value)> {
    let id = "01JD3V0S7W8Q4M2XKZC5T9R6BH";
    vec![
        ("debug.echo", json!([1, "two", null])),
        (
            "debug.fail",
            json!({"mode": "retry_after", "times": 2, "message": "no", "retry_after_seconds": 5}),
        ),
        ("debug.fail", json!({"mode": "snooze", "retry_after_seconds": 5})),
        ("debug.fail", json!({"mode": "abort"})),
        ("debug.sleep", json!({"milliseconds": 5})),
        ("debug.sleep", json!({"seconds": 0.5, "milliseconds": null})),
        ("events.discover", json!({"source": id})),
        ("holdfast.probe", json!({})),
        (
            "http.request",
            json!({"url": "https://example.com/é", "method": "POST", "headers": {"Accept": "text/plain"}, "body": {"a": [1]},
                "timeout_seconds": 0.5, "expected_status": [200, 404], "sign": true, "result": "json"}),
        ),
        (
            "http.request",
            json!({"url": " HTTP://example.com", "method": "HEAD", "body": null}),
        ),
        (
            "http.request",
            json!({"url": "http://example.com", "method": "GET", "result": "json"}),
        ),
        ("ml.recommend", json!({"user": "user-17"})),
        ("ml.train", json!({"full": true})),
        ("notify.digest", json!({"user": id})),
        (
            "notify.email",
            json!({"to": "Ada <ada@example.com>", "user": "user-17", "template": "invite", "data": {"team": "C"},
                "list": "invitations", "reply_to": "b@example.com", "key": "invite-17"}),
        ),
        ("notify.email", json!({"user": id, "template": "invite"})),
        (
            "notify.webhook",
            json!({"webhook": id, "id": "msg_17", "type": "order.paid", "timestamp": "2026-11-29T12:00:00.5+01:00",
                "data": {"order": 17}, "test": true}),
        ),
        ("points.flush", json!({})),
    ]
}

/// What only the type refuses.
fn beyond_a_schema() -> Vec<(&'static str, Value, &'static str)> {
    let url = |url: &str| json!({"url": url});
    let headers = |headers: Value| json!({"url": "http://example.com", "headers": headers});
    vec![
        ("http.request", url("http://"), "url"),
        ("http.request", url("http://example.com:0/"), "url"),
        (
            "http.request",
            url(&format!("http://example.com/{}", "é".repeat(8_000))),
            "url",
        ),
        ("http.request", headers(json!({"Host": "a"})), "headers.Host"),
        ("http.request", headers(json!({"a": "1", "A": "2"})), "headers.a"),
        (
            "http.request",
            headers(json!({"a": "x".repeat(20_000)})),
            "headers",
        ),
        ("notify.email", json!({"to": "a@b@c", "template": "t"}), "to"),
        (
            "notify.email",
            json!({"user": "é".repeat(100), "template": "t"}),
            "user",
        ),
    ]
}

/// In place of each field, or of the whole payload.
fn strange() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(301),
        json!(1_000_000_000),
        json!(18_446_744_073_709_551_615_u64),
        json!(2e19),
        json!(""),
        json!("x"),
        json!("GET"),
        json!("HEAD"),
        json!("job.completed"),
        json!("2026-11-29 12:00:00Z"),
        json!("line\nbreak"),
        json!("x".repeat(9_000)),
        json!([]),
        json!([1]),
        json!(["x"]),
        json!(vec![200; 40]),
        json!({}),
        json!({"a": "b"}),
        json!({"a": 1}),
        json!({"a b": "c"}),
        json!({"a": "line\nbreak"}),
    ]
}

/// Payloads that differ from a good one in one place.
fn neighbours(good: &Value) -> Vec<Value> {
    let mut found = strange();
    let Some(fields) = good.as_object() else {
        return found;
    };
    for name in fields.keys() {
        let mut without = fields.clone();
        without.remove(name);
        found.push(Value::Object(without));
        found.extend(strange().into_iter().map(|strange| {
            let mut changed = fields.clone();
            changed.insert(name.clone(), strange);
            Value::Object(changed)
        }));
    }
    let mut more = fields.clone();
    more.insert("unknown".to_owned(), json!(1));
    found.push(Value::Object(more));
    // By the order of the fields, which serde takes too.
    found.push(fields.values().cloned().collect());
    found
}

fn raw(payload: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(payload).unwrap()
}

/// What only the schema forbids: a list in place of an object, the spellings of a time that are not RFC 3339's, and events that the
/// engine alone makes, with a type.
fn is_forbidden_by_the_schema_alone(kind: &Kind, payload: &Value) -> bool {
    let is_list = payload.is_array() && kind.name != "debug.echo";
    let is_of_the_engine = kind.name == "notify.webhook" && payload["type"] == "job.completed";
    is_list || is_of_the_engine || payload["timestamp"] == "2026-11-29 12:00:00Z"
}

#[test]
fn the_schema_of_each_kind_takes_what_its_type_takes() {
    let registry = holdfast_services::registry();
    let mut unlike = Vec::new();
    let mut compared = 0;
    for (name, good) in good() {
        let kind = registry.get(name).unwrap();
        assert_eq!(kind.check(&raw(&good)), Ok(()), "{name} {good}");
        for payload in neighbours(&good) {
            let text = raw(&payload);
            let (by_schema, by_type) = (kind.schemas().check(&text), kind.check_type(&text));
            compared += 1;
            if by_schema.is_ok() != by_type.is_ok() && !is_forbidden_by_the_schema_alone(kind, &payload) {
                unlike.push(format!(
                    "{name} {payload:.200}: schema {by_schema:?}, type {by_type:?}"
                ));
            }
        }
    }
    assert!(
        unlike.is_empty(),
        "{} of {compared}:\n{}",
        unlike.len(),
        unlike.join("\n")
    );
    assert!(compared > 1_000, "{compared}");
}

#[test]
fn what_a_schema_cannot_say_is_refused_by_the_type_alone() {
    let registry = holdfast_services::registry();
    for (name, payload, field) in beyond_a_schema() {
        let kind = registry.get(name).unwrap();
        assert_eq!(
            kind.schemas().check(&raw(&payload)),
            Ok(()),
            "{name} {payload:.200}"
        );
        assert_eq!(
            kind.check(&raw(&payload)).unwrap_err().field,
            field,
            "{name} {payload:.200}"
        );
    }
}

#[test]
fn every_kind_has_a_schema_of_all_its_fields_and_an_example_that_it_accepts() {
    let registry = holdfast_services::registry();
    for kind in registry.kinds() {
        let schemas = kind.schemas();
        assert_eq!(schemas.fault(), None, "{}", kind.name);
        let schema: Value = serde_json::from_str(schemas.payload.get()).unwrap();
        assert_eq!(kind.check(&raw(&schema["examples"][0])), Ok(()), "{}", kind.name);
        let known: BTreeSet<&String> = schema["properties"]
            .as_object()
            .into_iter()
            .flat_map(|fields| fields.keys())
            .collect();
        let samples = good();
        let tried: BTreeSet<&String> = samples
            .iter()
            .filter(|(name, _)| *name == kind.name)
            .filter_map(|(_, payload)| payload.as_object())
            .flat_map(|fields| fields.keys())
            .collect();
        assert!(
            known.is_subset(&tried),
            "{} has fields that no sample has: {known:?}",
            kind.name
        );
        if kind.name != "debug.echo" {
            assert_eq!(
                (&schema["type"], &schema["additionalProperties"]),
                (&json!("object"), &json!(false)),
                "{}",
                kind.name
            );
        }
        let has_result = !matches!(kind.name, "holdfast.probe");
        assert_eq!(schemas.result.is_some(), has_result, "{}", kind.name);
    }
}

#[test]
fn an_event_that_the_engine_alone_publishes_cannot_be_delivered_by_a_producer() {
    let registry = holdfast_services::registry();
    let kind = registry.get("notify.webhook").unwrap();
    let payload = json!({"webhook": "01JD3V0S7W8Q4M2XKZC5T9R6BH", "id": "m", "type": "job.completed",
        "timestamp": "2026-11-29T12:00:00Z", "data": {}});
    let fault = kind.check(&raw(&payload)).unwrap_err();
    assert_eq!(
        (&*fault.field, &*fault.reason),
        ("type", "it is a value that the schema excludes")
    );
}
