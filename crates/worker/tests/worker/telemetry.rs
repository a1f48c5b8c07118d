//! What the built binaries tell of themselves: one trace from the request to the execution, and a log that tells an outage
//! once.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_testkit::http::Client;
use holdfast_testkit::{
    Child, FaultProxy, Mode, PostgresServer, Receiver, RedisOptions, RedisServer, eventually, free_port,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
const KEY: &str = "bootstrap-key-of-the-tests";

/// An `api` and a `worker` process over the same stores.
struct Pair {
    api: Child,
    worker: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Pair {
    async fn start(env: &[(&str, String)]) -> Self {
        let directory = TempDir::new().unwrap();
        let start = |name: &str, port: u16| {
            Child::binary(name)
                .envs(env.iter().map(|(name, value)| (name, value)))
                .env("PORT", port.to_string())
                .env("HOLDFAST_API_KEY", KEY)
                .env("HOLDFAST__LOG__FORMAT", "json")
                .current_dir(directory.path())
                .start()
                .unwrap()
        };
        let (api_port, worker_port) = (free_port().unwrap(), free_port().unwrap());
        let api = start("api", api_port);
        let worker = start("worker", worker_port);
        api.wait_for_line("\"listening\"", DEADLINE).await.unwrap();
        worker.wait_for_line("\"working\"", DEADLINE).await.unwrap();
        Self {
            api,
            worker,
            address: SocketAddr::from(([127, 0, 0, 1], api_port)),
            _directory: directory,
        }
    }

    async fn enqueue(&self, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut client = Client::new(self.address).with_bearer(KEY);
        let body = json!({"kind": "debug.echo", "payload": {"n": 1}}).to_string();
        let headers = [headers, &[("content-type", "application/json")]].concat();
        let response = client
            .request("POST", "/v1/jobs", &headers, body.as_bytes())
            .await
            .unwrap();
        (response.status, response.json().unwrap())
    }

    async fn completed(&self, id: &str) {
        let mut client = Client::new(self.address).with_bearer(KEY);
        let job: Value = client
            .get(&format!("/v1/jobs/{id}?wait=30"))
            .await
            .unwrap()
            .json()
            .unwrap();
        assert_eq!(job["state"], "completed", "{job}");
    }
}

/// Every span that reached the collector.
fn spans_of(collector: &Receiver) -> Vec<Span> {
    collector
        .recorded()
        .iter()
        .filter(|request| request.path == "/v1/traces")
        .flat_map(|request| {
            ExportTraceServiceRequest::decode(&request.body[..])
                .unwrap()
                .resource_spans
        })
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .collect()
}

#[tokio::test]
async fn a_request_its_enqueue_and_its_execution_are_one_trace() {
    let collector = Receiver::start().await.unwrap();
    let postgres = PostgresServer::start().await.unwrap();
    let env = [
        ("DATABASE_URL", postgres.url()),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", collector.addr()),
        ),
    ];
    let pair = Pair::start(&env).await;
    let (status, job) = pair
        .enqueue(&[(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )])
        .await;
    assert_eq!(status, 202, "{job}");
    pair.completed(job["id"].as_str().unwrap()).await;
    let named = |name: &str| spans_of(&collector).into_iter().find(|span| span.name == name);
    let arrived = eventually(
        "the spans of request, enqueue and execution",
        DEADLINE,
        POLL,
        || async {
            named("POST /v1/jobs")
                .zip(named("enqueue debug.echo"))
                .zip(named("run debug.echo"))
        },
    );
    let ((request, enqueue), execute) = arrived.await.unwrap();
    let trace = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
    for span in [&request, &enqueue, &execute] {
        assert_eq!(span.trace_id, trace, "{}", span.name);
    }
    assert_eq!(request.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(enqueue.parent_span_id, request.span_id);
    assert_eq!(execute.parent_span_id, enqueue.span_id);
    assert!(execute.start_time_unix_nano >= enqueue.start_time_unix_nano);
    let outcome = execute
        .attributes
        .iter()
        .find(|attribute| attribute.key == "job.outcome");
    assert!(format!("{outcome:?}").contains("completed"), "{outcome:?}");
}

#[tokio::test]
async fn a_collector_that_is_away_costs_nothing_but_one_line() {
    let postgres = PostgresServer::start().await.unwrap();
    let env = [
        ("DATABASE_URL", postgres.url()),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://127.0.0.1:{}", free_port().unwrap()),
        ),
        // A machine that is a platform is warned of where this is not said.
        ("HOLDFAST_ENV", "development".to_owned()),
    ];
    let pair = Pair::start(&env).await;
    for _ in 0..5 {
        let (status, job) = pair.enqueue(&[]).await;
        assert_eq!(status, 202, "{job}");
        pair.completed(job["id"].as_str().unwrap()).await;
        pair.api
            .wait_for_line("the trace collector is unavailable", DEADLINE)
            .await
            .unwrap();
    }
    let told = told(&pair.api, 0);
    assert_eq!(
        told,
        ["warn: the trace collector is unavailable: spans are lost until it recovers"]
    );
}

/// Warnings and errors among a process' lines from this one on.
fn told(child: &Child, from: usize) -> Vec<String> {
    lines(child, from)
        .into_iter()
        .filter(|line| line["level"] == "warn" || line["level"] == "error")
        .map(|line| {
            format!(
                "{}: {}",
                line["level"].as_str().unwrap(),
                line["message"].as_str().unwrap()
            )
        })
        .collect()
}

fn lines(child: &Child, from: usize) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str::<Value>(&line[line.find('{')?..]).ok();
    child.lines().iter().skip(from).filter_map(parse).collect()
}

#[tokio::test]
async fn an_outage_of_redis_is_one_warning_and_its_end_one_line() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let postgres = PostgresServer::start().await.unwrap();
    let pair = Pair::start(&[("DATABASE_URL", postgres.url()), ("REDIS_URL", redis.url())]).await;
    for child in [&pair.api, &pair.worker] {
        child.wait_for_line("Redis is connected", DEADLINE).await.unwrap();
    }
    let from = (pair.api.line_count(), pair.worker.line_count());
    redis.kill9().await.unwrap();
    for child in [&pair.api, &pair.worker] {
        child
            .wait_for_line("Redis is unavailable", DEADLINE)
            .await
            .unwrap();
    }
    for _ in 0..20 {
        let (status, job) = pair.enqueue(&[]).await;
        assert_eq!(status, 202, "{job}");
        pair.completed(job["id"].as_str().unwrap()).await;
    }
    redis.restart().await.unwrap();
    for (child, from) in [(&pair.api, from.0), (&pair.worker, from.1)] {
        child
            .wait_for_line("Redis has recovered", DEADLINE)
            .await
            .unwrap();
        let warnings = told(child, from);
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        assert!(
            warnings[0].starts_with("warn: Redis is unavailable"),
            "{warnings:?}"
        );
        let back = lines(child, from)
            .into_iter()
            .filter(|line| line["message"] == "Redis has recovered");
        assert_eq!(back.count(), 1);
    }
}

#[tokio::test]
async fn an_outage_of_the_database_is_told_once_by_each_process() {
    let postgres = PostgresServer::start().await.unwrap();
    let proxy = FaultProxy::for_postgres(&postgres).await.unwrap();
    let pair = Pair::start(&[("DATABASE_URL", proxy.url_for(&postgres.url()))]).await;
    // On a busy machine the API listens before it has migrated; an interrupted migration is told, too.
    if told(&pair.api, 0)
        .iter()
        .any(|line| line.contains("starting without it"))
    {
        pair.api
            .wait_for_line("the database is ready", DEADLINE)
            .await
            .unwrap();
    }
    let from = (pair.api.line_count(), pair.worker.line_count());
    proxy.set_mode(Mode::Refuse).await.unwrap();
    // All at once: each is tried for some seconds before it is refused.
    let refused = futures::future::join_all((0..20).map(|_| pair.enqueue(&[]))).await;
    assert_eq!(refused.iter().filter(|(status, _)| *status == 503).count(), 20);
    for child in [&pair.api, &pair.worker] {
        child
            .wait_for_line("the database is unavailable", DEADLINE)
            .await
            .unwrap();
    }
    proxy.set_mode(Mode::Forward).await.unwrap();
    let accepted = eventually("an enqueue", DEADLINE, POLL, || async {
        let (status, job) = pair.enqueue(&[]).await;
        (status == 202).then_some(job)
    });
    let job = accepted.await.unwrap();
    pair.completed(job["id"].as_str().unwrap()).await;
    for (child, from) in [(&pair.api, from.0), (&pair.worker, from.1)] {
        child
            .wait_for_line("the database has recovered", DEADLINE)
            .await
            .unwrap();
        let mut warnings = told(child, from);
        warnings.retain(|line| !line.starts_with("warn: requests are refused"));
        let once = ["warn: the database is unavailable: calls that need it fail until a probe is answered"];
        assert_eq!(warnings, once, "{}", child.name());
    }
    let refusals = told(&pair.api, from.0);
    assert!(refusals.len() <= 2, "{refusals:#?}");
}
