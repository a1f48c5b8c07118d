//! The driver of Kubernetes: exact requests, and every way in which an answer may be wrong.

use holdfast_autoscale::DriverChoice;
use holdfast_autoscale::driver::{Driver, DriverError, Replicas};
use holdfast_testkit::scripted_server::{Reply, Server, Then};

use crate::autoscale;

const SCALE: &str = "/apis/apps/v1/namespaces/prod/deployments/holdfast-worker/scale";

fn driver(url: &str) -> Driver {
    let mut settings = autoscale();
    settings.driver = DriverChoice::Kubernetes;
    settings.kubernetes.url = Some(url.parse().unwrap());
    settings.kubernetes.token = Some("a-token".to_owned().into());
    "prod".clone_into(&mut settings.kubernetes.namespace);
    Driver::new(&settings).unwrap().unwrap()
}

async fn answering(status: u16, body: &'static str) -> (Server, Driver) {
    let server = Server::start(move |_| Reply::new(status, &[], body)).await;
    let driver = driver(&server.url("/"));
    (server, driver)
}

#[tokio::test]
async fn replicas_are_read_and_set_by_the_scale_subresource() {
    let server = Server::start(|request| {
        let replicas = if request.method == "PATCH" {
            r#"{"replicas":5}"#
        } else {
            r#"{"replicas":2}"#
        };
        Reply::new(
            200,
            &[],
            format!(r#"{{"kind":"Scale","spec":{replicas},"status":{{"replicas":1}}}}"#),
        )
    })
    .await;
    let driver = driver(&server.url(""));
    assert_eq!(
        driver.replicas("holdfast-worker").await.unwrap(),
        Replicas::Wanted(2)
    );
    driver.set("holdfast-worker", 5).await.unwrap();
    let seen = server.seen();
    let told: Vec<_> = seen
        .iter()
        .map(|request| {
            (
                request.method.as_str(),
                request.target.as_str(),
                request.body.as_str(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [("GET", SCALE, ""), ("PATCH", SCALE, r#"{"spec":{"replicas":5}}"#)]
    );
    assert!(
        seen.iter()
            .all(|request| request.headers["authorization"] == "Bearer a-token")
    );
    assert_eq!(seen[1].headers["content-type"], "application/merge-patch+json");
}

#[tokio::test]
async fn a_deployment_of_no_replicas_has_no_field_for_them() {
    let (_server, driver) = answering(200, r#"{"kind":"Scale","spec":{}}"#).await;
    assert_eq!(
        driver.replicas("holdfast-worker").await.unwrap(),
        Replicas::Wanted(0)
    );
    driver.set("holdfast-worker", 0).await.unwrap();
    let ignored = driver.set("holdfast-worker", 3).await.unwrap_err();
    assert!(matches!(ignored, DriverError::Unknown(_)), "{ignored}");
}

#[tokio::test]
async fn a_refusal_says_what_the_api_said_and_no_token() {
    let (_server, driver) = answering(
        403,
        r#"{"kind":"Status","message":"deployments \"holdfast-worker\" is forbidden","code":403}"#,
    )
    .await;
    let error = driver.set("holdfast-worker", 1).await.unwrap_err();
    let text = format!("{error} {error:?} {driver:?}");
    assert!(
        error.to_string().contains("403") && error.to_string().contains("is forbidden"),
        "{error}"
    );
    assert!(!text.contains("a-token"), "{text}");
}

#[tokio::test]
async fn answers_without_sense_are_errors() {
    for (status, body) in [
        (200, "<html>"),
        (200, ""),
        (200, "{}"),
        (500, ""),
        (302, "elsewhere"),
    ] {
        let (_server, driver) = answering(status, body).await;
        driver.replicas("holdfast-worker").await.unwrap_err();
    }
}

#[tokio::test]
async fn a_server_that_hangs_floods_or_is_gone_holds_nothing_up() {
    let hanging = Server::start(|_| Reply::raw("HTTP/1.1 200 OK\r\n", Then::Hang)).await;
    let error = driver(&hanging.url(""))
        .set("holdfast-worker", 1)
        .await
        .unwrap_err();
    assert!(matches!(error, DriverError::TimedOut(_)), "{error}");
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n";
    let flooding = Server::start(move |_| Reply::raw(head, Then::Flood)).await;
    let error = driver(&flooding.url(""))
        .replicas("holdfast-worker")
        .await
        .unwrap_err();
    assert!(
        matches!(error, DriverError::TooLarge | DriverError::TimedOut(_)),
        "{error}"
    );
    let gone = driver("http://127.0.0.1:9")
        .replicas("holdfast-worker")
        .await
        .unwrap_err();
    assert!(matches!(gone, DriverError::Unreachable(_)), "{gone}");
}
