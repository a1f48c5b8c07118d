//! Fly, Render, Heroku-like platforms, Docker Compose.

use serde_json::{Value, json};

use super::fields::{Field, Type, check};
use super::files::{LIVE, PORT, READY, SERVICES, assert_are_settings, grace_seconds, read, root, toml, yaml};

fn is_file(path: &str) -> bool {
    root().join(path).is_file()
}

/// `40s`
fn seconds(value: &Value) -> u64 {
    let text = value.as_str().unwrap();
    text.strip_suffix('s').unwrap().parse().unwrap()
}

#[test]
fn the_procfile_has_every_service_and_the_release() {
    let expected = [
        ("web", "api"),
        ("worker", "worker"),
        ("beat", "beat"),
        ("release", "holdfast migrate"),
    ];
    let text = read("Procfile");
    let lines: Vec<(&str, &str)> = text.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let wanted: Vec<(&str, String)> = expected
        .iter()
        .map(|(name, command)| (*name, format!("./target/release/{command}")))
        .collect();
    let wanted: Vec<(&str, &str)> = wanted
        .iter()
        .map(|(name, command)| (*name, command.as_str()))
        .collect();
    assert_eq!(lines, wanted);
}

#[test]
fn fly_starts_three_groups_of_one_image() {
    const TOP: [Field; 13] = [
        ("app", Type::Text),
        ("primary_region", Type::Text),
        ("kill_signal", Type::Word(&["SIGTERM"])),
        ("kill_timeout", Type::Text),
        ("build", Type::Any),
        ("deploy", Type::Any),
        ("env", Type::Any),
        ("processes", Type::Any),
        ("http_service", Type::Any),
        ("checks", Type::Any),
        ("restart", Type::Any),
        ("vm", Type::Any),
        ("mounts", Type::Any),
    ];
    let fly = toml("deploy/fly.toml");
    check(
        "fly.toml",
        &fly,
        &TOP,
        &["app", "kill_signal", "kill_timeout", "processes"],
    );
    assert!(seconds(&fly["kill_timeout"]) > grace_seconds());
    assert!(is_file(&format!(
        "deploy/{}",
        fly["build"]["dockerfile"].as_str().unwrap()
    )));
    assert_eq!(fly["deploy"]["release_command"], "holdfast migrate");
    assert_eq!(
        fly["processes"],
        json!({ "api": "api", "worker": "worker", "beat": "beat" })
    );
    assert_are_settings("fly.toml", &fly["env"]);

    let http = &fly["http_service"];
    assert_eq!(http["processes"], json!(["api"]));
    assert_eq!(http["internal_port"], PORT);
    assert_eq!(
        http["auto_stop_machines"], "off",
        "a stopped machine accepts nothing"
    );
    assert_eq!(http["checks"][0]["path"], READY);
    let background = &fly["checks"]["background"];
    assert_eq!(background["processes"], json!(["worker", "beat"]));
    assert_eq!(
        (&background["port"], &background["path"]),
        (&json!(PORT), &json!(LIVE))
    );
}

#[test]
fn render_has_the_two_redis_with_their_policies() {
    const SERVICE: [Field; 14] = [
        ("type", Type::Word(&["web", "worker", "keyvalue"])),
        ("name", Type::Text),
        ("plan", Type::Text),
        ("runtime", Type::Word(&["docker"])),
        ("dockerfilePath", Type::Text),
        ("dockerContext", Type::Text),
        ("dockerCommand", Type::Text),
        ("preDeployCommand", Type::Text),
        ("healthCheckPath", Type::Text),
        ("maxShutdownDelaySeconds", Type::Whole),
        ("envVars", Type::Any),
        ("maxmemoryPolicy", Type::Word(&["noeviction", "allkeys-lru"])),
        ("ipAllowList", Type::Any),
        ("numInstances", Type::Whole),
    ];
    let render = yaml("deploy/render.yaml").remove(0);
    let top = ["services", "databases", "envVarGroups"].map(|name| (name, Type::Any));
    check("render.yaml", &render, &top, &["services", "databases"]);
    let services = render["services"].as_array().unwrap();
    let find = |name: &str| services.iter().find(|service| service["name"] == name).unwrap();
    for service in services {
        check("render.yaml", service, &SERVICE, &["type", "name", "plan"]);
    }
    assert_eq!(find("holdfast-redis-queue")["maxmemoryPolicy"], "noeviction");
    assert_eq!(find("holdfast-redis-cache")["maxmemoryPolicy"], "allkeys-lru");
    for redis in ["holdfast-redis-queue", "holdfast-redis-cache"] {
        assert_eq!(
            find(redis)["ipAllowList"],
            json!([]),
            "{redis} is not for the world"
        );
    }
    let group = render["envVarGroups"][0]["envVars"].as_array().unwrap();
    for program in SERVICES {
        let service = find(&format!("holdfast-{program}"));
        assert_eq!(service["dockerCommand"], program);
        assert!(is_file(service["dockerfilePath"].as_str().unwrap()));
        assert!(service["maxShutdownDelaySeconds"].as_u64().unwrap() > grace_seconds());
        for variable in service["envVars"].as_array().unwrap().iter().chain(group) {
            let Some(key) = variable["key"].as_str() else {
                continue;
            };
            assert_are_settings("render.yaml", &json!({ key: "" }));
            assert_refers("render.yaml", variable, &render);
        }
    }
    let api = find("holdfast-api");
    assert_eq!(
        (&api["preDeployCommand"], &api["healthCheckPath"]),
        (&json!("holdfast migrate"), &json!(READY))
    );
}

/// What a variable refers to must exist.
fn assert_refers(place: &str, variable: &Value, render: &Value) {
    for (reference, list) in [("fromDatabase", "databases"), ("fromService", "services")] {
        let Some(name) = variable[reference]["name"].as_str() else {
            continue;
        };
        let known = render[list]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["name"] == name);
        assert!(known, "{place}: {variable} refers to nothing");
    }
}

/// Fields of a service in the Compose specification, as far as they are used.
const COMPOSE_SERVICE: [Field; 19] = [
    ("image", Type::Text),
    ("build", Type::Any),
    ("command", Type::Texts),
    (
        "restart",
        Type::Word(&["no", "always", "on-failure", "unless-stopped"]),
    ),
    ("stop_grace_period", Type::Text),
    ("logging", Type::Any),
    ("read_only", Type::Flag),
    ("tmpfs", Type::Texts),
    ("mem_limit", Type::Text),
    ("pids_limit", Type::Whole),
    ("cap_drop", Type::Texts),
    ("security_opt", Type::Texts),
    ("healthcheck", Type::Any),
    ("environment", Type::Any),
    ("env_file", Type::Any),
    ("ports", Type::Texts),
    ("volumes", Type::Texts),
    ("depends_on", Type::Any),
    ("<<", Type::Any),
];

#[test]
fn compose_starts_everything_in_the_order_of_its_health() {
    let compose = yaml("deploy/compose.yaml").remove(0);
    let services = compose["services"].as_object().unwrap();
    assert_eq!(services.len(), 7);
    for (name, service) in services {
        let place = format!("compose.yaml: {name}");
        check(&place, service, &COMPOSE_SERVICE, &["logging"]);
        let log = &service["logging"];
        assert_eq!(log["driver"], "json-file", "{place}");
        assert_eq!(
            log["options"],
            json!({ "max-size": "100m", "max-file": "5" }),
            "{place}"
        );
        assert!(
            service["healthcheck"]["test"].is_array() || name == "migrate",
            "{place} has no health"
        );
        for (other, condition) in service["depends_on"].as_object().into_iter().flatten() {
            assert!(services.contains_key(other), "{place} waits for {other}");
            assert!(condition["condition"].is_string(), "{place}");
        }
    }
    for program in SERVICES {
        let service = &services[program];
        assert_eq!(service["command"], json!([program]));
        assert_eq!(
            service["healthcheck"]["test"],
            json!(["CMD", "/usr/local/bin/holdfast", "healthcheck"])
        );
        assert_eq!(service["healthcheck"]["interval"], "30s");
        assert!(seconds(&service["stop_grace_period"]) > grace_seconds());
        assert_eq!(
            service["depends_on"]["migrate"]["condition"],
            "service_completed_successfully"
        );
        assert!(
            service["depends_on"].get("redis-queue").is_none(),
            "it works without Redis"
        );
        let mut environment = service["environment"].clone();
        for password in ["POSTGRES_PASSWORD", "QUEUE_PASSWORD", "CACHE_PASSWORD"] {
            // What `.env` has of it does not reach the services.
            assert_eq!(
                environment.as_object_mut().unwrap().remove(password),
                Some(json!("")),
                "{password}"
            );
        }
        assert_are_settings("compose.yaml", &environment);
    }
    assert_eq!(services["migrate"]["command"], json!(["holdfast", "migrate"]));
    let build = &services["migrate"]["build"];
    let context = format!("deploy/{}", build["context"].as_str().unwrap());
    assert!(is_file(&format!(
        "{context}/{}",
        build["dockerfile"].as_str().unwrap()
    )));
    assert_eq!(
        services["api"]["ports"],
        json!([format!("${{PUBLISH:-127.0.0.1:8080}}:{PORT}")])
    );
    assert_volumes(&compose);
}

#[test]
fn compose_services_have_no_rights_and_limits() {
    let compose = yaml("deploy/compose.yaml").remove(0);
    for (name, service) in compose["services"].as_object().unwrap() {
        assert_eq!(
            service["security_opt"],
            json!(["no-new-privileges:true"]),
            "{name}"
        );
        assert!(
            service["mem_limit"].is_string() && service["pids_limit"].is_number(),
            "{name}"
        );
        assert!(service["restart"].is_string(), "{name}");
        if SERVICES.contains(&name.as_str()) || name == "migrate" {
            assert_eq!(service["read_only"], true, "{name}");
            assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
            // The limit that `api::limits` and the attacks measure against.
            assert_eq!(service["mem_limit"], "256m", "{name}");
        }
    }
}

fn assert_volumes(compose: &Value) {
    let named = compose["volumes"].as_object().unwrap();
    let mut used = 0;
    for (name, service) in compose["services"].as_object().unwrap() {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            if let Some(file) = source.strip_prefix("./") {
                assert!(is_file(&format!("deploy/{file}")), "{name} mounts {file}");
            } else {
                assert!(named.contains_key(source), "{name} mounts {source}");
                used += 1;
            }
        }
    }
    assert_eq!(used, named.len());
    // A cache that is restarted begins empty.
    assert!(!named.contains_key("redis-cache"));
}
