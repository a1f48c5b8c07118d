//! Which kinds a process knows, and what their handlers share.

use std::collections::BTreeMap;

use holdfast_core::config::{Settings, Sources, load_from};
use holdfast_jobs::Registry;
use holdfast_outbound::Outbound;

fn settings(environment: &str) -> Settings {
    let env = BTreeMap::from(
        [
            ("HOLDFAST_ENV", environment),
            ("DATABASE_URL", "postgres://db.example/app"),
            ("HOLDFAST_API_KEY", KEY),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    load_from(Sources {
        env,
        ..Sources::default()
    })
    .unwrap()
}

const KEY: &str = "a-key-that-is-long-enough-for-anyone";

fn names(registry: &Registry) -> Vec<&str> {
    registry.kinds().map(|kind| kind.name).collect()
}

#[test]
fn a_production_process_knows_no_debug_kinds() {
    let all = [
        "debug.echo",
        "debug.fail",
        "debug.sleep",
        "events.discover",
        "holdfast.probe",
        "http.request",
        "ml.recommend",
        "ml.train",
        "notify.digest",
        "notify.email",
        "notify.webhook",
        "points.flush",
    ];
    assert_eq!(names(&holdfast_services::registry()), all);
    assert_eq!(
        names(&holdfast_services::registry_for(&settings("development"))),
        all
    );
    assert_eq!(
        names(&holdfast_services::registry_for(&settings("production"))),
        [
            "events.discover",
            "holdfast.probe",
            "http.request",
            "ml.recommend",
            "ml.train",
            "notify.digest",
            "notify.email",
            "notify.webhook",
            "points.flush"
        ]
    );
}

#[test]
fn handlers_share_one_http_client() {
    let resources = holdfast_services::resources(&settings("production")).unwrap();
    assert!(resources.get::<Outbound>().is_some());
}
