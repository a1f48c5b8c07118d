//! Tracks and points, over HTTP.

use holdfast_testkit::http::Client;
use serde_json::{Value, json};

use crate::support::{TestApp, body_of, problem, problem_of};

const UNKNOWN: &str = "01JD3V0S7W8Q4M2XKZC5T9R6BH";

async fn track(client: &mut Client) -> String {
    let made = client
        .post_json("/v1/tracks", &json!({"name": "task 3"}))
        .await
        .unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    body_of(&made)["id"].as_str().unwrap().to_owned()
}

fn point(track: &str, second: u32) -> Value {
    json!({"track_id": track, "recorded_at": format!("2024-06-01T12:00:{second:02}Z"), "lat": 47.25, "lon": 11.4})
}

#[tokio::test]
async fn the_good_points_of_a_mixed_batch_are_accepted_and_the_bad_ones_listed() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let track = track(&mut admin).await;
    let with = |name: &str, value: Value| {
        let mut point = point(&track, 1);
        point[name] = value;
        point
    };
    let bodies = [
        json!({"points": [point(&track, 1), with("lat", json!(91)), with("lon", json!("x")), point(&track, 2)]}),
        json!([
            point(&track, 2),
            with("recorded_at", json!("2999-01-01T00:00:00Z")),
            with("speed", json!(-1))
        ]),
    ];
    for (body, accepted, bad) in [(&bodies[0], 2, [1, 2]), (&bodies[1], 1, [1, 2])] {
        let response = admin.post_json("/v1/points", body).await.unwrap();
        assert_eq!(response.status, 202, "{}", response.text());
        let answer = body_of(&response);
        assert_eq!(answer["accepted"], accepted);
        let listed: Vec<_> = answer["rejected"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["index"].clone())
            .collect();
        assert_eq!(listed, bad, "{answer}");
    }
    let page = body_of(
        &admin
            .get(&format!("/v1/tracks/{track}/points?limit=1"))
            .await
            .unwrap(),
    );
    assert_eq!(page["points"][0]["recorded_at"], "2024-06-01T12:00:01Z");
    let next = format!(
        "/v1/tracks/{track}/points?limit=1&after={}",
        page["next"].as_str().unwrap()
    );
    let page = body_of(&admin.get(&next).await.unwrap());
    assert_eq!(
        (&page["points"][0]["lat"], &page["next"]),
        (&json!(47.25), &Value::Null)
    );
}

#[tokio::test]
async fn lines_are_read_one_by_one() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let track = track(&mut admin).await;
    let lines = format!("{}\n{{\"lat\":NaN}}\n\n{}\n", point(&track, 1), point(&track, 2));
    let response = admin
        .request(
            "POST",
            "/v1/points",
            &[("content-type", "application/x-ndjson")],
            lines.as_bytes(),
        )
        .await
        .unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
    let answer = body_of(&response);
    assert_eq!(
        (&answer["accepted"], &answer["rejected"][0]["index"]),
        (&json!(2), &json!(1))
    );
}

#[tokio::test]
async fn what_has_no_good_point_is_refused() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let mut off = point(UNKNOWN, 1);
    off["lat"] = json!(91);
    let refused = admin.post_json("/v1/points", &json!([off])).await.unwrap();
    let body = problem_of(&refused, 422, "invalid-field", "points[0].lat");
    assert_eq!(body["index"], 0);
    problem(
        &admin.post_json("/v1/points", &json!([])).await.unwrap(),
        422,
        "batch-empty",
    );
    let many: Vec<_> = (0..10_001).map(|_| json!(1)).collect();
    problem(
        &admin.post_json("/v1/points", &json!(many)).await.unwrap(),
        413,
        "batch-too-large",
    );
    let text = admin
        .request("POST", "/v1/points", &[("content-type", "text/csv")], b"1,2")
        .await
        .unwrap();
    problem(&text, 415, "unsupported-media-type");
    let broken = [("content-type", "application/json")];
    let broken = admin
        .request("POST", "/v1/points", &broken, b"[{\"lat\":NaN}]")
        .await
        .unwrap();
    problem(&broken, 400, "malformed-json");
    for body in [json!({"name": ""}), json!({"name": "a\nb"})] {
        problem_of(
            &admin.post_json("/v1/tracks", &body).await.unwrap(),
            422,
            "invalid-field",
            "name",
        );
    }
    let odd = json!({"name": "a", "id": "x"});
    problem_of(
        &admin.post_json("/v1/tracks", &odd).await.unwrap(),
        400,
        "invalid-id",
        "id",
    );
    let unknown = admin.get(&format!("/v1/tracks/{UNKNOWN}/points")).await.unwrap();
    problem_of(&unknown, 404, "track-not-found", "id");
}

#[tokio::test]
async fn points_of_an_unknown_track_are_kept_and_redriven_once_it_exists() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let sent: Vec<_> = (0..3).map(|second| point(UNKNOWN, second)).collect();
    let response = admin.post_json("/v1/points", &json!(sent)).await.unwrap();
    assert_eq!(response.status, 202);
    let page = body_of(&admin.get("/v1/points/dead-letters?limit=2").await.unwrap());
    assert_eq!(page["letters"][0]["reason"], "unknown track");
    let next = format!("/v1/points/dead-letters?after={}", page["next"].as_str().unwrap());
    assert_eq!(
        body_of(&admin.get(&next).await.unwrap())["letters"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let redrive = json!({"track_id": UNKNOWN});
    let early = admin
        .post_json("/v1/points/dead-letters/redrive", &redrive)
        .await
        .unwrap();
    problem(&early, 404, "nothing-matched");
    let named = json!({"name": "late", "id": UNKNOWN});
    assert_eq!(admin.post_json("/v1/tracks", &named).await.unwrap().status, 201);
    assert_eq!(admin.post_json("/v1/tracks", &named).await.unwrap().status, 200);
    let other = json!({"name": "other", "id": UNKNOWN});
    problem_of(
        &admin.post_json("/v1/tracks", &other).await.unwrap(),
        409,
        "track-exists",
        "id",
    );
    let done = admin
        .post_json("/v1/points/dead-letters/redrive", &redrive)
        .await
        .unwrap();
    assert_eq!(body_of(&done)["affected"], 3);
    let page = body_of(&admin.get(&format!("/v1/tracks/{UNKNOWN}/points")).await.unwrap());
    assert_eq!(page["points"].as_array().unwrap().len(), 3);
    let none = admin
        .post_json("/v1/points/dead-letters/delete", &json!({"all": true}))
        .await
        .unwrap();
    problem(&none, 404, "nothing-matched");
    let unsaid = admin
        .post_json("/v1/points/dead-letters/delete", &json!({}))
        .await
        .unwrap();
    problem_of(&unsaid, 422, "invalid-field", "track_id");
}
