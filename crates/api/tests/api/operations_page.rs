//! `docs/operations.md`, the alert rules, and the documents of `/health` and `/metrics/redis` against the code.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_core::mode::DegradedReason;
use holdfast_core::telemetry::catalogue;
use holdfast_http::health::hints;
use holdfast_http::monitor::AdviceCode;
use holdfast_jobs::diagnosis::FaultKind;
use holdfast_testkit::{FaultProxy, Mode, PostgresServer, RedisOptions, RedisServer};
use serde_json::Value;
use yaml_rust2::YamlLoader;

use crate::schema::Schemas;
use crate::support::{ADMIN, TestApp, TestSettings, body_of, until};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn operations() -> String {
    std::fs::read_to_string(root().join("docs/operations.md")).unwrap()
}

/// The table of jobs, which advice names; no metric has this name.
const JOBS_TABLE: &str = "holdfast_jobs";

/// Every name of a metric in a text, without the suffixes of a histogram's series.
fn names_in(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("holdfast_") && *word != JOBS_TABLE)
        .map(|word| {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| word.strip_suffix(suffix));
            family
                .filter(|family| catalogue::ALL.iter().any(|metric| metric.name == *family))
                .unwrap_or(word)
        })
        .collect()
}

#[track_caller]
fn assert_in_catalogue(text: &str) {
    for name in names_in(text) {
        assert!(
            catalogue::ALL.iter().any(|metric| metric.name == name),
            "{name} is not in the catalogue"
        );
    }
}

#[test]
fn every_metric_is_described_as_it_is_declared_and_no_other() {
    let text = operations();
    for metric in catalogue::ALL {
        let labels = if metric.labels.is_empty() {
            "–".to_owned()
        } else {
            metric.labels.join(", ")
        };
        let row = format!(
            "| `{}` | {} | {labels} | {} |",
            metric.name,
            metric.kind.as_str(),
            metric.help
        );
        assert!(text.contains(&row), "docs/operations.md lacks the row\n{row}");
    }
    assert_in_catalogue(&text);
}

#[test]
fn every_hint_and_every_advice_has_its_remedy_in_the_page() {
    let text = operations();
    let hints = hints::ALL.iter().copied();
    let reasons = DegradedReason::ALL.into_iter().map(DegradedReason::hint);
    let remedies = AdviceCode::ALL.into_iter().map(AdviceCode::remedy);
    let faults = FaultKind::ALL.into_iter().map(FaultKind::hint);
    for hint in hints.chain(reasons).chain(remedies).chain(faults) {
        assert!(
            text.contains(&format!("| {hint} |")),
            "docs/operations.md lacks: {hint}"
        );
    }
}

#[test]
fn every_fault_has_its_section_in_the_runbook() {
    let text = std::fs::read_to_string(root().join("docs/runbook.md")).unwrap();
    for kind in FaultKind::ALL {
        let heading = format!("\n## {}\n", kind.section());
        assert!(
            text.contains(&heading),
            "docs/runbook.md lacks the section of {kind}"
        );
    }
}

#[test]
fn every_alert_is_a_rule_over_metrics_that_exist_and_is_explained() {
    let text = std::fs::read_to_string(root().join("deploy/prometheus/rules.yml")).unwrap();
    let page = operations();
    let rules = YamlLoader::load_from_str(&text).unwrap();
    let mut alerts = 0;
    for group in rules[0]["groups"].as_vec().unwrap() {
        for rule in group["rules"].as_vec().unwrap() {
            let alert = rule["alert"].as_str().unwrap();
            let expression = rule["expr"].as_str().unwrap();
            assert!(!names_in(expression).is_empty(), "{alert}");
            assert_in_catalogue(expression);
            assert!(rule["annotations"]["summary"].as_str().is_some(), "{alert}");
            assert!(
                ["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()),
                "{alert}"
            );
            assert!(
                page.contains(&format!("| {alert} |")),
                "docs/operations.md does not explain {alert}"
            );
            alerts += 1;
        }
    }
    assert!(alerts > 10);
}

/// Both documents, held against their schemas; what they say.
async fn checked(app: &TestApp) -> (Value, Value) {
    let schemas = Schemas::of(body_of(&app.client().get("/openapi.json").await.unwrap()));
    let health = body_of(&app.client().get("/health").await.unwrap());
    assert_eq!(schemas.faults("Health", &health), [""; 0], "{health}");
    let redis = app
        .client()
        .with_bearer(ADMIN)
        .get("/metrics/redis")
        .await
        .unwrap();
    assert_eq!(redis.status, 200, "{}", redis.text());
    let redis = body_of(&redis);
    assert_eq!(schemas.faults("RedisMetrics", &redis), [""; 0], "{redis}");
    (health, redis)
}

#[tokio::test]
async fn the_documents_keep_their_schema_without_redis_and_without_workers() {
    let app = TestApp::start().await;
    let (health, redis) = checked(&app).await;
    assert_eq!(health["status"], "degraded", "no worker: {health}");
    assert_eq!(redis["status"], "not_configured");
    assert_eq!(redis["metrics"]["memory"]["used_mb"], Value::Null);
}

#[tokio::test]
async fn the_documents_keep_their_schema_while_redis_is_well_hangs_and_is_gone() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = TestSettings::new().with("REDIS_URL", &redis.url()).start().await;
    app.worker().await;
    app.gate.wait_ready(Duration::from_secs(10)).await;
    let (health, document) = checked(&app).await;
    assert_eq!(
        (&health["status"], &document["status"]),
        (&"healthy".into(), &"healthy".into()),
        "{health}"
    );

    redis.sigstop().await.unwrap();
    degraded(&app).await;
    redis.sigcont().await.unwrap();
    until("healthy", Duration::from_secs(60), async || {
        (checked(&app).await.1["status"] == "healthy").then_some(())
    })
    .await;
    redis.kill9().await.unwrap();
    degraded(&app).await;
}

async fn degraded(app: &TestApp) {
    until("degraded", Duration::from_secs(60), async || {
        let (health, redis) = checked(app).await;
        let known = hints_of(&health);
        (redis["status"] == "degraded" && known.contains(&"redis".to_owned())).then_some(())
    })
    .await;
}

/// The services that give a hint; each is one that the page explains.
fn hints_of(health: &Value) -> Vec<String> {
    let page = operations();
    let services = health["services"].as_object().unwrap();
    let with_hint = services.iter().filter(|(_, service)| service["hint"].is_string());
    with_hint
        .map(|(name, service)| {
            let hint = service["hint"].as_str().unwrap();
            assert!(page.contains(&format!("| {hint} |")), "{name}: {hint}");
            name.clone()
        })
        .collect()
}

#[tokio::test]
async fn both_servers_black_holed_cost_health_less_than_a_second_each_time() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let postgres = PostgresServer::start().await.unwrap();
    let to_redis = FaultProxy::for_redis(&redis).await.unwrap();
    let to_postgres = FaultProxy::for_postgres(&postgres).await.unwrap();
    let app = TestSettings::new()
        .with("REDIS_URL", &to_redis.url_for(&redis.url()))
        .with("DATABASE_URL", &to_postgres.url_for(&postgres.url()))
        .start()
        .await;
    app.gate.wait_ready(Duration::from_secs(10)).await;
    assert_eq!(checked(&app).await.0["services"]["database"]["status"], "healthy");
    to_redis.set_mode(Mode::BlackHole).await.unwrap();
    to_postgres.set_mode(Mode::BlackHole).await.unwrap();
    until("unhealthy", Duration::from_secs(60), async || {
        let started = Instant::now();
        let response = app.client().get("/health").await.unwrap();
        let took = started.elapsed();
        // The second is the promise; what a loaded machine adds to it is not ours.
        assert!(took < Duration::from_secs(3), "{took:?}");
        let body = body_of(&response);
        let redis = body["services"]["redis"]["status"] == "degraded";
        (redis && response.status == 503).then_some(())
    })
    .await;
    let (health, document) = checked(&app).await;
    assert_eq!(health["status"], "unhealthy");
    assert_eq!(health["services"]["database"]["status"], "unhealthy");
    assert!(hints_of(&health).contains(&"database".to_owned()));
    assert_eq!(document["status"], "degraded");
    assert_eq!(document["metrics"]["queues"], serde_json::json!({}));
}
