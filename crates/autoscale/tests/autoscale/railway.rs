//! The driver of Railway: exact calls, and answers that change nothing.

use std::sync::{Arc, Mutex};

use holdfast_autoscale::DriverChoice;
use holdfast_autoscale::driver::{Driver, DriverError, Replicas};
use holdfast_testkit::scripted_server::{Reply, Server};
use serde_json::{Value, json};

use crate::autoscale;

fn driver(server: &Server) -> Driver {
    let mut settings = autoscale();
    settings.driver = DriverChoice::Railway;
    settings.railway.url = Some(server.url("/graphql/v2").parse().unwrap());
    settings.railway.token = Some("a-token".to_owned().into());
    "env-1".clone_into(&mut settings.railway.environment);
    Driver::new(&settings).unwrap().unwrap()
}

/// A service whose latest deployment has this status and these regions.
fn instance(status: &str, regions: &Value) -> Value {
    let meta = json!({"serviceManifest": {"deploy": {"multiRegionConfig": regions}}});
    json!({"data": {"serviceInstance": {"numReplicas": 1, "latestDeployment": {"status": status, "meta": meta}}}})
}

/// Answers questions with `instance`, and agrees to all else.
async fn answering(instance: Value) -> Server {
    let instance = Arc::new(Mutex::new(instance));
    Server::start(move |request| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let answer = if body["query"].as_str().unwrap().starts_with("query") {
            instance.lock().unwrap().clone()
        } else {
            json!({"data": {"done": true}})
        };
        Reply::new(200, &[], answer.to_string())
    })
    .await
}

fn calls(server: &Server) -> Vec<(String, Value)> {
    let seen = server.seen();
    assert!(
        seen.iter()
            .all(|request| request.method == "POST" && request.target == "/graphql/v2")
    );
    assert!(
        seen.iter()
            .all(|request| request.headers["project-access-token"] == "a-token")
    );
    seen.iter()
        .map(|request| {
            let body: Value = serde_json::from_str(&request.body).unwrap();
            let query = body["query"].as_str().unwrap().to_owned();
            (query, body["variables"].clone())
        })
        .collect()
}

#[tokio::test]
async fn replicas_of_the_region_are_read_updated_and_deployed() {
    let server = answering(instance("SUCCESS", &json!({"us-west2": {"numReplicas": 2}}))).await;
    let driver = driver(&server);
    assert_eq!(driver.replicas("svc-1").await.unwrap(), Replicas::Wanted(2));
    driver.set("svc-1", 5).await.unwrap();
    let calls = calls(&server);
    let variables = json!({"environment": "env-1", "service": "svc-1"});
    let names = [
        "serviceInstance(",
        "serviceInstance(",
        "serviceInstanceUpdate(",
        "serviceInstanceDeployV2(",
    ];
    assert_eq!(calls.len(), names.len());
    for ((query, given), name) in calls.iter().zip(names) {
        assert!(query.contains(name), "{query}");
        assert_eq!(
            (&given["environment"], &given["service"]),
            (&variables["environment"], &variables["service"])
        );
    }
    assert_eq!(
        calls[2].1["input"],
        json!({"multiRegionConfig": {"us-west2": {"numReplicas": 5}}})
    );
}

#[tokio::test]
async fn a_service_without_regions_has_a_plain_number() {
    let server =
        answering(json!({"data": {"serviceInstance": {"numReplicas": 3, "latestDeployment": null}}})).await;
    let driver = driver(&server);
    assert_eq!(driver.replicas("svc-1").await.unwrap(), Replicas::Wanted(3));
    driver.set("svc-1", 4).await.unwrap();
    assert_eq!(calls(&server)[2].1["input"], json!({"numReplicas": 4}));
}

#[tokio::test]
async fn nothing_is_decided_while_a_deployment_is_under_way() {
    for status in ["BUILDING", "DEPLOYING", "QUEUED", "NEEDS_APPROVAL"] {
        let server = answering(instance(status, &json!({"us-west2": {"numReplicas": 2}}))).await;
        let replicas = driver(&server).replicas("svc-1").await.unwrap();
        assert!(
            matches!(replicas, Replicas::Changing(_)),
            "{status}: {replicas:?}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_scaled_is_an_error_and_is_not_changed() {
    let regions = json!({"us-west2": {"numReplicas": 2}, "europe-west4": {"numReplicas": 1}});
    for answer in [
        instance("SUCCESS", &regions),
        json!({"data": {"serviceInstance": null}}),
        json!({"data": null, "errors": [{"message": "Not Authorized"}]}),
        json!({}),
    ] {
        let server = answering(answer.clone()).await;
        let error = driver(&server).set("svc-1", 3).await.unwrap_err();
        assert!(matches!(error, DriverError::Unknown(_)), "{answer}: {error}");
        assert_eq!(server.seen().len(), 1, "{answer}");
        assert!(!format!("{error:?}").contains("a-token"));
    }
}
