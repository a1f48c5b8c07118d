//! What a server needs to start, and where it listens.

use holdfast_accounts::{AdmissionError, ApiKeys};
use holdfast_core::sql::{self, Database};
use holdfast_services::api::StartError;
use holdfast_testkit::http;

use crate::support::{TestSettings, by, problem};

#[tokio::test]
async fn a_production_server_without_any_key_does_not_start_and_says_what_to_set() {
    let settings = TestSettings::new()
        .with("HOLDFAST_ENV", "production")
        .without("HOLDFAST_API_KEY");
    let error = settings.try_start().await.err().expect("it must not start");
    assert!(matches!(error, StartError::Admission(AdmissionError::NoKey)));
    assert_eq!(error.exit_code(), 64);
    let text = error.to_string();
    assert!(
        text.contains("HOLDFAST_API_KEY") && text.contains("holdfast keys create"),
        "{text}"
    );
}

#[tokio::test]
async fn a_production_server_starts_with_a_key_of_the_table() {
    let settings = TestSettings::new()
        .with("HOLDFAST_ENV", "production")
        .without("HOLDFAST_API_KEY");
    let loaded = settings.load();
    sql::migrate(&loaded.database).await.unwrap();
    let keys = ApiKeys::new(Database::open(&loaded.database).unwrap(), None);
    keys.create("first", "admin".parse().unwrap(), &by())
        .await
        .unwrap();
    let app = settings.start().await;
    problem(
        &app.client().get("/v1/queues").await.unwrap(),
        401,
        "unauthenticated",
    );
}

#[tokio::test]
async fn a_development_server_without_any_key_listens_on_loopback_only() {
    let app = TestSettings::new()
        .without("HOLDFAST_API_KEY")
        .with("HOLDFAST__SERVER__HOST", "[::]")
        .start()
        .await;
    assert!(app.address.ip().is_loopback(), "{}", app.address);
    assert_eq!(app.client().get("/v1/queues").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_server_on_every_address_answers_over_ipv4_and_ipv6() {
    let app = TestSettings::new()
        .with("HOLDFAST__SERVER__HOST", "[::]")
        .start()
        .await;
    assert!(app.address.ip().is_unspecified());
    let port = app.address.port();
    assert_eq!(
        http::get(([127, 0, 0, 1], port).into(), "/health/live")
            .await
            .unwrap()
            .status,
        200
    );
    if app.address.is_ipv6() {
        let address = (std::net::Ipv6Addr::LOCALHOST, port).into();
        assert_eq!(http::get(address, "/health/live").await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_taken_port_is_said_so() {
    let app = TestSettings::new().start().await;
    let port = app.address.port().to_string();
    let error = TestSettings::new()
        .with("PORT", &port)
        .try_start()
        .await
        .err()
        .expect("the port is taken");
    assert!(error.to_string().contains(&port), "{error}");
    assert_eq!(error.exit_code(), 69);
}

#[tokio::test]
async fn a_database_that_is_not_ready_shuts_nobody_in() {
    let settings = TestSettings::new()
        .with("HOLDFAST_ENV", "production")
        .without("HOLDFAST_API_KEY")
        .unmigrated();
    let app = settings.start().await;
    let response = app
        .client()
        .with_bearer("hf_some_key")
        .get("/v1/queues")
        .await
        .unwrap();
    problem(&response, 503, "unavailable");
    problem(
        &app.client().get("/v1/queues").await.unwrap(),
        401,
        "unauthenticated",
    );
    assert_eq!(app.client().get("/health/live").await.unwrap().status, 200);
}
