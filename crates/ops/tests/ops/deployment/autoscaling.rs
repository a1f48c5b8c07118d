//! The manifests of autoscalers: they name what there is, and read what the API answers.

use holdfast_control::wire::{FleetScaling, ScalingFigures, ScalingView};
use holdfast_core::telemetry::catalogue::ALL;
use serde_json::{Value, json};

use super::files::yaml;

const KEDA: &str = "deploy/kubernetes/autoscaling-keda.yaml";
const BEAT: &str = "deploy/kubernetes/autoscaling-beat.yaml";
const HPA: &str = "deploy/kubernetes/autoscaling-hpa.yaml";

fn of_kind(path: &str, kind: &str) -> Value {
    let mut found = yaml(path).into_iter().filter(|manifest| manifest["kind"] == kind);
    found.next().unwrap_or_else(|| panic!("{path} has no {kind}"))
}

/// The answer of `GET /v1/scaling`, with the queue that is configured without any setting.
fn answer() -> Value {
    let view = ScalingView {
        as_of: None,
        age_seconds: None,
        trusted: false,
        reasons: Vec::new(),
        window_seconds: 330.0,
        drain_seconds: 60.0,
        queues: [("default".to_owned(), ScalingFigures::default())].into(),
        fleets: FleetScaling {
            rust: ScalingFigures::default(),
            pull: ScalingFigures::default(),
        },
    };
    serde_json::to_value(view).unwrap()
}

fn assert_scales_the_workers(target: &Value) {
    let worker = of_kind("deploy/kubernetes/worker.yaml", "Deployment");
    assert_eq!(target["name"], worker["metadata"]["name"]);
    // What KEDA takes if nothing is said.
    assert_eq!(target.get("kind").unwrap_or(&json!("Deployment")), "Deployment");
}

#[test]
fn keda_reads_a_number_of_the_answer_with_a_key() {
    let scaled = of_kind(KEDA, "ScaledObject");
    assert_scales_the_workers(&scaled["spec"]["scaleTargetRef"]);
    assert_eq!(scaled["spec"]["minReplicaCount"], 0);
    assert!(scaled["spec"]["fallback"].is_null());
    let trigger = &scaled["spec"]["triggers"][0];
    assert_eq!(trigger["type"], "metrics-api");
    let metadata = &trigger["metadata"];
    let location = metadata["valueLocation"].as_str().unwrap();
    let answer = answer();
    let found = location.split('.').fold(&answer, |value, name| &value[name]);
    assert!(found.is_u64(), "{location}: {found}");
    let queue = "queues.default.desired_replicas"
        .split('.')
        .fold(&answer, |value, name| &value[name]);
    assert!(queue.is_u64());
    // The value is the number of replicas.
    assert_eq!(
        (&metadata["targetValue"], &trigger["metricType"]),
        (&json!("1"), &json!("AverageValue"))
    );
    assert_eq!(metadata["activationTargetValue"], "0");
    for (name, value) in metadata.as_object().unwrap() {
        assert!(value.is_string(), "{name}: KEDA takes texts alone");
    }

    let url = url::Url::parse(metadata["url"].as_str().unwrap()).unwrap();
    let service = of_kind("deploy/kubernetes/api.yaml", "Service");
    let host = format!(
        "{}.{}.svc",
        service["metadata"]["name"].as_str().unwrap(),
        service["metadata"]["namespace"].as_str().unwrap()
    );
    assert_eq!(url.host_str(), Some(host.as_str()));
    assert_eq!(
        json!(url.port_or_known_default()),
        service["spec"]["ports"][0]["port"]
    );
    assert_eq!(url.path(), "/v1/scaling");

    assert_eq!(metadata["authMode"], "bearer");
    let authentication = of_kind(KEDA, "TriggerAuthentication");
    assert_eq!(
        trigger["authenticationRef"]["name"],
        authentication["metadata"]["name"]
    );
    let reference = &authentication["spec"]["secretTargetRef"][0];
    let secret = of_kind(KEDA, "Secret");
    assert_eq!(
        (&reference["parameter"], &reference["name"]),
        (&json!("token"), &secret["metadata"]["name"])
    );
    assert!(secret["stringData"][reference["key"].as_str().unwrap()].is_string());
}

#[test]
fn the_beat_may_read_and_set_the_replicas_of_the_workers_alone() {
    let role = of_kind(BEAT, "Role");
    let worker = of_kind("deploy/kubernetes/worker.yaml", "Deployment");
    assert_eq!(
        role["rules"],
        json!([{
            "apiGroups": ["apps"],
            "resources": ["deployments/scale"],
            "resourceNames": [worker["metadata"]["name"]],
            "verbs": ["get", "patch"],
        }])
    );
    let binding = of_kind(BEAT, "RoleBinding");
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    let account = of_kind(BEAT, "ServiceAccount");
    assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
    let names: Vec<_> = holdfast_services::settings_table()
        .into_iter()
        .map(|setting| setting.env)
        .collect();
    for name in ["HOLDFAST__AUTOSCALE__DRIVER", "HOLDFAST__AUTOSCALE__SERVICES"] {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
}

#[test]
fn the_hpa_reads_a_metric_that_exists() {
    let hpa = of_kind(HPA, "HorizontalPodAutoscaler");
    assert_scales_the_workers(&hpa["spec"]["scaleTargetRef"]);
    let metric = &hpa["spec"]["metrics"][0]["external"]["metric"];
    let known = ALL.iter().find(|known| metric["name"] == known.name).unwrap();
    for label in metric["selector"]["matchLabels"].as_object().unwrap().keys() {
        assert!(
            known.labels.contains(&label.as_str()),
            "{} has no label {label}",
            known.name
        );
    }
    assert!(
        hpa["spec"]["minReplicas"].as_u64().unwrap() >= 1,
        "it does not scale from zero"
    );
}
