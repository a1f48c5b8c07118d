//! `/metrics` and `/metrics/redis`, against real servers.
#![allow(clippy::float_cmp, reason = "counts are whole numbers")]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_accounts::Role;
use holdfast_core::telemetry::catalogue;
use holdfast_testkit::{Eviction, Persistence, RedisOptions, RedisServer};
use serde_json::Value;

use crate::support::{TestApp, TestSettings, body_of, problem, until};

async fn text_of(app: &TestApp) -> String {
    let response = app.admin().get("/metrics").await.unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    let kind = response.header("content-type").unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    response.text()
}

#[track_caller]
fn value_of(text: &str, series: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .unwrap_or_else(|| panic!("{series} is not in\n{text}"));
    line.parse().unwrap()
}

#[tokio::test]
async fn requests_jobs_queues_pools_and_modes_are_counted() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = TestSettings::new().with("REDIS_URL", &redis.url()).start().await;
    app.gate.wait_ready(Duration::from_secs(10)).await;
    app.worker().await;
    for _ in 0..3 {
        app.enqueue().await;
    }
    app.admin()
        .get("/v1/jobs/01JD3V0S7W8Q4M2XKZC5T9R6BH")
        .await
        .unwrap();
    app.admin().get("/a/path/of/a/scanner").await.unwrap();
    let text = text_of(&app).await;
    let posts = r#"holdfast_http_requests_total{method="POST",route="/v1/jobs",status="2xx"}"#;
    assert_eq!(value_of(&text, posts), 3.0);
    let missing = r#"holdfast_http_requests_total{method="GET",route="/v1/jobs/{id}",status="4xx"}"#;
    assert_eq!(value_of(&text, missing), 1.0);
    let nowhere = r#"holdfast_http_requests_total{method="GET",route="other",status="4xx"}"#;
    assert_eq!(value_of(&text, nowhere), 1.0);
    let timed = r#"holdfast_http_request_duration_seconds_count{method="POST",route="/v1/jobs"}"#;
    assert_eq!(value_of(&text, timed), 3.0);
    let accepted = r#"holdfast_jobs_enqueued_total{kind="debug.echo",durability="ledger"}"#;
    assert_eq!(value_of(&text, accepted), 3.0);
    let waiting = r#"holdfast_queue_jobs{queue="default",state="available"}"#;
    assert_eq!(value_of(&text, waiting), 3.0);
    assert_eq!(value_of(&text, "holdfast_workers_alive"), 1.0);
    assert_eq!(
        value_of(&text, r#"holdfast_redis_mode{role="queue",mode="normal"}"#),
        1.0
    );
    assert_eq!(
        value_of(&text, r#"holdfast_redis_breaker{role="queue",state="closed"}"#),
        1.0
    );
    assert!(value_of(&text, "holdfast_sql_pool_max_connections") >= 1.0);
    let statements = r#"holdfast_sql_statement_duration_seconds_count{operation="accept_jobs"}"#;
    assert!(value_of(&text, statements) >= 1.0);
    assert!(!text.contains("scanner"), "what a client writes is no label");
}

#[tokio::test]
async fn an_outage_of_redis_shows_in_the_mode_and_its_changes() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = TestSettings::new().with("REDIS_URL", &redis.url()).start().await;
    app.gate.wait_ready(Duration::from_secs(10)).await;
    redis.kill9().await.unwrap();
    let degraded = r#"holdfast_redis_mode{role="queue",mode="degraded"}"#;
    let text = until("degraded", Duration::from_secs(60), async || {
        let text = text_of(&app).await;
        (value_of(&text, degraded) > 0.0).then_some(text)
    });
    let text = text.await;
    assert_eq!(
        value_of(&text, r#"holdfast_redis_mode{role="queue",mode="normal"}"#),
        0.0
    );
    assert_eq!(
        value_of(&text, r#"holdfast_redis_breaker{role="queue",state="closed"}"#),
        0.0
    );
    let changes = r#"holdfast_redis_mode_changes_total{role="queue",to="degraded"}"#;
    assert!(value_of(&text, changes) >= 1.0);
}

/// Prints `type name` of each family, or fails with the parser's own complaint.
const PARSE: &str = "
import sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, family.name
    assert family.samples, family.name
    print(family.type, family.name)
";

/// The parser of the Prometheus project's own Python client. `scripts/test` installs it; `PATH` may lead to a Python
/// without it, so the system's is tried too.
fn python_with_parser() -> Option<&'static str> {
    ["/usr/bin/python3", "python3"].into_iter().find(|python| {
        Command::new(python)
            .args(["-c", "import prometheus_client.parser"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

#[tokio::test]
async fn the_text_is_read_by_the_official_parser() {
    let Some(python) = python_with_parser() else {
        eprintln!("SKIPPED: no Python has prometheus_client; install the package python3-prometheus-client");
        return;
    };
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = TestSettings::new().with("REDIS_URL", &redis.url()).start().await;
    app.gate.wait_ready(Duration::from_secs(10)).await;
    app.enqueue().await;
    let text = text_of(&app).await;
    let mut parser = Command::new(python)
        .args(["-c", PARSE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let parsed = parser.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&parsed.stderr);
    assert!(parsed.status.success(), "{complaint}\n{text}");
    let families = String::from_utf8(parsed.stdout).unwrap();
    let families: Vec<(&str, &str)> = families.lines().filter_map(|line| line.split_once(' ')).collect();
    assert!(families.len() > 20, "{families:?}");
    for (kind, name) in families {
        // The parser names a counter without its suffix.
        let declared = catalogue::ALL
            .iter()
            .find(|metric| metric.name == name || metric.name.strip_suffix("_total") == Some(name))
            .unwrap_or_else(|| panic!("{name} is not in the catalogue"));
        assert_eq!(declared.kind.as_str(), kind, "{name}");
    }
}

#[tokio::test]
async fn figures_are_for_those_who_may_read_unless_they_are_public() {
    let app = TestApp::start().await;
    for path in ["/metrics", "/metrics/redis"] {
        problem(&app.client().get(path).await.unwrap(), 401, "unauthenticated");
        let mut producer = app.with_scopes(&format!("p{path}"), "produce").await;
        problem(&producer.get(path).await.unwrap(), 403, "missing-scope");
        let mut reader = app.with_scopes(&format!("r{path}"), "read").await;
        assert_eq!(reader.get(path).await.unwrap().status, 200);
    }
    app.user("ada", Role::Viewer).await;
    let token = app.log_in("ada").await;
    let mut ada = app.client().with_bearer(&token);
    assert_eq!(ada.get("/metrics").await.unwrap().status, 200);
    assert_eq!(app.post(&token, "/v1/auth/logout").await.status, 204);
    problem(&ada.get("/metrics").await.unwrap(), 401, "unauthenticated");
    let public = TestSettings::new()
        .with("HOLDFAST__METRICS__PUBLIC", "true")
        .start()
        .await;
    assert_eq!(public.client().get("/metrics").await.unwrap().status, 200);
    let keyless = TestSettings::new().without("HOLDFAST_API_KEY").start().await;
    assert_eq!(keyless.client().get("/metrics").await.unwrap().status, 200);
}

// --- /metrics/redis --------------------------------------------------------------------------------------------------

async fn app_on(redis: &RedisServer, more: &[(&str, &str)]) -> TestApp {
    let settings = more.iter().fold(
        TestSettings::new().with("REDIS_URL", &redis.url()),
        |settings, (name, value)| settings.with(name, value),
    );
    let app = settings.start().await;
    app.gate.wait_ready(Duration::from_secs(10)).await;
    app
}

async fn report_of(app: &TestApp) -> Value {
    body_of(&app.admin().get("/metrics/redis").await.unwrap())
}

#[track_caller]
fn advice<'a>(report: &'a Value, code: &str) -> Option<&'a Value> {
    let all = report["advice"].as_array().unwrap();
    all.iter().find(|one| one["code"] == code)
}

const REDIS_QUEUE: (&str, &str) = ("HOLDFAST__QUEUES__EVENTS__DURABILITY", "redis");

#[tokio::test]
async fn a_well_kept_server_gets_no_advice() {
    let options = RedisOptions::default()
        .persistence(Persistence::AofEverysec)
        .maxmemory(1 << 30, Eviction::NoEviction);
    let redis = RedisServer::start(options).await.unwrap();
    let app = app_on(&redis, &[REDIS_QUEUE]).await;
    let report = report_of(&app).await;
    assert_eq!(report["status"], "healthy", "{report}");
    assert_eq!(report["advice"], serde_json::json!([]), "{report}");
    let metrics = &report["metrics"];
    assert!(metrics["memory"]["used_mb"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!(metrics["memory"]["max_mb"], 1024.0);
    assert!(metrics["connections"]["connected_clients"].as_f64().unwrap() >= 1.0);
    assert!(metrics["connections"]["pool"]["max"].is_u64());
    assert!(metrics["performance"]["latency_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(metrics["queues"]["default"], 0);
}

#[tokio::test]
async fn a_server_that_evicts_and_forgets_is_told_with_what_can_be_lost() {
    let options = RedisOptions::default().maxmemory(1 << 30, Eviction::AllKeysLru);
    let redis = RedisServer::start(options).await.unwrap();
    for (more, severity) in [(&[REDIS_QUEUE][..], "warning"), (&[][..], "info")] {
        let app = app_on(&redis, more).await;
        let report = report_of(&app).await;
        for code in ["evicts_jobs", "no_persistence", "shared_evicting_server"] {
            let one = advice(&report, code).unwrap_or_else(|| panic!("{code}: {report}"));
            assert_eq!(one["severity"], severity, "{report}");
            assert!(one["remedy"].is_string() && one["message"].is_string());
        }
    }
}

#[tokio::test]
async fn a_cache_of_its_own_may_evict() {
    let queue = RedisServer::start(RedisOptions::default().persistence(Persistence::AofEverysec))
        .await
        .unwrap();
    let cache = RedisServer::start(RedisOptions::default().maxmemory(1 << 30, Eviction::AllKeysLru))
        .await
        .unwrap();
    let app = app_on(&queue, &[REDIS_QUEUE, ("REDIS_CACHE_URL", &cache.url())]).await;
    let report = report_of(&app).await;
    assert_eq!(report["advice"], serde_json::json!([]), "{report}");
}

#[tokio::test]
async fn an_idle_timeout_below_ours_is_told() {
    for (seconds, told) in [("30", true), ("300", false)] {
        let redis = RedisServer::start(RedisOptions::default().config("timeout", seconds))
            .await
            .unwrap();
        let report = report_of(&app_on(&redis, &[]).await).await;
        assert_eq!(
            advice(&report, "idle_timeout").is_some(),
            told,
            "{seconds}: {report}"
        );
    }
}

#[tokio::test]
async fn memory_that_is_nearly_used_up_is_told() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = app_on(&redis, &[]).await;
    let used = report_of(&app).await["metrics"]["memory"]["used_mb"]
        .as_f64()
        .unwrap();
    let limit = (used * 1_048_576.0 * 1.1) as u64;
    app.gate
        .run("test", |mut connection| async move {
            redis::cmd("CONFIG")
                .arg("SET")
                .arg("maxmemory")
                .arg(limit)
                .query_async::<()>(&mut connection)
                .await
        })
        .await
        .unwrap();
    until("the advice", Duration::from_secs(60), async || {
        let report = report_of(&app).await;
        advice(&report, "memory_high").cloned()
    })
    .await;
}

#[tokio::test]
async fn a_cache_that_seldom_hits_is_told() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = app_on(&redis, &[]).await;
    app.gate
        .run("test", |mut connection| async move {
            let mut pipe = redis::pipe();
            for n in 0..1_200 {
                pipe.cmd("GET").arg(format!("missing:{n}")).ignore();
            }
            pipe.query_async::<()>(&mut connection).await
        })
        .await
        .unwrap();
    let report = until("the advice", Duration::from_secs(60), async || {
        let report = report_of(&app).await;
        advice(&report, "low_hit_ratio").is_some().then_some(report)
    })
    .await;
    assert_eq!(report["metrics"]["performance"]["cache_hit_ratio"], 0.0);
}

#[tokio::test]
async fn a_deep_queue_is_told_by_name() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = app_on(&redis, &[]).await;
    let jobs: Vec<Value> = (0..101)
        .map(|n| crate::support::echo(serde_json::json!({"n": n})))
        .collect();
    let batch = serde_json::json!({"jobs": jobs});
    assert_eq!(
        app.admin()
            .post_json("/v1/jobs/batch", &batch)
            .await
            .unwrap()
            .status,
        202
    );
    let report = until("the depth", Duration::from_secs(60), async || {
        let report = report_of(&app).await;
        advice(&report, "deep_queue").is_some().then_some(report)
    })
    .await;
    assert_eq!(report["metrics"]["queues"]["default"], 101);
    let message = advice(&report, "deep_queue").unwrap()["message"]
        .as_str()
        .unwrap();
    assert!(message.contains("`default`"), "{message}");
}
