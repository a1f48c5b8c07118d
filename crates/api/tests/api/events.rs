//! Events, interactions and recommendations, over HTTP.

use holdfast_accounts::Role;
use holdfast_cache::Cache;
use holdfast_core::redis::{RedisGate, Role as GateRole};
use holdfast_services::events::recommend::{Recommender, TrainedWhat};
use holdfast_testkit::http::Client;
use holdfast_testkit::{RedisOptions, RedisServer};
use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, problem, problem_of};

const UNKNOWN: &str = "01JD3V0S7W8Q4M2XKZC5T9R6BH";

fn event(uid: &str, title: &str) -> Value {
    json!({"uid": uid, "title": title, "category": "Music", "starts_at": "2090-06-01T18:00:00+02:00"})
}

/// Ids of stored events, in their order.
async fn stored(client: &mut Client, events: &[Value]) -> Vec<String> {
    let response = client.post_json("/v1/events", &json!(events)).await.unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    let body = body_of(&response);
    let ids = body["events"].as_array().unwrap().iter();
    ids.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

fn did(user: &str, event: &str, action: &str) -> Value {
    json!({"user": user, "event": event, "action": action, "at": "2026-01-01T12:00:00Z"})
}

async fn titles(client: &mut Client, query: &str) -> Vec<String> {
    let response = client.get(&format!("/v1/events?{query}")).await.unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    let body = body_of(&response);
    let events = body["events"].as_array().unwrap().iter();
    events
        .map(|one| one["title"].as_str().unwrap().to_owned())
        .collect()
}

/// As a worker would.
async fn train(app: &TestApp) {
    let gate = RedisGate::open(GateRole::Cache, None, &app.settings.redis).unwrap();
    let cache = Cache::open(gate, &app.settings.cache);
    let trained = Recommender::new(&app.settings, &app.database, &cache)
        .train(true)
        .await;
    assert_eq!(trained.unwrap().what, TrainedWhat::Everything);
}

#[tokio::test]
async fn the_good_events_of_a_mixed_batch_are_stored_and_the_bad_ones_listed() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let with = |name: &str, value: Value| {
        let mut event = event("x", "X");
        event[name] = value;
        event
    };
    let batch = json!({"events": [
        event("a", "Jazz"),
        with("title", json!("")),
        with("starts_at", json!("tomorrow")),
        with("lat", json!(47.2)),
        with("time_zone", json!("Mars/Base")),
        with("colour", json!("red")),
        event("a", "Jazz again"),
        event("b", "Blues"),
        7,
    ]});
    let response = admin.post_json("/v1/events", &batch).await.unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    let body = body_of(&response);
    let counts = ["inserted", "changed", "unchanged"].map(|name| body[name].as_u64().unwrap());
    assert_eq!(counts, [2, 0, 0]);
    let told: Vec<_> = body["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["index"].as_u64().unwrap(), one["field"].as_str().unwrap()))
        .collect();
    let expected = [
        (1, "title"),
        (2, "starts_at"),
        (3, "lon"),
        (4, "time_zone"),
        (5, "colour"),
        (6, "uid"),
        (8, "event"),
    ];
    assert_eq!(told, expected);
    let places: Vec<_> = body["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["index"].clone())
        .collect();
    assert_eq!(places, [0, 7]);

    let again = json!([event("a", "Jazz"), event("b", "More blues")]);
    let body = body_of(&admin.post_json("/v1/events", &again).await.unwrap());
    assert_eq!((&body["unchanged"], &body["changed"]), (&json!(1), &json!(1)));
    assert_eq!(body["events"][1]["outcome"], "changed");
}

#[tokio::test]
async fn batches_of_no_use_are_refused_with_the_field() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let many: Vec<_> = (0..1_001).map(|n| event(&n.to_string(), "x")).collect();
    for (path, name) in [("/v1/events", "events"), ("/v1/interactions", "interactions")] {
        let response = admin.post_json(path, &json!([{"no": 1}])).await.unwrap();
        let body = problem_of(&response, 422, "invalid-field", &format!("{name}[0].no"));
        assert_eq!(body["index"], 0);
        problem(
            &admin.post_json(path, &json!([])).await.unwrap(),
            422,
            "batch-empty",
        );
        problem(
            &admin.post_json(path, &json!(many)).await.unwrap(),
            413,
            "batch-too-large",
        );
        let response = admin.post_json(path, &json!({"list": []})).await.unwrap();
        problem_of(&response, 422, "invalid-field", "list");
        let response = admin.post_json(path, &json!({})).await.unwrap();
        problem_of(&response, 422, "invalid-field", name);
        let response = admin
            .post_json(path, &json!({(name): [], "list": []}))
            .await
            .unwrap();
        assert_eq!(response.status, 422, "{}", response.text());
        let response = admin.post_json(path, &json!({(name): 7})).await.unwrap();
        problem_of(&response, 422, "invalid-field", name);
    }
    let bad = [
        (json!({"user": "", "event": UNKNOWN, "action": "view"}), "user"),
        (json!({"user": "u", "event": "e", "action": "view"}), "event"),
        (json!({"user": "u", "event": UNKNOWN, "action": "like"}), "action"),
        (
            json!({"user": "u", "event": UNKNOWN, "action": "view", "at": "2999-01-01T00:00:00Z"}),
            "at",
        ),
        (
            json!({"user": "u", "event": UNKNOWN, "action": "view", "at": "1999-01-01T00:00:00Z"}),
            "at",
        ),
        (json!({"user": "u", "event": UNKNOWN, "action": "view"}), "event"),
    ];
    for (interaction, field) in bad {
        let response = admin
            .post_json("/v1/interactions", &json!([interaction]))
            .await
            .unwrap();
        problem_of(
            &response,
            422,
            "invalid-field",
            &format!("interactions[0].{field}"),
        );
    }
}

#[tokio::test]
async fn queries_of_no_use_are_refused_with_the_parameter() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let words: Vec<String> = (0..12).map(|n| format!("word{n}")).collect();
    let words = words.join("+");
    for (query, field) in [
        ("lat=1&lon=2", "within_km"),
        ("within_km=5", "lat"),
        ("lat=91&lon=2&within_km=5", "lat"),
        ("lat=NaN&lon=2&within_km=5", "lat"),
        ("lat=1&lon=2&within_km=-5", "within_km"),
        ("from=yesterday", "from"),
        ("q=%2C", "q"),
        (&format!("q={words}"), "q"),
        ("cancelled=perhaps", "cancelled"),
        ("limit=201", "limit"),
        ("colour=red", "colour"),
    ] {
        let response = admin.get(&format!("/v1/events?{query}")).await.unwrap();
        problem_of(&response, 400, "invalid-parameter", field);
    }
    for cursor in ["1", "1.x", "x.01JD3V0S7W8Q4M2XKZC5T9R6BH"] {
        let response = admin.get(&format!("/v1/events?after={cursor}")).await.unwrap();
        problem_of(&response, 400, "invalid-cursor", "after");
    }
    let response = admin.get("/v1/users/a%0Ab/recommendations").await.unwrap();
    problem_of(&response, 400, "invalid-id", "id");
    let response = admin.get("/v1/users/a/recommendations?limit=51").await.unwrap();
    problem_of(&response, 400, "invalid-parameter", "limit");
}

#[tokio::test]
async fn events_are_found_cached_and_forgotten_by_every_server_when_one_changes() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = TestSettings::new().over(&redis.url()).start().await;
    let other = app.twin().await;
    let (mut admin, mut elsewhere) = (app.admin(), other.admin());
    stored(&mut admin, &[event("a", "Jazz"), event("b", "Blues")]).await;
    let came = async |client: &mut Client, query: &str| {
        let response = client.get(&format!("/v1/events?{query}")).await.unwrap();
        response.header("x-cache").unwrap().to_owned()
    };
    assert_eq!(titles(&mut admin, "q=jazz").await, ["Jazz"]);
    assert_eq!(came(&mut admin, "q=jazz").await, "hit");
    assert_eq!(came(&mut elsewhere, "q=jazz").await, "hit", "from Redis");
    // Nothing changed, nothing is forgotten.
    stored(&mut elsewhere, &[event("a", "Jazz")]).await;
    assert_eq!(came(&mut admin, "q=jazz").await, "hit");
    stored(&mut elsewhere, &[event("c", "More jazz")]).await;
    assert_eq!(titles(&mut elsewhere, "q=jazz").await, ["Jazz", "More jazz"]);
    crate::support::until(
        "the change reaches the other server",
        std::time::Duration::from_secs(30),
        async || (titles(&mut admin, "q=jazz").await.len() == 2).then_some(()),
    )
    .await;

    let page = body_of(&admin.get("/v1/events?limit=2&category=MUSIC").await.unwrap());
    let next = page["next"].as_str().unwrap();
    assert_eq!(page["events"][0]["starts_at"], "2090-06-01T16:00:00Z");
    let rest = titles(&mut admin, &format!("limit=2&category=music&after={next}")).await;
    assert_eq!(rest, ["More jazz"]);
    assert!(titles(&mut admin, "to=2089-01-01T00:00:00Z").await.is_empty());
}

#[tokio::test]
async fn interactions_become_recommendations_with_a_reason() {
    let app = TestSettings::new()
        .with("HOLDFAST__RECOMMEND__DEADLINE_SECONDS", "30")
        .start()
        .await;
    let mut admin = app.admin();
    let events: Vec<_> = (0..6)
        .map(|n| event(&n.to_string(), &format!("Event {n}")))
        .collect();
    let ids = stored(&mut admin, &events).await;
    let mut done = Vec::new();
    for n in 0..8 {
        let circle = if n % 2 == 0 { &ids[..3] } else { &ids[3..] };
        done.extend(circle.iter().map(|id| did(&format!("user {n}"), id, "attend")));
    }
    done.push(did("ada", &ids[0], "save"));
    done.push(did("ada", UNKNOWN, "view"));
    let response = admin
        .post_json("/v1/interactions", &json!({"interactions": done}))
        .await
        .unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
    let body = body_of(&response);
    assert_eq!((&body["accepted"], &body["duplicates"]), (&json!(25), &json!(0)));
    assert_eq!(
        (&body["rejected"][0]["index"], &body["rejected"][0]["field"]),
        (&json!(25), &json!("event"))
    );
    let body = body_of(&admin.post_json("/v1/interactions", &json!(done)).await.unwrap());
    assert_eq!((&body["accepted"], &body["duplicates"]), (&json!(25), &json!(25)));

    train(&app).await;
    let path = "/v1/users/ada/recommendations?limit=2";
    let response = admin.get(path).await.unwrap();
    assert_eq!(
        (response.status, response.header("x-cache")),
        (200, Some("miss")),
        "{}",
        response.text()
    );
    let body = body_of(&response);
    assert_eq!(
        (&body["user"], &body["source"]),
        (&json!("ada"), &json!("personal"))
    );
    let listed: Vec<_> = body["recommendations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["event"]["id"].as_str().unwrap())
        .collect();
    assert!(
        listed.len() == 2 && ids[1..3].iter().all(|id| listed.contains(&id.as_str())),
        "{body}"
    );
    let reason = &body["recommendations"][0]["reason"];
    assert_eq!(
        (&reason["kind"], &reason["event"]),
        (&json!("similar"), &json!(ids[0]))
    );
    assert_eq!(admin.get(path).await.unwrap().header("x-cache"), Some("hit"));
    let stranger = body_of(
        &admin
            .get("/v1/users/nobody%20known/recommendations")
            .await
            .unwrap(),
    );
    assert_eq!(
        (&stranger["user"], &stranger["source"]),
        (&json!("nobody known"), &json!("popular"))
    );
}

#[tokio::test]
async fn a_session_reads_its_own_recommendations_and_nobody_elses() {
    let app = TestApp::start().await;
    let ada = app.user("ada", Role::Viewer).await;
    let bob = app.user("bob", Role::Viewer).await;
    app.user("root", Role::Admin).await;
    let path = |id: &dyn std::fmt::Display| format!("/v1/users/{id}/recommendations");
    let mut as_ada = app.client().with_bearer(&app.log_in("ada").await);
    assert_eq!(as_ada.get(&path(&ada.id)).await.unwrap().status, 200);
    problem(&as_ada.get(&path(&bob.id)).await.unwrap(), 403, "missing-scope");
    problem(
        &as_ada.get(&path(&"some-user")).await.unwrap(),
        403,
        "missing-scope",
    );
    let mut root = app.client().with_bearer(&app.log_in("root").await);
    assert_eq!(root.get(&path(&ada.id)).await.unwrap().status, 200);
    let mut reader = app.with_scopes("reader", "read").await;
    assert_eq!(reader.get(&path(&"some-user")).await.unwrap().status, 200);
    let mut producer = app.with_scopes("producer", "produce").await;
    problem(&producer.get(&path(&ada.id)).await.unwrap(), 403, "missing-scope");
}
