//! Schedules over HTTP: made, shown, changed, run, and refused.

use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, problem, problem_of, until};

fn nightly() -> Value {
    json!({"name": "nightly", "cron": "30 2 * * *", "time_zone": "Europe/Berlin", "kind": "debug.echo", "payload": {"n": 1}})
}

async fn send(app: &TestApp, method: &str, path: &str, body: &Value) -> holdfast_testkit::http::Response {
    let headers = [("content-type", "application/json")];
    let body = serde_json::to_vec(body).unwrap();
    app.admin().request(method, path, &headers, &body).await.unwrap()
}

#[tokio::test]
async fn a_schedule_is_made_shown_switched_run_replaced_and_deleted() {
    let app = TestApp::start().await;
    let mut client = app.admin();
    let made = client.post_json("/v1/schedules", &nightly()).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.header("location"), Some("/v1/schedules/nightly"));
    let body = body_of(&made);
    assert_eq!(body["next_ticks"].as_array().unwrap().len(), 5, "{body}");
    assert_eq!(
        (&body["source"], &body["catch_up"]),
        (&json!("api"), &json!("latest"))
    );
    assert_eq!(body["last_job"], Value::Null);

    let run = client
        .post_json("/v1/schedules/nightly/run", &json!({}))
        .await
        .unwrap();
    assert_eq!(run.status, 202, "{}", run.text());
    let shown = body_of(&client.get("/v1/schedules/nightly").await.unwrap());
    assert_eq!(shown["last_job"], body_of(&run)["id"]);
    assert!(
        shown["last_run_at"].is_string() && shown["last_tick"].is_null(),
        "{shown}"
    );

    let off = client
        .post_json("/v1/schedules/nightly/disable", &json!({}))
        .await
        .unwrap();
    assert_eq!(
        (&body_of(&off)["enabled"], &body_of(&off)["next_ticks"]),
        (&json!(false), &json!([]))
    );
    let on = client
        .post_json("/v1/schedules/nightly/enable", &json!({}))
        .await
        .unwrap();
    assert_eq!(body_of(&on)["next_ticks"].as_array().unwrap().len(), 5);

    let every = json!({"every_seconds": 90, "kind": "debug.echo", "payload": {}, "catch_up": "all"});
    let put = send(&app, "PUT", "/v1/schedules/nightly", &every).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let put = body_of(&put);
    assert_eq!((&put["cron"], &put["every_seconds"]), (&Value::Null, &json!(90)));
    assert_eq!(put["catch_up_max"], 100);
    assert_eq!(
        send(&app, "PUT", "/v1/schedules/another", &every).await.status,
        201
    );

    let page = body_of(&client.get("/v1/schedules?limit=1").await.unwrap());
    assert_eq!(
        (&page["schedules"][0]["name"], &page["next"]),
        (&json!("another"), &json!("another"))
    );
    let page = body_of(&client.get("/v1/schedules?after=another").await.unwrap());
    assert_eq!(
        (&page["schedules"][0]["name"], &page["next"]),
        (&json!("nightly"), &Value::Null)
    );

    let gone = client.delete("/v1/schedules/nightly").await.unwrap();
    assert_eq!(body_of(&gone), json!({"name": "nightly", "deleted": true}));
    let again = client.delete("/v1/schedules/nightly").await.unwrap();
    problem_of(&again, 404, "schedule-not-found", "name");
    let log = body_of(
        &client
            .get("/v1/audit?action=schedule.&target=nightly")
            .await
            .unwrap(),
    );
    assert!(log.to_string().contains("schedule.run"), "{log}");
}

#[tokio::test]
async fn a_bad_schedule_is_refused_with_every_field_that_is_wrong() {
    let app = TestApp::start().await;
    let with = |name: &str, value: Value| {
        let mut body = nightly();
        body[name] = value;
        body
    };
    let every =
        |seconds: f64| json!({"name": "x", "every_seconds": seconds, "kind": "debug.echo", "payload": {}});
    for (body, slug, field) in [
        (with("cron", json!("0 25 * * *")), "invalid-field", "cron"),
        (
            with("time_zone", json!("Mars/Olympus")),
            "invalid-field",
            "time_zone",
        ),
        (with("name", json!("No Name")), "invalid-field", "name"),
        (with("catch_up", json!("most")), "invalid-field", "catch_up"),
        (
            with("jitter_seconds", json!(86_400)),
            "invalid-field",
            "jitter_seconds",
        ),
        (with("every_seconds", json!(5)), "invalid-field", "cron"),
        (with("kind", json!("no.kind")), "unknown-kind", "kind"),
        (with("queue", json!("no-queue")), "unknown-queue", "queue"),
        (with("colour", json!("red")), "invalid-field", "colour"),
        (every(0.5), "invalid-field", "every_seconds"),
        (every(-1.0), "invalid-field", "every_seconds"),
        (
            json!({"name": "x", "cron": "@daily", "kind": "http.request", "payload": {"url": 7}}),
            "invalid-payload",
            "payload.url",
        ),
    ] {
        let response = app.admin().post_json("/v1/schedules", &body).await.unwrap();
        problem_of(&response, 422, slug, field);
    }
    let many = json!({"name": "", "cron": "x", "catch_up": "y", "kind": "debug.echo", "payload": {}});
    let many = app.admin().post_json("/v1/schedules", &many).await.unwrap();
    let many = problem(&many, 422, "invalid-field");
    assert_eq!(many["errors"].as_array().unwrap().len(), 3, "{many}");
    let nameless = json!({"cron": "@daily", "kind": "debug.echo", "payload": {}});
    let nameless = app.admin().post_json("/v1/schedules", &nameless).await.unwrap();
    problem_of(&nameless, 422, "invalid-field", "name");

    assert_eq!(
        app.admin()
            .post_json("/v1/schedules", &nightly())
            .await
            .unwrap()
            .status,
        201
    );
    let twice = app.admin().post_json("/v1/schedules", &nightly()).await.unwrap();
    problem_of(&twice, 409, "schedule-exists", "name");
    let renamed = send(&app, "PUT", "/v1/schedules/other", &nightly()).await;
    problem_of(&renamed, 422, "invalid-field", "name");
    let mut reader = app.with_scopes("reader", "read,produce").await;
    let refused = reader.post_json("/v1/schedules", &nightly()).await.unwrap();
    problem(&refused, 403, "missing-scope");
}

#[tokio::test]
async fn a_schedule_of_the_configuration_is_shown_and_not_changed() {
    let settings = TestSettings::new();
    let loaded = settings.load();
    let app = settings.start().await;
    let schedules =
        holdfast_jobs::schedules::Schedules::new(app.jobs.clone(), &app.database, &loaded.database);
    let text = "[schedules.nightly]\ncron = \"0 3 * * *\"\nkind = \"debug.echo\"\npayload = { deep = { n = [1, 2] } }\n";
    let file = Some(("holdfast.toml".into(), text.to_owned()));
    let configured = holdfast_core::config::load_from(holdfast_core::config::Sources {
        file,
        ..Default::default()
    });
    schedules.sync(&configured.unwrap().schedules).await.unwrap();
    let shown = body_of(&app.admin().get("/v1/schedules/nightly").await.unwrap());
    assert_eq!(shown["source"], "config");
    assert_eq!(shown["payload"], json!({"deep": {"n": [1, 2]}}));
    for (method, path) in [
        ("PUT", "/v1/schedules/nightly"),
        ("DELETE", "/v1/schedules/nightly"),
    ] {
        let refused = send(&app, method, path, &nightly()).await;
        let body = problem_of(&refused, 409, "schedule-configured", "name");
        assert!(
            body["detail"].as_str().unwrap().contains("holdfast.toml"),
            "{body}"
        );
    }
    for (change, enabled) in [("disable", false), ("enable", true)] {
        let path = format!("/v1/schedules/nightly/{change}");
        let switched = body_of(&send(&app, "POST", &path, &json!({})).await);
        assert_eq!(switched["enabled"], enabled, "{switched}");
        assert_eq!(
            switched["paused"].as_bool().unwrap_or(false),
            !enabled,
            "{switched}"
        );
    }
    let run = send(&app, "POST", "/v1/schedules/nightly/run", &json!({})).await;
    assert_eq!(run.status, 202, "{}", run.text());
}

#[tokio::test]
async fn schedules_that_nobody_ticks_are_a_degraded_service() {
    let app = TestApp::start().await;
    app.worker().await;
    assert_eq!(
        app.admin()
            .post_json("/v1/schedules", &nightly())
            .await
            .unwrap()
            .status,
        201
    );
    let body = body_of(&app.client().get("/health").await.unwrap());
    assert_eq!(body["services"]["beat"]["status"], "degraded", "{body}");
    assert_eq!(body["services"]["beat"]["details"]["schedules"], 1);
}

#[tokio::test]
async fn kinds_show_the_policy_that_counts() {
    let app = TestApp::start().await;
    let kinds = body_of(&app.admin().get("/v1/kinds").await.unwrap());
    let kinds = kinds["kinds"].as_array().unwrap();
    let http = kinds.iter().find(|kind| kind["kind"] == "http.request").unwrap();
    assert_eq!(
        http["retry"],
        json!({"max_attempts": 4, "base_seconds": 60.0, "cap_seconds": 600.0, "jitter": true, "shortest_share": 0.0})
    );
    assert_eq!(http["retry_on"], json!({}));
}

#[tokio::test]
async fn a_preview_says_in_words_and_in_both_zones_when_a_schedule_would_tick() {
    let app = TestApp::start().await;
    let mut reader = app.with_scopes("reader", "read").await;
    let body = json!({"cron": "30 2 * * 1", "time_zone": "Europe/Berlin"});
    let preview = reader.post_json("/v1/schedules/preview", &body).await.unwrap();
    assert_eq!(preview.status, 200, "{}", preview.text());
    let preview = body_of(&preview);
    let words = preview["words"].as_str().unwrap();
    assert!(words.contains("02:30") && words.contains("Monday"), "{words}");
    let ticks = preview["ticks"].as_array().unwrap();
    assert_eq!((ticks.len(), &preview["time_zone"]), (5, &json!("Europe/Berlin")));
    for tick in ticks {
        let (utc, local) = (tick["utc"].as_str().unwrap(), tick["local"].as_str().unwrap());
        let offset = if local.ends_with("+01:00") {
            "T01:30:00"
        } else {
            "T00:30:00"
        };
        assert!(local.contains("T02:30:00+0") && utc.contains(offset), "{tick}");
    }
    let body = json!({"every_seconds": 900});
    let preview = body_of(&reader.post_json("/v1/schedules/preview", &body).await.unwrap());
    assert_eq!(preview["words"], "Every 15 minutes.");
    for (body, field) in [
        (json!({}), "cron"),
        (json!({"cron": "61 * * * *"}), "cron"),
        (json!({"cron": "* * * * *", "time_zone": "Mars"}), "time_zone"),
        (json!({"every_seconds": 0}), "every_seconds"),
    ] {
        let refused = reader.post_json("/v1/schedules/preview", &body).await.unwrap();
        problem_of(&refused, 422, "invalid-field", field);
    }
    let schedule = json!({"name": "preview", "every_seconds": 60, "kind": "debug.echo", "payload": {}});
    let refused = app.admin().post_json("/v1/schedules", &schedule).await.unwrap();
    problem_of(&refused, 422, "invalid-field", "name");
}

#[tokio::test]
async fn runs_are_the_last_ticks_with_their_jobs() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let schedule = json!({"name": "often", "every_seconds": 1, "kind": "debug.echo", "payload": {}});
    assert_eq!(
        admin.post_json("/v1/schedules", &schedule).await.unwrap().status,
        201
    );
    let runs = async |admin: &mut holdfast_testkit::http::Client| {
        let runs = admin.get("/v1/schedules/often/runs").await.unwrap();
        assert_eq!(runs.status, 200, "{}", runs.text());
        body_of(&runs)["runs"].as_array().unwrap().clone()
    };
    // No beat runs: a tick without a job.
    let missed = until("a tick", std::time::Duration::from_secs(10), async || {
        runs(&mut admin).await.first().cloned()
    })
    .await;
    assert_eq!((&missed["job"], &missed["state"]), (&Value::Null, &Value::Null));
    let mut job = json!({"kind": "debug.echo", "payload": {}});
    job["unique_key"] = json!("a job that is none of its runs");
    assert_eq!(admin.post_json("/v1/jobs", &job).await.unwrap().status, 202);
    assert!(runs(&mut admin).await.iter().all(|run| run["job"].is_null()));
    let unknown = admin.get("/v1/schedules/nowhere/runs").await.unwrap();
    problem(&unknown, 404, "schedule-not-found");
    let beats = body_of(&admin.get("/v1/beats").await.unwrap());
    assert_eq!(beats, json!({"beats": []}));
}
