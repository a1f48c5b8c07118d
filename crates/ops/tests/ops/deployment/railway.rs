//! `.railway/railway.ts` and the older files, one for a service.

use std::process::Command;

use serde_json::{Value, json};

use super::fields::{Field, Type, check};
use super::files::{READY, SERVICES, grace_seconds, json, read, root};

const BUILD: [Field; 3] = [
    ("builder", Type::Word(&["DOCKERFILE", "RAILPACK"])),
    ("dockerfilePath", Type::Text),
    ("watchPatterns", Type::Texts),
];

const DEPLOY: [Field; 12] = [
    ("startCommand", Type::Text),
    ("preDeployCommand", Type::Texts),
    ("healthcheckPath", Type::Text),
    ("healthcheckTimeout", Type::Whole),
    (
        "restartPolicyType",
        Type::Word(&["ON_FAILURE", "ALWAYS", "NEVER"]),
    ),
    ("restartPolicyMaxRetries", Type::Whole),
    ("numReplicas", Type::Whole),
    ("overlapSeconds", Type::Whole),
    ("drainingSeconds", Type::Whole),
    ("cronSchedule", Type::Text),
    ("sleepApplication", Type::Flag),
    ("limitOverride", Type::Any),
];

fn path_of(service: &str) -> String {
    match service {
        "api" => "railway.json".to_owned(),
        other => format!("deploy/railway/{other}.json"),
    }
}

#[test]
fn each_service_file_has_railways_fields_and_our_values() {
    for service in SERVICES {
        let path = path_of(service);
        let file = json(&path);
        let top = [
            ("$schema", Type::Text),
            ("build", Type::Any),
            ("deploy", Type::Any),
        ];
        check(&path, &file, &top, &["build", "deploy"]);
        check(&path, &file["build"], &BUILD, &["builder", "dockerfilePath"]);
        check(
            &path,
            &file["deploy"],
            &DEPLOY,
            &["startCommand", "drainingSeconds"],
        );

        assert_eq!(file["build"]["builder"], "DOCKERFILE");
        assert!(
            root()
                .join(file["build"]["dockerfilePath"].as_str().unwrap())
                .exists()
        );
        let watched = file["build"]["watchPatterns"].as_array().unwrap();
        assert!(watched.contains(&json!(path)), "{path} does not watch itself");
        assert_deploy(&path, &file["deploy"], service);
    }
}

/// What both forms must say.
fn assert_deploy(place: &str, deploy: &Value, service: &str) {
    assert_eq!(deploy["startCommand"], service, "{place}");
    assert_eq!(deploy["healthcheckPath"], READY, "{place}");
    assert_eq!(deploy["healthcheckTimeout"], 300, "{place}");
    assert_eq!(deploy["restartPolicyType"], "ON_FAILURE", "{place}");
    assert_eq!(deploy["restartPolicyMaxRetries"], 3, "{place}");
    assert!(deploy["overlapSeconds"].as_u64().unwrap() > 0, "{place}");
    assert!(
        deploy["drainingSeconds"].as_u64().unwrap() > grace_seconds(),
        "{place}: Railway kills before server.grace_seconds are over"
    );
    // Once, by the service that is deployed first.
    let migrates = match &deploy["preDeployCommand"] {
        Value::Array(commands) => commands.contains(&json!("holdfast migrate")),
        command => command == "holdfast migrate",
    };
    assert_eq!(migrates, service == "api", "{place}");
}

/// Runs the file as the CLI does, by `node`, with a module in place of `railway/iac` that returns what it is given. The
/// file has no types in it, so any node will do. Where there is none, its text is looked at, and no more.
#[test]
fn the_project_file_describes_the_project() {
    let Some(project) = evaluated() else {
        eprintln!("there is no node here: only the text of .railway/railway.ts was looked at");
        return assert_text();
    };
    assert_text();
    let resources = project["resources"].as_array().unwrap();
    let find = |name: &str| {
        let found = resources.iter().find(|resource| resource["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {name}"))
    };
    for (name, engine) in [
        ("Postgres", "postgres"),
        ("redis-queue", "redis"),
        ("redis-cache", "redis"),
    ] {
        assert_eq!(find(name)["engine"], engine);
    }
    let starts = |name: &str| find(name)["deploy"]["startCommand"].as_str().unwrap().to_owned();
    assert!(starts("redis-queue").contains("--appendonly yes"));
    assert!(starts("redis-queue").contains("--maxmemory-policy noeviction"));
    assert!(starts("redis-cache").contains("--maxmemory-policy allkeys-lru"));

    for service in SERVICES {
        let resource = find(service);
        check(
            service,
            resource,
            &SERVICE,
            &["build", "start", "healthcheck", "deploy", "env"],
        );
        check(service, &resource["build"], &BUILD, &[]);
        check(service, &resource["deploy"], &DEPLOY, &[]);
        let mut deploy = resource["deploy"].clone();
        deploy["startCommand"] = resource["start"].clone();
        deploy["preDeployCommand"] = resource["preDeploy"].clone();
        deploy["healthcheckPath"] = resource["healthcheck"].clone();
        deploy["healthcheckTimeout"] = resource["healthcheckTimeout"].clone();
        assert_deploy(service, &deploy, service);
        assert_eq!(resource["replicas"].as_u64().map(|count| count >= 1), Some(true));
        assert_eq!(resource["env"]["DATABASE_URL"], "Postgres.DATABASE_URL");
        assert_eq!(resource["env"]["REDIS_URL"], "redis-queue.REDIS_URL");
        assert_eq!(resource["env"]["REDIS_CACHE_URL"], "redis-cache.REDIS_URL");
        assert_eq!(resource["env"]["HOLDFAST_API_KEY"], "preserve");
        super::files::assert_are_settings(service, &resource["env"]);
    }
}

const SERVICE: [Field; 11] = [
    ("type", Type::Text),
    ("name", Type::Text),
    ("source", Type::Any),
    ("build", Type::Any),
    ("start", Type::Text),
    ("preDeploy", Type::Text),
    ("healthcheck", Type::Text),
    ("healthcheckTimeout", Type::Whole),
    ("replicas", Type::Whole),
    ("deploy", Type::Any),
    ("env", Type::Any),
];

fn assert_text() {
    let text = read(".railway/railway.ts");
    for word in [
        "from \"railway/iac\"",
        "export default defineRailway(",
        "dockerfilePath: \"Dockerfile.production\"",
        "preDeploy: \"holdfast migrate\"",
        "HOLDFAST_API_KEY: preserve()",
    ] {
        assert!(text.contains(word), ".railway/railway.ts has no {word}");
    }
    for (open, close) in [('{', '}'), ('(', ')'), ('[', ']')] {
        assert_eq!(
            text.matches(open).count(),
            text.matches(close).count(),
            "{open}{close}"
        );
    }
}

/// `None`: there is no node here.
fn evaluated() -> Option<Value> {
    const MODULE: &str = r#"
        const env = (name) => new Proxy({}, { get: (_, key) => `${name}.${String(key)}` });
        const database = (engine) => (name) => ({ type: "database", engine, name, env: env(name) });
        export const postgres = database("postgres");
        export const redis = database("redis");
        export const preserve = () => "preserve";
        export const service = (name, fields) => ({ type: "service", name, ...fields });
        export const project = (name, fields) => ({ name, ...fields });
        export const defineRailway = (make) => make();
    "#;
    const PACKAGE: &str = r#"{ "name": "railway", "type": "module", "exports": { "./iac": "./iac.js" } }"#;
    let directory = tempfile::TempDir::new().unwrap();
    let module = directory.path().join("node_modules/railway");
    std::fs::create_dir_all(&module).unwrap();
    std::fs::write(module.join("iac.js"), MODULE).unwrap();
    std::fs::write(module.join("package.json"), PACKAGE).unwrap();
    std::fs::write(directory.path().join("package.json"), r#"{ "type": "module" }"#).unwrap();
    std::fs::write(directory.path().join("railway.mjs"), read(".railway/railway.ts")).unwrap();
    let print = "import('./railway.mjs').then(m => console.log(JSON.stringify(m.default)))";
    let output = Command::new("node")
        .args(["-e", print])
        .current_dir(directory.path())
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), ".railway/railway.ts: {said}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}
