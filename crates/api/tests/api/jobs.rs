//! What works, works as the contract says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_jobs::JobId;
use holdfast_jobs::ledger::{ErrorRecord, Outcome};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::{TestApp, body_of, echo, id_of, problem};

#[tokio::test]
async fn an_accepted_job_is_answered_with_its_id_and_place() {
    let app = TestApp::start().await;
    let response = app
        .admin()
        .post_json("/v1/jobs", &echo(json!({"message": "hello"})))
        .await
        .unwrap();
    assert_eq!(response.status, 202);
    let body = body_of(&response);
    let id = body["id"].as_str().unwrap().to_owned();
    assert_eq!(
        body,
        json!({"id": id, "kind": "debug.echo", "queue": "default", "state": "available",
               "durability": "ledger", "duplicate": false})
    );
    assert_eq!(
        response.header("location"),
        Some(format!("/v1/jobs/{id}").as_str())
    );
    assert_eq!(response.header("content-type"), Some("application/json"));

    let shown = body_of(
        &app.admin()
            .get(response.header("location").unwrap())
            .await
            .unwrap(),
    );
    assert_eq!(shown["id"], id);
    assert_eq!(shown["payload"], json!({"message": "hello"}));
    assert_eq!(
        (&shown["state"], &shown["priority"]),
        (&json!("available"), &json!("normal"))
    );
    assert_eq!(
        (&shown["attempt"], &shown["max_attempts"], &shown["crashes"]),
        (&json!(0), &json!(4), &json!(0))
    );
    assert_eq!(
        (&shown["durability"], &shown["errors"]),
        (&json!("ledger"), &json!([]))
    );
    for absent in [
        "result",
        "progress",
        "worker",
        "started_at",
        "finished_at",
        "unique_key",
    ] {
        assert_eq!(shown[absent], Value::Null, "{absent}");
    }
    assert_eq!(shown["cancel_requested"], false);
    assert!(shown["created_at"].as_str().unwrap().ends_with('Z'), "{shown}");
}

#[tokio::test]
async fn every_option_of_a_job_is_kept() {
    let app = TestApp::start().await;
    let body = json!({"kind": "debug.echo", "payload": [1, 2.50], "queue": "events", "run_at": "2030-01-31T12:00:00+02:00",
                      "priority": "high", "max_attempts": 7, "timeout_seconds": 12.5, "unique_key": "k"});
    let response = app.admin().post_json("/v1/jobs", &body).await.unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
    assert_eq!(body_of(&response)["state"], "scheduled");
    let shown = body_of(
        &app.admin()
            .get(&format!("/v1/jobs/{}", id_of(&response)))
            .await
            .unwrap(),
    );
    assert_eq!(shown["queue"], "events");
    assert_eq!(shown["state"], "scheduled");
    assert_eq!(shown["run_at"], "2030-01-31T10:00:00Z");
    assert_eq!(shown["priority"], "high");
    assert_eq!(shown["max_attempts"], 7);
    assert_eq!(shown["timeout_seconds"], 12.5);
    assert_eq!(shown["unique_key"], "k");
}

#[tokio::test]
async fn optional_fields_may_be_null() {
    let app = TestApp::start().await;
    let body = json!({"kind": "debug.echo", "payload": null, "queue": null, "run_at": null, "delay_seconds": null,
                      "priority": null, "max_attempts": null, "timeout_seconds": null, "unique_key": null});
    let response = app.admin().post_json("/v1/jobs", &body).await.unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
}

#[tokio::test]
async fn a_delay_schedules() {
    let app = TestApp::start().await;
    let mut body = echo(json!(1));
    body["delay_seconds"] = json!(3600.5);
    let response = app.admin().post_json("/v1/jobs", &body).await.unwrap();
    assert_eq!(body_of(&response)["state"], "scheduled");
}

#[tokio::test]
async fn a_repeat_under_an_idempotency_key_is_answered_with_the_first_id() {
    let app = TestApp::start().await;
    let mut client = app
        .admin()
        .with_header("Idempotency-Key", "order 17/ä".trim_end_matches("/ä"));
    let first = client
        .post_json("/v1/jobs", &echo(json!({"n": 1})))
        .await
        .unwrap();
    let second = client
        .post_json("/v1/jobs", &echo(json!({"n": 1})))
        .await
        .unwrap();
    assert_eq!((first.status, second.status), (202, 200));
    let (first, second) = (body_of(&first), body_of(&second));
    assert_eq!(first["id"], second["id"]);
    assert_eq!(
        (&first["duplicate"], &second["duplicate"]),
        (&json!(false), &json!(true))
    );
    let listed = body_of(&app.admin().get("/v1/jobs").await.unwrap());
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn idempotency_keys_of_two_callers_never_meet() {
    let app = TestApp::start().await;
    let mut one = app
        .with_scopes("one", "produce")
        .await
        .with_header("Idempotency-Key", "1");
    let mut other = app
        .with_scopes("other", "produce")
        .await
        .with_header("Idempotency-Key", "1");
    let first = one
        .post_json("/v1/jobs", &echo(json!({"tenant": 1})))
        .await
        .unwrap();
    let second = other
        .post_json("/v1/jobs", &echo(json!({"tenant": 2})))
        .await
        .unwrap();
    assert_eq!((first.status, second.status), (202, 202), "{}", second.text());
    assert_ne!(id_of(&first), id_of(&second));
}

#[tokio::test]
async fn a_unique_key_is_answered_with_the_job_that_waits() {
    let app = TestApp::start().await;
    let mut body = echo(json!(1));
    body["unique_key"] = json!("nightly");
    let first = app.admin().post_json("/v1/jobs", &body).await.unwrap();
    let second = app.admin().post_json("/v1/jobs", &body).await.unwrap();
    assert_eq!((first.status, second.status), (202, 200));
    assert_eq!(id_of(&first), id_of(&second));
}

#[tokio::test]
async fn a_batch_is_accepted_in_order() {
    let app = TestApp::start().await;
    let jobs: Vec<_> = (0..2_500).map(|n| echo(json!({"n": n}))).collect();
    let response = app
        .admin()
        .post_json("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await
        .unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
    let body = body_of(&response);
    assert_eq!(body["accepted"], 2_500);
    let ids = body["ids"].as_array().unwrap();
    assert_eq!(ids.len(), 2_500);
    for place in [0, 999, 1_000, 2_499] {
        let path = format!("/v1/jobs/{}", ids[place].as_str().unwrap());
        assert_eq!(
            body_of(&app.admin().get(&path).await.unwrap())["payload"],
            json!({"n": place})
        );
    }
}

#[tokio::test]
async fn a_repeated_batch_enqueues_nothing() {
    let app = TestApp::start().await;
    let mut client = app.admin().with_header("Idempotency-Key", "import-1");
    let batch = json!({"jobs": [echo(json!(1)), echo(json!(2))]});
    let first = client.post_json("/v1/jobs/batch", &batch).await.unwrap();
    let second = client.post_json("/v1/jobs/batch", &batch).await.unwrap();
    assert_eq!((first.status, second.status), (202, 200), "{}", second.text());
    assert_eq!(body_of(&first), body_of(&second));
    let listed = body_of(&app.admin().get("/v1/jobs").await.unwrap());
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn concurrent_producers_get_an_id_each() {
    let app = Arc::new(TestApp::start().await);
    let producers = (0..16).map(|producer| {
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let mut client = app.admin();
            let mut ids = Vec::new();
            for n in 0..25 {
                let body = echo(json!({"producer": producer, "n": n}));
                ids.push(id_of(&client.post_json("/v1/jobs", &body).await.unwrap()));
            }
            ids
        })
    });
    let mut ids: Vec<JobId> = futures::future::try_join_all(producers).await.unwrap().concat();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 400);
    let listed = body_of(&app.admin().get("/v1/jobs?limit=1000").await.unwrap());
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 400);
}

#[tokio::test]
async fn pages_follow_one_another_without_gap_or_overlap() {
    let app = TestApp::start().await;
    let jobs: Vec<_> = (0..250).map(|n| echo(json!({"n": n}))).collect();
    app.admin()
        .post_json("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await
        .unwrap();
    let mut seen: Vec<String> = Vec::new();
    let mut path = "/v1/jobs?limit=60&queue=default&kind=debug.echo&state=available".to_owned();
    let mut pages = 0;
    loop {
        let page = body_of(&app.admin().get(&path).await.unwrap());
        pages += 1;
        seen.extend(
            page["jobs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|job| job["id"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/jobs?limit=60&after={next}"),
            None => break,
        }
    }
    assert_eq!((pages, seen.len()), (5, 250));
    assert!(
        seen.windows(2).all(|pair| pair[0] > pair[1]),
        "newest first, each once"
    );
    let exact = body_of(&app.admin().get("/v1/jobs?limit=250").await.unwrap());
    assert_eq!(
        exact["next"],
        Value::Null,
        "a page that is full by chance is the last one all the same"
    );
    let none = body_of(&app.admin().get("/v1/jobs?queue=events").await.unwrap());
    assert_eq!(
        none,
        json!({"jobs": [], "next": null, "searched": 250, "of": 250, "complete": true})
    );
}

#[tokio::test]
async fn a_page_of_large_jobs_ends_early_and_goes_on() {
    let app = TestApp::start().await;
    let payload = json!("x".repeat(250_000));
    for _ in 0..4 {
        let jobs = vec![echo(payload.clone()); 15];
        let response = app
            .admin()
            .post_json("/v1/jobs/batch", &json!({"jobs": jobs}))
            .await
            .unwrap();
        assert_eq!(response.status, 202);
    }
    let first = app.admin().get("/v1/jobs?limit=1000").await.unwrap();
    assert!(first.body.len() < 9_000_000, "{}", first.body.len());
    let first = body_of(&first);
    let next = first["next"].as_str().unwrap();
    let second = body_of(
        &app.admin()
            .get(&format!("/v1/jobs?limit=1000&after={next}"))
            .await
            .unwrap(),
    );
    let count = |page: &Value| page["jobs"].as_array().unwrap().len();
    assert_eq!(count(&first) + count(&second), 60);
    assert_eq!(second["next"], Value::Null);
}

#[tokio::test]
async fn a_long_poll_is_answered_when_the_job_ends() {
    let app = Arc::new(TestApp::start().await);
    let id = app.enqueue().await;
    let waiting = tokio::spawn({
        let app = Arc::clone(&app);
        async move {
            let started = Instant::now();
            (
                app.admin().get(&format!("/v1/jobs/{id}?wait=30")).await.unwrap(),
                started.elapsed(),
            )
        }
    });
    let result: Arc<RawValue> = Arc::from(RawValue::from_string("{\"answer\":42}".to_owned()).unwrap());
    let finished = app
        .finish_all(|fence| Outcome::Completed {
            fence,
            result: Some(Arc::clone(&result)),
        })
        .await;
    assert_eq!(finished, 1);
    let (response, elapsed) = waiting.await.unwrap();
    let body = body_of(&response);
    assert_eq!(
        (&body["state"], &body["result"]),
        (&json!("completed"), &json!({"answer": 42}))
    );
    assert!(body["finished_at"].is_string() && body["worker"].is_string());
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
}

#[tokio::test]
async fn a_long_poll_that_hears_nothing_is_answered_as_the_job_stands() {
    let app = TestApp::start().await;
    let id = app.enqueue().await;
    let response = app.admin().get(&format!("/v1/jobs/{id}?wait=0.2")).await.unwrap();
    assert_eq!(
        (response.status, &body_of(&response)["state"]),
        (200, &json!("available"))
    );
}

#[tokio::test]
async fn a_long_poll_does_not_hold_up_a_stop() {
    let app = TestApp::start().await;
    let id = app.enqueue().await;
    let mut client = app.admin();
    let waiting = tokio::spawn(async move { client.get(&format!("/v1/jobs/{id}?wait=60")).await });
    // The poll is under way once the server has a waiter; a second poll that returns proves the server takes requests.
    app.admin().get(&format!("/v1/jobs/{id}?wait=0.1")).await.unwrap();
    let started = Instant::now();
    app.stop().await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    let response = waiting.await.unwrap().unwrap();
    assert_eq!(
        (response.status, &body_of(&response)["state"]),
        (200, &json!("available"))
    );
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_once_and_for_all() {
    let app = TestApp::start().await;
    let id = app.enqueue().await;
    let cancel = format!("/v1/jobs/{id}/cancel");
    for _ in 0..2 {
        let response = app.admin().request("POST", &cancel, &[], &[]).await.unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(
            body_of(&response),
            json!({"id": id.to_string(), "state": "cancelled"})
        );
    }
    let retried = app
        .admin()
        .request("POST", &format!("/v1/jobs/{id}/retry"), &[], &[])
        .await
        .unwrap();
    let body = problem(&retried, 409, "illegal-transition");
    assert_eq!(body["job_id"], id.to_string());
    assert!(body["detail"].as_str().unwrap().contains("cancelled"), "{body}");
}

#[tokio::test]
async fn a_running_job_is_asked_to_give_way() {
    let app = TestApp::start().await;
    let id = app.enqueue().await;
    let worker = app.worker().await;
    app.jobs
        .ledger()
        .claim("default", worker, 1, Duration::from_secs(15))
        .await
        .unwrap();
    let response = app
        .admin()
        .request("POST", &format!("/v1/jobs/{id}/cancel"), &[], &[])
        .await
        .unwrap();
    assert_eq!(
        (response.status, &body_of(&response)["state"]),
        (202, &json!("running"))
    );
    let shown = body_of(&app.admin().get(&format!("/v1/jobs/{id}")).await.unwrap());
    assert_eq!(
        (&shown["state"], &shown["cancel_requested"]),
        (&json!("running"), &json!(true))
    );
    assert_eq!(shown["worker"], worker.to_string());
    let retried = app
        .admin()
        .request("POST", &format!("/v1/jobs/{id}/retry"), &[], &[])
        .await
        .unwrap();
    problem(&retried, 409, "illegal-transition");
}

#[tokio::test]
async fn a_completed_job_can_be_neither_cancelled_nor_retried() {
    let app = TestApp::start().await;
    let id = app.enqueue().await;
    app.finish_all(|fence| Outcome::Completed { fence, result: None })
        .await;
    for verb in ["cancel", "retry"] {
        let response = app
            .admin()
            .request("POST", &format!("/v1/jobs/{id}/{verb}"), &[], &[])
            .await
            .unwrap();
        let body = problem(&response, 409, "illegal-transition");
        assert!(body["detail"].as_str().unwrap().contains("completed"), "{body}");
    }
}

#[tokio::test]
async fn a_discarded_job_shows_its_errors_and_can_be_retried() {
    let app = TestApp::start().await;
    let id = app.enqueue().await;
    app.finish_all(|fence| Outcome::Discard {
        fence,
        error: ErrorRecord::new(
            holdfast_core::clock::now(),
            1,
            "permanent",
            "404 from upstream",
            "w",
        ),
    })
    .await;
    let path = format!("/v1/jobs/{id}");
    let shown = body_of(&app.admin().get(&path).await.unwrap());
    assert_eq!(shown["state"], "discarded");
    assert_eq!(shown["errors"][0]["class"], "permanent");
    assert_eq!(shown["errors"][0]["message"], "404 from upstream");
    let response = app
        .admin()
        .request("POST", &format!("{path}/retry"), &[], &[])
        .await
        .unwrap();
    assert_eq!(
        (response.status, &body_of(&response)["state"]),
        (200, &json!("available"))
    );
    assert_eq!(
        body_of(&app.admin().get(&path).await.unwrap())["state"],
        "available"
    );
}

#[tokio::test]
async fn a_queue_is_counted_paused_and_resumed() {
    let app = TestApp::start().await;
    app.enqueue().await;
    let mut later = echo(json!(1));
    later["delay_seconds"] = json!(60);
    app.admin().post_json("/v1/jobs", &later).await.unwrap();

    let queue = |list: &Value| {
        let queues = list["queues"].as_array().unwrap().clone();
        assert_eq!(queues.len(), 4, "every configured queue: {list}");
        queues
            .into_iter()
            .find(|queue| queue["name"] == "default")
            .unwrap()
    };
    let listed = queue(&body_of(&app.admin().get("/v1/queues").await.unwrap()));
    assert_eq!(listed["depth"]["available"], 1);
    assert_eq!(listed["depth"]["scheduled"], 1);
    assert_eq!(
        (&listed["durability"], &listed["paused"]),
        (&json!("ledger"), &json!(false))
    );
    assert!(listed["oldest_age_seconds"].as_f64().unwrap() >= 0.0);

    for (verb, paused) in [("pause", true), ("pause", true), ("resume", false)] {
        let path = format!("/v1/queues/default/{verb}");
        let response = app.admin().request("POST", &path, &[], &[]).await.unwrap();
        assert_eq!(body_of(&response), json!({"name": "default", "paused": paused}));
        let listed = queue(&body_of(&app.admin().get("/v1/queues").await.unwrap()));
        assert_eq!(listed["paused"], paused);
    }
}

#[tokio::test]
async fn a_live_worker_is_listed() {
    let app = TestApp::start().await;
    let id = app.worker().await;
    let body = body_of(&app.admin().get("/v1/workers").await.unwrap());
    let workers = body["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 1);
    assert_eq!(workers[0]["id"], id.to_string());
    assert_eq!(workers[0]["name"], "test-worker");
    assert_eq!(workers[0]["alive"], true);
    assert_eq!(workers[0]["queues"], json!(["default"]));
}

#[tokio::test]
async fn the_trace_context_of_a_request_goes_with_the_job() {
    let app = TestApp::start().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (sent, kept) in [(trace, Some(trace)), ("nonsense", None)] {
        let mut client = app.admin().with_header("traceparent", sent);
        client.post_json("/v1/jobs", &echo(json!(1))).await.unwrap();
        let worker = app.worker().await;
        let claimed = app
            .jobs
            .ledger()
            .claim("default", worker, 1, Duration::from_secs(15))
            .await
            .unwrap();
        assert_eq!(claimed[0].options.traceparent.as_deref(), kept);
    }
}

#[tokio::test]
async fn a_request_id_is_echoed_or_made() {
    let app = TestApp::start().await;
    let response = app
        .admin()
        .with_header("X-Request-Id", "my-id-1")
        .get("/v1/queues")
        .await
        .unwrap();
    assert_eq!(response.header("x-request-id"), Some("my-id-1"));
    let response = app
        .admin()
        .with_header("X-Request-Id", "not sane")
        .get("/v1/queues")
        .await
        .unwrap();
    assert_eq!(response.header("x-request-id").unwrap().len(), 26);
    assert_eq!(response.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn head_is_answered_wherever_get_is() {
    let app = TestApp::start().await;
    let response = app.admin().request("HEAD", "/v1/queues", &[], &[]).await.unwrap();
    assert_eq!((response.status, response.body.len()), (200, 0));
}
