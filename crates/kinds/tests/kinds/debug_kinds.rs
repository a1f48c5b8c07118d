//! `debug.*`: every way a job can end.

use std::time::Duration;

use futures::FutureExt;
use holdfast_jobs::{Job, JobError};
use holdfast_kinds::{DebugEcho, DebugFail, DebugSleep, FailMode, RecoveryReport};
use serde_json::json;

use crate::{check, context, open, told};

#[tokio::test]
async fn echo_returns_any_json_as_it_came() {
    for payload in [
        "null",
        "1.0",
        r#""text""#,
        r#"{"b": 1,  "a": [12345678901234567890123]}"#,
    ] {
        let job: DebugEcho = serde_json::from_str(payload).unwrap();
        assert_eq!(job.run(context(1, open())).await.unwrap().get(), payload);
    }
}

#[tokio::test]
async fn sleep_takes_milliseconds_or_seconds() {
    let slept = DebugSleep::milliseconds(20)
        .run(context(1, open()))
        .await
        .unwrap();
    assert!(slept.slept_ms >= 20 && slept.of_ms == 20, "{slept:?}");
    let seconds: DebugSleep = serde_json::from_value(json!({"seconds": 0.015})).unwrap();
    assert_eq!(seconds.run(context(1, open())).await.unwrap().of_ms, 15);
}

#[tokio::test]
async fn each_mode_fails_in_its_own_way() {
    let run = |mode| DebugFail::new(mode).run(context(1, open()));
    let said = "debug.fail was asked to fail".to_owned();
    assert_eq!(told(run(FailMode::Transient).await), ("transient", said.clone()));
    assert_eq!(told(run(FailMode::Permanent).await), ("permanent", said));
    let rest = Duration::from_secs(7);
    let job = DebugFail {
        retry_after_seconds: Some(7),
        message: Some("busy".into()),
        ..DebugFail::new(FailMode::RetryAfter)
    };
    assert!(
        matches!(job.run(context(1, open())).await, Err(JobError::RetryAfter(actual, cause))
        if actual == rest && cause.to_string() == "busy")
    );
    let job = DebugFail {
        retry_after_seconds: Some(7),
        ..DebugFail::new(FailMode::Snooze)
    };
    assert!(matches!(job.run(context(1, open())).await, Err(JobError::Snooze(actual)) if actual == rest));
    let panic = std::panic::AssertUnwindSafe(run(FailMode::Panic))
        .catch_unwind()
        .await
        .unwrap_err();
    assert_eq!(
        panic.downcast_ref::<String>().unwrap(),
        "debug.fail was asked to fail"
    );
    assert!(run(FailMode::Hang).now_or_never().is_none());
}

#[tokio::test]
async fn the_attempt_after_the_failing_ones_succeeds() {
    for (attempt, succeeds) in [(1, false), (2, false), (3, true), (4, true)] {
        let outcome = DebugFail::new(FailMode::Transient)
            .times(2)
            .run(context(attempt, open()))
            .await;
        assert_eq!(
            outcome.ok(),
            succeeds.then_some(RecoveryReport { attempt }),
            "{attempt}"
        );
    }
}

#[test]
fn bad_payloads_are_refused_by_field() {
    for (kind, payload, field) in [
        ("debug.sleep", json!({}), "milliseconds"),
        ("debug.sleep", json!({"milliseconds": 1, "seconds": 1}), "seconds"),
        ("debug.sleep", json!({"seconds": -1}), "seconds"),
        ("debug.sleep", json!({"seconds": 86_401}), "seconds"),
        ("debug.sleep", json!({"milliseconds": -1}), "milliseconds"),
        ("debug.sleep", json!({"milliseconds": 86_400_001}), "milliseconds"),
        ("debug.sleep", json!({"minutes": 1}), "minutes"),
        ("debug.fail", json!({}), ""),
        ("debug.fail", json!({"mode": "explode"}), "mode"),
        ("debug.fail", json!({"mode": "abort", "times": 1}), "times"),
        ("debug.fail", json!({"mode": "snooze", "times": 1}), "times"),
        ("debug.fail", json!({"mode": "transient", "times": -1}), "times"),
        (
            "debug.fail",
            json!({"mode": "retry_after", "retry_after_seconds": 86_401}),
            "retry_after_seconds",
        ),
    ] {
        assert_eq!(
            check(kind, &payload).unwrap_err().field,
            field,
            "{kind} {payload}"
        );
    }
    for (kind, payload) in [
        ("debug.echo", json!(null)),
        ("debug.sleep", json!({"milliseconds": 0})),
        ("debug.sleep", json!({"seconds": 86_400})),
        ("debug.fail", json!({"mode": "hang", "times": 3})),
    ] {
        assert_eq!(check(kind, &payload), Ok(()), "{kind} {payload}");
    }
}
