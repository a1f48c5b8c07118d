//! Events of the engine: one for each outcome, for the endpoints that want it, and none for anything else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::shutdown::Shutdown;
use holdfast_jobs::diagnosis::{Diagnosis, Thresholds};
use holdfast_jobs::ledger::WorkerReport;
use holdfast_jobs::schedules::{Definition, Schedules, Ticker};
use holdfast_jobs::{State, WorkerId};
use holdfast_notify::webhooks::{EngineEvents, MadeWebhook, SUBSCRIPTIONS_TTL, Watch};
use holdfast_services::kinds::{DebugEcho, DebugFail, FailMode};
use holdfast_testkit::{Receiver, RecordedRequest, RedisOptions, RedisServer, eventually};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Fixture, body_of, by, draft, header};

macro_rules! on_both {
    ($($name:ident,)+) => {
        mod on_postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::support::Fixture::postgres().await).await;
            })+
        }

        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::support::Fixture::sqlite().await).await;
            })+
        }
    };
}

on_both! {
    each_outcome_is_one_event_and_deliveries_have_none,
    an_endpoint_that_another_process_makes_counts_within_seconds,
    a_batch_that_ends_is_one_event_however_it_ends,
    a_poison_job_is_discarded_with_its_event,
    a_missed_slot_is_one_event_whoever_notices_it,
    a_queue_that_stands_still_is_one_event_however_often_it_is_seen,
}

fn observe(f: &Fixture) -> Arc<EngineEvents> {
    EngineEvents::observe(&f.settings, &f.database, &f.jobs)
}

async fn endpoint(f: &Fixture, url: &str, events: &[&str], kinds: &[&str], queues: &[&str]) -> MadeWebhook {
    let names = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let draft = draft(url, events, true)
        .only(names(kinds), names(queues))
        .unwrap();
    f.webhooks().create(&by(), &draft, None).await.unwrap()
}

fn raw(payload: &Value) -> Box<RawValue> {
    to_raw_value(payload).unwrap()
}

fn echo(payload: &Value) -> DebugEcho {
    DebugEcho(raw(payload))
}

/// The requests at each path.
fn by_path(receiver: &Receiver) -> BTreeMap<String, Vec<RecordedRequest>> {
    let mut paths: BTreeMap<String, Vec<RecordedRequest>> = BTreeMap::new();
    for request in receiver.recorded() {
        paths.entry(request.path.clone()).or_default().push(request);
    }
    paths
}

/// Waits until every delivery is made: nothing of the kind waits or runs.
async fn all_delivered(f: &Fixture, count: usize) {
    let delivered = async || {
        let jobs = f.jobs_of("notify.webhook").await;
        let done = jobs.iter().filter(|job| job.state == State::Completed).count();
        (done == jobs.len() && done >= count).then_some(())
    };
    let what = format!("{count} deliveries");
    eventually(&what, DEADLINE, Duration::from_millis(50), delivered)
        .await
        .unwrap();
}

async fn each_outcome_is_one_event_and_deliveries_have_none(mut f: Fixture) {
    observe(&f);
    let receiver = Receiver::start().await.unwrap();
    let ends = ["job.completed", "job.discarded"];
    let all = endpoint(&f, &receiver.url("/all"), &ends, &[], &[]).await;
    endpoint(&f, &receiver.url("/failed"), &["job.*"], &["debug.fail"], &[]).await;
    let prefix = receiver.url("/prefix");
    endpoint(&f, &prefix, &["job.discarded"], &["debug.*"], &["default"]).await;
    endpoint(&f, &receiver.url("/elsewhere"), &["job.*"], &[], &["events"]).await;
    endpoint(&f, &receiver.url("/everything"), &["*"], &[], &[]).await;
    let mut ids = Vec::new();
    for n in 0..20 {
        let job = echo(&json!({"secret": "SECRET-7", "n": n}));
        ids.push(f.jobs.enqueue(job).await.unwrap().id);
    }
    let mut failed = Vec::new();
    for _ in 0..5 {
        let job = DebugFail {
            message: Some("SECRET-7".to_owned()),
            ..DebugFail::new(FailMode::Permanent)
        };
        failed.push(f.jobs.enqueue(job).await.unwrap().id);
    }
    // One that fails once and then succeeds has one event.
    let again = DebugFail::new(FailMode::RetryAfter).times(1);
    let twice = f.jobs.enqueue(again).await.unwrap().id;
    let waiting = f.jobs.enqueue(echo(&json!(1))).delay(Duration::from_hours(1));
    let cancelled = waiting.await.unwrap().id;
    f.jobs.cancel(cancelled).await.unwrap().unwrap();
    f.work();
    for id in ids.iter().chain(&failed).chain([&twice]) {
        f.ended(*id).await;
    }
    all_delivered(&f, 26 + 6 + 5).await;
    f.publish("order.paid", json!(1)).await;
    all_delivered(&f, 38).await;
    let paths = by_path(&receiver);
    let counts: BTreeMap<&str, usize> = paths
        .iter()
        .map(|(path, seen)| (path.as_str(), seen.len()))
        .collect();
    let expected = [("/all", 26), ("/everything", 1), ("/failed", 6), ("/prefix", 5)];
    assert_eq!(counts, expected.into());
    assert_eq!(
        f.jobs_of("notify.webhook").await.len(),
        38,
        "deliveries have no events"
    );
    for request in &paths["/all"][..2] {
        assert!(crate::official::is_signed(request, all.secret.expose()));
    }
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    for request in &paths["/all"] {
        let body = body_of(request);
        assert!(!body.to_string().contains("SECRET-7"), "{body}");
        assert!(header(request, "webhook-id").starts_with("msg_"));
        let job = body["data"]["job"].as_str().unwrap().to_owned();
        assert!(seen.insert(job, body).is_none(), "one event for each");
    }
    for (id, name, attempt) in [
        (ids[0], "job.completed", 1),
        (failed[0], "job.discarded", 1),
        (twice, "job.completed", 2),
    ] {
        let body = &seen[&id.to_string()];
        let found = (&body["type"], &body["data"]["attempt"], &body["data"]["queue"]);
        assert_eq!(
            found,
            (&json!(name), &json!(attempt), &json!("default")),
            "{body}"
        );
    }
    let data = &seen[&failed[0].to_string()]["data"];
    assert_eq!(data["error"], json!({"class": "permanent"}));
    assert_eq!(data["kind"], "debug.fail");
    f.stop().await;
}

async fn an_endpoint_that_another_process_makes_counts_within_seconds(mut f: Fixture) {
    observe(&f);
    f.work();
    // The list is read, and empty.
    let first = f.jobs.enqueue(echo(&json!(0))).await.unwrap().id;
    f.ended(first).await;
    let receiver = Receiver::start().await.unwrap();
    let (url, secret) = (receiver.url("/late"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    // As another process would, which cannot notify this one.
    let (now, id) = (f.ago(0), f.uuid_literal("0190a0b0c0d0e0f00190a0b0c0d0e0f0"));
    f.sql(&format!(
        "insert into holdfast_webhooks (id, url, description, events, secret, enabled, created_at, updated_at)
         values ({id}, '{url}', '', '[\"job.completed\"]', '{secret}', true, {now}, {now})"
    ))
    .await;
    tokio::time::sleep(SUBSCRIPTIONS_TTL).await;
    let second = f.jobs.enqueue(echo(&json!(1))).await.unwrap().id;
    f.ended(second).await;
    all_delivered(&f, 1).await;
    let seen = receiver.recorded();
    assert_eq!(seen.len(), 1);
    assert_eq!(body_of(&seen[0])["data"]["job"], json!(second));
    f.stop().await;
}

async fn a_batch_that_ends_is_one_event_however_it_ends(mut f: Fixture) {
    observe(&f);
    let receiver = Receiver::start().await.unwrap();
    // A batch has no kind and no queue, so neither narrows its event.
    endpoint(&f, &receiver.url("/batch"), &["batch.*"], &["other"], &["events"]).await;
    let mut members: Vec<_> = (0..3).map(|n| f.jobs.enqueue(echo(&json!(n)))).collect();
    members.push(f.jobs.enqueue(DebugFail::new(FailMode::Permanent)));
    let run = f.jobs.batch(members).await.unwrap().id;
    let later = f.jobs.enqueue(echo(&json!(1))).delay(Duration::from_hours(1));
    let cancelled = f.jobs.batch([later]).await.unwrap();
    f.work();
    f.jobs.cancel(cancelled.jobs[0].id).await.unwrap().unwrap();
    all_delivered(&f, 2).await;
    let recorded = receiver.recorded();
    let mut counts: Vec<Value> = recorded
        .iter()
        .map(|request| body_of(request)["data"].clone())
        .collect();
    counts.sort_by_key(|data| data["total"].as_u64());
    assert_eq!(
        counts,
        [
            json!({"batch": cancelled.id, "total": 1, "completed": 0, "discarded": 0, "cancelled": 1}),
            json!({"batch": run, "total": 4, "completed": 3, "discarded": 1, "cancelled": 0}),
        ]
    );
    f.stop().await;
}

fn report(id: WorkerId) -> WorkerReport {
    WorkerReport {
        id,
        name: "a worker".to_owned(),
        queues: vec!["default".to_owned()],
        started_at: holdfast_core::clock::now(),
        stats: BTreeMap::new(),
        client: None,
    }
}

async fn a_poison_job_is_discarded_with_its_event(mut f: Fixture) {
    observe(&f);
    let receiver = Receiver::start().await.unwrap();
    endpoint(&f, &receiver.url("/dead"), &["job.discarded"], &[], &[]).await;
    let id = f.jobs.enqueue(echo(&json!("SECRET-7"))).await.unwrap().id;
    let ledger = f.jobs.ledger();
    let worker = report(WorkerId::generate());
    ledger.register(&worker).await.unwrap();
    let claimed = ledger.claim("default", worker.id, 10, DEADLINE).await.unwrap();
    assert_eq!(claimed.len(), 1);
    // Lost immediately, and one crash is too many.
    let rescued = ledger.rescue(Duration::ZERO, 1, 10).await.unwrap();
    assert_eq!(rescued.poisoned, [id]);
    f.work();
    all_delivered(&f, 1).await;
    let seen = receiver.recorded();
    assert_eq!(seen.len(), 1);
    let data = &body_of(&seen[0])["data"];
    assert_eq!(
        (&data["job"], &data["error"]),
        (&json!(id), &json!({"class": "crash"}))
    );
    assert_eq!((&data["attempt"], &data["crashes"]), (&json!(1), &json!(1)));
    f.stop().await;
}

fn watch(f: &Fixture, events: &Arc<EngineEvents>, stalled: Duration) -> Watch {
    let thresholds = Thresholds {
        stalled,
        ..Thresholds::default()
    };
    Watch {
        events: Arc::clone(events),
        jobs: f.jobs.clone(),
        schedules: Schedules::new(f.jobs.clone(), &f.database, &f.settings.database),
        diagnosis: Diagnosis::with_thresholds(&f.settings, &f.jobs, &f.database, thresholds),
        missed_after: f.settings.beat.missed_after,
        pause: Duration::from_millis(200),
    }
}

async fn a_missed_slot_is_one_event_whoever_notices_it(mut f: Fixture) {
    let events = observe(&f);
    let receiver = Receiver::start().await.unwrap();
    let url = receiver.url("/missed");
    endpoint(&f, &url, &["schedule.missed"], &["debug.echo"], &[]).await;
    let schedules = Schedules::new(f.jobs.clone(), &f.database, &f.settings.database);
    let definition = Definition {
        name: "nightly".to_owned(),
        cron: None,
        every: Some(Duration::from_mins(1)),
        time_zone: None,
        kind: "debug.echo".to_owned(),
        payload: raw(&json!("SECRET-7")),
        queue: None,
        catch_up: None,
        catch_up_max: None,
        jitter: None,
        enabled: true,
    };
    schedules.create(&by(), definition).await.unwrap();
    let missed = format!("update holdfast_schedules set next_tick = {}", f.ago(3_600));
    f.sql(&missed).await;
    // Two processes notice it while no beat runs …
    let hour = Duration::from_hours(1);
    let watching =
        [watch(&f, &events, hour), watch(&f, &events, hour)].map(|watch| tokio::spawn(watch.run()));
    f.work();
    all_delivered(&f, 1).await;
    // … and then a beat takes the tick.
    let stop = Shutdown::new();
    let ticker = Ticker::new(schedules.clone(), f.settings.beat.clone(), stop.clone());
    let ticking = tokio::spawn(ticker.run());
    let ticked = async || schedules.get("nightly").await.unwrap().last_job;
    let last_job = eventually("the tick", DEADLINE, Duration::from_millis(50), ticked);
    f.ended(last_job.await.unwrap()).await;
    stop.trigger();
    ticking.await.unwrap();
    all_delivered(&f, 1).await;
    for watch in watching {
        watch.abort();
    }
    let seen = receiver.recorded();
    assert_eq!((seen.len(), f.jobs_of("notify.webhook").await.len()), (1, 1));
    let body = body_of(&seen[0]);
    assert_eq!(
        (&body["type"], &body["data"]["schedule"]),
        (&json!("schedule.missed"), &json!("nightly"))
    );
    assert!(!body.to_string().contains("SECRET-7"), "{body}");
    f.stop().await;
}

async fn a_queue_that_stands_still_is_one_event_however_often_it_is_seen(mut f: Fixture) {
    let events = observe(&f);
    let receiver = Receiver::start().await.unwrap();
    let url = receiver.url("/still");
    endpoint(&f, &url, &["queue.stalled"], &["any.kind"], &["default"]).await;
    f.jobs.enqueue(echo(&json!(1))).await.unwrap();
    let living = report(WorkerId::generate());
    f.jobs.ledger().register(&living).await.unwrap();
    let soon = Duration::from_millis(1);
    let watching =
        [watch(&f, &events, soon), watch(&f, &events, soon)].map(|watch| tokio::spawn(watch.run()));
    let noticed = async || {
        f.jobs.ledger().heartbeat(&living).await.unwrap();
        let jobs = f.jobs_of("notify.webhook").await;
        (!jobs.is_empty()).then_some(())
    };
    eventually("the stall", DEADLINE, Duration::from_millis(500), noticed)
        .await
        .unwrap();
    // Some more looks: a diagnosis looks once a second at most.
    for _ in 0..10 {
        f.jobs.ledger().heartbeat(&living).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for watch in watching {
        watch.abort();
    }
    f.work();
    all_delivered(&f, 1).await;
    let seen = receiver.recorded();
    assert_eq!((seen.len(), f.jobs_of("notify.webhook").await.len()), (1, 1));
    assert_eq!(body_of(&seen[0])["data"]["queue"], "default");
    f.stop().await;
}

#[tokio::test]
async fn jobs_on_redis_have_one_event_each() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let mut f = Fixture::with(&[
        ("REDIS_URL", &redis.url()),
        ("HOLDFAST__REDIS__COMMAND_TIMEOUT_MS", "5000"),
        ("HOLDFAST__QUEUES__DEFAULT__DURABILITY", "redis"),
    ])
    .await;
    observe(&f);
    let receiver = Receiver::start().await.unwrap();
    endpoint(&f, &receiver.url("/redis"), &["job.*"], &[], &["default"]).await;
    let mut ids = Vec::new();
    for n in 0..20 {
        let accepted = f.jobs.enqueue(echo(&json!(n))).await.unwrap();
        ids.push(accepted.id.to_string());
    }
    for _ in 0..5 {
        let accepted = f.jobs.enqueue(DebugFail::new(FailMode::Permanent)).await.unwrap();
        assert_eq!(accepted.durability, holdfast_core::config::Durability::Redis);
        ids.push(accepted.id.to_string());
    }
    f.work();
    all_delivered(&f, 25).await;
    let recorded = receiver.recorded();
    let mut seen: Vec<String> = recorded
        .iter()
        .map(|request| body_of(request)["data"]["job"].as_str().unwrap().to_owned())
        .collect();
    seen.sort();
    ids.sort();
    assert_eq!(seen, ids);
    f.stop().await;
}
