//! The manifests.

use serde_json::{Value, json};

use super::files::{LIVE, PORT, READY, SERVICES, assert_are_settings, grace_seconds, list, yaml};

const DIRECTORY: &str = "deploy/kubernetes";

fn manifests() -> Vec<Value> {
    list(DIRECTORY, "yaml")
        .iter()
        .flat_map(|path| yaml(path))
        .collect()
}

fn find<'a>(manifests: &'a [Value], kind: &str, name: &str) -> &'a Value {
    manifests
        .iter()
        .find(|manifest| manifest["kind"] == kind && manifest["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

#[test]
fn every_manifest_is_of_a_known_kind_in_our_namespace() {
    const KINDS: [(&str, &str); 14] = [
        ("Namespace", "v1"),
        ("ConfigMap", "v1"),
        ("Secret", "v1"),
        ("Service", "v1"),
        ("Job", "batch/v1"),
        ("Deployment", "apps/v1"),
        ("PodDisruptionBudget", "policy/v1"),
        ("NetworkPolicy", "networking.k8s.io/v1"),
        ("HorizontalPodAutoscaler", "autoscaling/v2"),
        ("ScaledObject", "keda.sh/v1alpha1"),
        ("TriggerAuthentication", "keda.sh/v1alpha1"),
        ("ServiceAccount", "v1"),
        ("Role", "rbac.authorization.k8s.io/v1"),
        ("RoleBinding", "rbac.authorization.k8s.io/v1"),
    ];
    for manifest in manifests() {
        let kind = manifest["kind"].as_str().unwrap();
        let (_, version) = KINDS.iter().find(|(known, _)| *known == kind).unwrap();
        assert_eq!(manifest["apiVersion"], *version, "{kind}");
        if kind != "Namespace" {
            assert_eq!(manifest["metadata"]["namespace"], "holdfast", "{kind}");
        }
    }
}

#[test]
fn each_service_is_probed_drained_and_never_wholly_gone() {
    let manifests = manifests();
    for program in SERVICES {
        let name = format!("holdfast-{program}");
        let deployment = find(&manifests, "Deployment", &name);
        let spec = &deployment["spec"]["template"]["spec"];
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
        assert!(deployment["spec"]["replicas"].as_u64().unwrap() >= 2);

        let container = &spec["containers"][0];
        assert_eq!(container["command"], json!([program]));
        assert_eq!(
            container["ports"],
            json!([{ "name": "http", "containerPort": PORT }])
        );
        let probes = [
            ("startupProbe", LIVE),
            ("livenessProbe", LIVE),
            ("readinessProbe", READY),
        ];
        for (probe, path) in probes {
            assert_eq!(
                container[probe]["httpGet"],
                json!({ "path": path, "port": "http" }),
                "{name}: {probe}"
            );
        }
        let pause = container["lifecycle"]["preStop"]["exec"]["command"][1]
            .as_str()
            .map_or(0, |text| text.parse().unwrap());
        let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(
            grace > grace_seconds() + pause,
            "{name} is killed before it has drained"
        );

        let budget = find(&manifests, "PodDisruptionBudget", &name);
        assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
        assert_eq!(budget["spec"]["maxUnavailable"], 1);
        assert_restricted(&name, spec);
    }
}

#[test]
fn the_schema_is_migrated_by_a_job_of_the_same_image() {
    let manifests = manifests();
    let job = find(&manifests, "Job", "holdfast-migrate");
    let spec = &job["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    assert_eq!(container["command"], json!(["holdfast", "migrate"]));
    assert_eq!(spec["restartPolicy"], "Never");
    assert_restricted("holdfast-migrate", spec);
    let api = find(&manifests, "Deployment", "holdfast-api");
    assert_eq!(
        container["image"],
        api["spec"]["template"]["spec"]["containers"][0]["image"]
    );
}

#[test]
fn what_the_pods_are_told_are_settings() {
    let manifests = manifests();
    let config = &find(&manifests, "ConfigMap", "holdfast")["data"];
    let secret = &find(&manifests, "Secret", "holdfast")["stringData"];
    assert_are_settings("config.yaml", config);
    assert_are_settings("secret.example.yaml", secret);
    assert_eq!(config["PORT"], PORT.to_string());
    let service = find(&manifests, "Service", "holdfast-api");
    let api = find(&manifests, "Deployment", "holdfast-api");
    assert_eq!(
        service["spec"]["selector"],
        api["spec"]["template"]["metadata"]["labels"]
    );
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "http");
}

/// What the namespace's pod security level demands.
fn assert_restricted(name: &str, spec: &Value) {
    let container = &spec["containers"][0];
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}");
    // The user of Dockerfile.production.
    assert_eq!(spec["securityContext"]["runAsUser"], 10001, "{name}");
    assert_eq!(
        spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
        "{name}"
    );
    let security = &container["securityContext"];
    assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
    assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{name}");
    assert!(container["resources"]["requests"]["memory"].is_string(), "{name}");
    for from in container["envFrom"].as_array().unwrap() {
        let named = [&from["configMapRef"]["name"], &from["secretRef"]["name"]];
        assert!(named.contains(&&json!("holdfast")), "{name}");
    }
}
