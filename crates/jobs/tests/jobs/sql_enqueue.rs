//! Jobs that any client of PostgreSQL enqueues in its own transaction, with `holdfast.enqueue` and `holdfast.enqueue_many`.

use std::time::Duration;

use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::declared::{KindDefinition, RetryDefinition};
use holdfast_jobs::enqueue::{EnqueueError, JobRequest};
use holdfast_jobs::pull::{ClientInfo, PullAnswer, PullRequest, PullWorkers, Registration};
use holdfast_jobs::search::{JobQuery, JobSearch, SearchFrom};
use holdfast_jobs::{Job, JobContext, JobError, JobId, Jobs, Registry, State, WorkerId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnection, PgDatabaseError};
use sqlx::{AssertSqlSafe, Connection};
use tokio_util::sync::CancellationToken;

use crate::support::{Fixture, Host, postgres, raw, settings};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct CodedJob {}

impl Job for CodedJob {
    const KIND: &'static str = "test.coded";
    type Output = ();

    fn timeout() -> Option<Duration> {
        Some(Duration::from_millis(1_500))
    }

    async fn run(self, _: JobContext) -> Result<(), JobError> {
        Ok(())
    }
}

/// A process that knows the coded kind, over these settings.
fn jobs_of(settings: &holdfast_core::config::Settings, database: &Database) -> Jobs {
    let gate = RedisGate::open(Role::Queue, None, &settings.redis).unwrap();
    Jobs::new(settings, Registry::new().register::<CodedJob>(), database, &gate)
}

/// That has announced itself, and declared `mail.send` on the queue `media`.
async fn announced(f: &Fixture) -> Jobs {
    let jobs = jobs_of(&f.settings, &f.database);
    let definition = KindDefinition {
        queue: "media".to_owned(),
        payload_schema: Some(raw(
            r#"{"required": ["to"], "properties": {"to": {"type": "string"}}}"#,
        )),
        retry: RetryDefinition {
            max_attempts: Some(7),
            ..RetryDefinition::default()
        },
        timeout_seconds: Some(9.0),
        ..KindDefinition::default()
    };
    let by = AuditContext::new(Actor::local());
    jobs.steer(&by).put_kind("mail.send", definition).await.unwrap();
    assert_eq!(jobs.try_publish_catalogue().await.unwrap(), None);
    jobs
}

fn url(f: &Fixture) -> String {
    match &f.host {
        Host::Postgres(hosts) => hosts.0.url(),
        Host::Sqlite(_) => unreachable!("these tests are about PostgreSQL"),
    }
}

async fn client(f: &Fixture) -> PgConnection {
    PgConnection::connect(&url(f)).await.unwrap()
}

async fn run(client: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(client)
        .await
        .unwrap();
}

async fn enqueued(client: &mut PgConnection, kind: &str, payload: &str, options: &str) -> JobId {
    try_enqueue(client, kind, payload, options).await.unwrap()
}

async fn try_enqueue(
    client: &mut PgConnection,
    kind: &str,
    payload: &str,
    options: &str,
) -> Result<JobId, sqlx::Error> {
    let id = sqlx::query_scalar("select holdfast.enqueue($1, $2::json, $3::jsonb)")
        .bind(kind)
        .bind(payload)
        .bind(options)
        .fetch_one(client)
        .await?;
    Ok(JobId::from_uuid(id))
}

/// SQLSTATE, constraint, column and message of a refusal.
fn refusal(error: &sqlx::Error) -> (String, String, String, String) {
    let error = error.as_database_error().expect("an error of the server");
    let error = error.downcast_ref::<PgDatabaseError>();
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    (
        error.code().to_owned(),
        text(error.constraint()),
        text(error.column()),
        error.message().to_owned(),
    )
}

async fn count(client: &mut PgConnection) -> i64 {
    sqlx::query_scalar("select count(*) from holdfast_jobs")
        .fetch_one(client)
        .await
        .unwrap()
}

fn registration(queue: &str) -> Registration {
    Registration {
        name: "test".to_owned(),
        queues: vec![queue.to_owned()],
        concurrency: 4,
        client: ClientInfo {
            name: "test".to_owned(),
            version: "1".to_owned(),
            language: "rust".to_owned(),
        },
        kinds: None,
    }
}

async fn pull(workers: &PullWorkers, worker: WorkerId, wait: Duration) -> PullAnswer {
    let asked = PullRequest {
        max: 100,
        wait,
        have: Vec::new(),
    };
    let stop = CancellationToken::new();
    workers.pull("key", worker, asked, &stop).await.unwrap()
}

#[tokio::test]
async fn a_job_exists_if_the_transaction_commits_and_its_payload_is_kept_byte_for_byte() {
    let f = postgres().await;
    let jobs = announced(&f).await;
    let mut client = client(&f).await;
    let mut tx = client.begin().await.unwrap();
    let id = enqueued(&mut tx, "test.coded", "{}", "{}").await;
    assert!(jobs.get(id).await.unwrap().is_none(), "it is not committed");
    tx.rollback().await.unwrap();
    assert_eq!(count(&mut client).await, 0);

    let payload = r#"{"b":  1.0, "a": [1e-20000, 1234567890123456789012345678901234567890],  "b":"\u0000 é \ud83d\ude00"}"#;
    let options = r#"{"queue": "default", "delay_seconds": 90.5, "priority": "high", "max_attempts": 3, "timeout_seconds": 2,
        "unique_key": "u", "limit_key": "l", "idempotency_key": "i",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tags": ["vip", "eu \"west\""], "expires_at": "2030-01-02T03:04:05.5+01:00"}"#;
    let mut tx = client.begin().await.unwrap();
    let id = enqueued(&mut tx, "test.coded", payload, options).await;
    tx.commit().await.unwrap();
    let job = jobs.get(id).await.unwrap().expect("the job");
    assert_eq!(job.payload.get(), payload);
    assert_eq!(
        (
            job.state,
            job.queue.as_str(),
            job.max_attempts,
            job.timeout_seconds
        ),
        (State::Scheduled, "default", 3, 2.0)
    );
    assert_eq!(
        (job.unique_key.as_deref(), job.limit_key.as_deref()),
        (Some("u"), Some("l"))
    );
    assert_eq!(job.priority, holdfast_jobs::ledger::Priority::High);
    assert_eq!(job.tags, ["vip", "eu \"west\""]);
    assert_eq!(job.enqueued_by.as_deref(), Some("sql/holdfast"));
    let expires_at = job.expires_at.expect("a time").to_rfc3339();
    assert_eq!(expires_at, "2030-01-02T02:04:05.500+00:00");
    let found: JobQuery = r#"tag:"eu \"west\"" by:sql/holdfast"#.parse().unwrap();
    let search = JobSearch {
        query: found,
        from: SearchFrom::Newest,
        limit: 5,
        shown: None,
    };
    assert_eq!(jobs.search(&search).await.unwrap().ids, [id]);
    let shown: String = sqlx::query_scalar("select holdfast.job_id($1)")
        .bind(id.as_uuid())
        .fetch_one(&mut client)
        .await
        .unwrap();
    assert_eq!(shown, id.to_string());
    assert_eq!(shown.parse::<JobId>().unwrap(), id);
    assert_eq!(id.as_uuid().to_string().parse::<JobId>().unwrap(), id);

    // What is not said is the kind's or the configuration's, of coded and of declared kinds.
    let id = enqueued(&mut client, "test.coded", "null", "{}").await;
    let job = jobs.get(id).await.unwrap().unwrap();
    let configured = f.settings.jobs.retry.max_attempts;
    assert_eq!(
        (job.queue.as_str(), job.max_attempts, job.timeout_seconds),
        ("default", configured, 1.5)
    );
    let id = enqueued(&mut client, "mail.send", r#"{"to":"a"}"#, "{}").await;
    let job = jobs.get(id).await.unwrap().unwrap();
    assert_eq!(
        (job.queue.as_str(), job.max_attempts, job.timeout_seconds),
        ("media", 7, 9.0)
    );
    // A time that has passed means now.
    let id = enqueued(
        &mut client,
        "test.coded",
        "{}",
        r#"{"run_at":"2001-02-03T04:05:06+02:00"}"#,
    )
    .await;
    let job = jobs.get(id).await.unwrap().unwrap();
    assert_eq!(job.state, State::Available);
    assert!(
        job.created_at
            .signed_duration_since(job.run_at)
            .num_seconds()
            .abs()
            < 60
    );
}

#[tokio::test]
async fn each_refused_input_names_its_field_and_leaves_nothing() {
    let f = postgres().await;
    let unannounced = jobs_of(&f.settings, &f.database);
    let mut client = client(&f).await;
    let early = try_enqueue(&mut client, "test.coded", "{}", "{}")
        .await
        .unwrap_err();
    let (code, problem, _, message) = refusal(&early);
    assert_eq!(
        (code.as_str(), problem.as_str()),
        ("55000", "not-ready"),
        "{message}"
    );
    drop(unannounced);
    let _jobs = announced(&f).await;

    let large = format!("\"{}\"", "x".repeat(f.settings.jobs.max_payload_bytes));
    let deep = f.settings.jobs.max_payload_depth + 1;
    let deep = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
    let long = format!(r#"{{"unique_key": "{}"}}"#, "x".repeat(256));
    let cases: [(&str, &str, &str, &str, &str, &str); 36] = [
        ("nope", "{}", "{}", "22023", "unknown-kind", "kind"),
        (
            "test.coded",
            &large,
            "{}",
            "54000",
            "payload-too-large",
            "payload",
        ),
        ("test.coded", &deep, "{}", "54000", "payload-too-deep", "payload"),
        ("test.coded", "{}", "[]", "22023", "invalid-field", "options"),
        (
            "test.coded",
            "{}",
            r#"{"tags": "vip"}"#,
            "22023",
            "invalid-field",
            "tags",
        ),
        (
            "test.coded",
            "{}",
            r#"{"tags": [1]}"#,
            "22023",
            "invalid-field",
            "tags[0]",
        ),
        (
            "test.coded",
            "{}",
            r#"{"tags": ["a", ""]}"#,
            "22023",
            "invalid-field",
            "tags[1]",
        ),
        (
            "test.coded",
            "{}",
            r#"{"tags": ["a", "a"]}"#,
            "22023",
            "invalid-field",
            "tags",
        ),
        (
            "test.coded",
            "{}",
            r#"{"tags": ["1","2","3","4","5","6","7","8","9"]}"#,
            "22023",
            "invalid-field",
            "tags",
        ),
        (
            "test.coded",
            "{}",
            r#"{"expires_at": "tomorrow"}"#,
            "22023",
            "invalid-field",
            "expires_at",
        ),
        (
            "test.coded",
            "{}",
            r#"{"quue": 1}"#,
            "22023",
            "invalid-field",
            "quue",
        ),
        (
            "test.coded",
            "{}",
            r#"{"then": {}}"#,
            "22023",
            "invalid-field",
            "then",
        ),
        (
            "test.coded",
            "{}",
            r#"{"queue": "nope"}"#,
            "22023",
            "unknown-queue",
            "queue",
        ),
        (
            "test.coded",
            "{}",
            r#"{"queue": 7}"#,
            "22023",
            "invalid-field",
            "queue",
        ),
        (
            "test.coded",
            "{}",
            r#"{"queue": "media"}"#,
            "22023",
            "invalid-field",
            "queue",
        ),
        (
            "mail.send",
            "{}",
            r#"{"queue": "default"}"#,
            "22023",
            "invalid-field",
            "queue",
        ),
        (
            "test.coded",
            "{}",
            r#"{"delay_seconds": -1}"#,
            "22023",
            "invalid-field",
            "delay_seconds",
        ),
        (
            "test.coded",
            "{}",
            r#"{"delay_seconds": "1"}"#,
            "22023",
            "invalid-field",
            "delay_seconds",
        ),
        (
            "test.coded",
            "{}",
            r#"{"delay_seconds": 1e300}"#,
            "22023",
            "invalid-field",
            "delay_seconds",
        ),
        (
            "test.coded",
            "{}",
            r#"{"run_at": "tomorrow"}"#,
            "22023",
            "invalid-field",
            "run_at",
        ),
        (
            "test.coded",
            "{}",
            r#"{"run_at": 1893456000}"#,
            "22023",
            "invalid-field",
            "run_at",
        ),
        (
            "test.coded",
            "{}",
            r#"{"run_at": "2030-02-30T12:00:00Z"}"#,
            "22023",
            "invalid-field",
            "run_at",
        ),
        (
            "test.coded",
            "{}",
            r#"{"run_at": "2130-01-01T12:00:00Z"}"#,
            "22023",
            "invalid-field",
            "run_at",
        ),
        (
            "test.coded",
            "{}",
            r#"{"run_at": "1930-01-01T12:00:00Z"}"#,
            "22023",
            "invalid-field",
            "run_at",
        ),
        (
            "test.coded",
            "{}",
            r#"{"run_at": "2030-01-01T12:00:00Z", "delay_seconds": 1}"#,
            "22023",
            "invalid-field",
            "run_at",
        ),
        (
            "test.coded",
            "{}",
            r#"{"priority": "urgent"}"#,
            "22023",
            "invalid-field",
            "priority",
        ),
        (
            "test.coded",
            "{}",
            r#"{"priority": 1}"#,
            "22023",
            "invalid-field",
            "priority",
        ),
        (
            "test.coded",
            "{}",
            r#"{"max_attempts": 0}"#,
            "22023",
            "invalid-field",
            "max_attempts",
        ),
        (
            "test.coded",
            "{}",
            r#"{"max_attempts": 2.5}"#,
            "22023",
            "invalid-field",
            "max_attempts",
        ),
        (
            "test.coded",
            "{}",
            r#"{"timeout_seconds": 0}"#,
            "22023",
            "invalid-field",
            "timeout_seconds",
        ),
        (
            "test.coded",
            "{}",
            r#"{"timeout_seconds": 86401}"#,
            "22023",
            "invalid-field",
            "timeout_seconds",
        ),
        (
            "test.coded",
            "{}",
            r#"{"unique_key": ""}"#,
            "22023",
            "invalid-field",
            "unique_key",
        ),
        ("test.coded", "{}", &long, "22023", "invalid-field", "unique_key"),
        (
            "test.coded",
            "{}",
            r#"{"limit_key": "a\u0007b"}"#,
            "22023",
            "invalid-field",
            "limit_key",
        ),
        (
            "test.coded",
            "{}",
            r#"{"idempotency_key": "é"}"#,
            "22023",
            "invalid-field",
            "idempotency_key",
        ),
        (
            "test.coded",
            "{}",
            r#"{"traceparent": "x"}"#,
            "22023",
            "invalid-field",
            "traceparent",
        ),
    ];
    for (kind, payload, options, code, problem, field) in cases {
        let refused = try_enqueue(&mut client, kind, payload, options)
            .await
            .unwrap_err();
        let (actual_code, actual_problem, column, message) = refusal(&refused);
        assert_eq!(
            (actual_code.as_str(), actual_problem.as_str(), column.as_str()),
            (code, problem, field),
            "{options}: {message}"
        );
        assert!(message.starts_with(&format!("{field}: ")), "{message}");
    }
    let null = sqlx::query("select holdfast.enqueue('test.coded', null)")
        .execute(&mut client)
        .await
        .unwrap_err();
    assert!(refusal(&null).3.starts_with("payload: must not be the SQL null"));

    // One of many refuses all, and says which it is.
    let valid = r#"{"kind": "test.coded", "payload": {}}"#;
    let too_many = format!("[{}]", vec![valid; f.settings.jobs.max_batch + 1].join(","));
    for (jobs, problem, message) in [
        ("{}", "invalid-field", "jobs: must be a JSON array".to_owned()),
        ("[]", "batch-empty", "jobs: must hold at least one".to_owned()),
        (too_many.as_str(), "batch-too-large", "jobs: ".to_owned()),
        ("[7]", "invalid-field", "jobs[0]: must be an object".to_owned()),
        (
            r#"[{"kind": "test.coded"}]"#,
            "invalid-field",
            "jobs[0].payload: it is missing".to_owned(),
        ),
        (
            r#"[{"kind": "test.coded", "payload": {}, "kind": "test.coded"}]"#,
            "invalid-field",
            "jobs[0].kind: is given more than once".to_owned(),
        ),
        (
            r#"[{"kind": "test.coded", "payload": {}}, {"kind": "nope", "payload": {}}]"#,
            "unknown-kind",
            "jobs[1].kind: unknown kind \"nope\"; there are mail.send, test.coded".to_owned(),
        ),
    ] {
        let refused = sqlx::query("select * from holdfast.enqueue_many($1::json)")
            .bind(jobs)
            .execute(&mut client)
            .await
            .unwrap_err();
        let (_, actual, _, text) = refusal(&refused);
        assert_eq!(actual, problem, "{text}");
        assert!(text.starts_with(&message), "{text}");
    }
    assert_eq!(count(&mut client).await, 0);
}

#[tokio::test]
async fn keys_hold_between_sql_and_http_also_while_a_transaction_is_open() {
    let f = postgres().await;
    let jobs = announced(&f).await;
    let (mut client, mut other) = (client(&f).await, client(&f).await);
    let request = |key: &str| JobRequest {
        unique_key: Some(key.to_owned()),
        ..JobRequest::new("test.coded", raw("{}"))
    };
    let mut tx = client.begin().await.unwrap();
    let first = enqueued(&mut tx, "test.coded", "{}", r#"{"unique_key": "k"}"#).await;
    let held = jobs.enqueue_request(request("k")).await;
    assert!(matches!(held, Err(EnqueueError::KeyHeld { .. })), "{held:?}");
    // Another client waits as long as it says itself.
    run(&mut other, "set lock_timeout = '50ms'").await;
    let waited = try_enqueue(&mut other, "test.coded", "{}", r#"{"unique_key": "k"}"#)
        .await
        .unwrap_err();
    assert_eq!(refusal(&waited).0, "55P03");
    run(&mut other, "reset lock_timeout").await;
    tx.commit().await.unwrap();
    let again = jobs.enqueue_request(request("k")).await.unwrap();
    assert_eq!((again.id, again.duplicate), (first, true));
    assert_eq!(
        enqueued(&mut other, "test.coded", r#"{"n":2}"#, r#"{"unique_key": "k"}"#).await,
        first
    );

    // Idempotency keys: the same document in other words is the same, another one is refused.
    let key = r#"{"idempotency_key": "once"}"#;
    let once = enqueued(&mut client, "test.coded", r#"{"n": 1}"#, key).await;
    assert_eq!(
        enqueued(&mut client, "test.coded", r#"{"n":1.0}"#, key).await,
        once
    );
    let reused = try_enqueue(&mut client, "test.coded", r#"{"n":2}"#, key)
        .await
        .unwrap_err();
    let (code, problem, ..) = refusal(&reused);
    assert_eq!(
        (code.as_str(), problem.as_str()),
        ("23505", "idempotency-key-reused")
    );

    // Many writers of both sorts, each key once.
    let before = count(&mut client).await;
    let (url, mut tasks) = (url(&f), tokio::task::JoinSet::new());
    for writer in 0..6 {
        let (url, jobs) = (url.clone(), jobs.clone());
        tasks.spawn(async move {
            let mut client = PgConnection::connect(&url).await.unwrap();
            let mut ids = Vec::new();
            for n in 0..20 {
                let key = format!("shared-{n}");
                ids.push(if writer % 2 == 0 {
                    let options = format!(r#"{{"unique_key": "{key}"}}"#);
                    enqueued(&mut client, "test.coded", "{}", &options).await
                } else {
                    jobs.enqueue_request(JobRequest {
                        unique_key: Some(key),
                        ..JobRequest::new("test.coded", raw("{}"))
                    })
                    .await
                    .unwrap()
                    .id
                });
            }
            ids
        });
    }
    let answers = tasks.join_all().await;
    assert!(
        answers.iter().all(|ids| *ids == answers[0]),
        "each key has one job"
    );
    assert_eq!(count(&mut client).await, before + 20);

    // Two batches whose keys overlap in opposite orders do not wait in a circle.
    let batch = |range: Vec<u32>| {
        let jobs: Vec<_> = range
            .iter()
            .map(|n| serde_json::json!({"kind": "test.coded", "payload": n, "unique_key": format!("order-{n:03}")}))
            .collect();
        serde_json::to_string(&jobs).unwrap()
    };
    let (up, down) = (batch((0..200).collect()), batch((0..200).rev().collect()));
    let many = "select (m).\"position\", (m).id, (m).duplicate from (select holdfast.enqueue_many($1::json) as m) as m order by 1";
    let (up, down) = tokio::join!(
        sqlx::query_as::<_, (i32, uuid::Uuid, bool)>(many)
            .bind(up)
            .fetch_all(&mut client),
        sqlx::query_as::<_, (i32, uuid::Uuid, bool)>(many)
            .bind(down)
            .fetch_all(&mut other),
    );
    let (up, down) = (up.unwrap(), down.unwrap());
    assert!(
        up.iter()
            .zip(down.iter().rev())
            .all(|(a, b)| a.1 == b.1 && a.2 != b.2)
    );
    let payload: String = sqlx::query_scalar("select payload::text from holdfast_jobs where id = $1")
        .bind(up[7].1)
        .fetch_one(&mut client)
        .await
        .unwrap();
    assert_eq!((up[7].0, payload.as_str()), (7, "7"));
}

#[tokio::test]
async fn a_role_with_the_right_to_execute_enqueues_and_does_nothing_else() {
    let f = postgres().await;
    let _jobs = announced(&f).await;
    let mut client = client(&f).await;
    let Host::Postgres(hosts) = &f.host else {
        unreachable!()
    };
    let roles = "create role app; create role nobody_else; grant app, nobody_else to holdfast";
    hosts.0.psql(roles).await.unwrap();
    let grants = "grant usage on schema holdfast to app, nobody_else;
        grant execute on function holdfast.enqueue(text, json, jsonb), holdfast.enqueue_many(json) to app";
    run(&mut client, grants).await;
    run(&mut client, "set role nobody_else").await;
    let denied = try_enqueue(&mut client, "test.coded", "{}", "{}")
        .await
        .unwrap_err();
    assert_eq!(refusal(&denied).0, "42501", "nobody may execute it unasked");
    run(&mut client, "reset role; set role app").await;
    // Names of its own do not lead the function astray.
    run(&mut client, "create temporary table holdfast_jobs (id uuid); create temporary table holdfast_catalogue (id bigint, document json)").await;
    let id = enqueued(&mut client, "test.coded", "{}", "{}").await;
    for statement in [
        "select * from public.holdfast_jobs",
        "select * from public.holdfast_catalogue",
        "delete from public.holdfast_jobs",
        "insert into public.holdfast_queues (name) values ('x')",
        "select holdfast.insert_1('', 'test.coded', '1', '{}')",
        "create function holdfast.mine() returns int language sql as 'select 1'",
    ] {
        let denied = sqlx::query(statement).execute(&mut client).await.unwrap_err();
        assert_eq!(refusal(&denied).0, "42501", "{statement}");
    }
    run(&mut client, "reset role").await;
    let written: i64 = sqlx::query_scalar("select count(*) from public.holdfast_jobs where id = $1")
        .bind(id.as_uuid())
        .fetch_one(&mut client)
        .await
        .unwrap();
    assert_eq!(written, 1);
}

#[tokio::test]
async fn a_payload_that_its_schema_refuses_becomes_a_dead_letter_and_the_others_run() {
    let f = postgres().await;
    let jobs = announced(&f).await;
    let workers = PullWorkers::new(&jobs, &f.settings);
    let mut client = client(&f).await;
    let bad = enqueued(&mut client, "mail.send", r#"{"to": 7}"#, "{}").await;
    let good = enqueued(&mut client, "mail.send", r#"{"to": "a"}"#, "{}").await;
    let worker = workers.register("key", registration("media")).await.unwrap();
    let given = pull(&workers, worker, Duration::ZERO).await.jobs;
    let given: Vec<JobId> = given.iter().map(|given| given.job.id).collect();
    assert_eq!(given, [good]);
    let letter = jobs.get(bad).await.unwrap().unwrap();
    assert_eq!((letter.state, letter.attempt), (State::Discarded, 1));
    assert!(
        letter.errors[0].message.starts_with("payload.to: "),
        "{:?}",
        letter.errors
    );
    assert_eq!(letter.errors[0].class, "permanent");
}

#[tokio::test]
async fn a_ring_wakes_a_worker_that_waits() {
    let server = holdfast_testkit::PostgresServer::start_with(holdfast_testkit::PostgresOptions::fast())
        .await
        .unwrap();
    // Without a ring it would look only after its 60 s.
    let settings = settings(&[
        ("DATABASE_URL", &server.url()),
        ("HOLDFAST__WORKER__DEGRADED_POLL_MIN_MS", "60000"),
        ("HOLDFAST__WORKER__DEGRADED_POLL_MAX_MS", "60000"),
        ("HOLDFAST__WORKER__SAFETY_POLL_SECONDS", "3600"),
    ]);
    migrate(&settings.database).await.unwrap();
    let database = Database::open(&settings.database).unwrap();
    let jobs = jobs_of(&settings, &database);
    let by = AuditContext::new(Actor::local());
    jobs.steer(&by).put_queue("media").await.unwrap();
    let definition = KindDefinition {
        queue: "media".to_owned(),
        ..KindDefinition::default()
    };
    jobs.steer(&by).put_kind("mail.send", definition).await.unwrap();
    jobs.try_publish_catalogue().await.unwrap();
    let workers = PullWorkers::new(&jobs, &settings);
    let worker = workers.register("key", registration("media")).await.unwrap();
    let waiting = {
        let workers = workers.clone();
        tokio::spawn(async move { pull(&workers, worker, Duration::from_secs(60)).await })
    };
    let mut client = PgConnection::connect(&server.url()).await.unwrap();
    let id = enqueued(&mut client, "mail.send", "{}", "{}").await;
    // The lease is kept alive beside it, so that only the ring can end the wait. A ring is never lost for long: it may be repeated.
    let given = tokio::time::timeout(Duration::from_secs(50), async {
        let mut waiting = waiting;
        loop {
            jobs.ring_for_all("media");
            workers
                .beat("key", worker, holdfast_jobs::pull::Beat::default())
                .await
                .unwrap();
            tokio::select! {
                pulled = &mut waiting => return pulled.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
    });
    let given = given.await.expect("it is woken").jobs;
    assert_eq!(given.iter().map(|given| given.job.id).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn a_role_that_may_not_create_the_schema_migrates_and_is_told_what_to_run() {
    let f = postgres().await;
    let Host::Postgres(hosts) = &f.host else {
        unreachable!()
    };
    let server = &hosts.0;
    server.psql("create role plain login").await.unwrap();
    let url = server.create_database("plain").await.unwrap();
    server
        .psql_in("plain", "grant all on schema public to plain")
        .await
        .unwrap();
    let url = url.replacen("holdfast@", "plain@", 1);
    assert!(url.contains("plain@"), "{url}");
    let settings = settings(&[("DATABASE_URL", &url)]);
    migrate(&settings.database).await.expect("migrated all the same");
    let database = Database::open(&settings.database).unwrap();
    let jobs = jobs_of(&settings, &database);
    let reason = jobs.try_publish_catalogue().await.unwrap().expect("a refusal");
    assert!(
        reason.contains(
            "create schema if not exists holdfast; grant usage, create on schema holdfast to plain"
        ),
        "{reason}"
    );
    server
        .psql_in(
            "plain",
            "create schema if not exists holdfast; grant usage, create on schema holdfast to plain",
        )
        .await
        .unwrap();
    assert_eq!(jobs.try_publish_catalogue().await.unwrap(), None);
    let mut client = PgConnection::connect(&url).await.unwrap();
    let id = enqueued(&mut client, "test.coded", "{}", "{}").await;
    assert!(jobs.get(id).await.unwrap().is_some());
}

#[tokio::test]
async fn the_functions_belong_to_one_installation_whatever_its_schema_is_called() {
    let f = postgres().await;
    let Host::Postgres(hosts) = &f.host else {
        unreachable!()
    };
    let server = &hosts.0;
    let url = server.create_database("two").await.unwrap();
    let settings = settings(&[("DATABASE_URL", &url)]);
    let install = async |schema: &str| {
        let sql = format!(
            "create schema if not exists {schema}; grant all on schema {schema} to holdfast; alter database two set search_path = {schema}"
        );
        server.psql_in("two", &sql).await.unwrap();
        migrate(&settings.database).await.expect("migrated");
        let database = Database::open(&settings.database).unwrap();
        jobs_of(&settings, &database)
            .try_publish_catalogue()
            .await
            .unwrap()
    };
    assert_eq!(install("\"Jobs A\"").await, None);
    let second = install("public").await.expect("a refusal");
    assert!(
        second.contains("another installation") && second.contains("\"Jobs A\""),
        "{second}"
    );
    let mut client = PgConnection::connect(&url).await.unwrap();
    enqueued(&mut client, "test.coded", "{}", "{}").await;
    let places: (i64, i64) = sqlx::query_as(
        "select (select count(*) from \"Jobs A\".holdfast_jobs), (select count(*) from public.holdfast_jobs)",
    )
    .fetch_one(&mut client)
    .await
    .unwrap();
    assert_eq!(places, (1, 0));
}
