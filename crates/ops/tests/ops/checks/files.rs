//! `holdfast validate --files`: this repository's own files pass, and a copy that is broken in one place is told by file
//! and field, by the one check that reads it.

use std::path::{Path, PathBuf};

use super::support::{Checks, Place};

/// Every file that a check reads.
const FILES: [&str; 26] = [
    ".railway/railway.ts",
    "railway.json",
    "deploy/railway/worker.json",
    "deploy/railway/beat.json",
    "Dockerfile.production",
    "Procfile",
    "deploy/compose.yaml",
    "deploy/kubernetes/namespace.yaml",
    "deploy/kubernetes/config.yaml",
    "deploy/kubernetes/network.yaml",
    "deploy/kubernetes/secret.example.yaml",
    "deploy/kubernetes/migrate.yaml",
    "deploy/kubernetes/api.yaml",
    "deploy/kubernetes/worker.yaml",
    "deploy/kubernetes/beat.yaml",
    "deploy/fly.toml",
    "deploy/render.yaml",
    "deploy/systemd/holdfast-migrate.service",
    "deploy/systemd/holdfast-api.service",
    "deploy/systemd/holdfast-worker.service",
    "deploy/systemd/holdfast-beat.service",
    "deploy/redis-queue.conf",
    "deploy/redis-cache.conf",
    "deploy/prometheus/rules.yml",
    "deploy/grafana/holdfast.json",
    ".env.example",
];

/// The repository has none of its own.
const SETTINGS: &str = "[worker]\nbatch_size = 50\n";

/// The check, the file, what in it becomes what (the first of them), and what is then said.
type Fault = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const RAILWAY: [Fault; 9] = [
    (
        "files.railway",
        "railway.json",
        "\"drainingSeconds\": 40",
        "\"drainingSeconds\": 25",
        "railway.json: drainingSeconds is 25 s, not above server.grace_seconds (25)",
    ),
    (
        "files.railway",
        "railway.json",
        "\"drainingSeconds\": 40",
        "\"drainingSeconds\": \"40\"",
        "railway.json: deploy.drainingSeconds must be a whole number",
    ),
    (
        "files.railway",
        "deploy/railway/worker.json",
        "\"overlapSeconds\": 15",
        "\"overlapSeconds\": 0",
        "deploy/railway/worker.json has no overlapSeconds",
    ),
    (
        "files.railway",
        "deploy/railway/beat.json",
        "/health/ready",
        "/healthz",
        "deploy/railway/beat.json: /healthz is not a health route",
    ),
    (
        "files.railway",
        "deploy/railway/beat.json",
        "ON_FAILURE",
        "NEVER",
        "deploy/railway/beat.json: restartPolicyType is NEVER",
    ),
    (
        "files.railway",
        "deploy/railway/worker.json",
        "\"Dockerfile.production\",",
        "\"Dockerfile\",",
        "deploy/railway/worker.json: there is no Dockerfile",
    ),
    (
        "files.railway",
        "railway.json",
        "\"deploy\": {",
        "\"deploy\": ",
        "railway.json is not JSON",
    ),
    (
        "files.railway",
        ".railway/railway.ts",
        "drainingSeconds: 40",
        "drainingSeconds: 5",
        ".railway/railway.ts: drainingSeconds is 5 s",
    ),
    (
        "files.railway",
        ".railway/railway.ts",
        "\"/health/ready\"",
        "\"/ready\"",
        ".railway/railway.ts: /ready is not a health route",
    ),
];

const IMAGE: [Fault; 7] = [
    (
        "files.dockerfile",
        "Dockerfile.production",
        "USER 10001:10001",
        "",
        "Dockerfile.production has no USER",
    ),
    (
        "files.dockerfile",
        "Dockerfile.production",
        "USER 10001:10001",
        "USER root",
        "Dockerfile.production: USER is root",
    ),
    (
        "files.dockerfile",
        "Dockerfile.production",
        "CMD [\"api\"]",
        "CMD api",
        "Dockerfile.production: CMD is not in exec form",
    ),
    (
        "files.dockerfile",
        "Dockerfile.production",
        "CMD [\"api\"]",
        "ENTRYPOINT [\"tini\"]\nCMD [\"api\"]",
        "Dockerfile.production: an ENTRYPOINT",
    ),
    (
        "files.dockerfile",
        "Dockerfile.production",
        "HEALTHCHECK ",
        "LABEL ",
        "Dockerfile.production has no HEALTHCHECK",
    ),
    (
        "files.dockerfile",
        "Dockerfile.production",
        "STOPSIGNAL SIGTERM",
        "STOPSIGNAL SIGQUIT",
        "Dockerfile.production: STOPSIGNAL",
    ),
    (
        "files.dockerfile",
        "Dockerfile.production",
        "RUN cargo chef cook",
        "RUN --mount=type=cache,target=/c cargo chef cook",
        "Dockerfile.production: Railway refuses --mount=type=cache",
    ),
];

const PLATFORMS: [Fault; 14] = [
    (
        "files.procfile",
        "Procfile",
        "worker: ./target/release/worker\n",
        "",
        "Procfile: no process runs worker",
    ),
    (
        "files.procfile",
        "Procfile",
        "web: ",
        "web ",
        "Procfile: \"web ./target/release/api\" is not `name: command`",
    ),
    (
        "files.compose",
        "deploy/compose.yaml",
        "stop_grace_period: 40s",
        "stop_grace_period: 10s",
        "deploy/compose.yaml: worker: stop_grace_period is 10 s",
    ),
    (
        "files.compose",
        "deploy/compose.yaml",
        "services:",
        "service:",
        "deploy/compose.yaml has no services",
    ),
    (
        "files.compose",
        "deploy/compose.yaml",
        "services:",
        "services: [",
        "deploy/compose.yaml is not YAML",
    ),
    (
        "files.kubernetes",
        "deploy/kubernetes/worker.yaml",
        "terminationGracePeriodSeconds",
        "# terminationGracePeriodSeconds",
        "deploy/kubernetes/worker.yaml has no terminationGracePeriodSeconds",
    ),
    (
        "files.kubernetes",
        "deploy/kubernetes/api.yaml",
        "readinessProbe",
        "readyProbe",
        "deploy/kubernetes/api.yaml: a container without a readinessProbe",
    ),
    (
        "files.kubernetes",
        "deploy/kubernetes/beat.yaml",
        "/health/live",
        "/live",
        "deploy/kubernetes/beat.yaml: /live is not a health route",
    ),
    (
        "files.fly",
        "deploy/fly.toml",
        "kill_timeout = \"40s\"",
        "kill_timeout = 5",
        "deploy/fly.toml: kill_timeout is 5 s",
    ),
    (
        "files.fly",
        "deploy/fly.toml",
        "[env]",
        "[env",
        "deploy/fly.toml is not TOML",
    ),
    (
        "files.render",
        "deploy/render.yaml",
        "maxShutdownDelaySeconds",
        "shutdownDelaySeconds",
        "deploy/render.yaml: holdfast-api has no maxShutdownDelaySeconds",
    ),
    (
        "files.render",
        "deploy/render.yaml",
        "/health/ready",
        "/",
        "deploy/render.yaml: holdfast-api: / is not a health route",
    ),
    (
        "files.systemd",
        "deploy/systemd/holdfast-beat.service",
        "TimeoutStopSec=40",
        "TimeoutStopSec=20",
        "deploy/systemd/holdfast-beat.service: TimeoutStopSec is 20 s",
    ),
    (
        "files.systemd",
        "deploy/systemd/holdfast-worker.service",
        "Restart=on-failure",
        "Restart=no",
        "deploy/systemd/holdfast-worker.service has no Restart",
    ),
];

const SERVERS_AND_SETTINGS: [Fault; 11] = [
    (
        "files.systemd",
        "deploy/systemd/holdfast-api.service",
        "User=holdfast",
        "User=root",
        "deploy/systemd/holdfast-api.service runs as root: no User",
    ),
    (
        "files.redis_conf",
        "deploy/redis-queue.conf",
        "maxmemory-policy noeviction",
        "maxmemory-policy allkeys-lru",
        "deploy/redis-queue.conf may evict jobs: maxmemory-policy",
    ),
    (
        "files.redis_conf",
        "deploy/redis-queue.conf",
        "appendonly yes",
        "appendonly no",
        "deploy/redis-queue.conf keeps nothing: appendonly",
    ),
    (
        "files.redis_conf",
        "deploy/redis-cache.conf",
        "maxmemory-policy allkeys-lru",
        "maxmemory-policy noeviction",
        "deploy/redis-cache.conf cannot make room: maxmemory-policy",
    ),
    (
        "files.redis_conf",
        "deploy/redis-cache.conf",
        "maxmemory 256mb",
        "",
        "deploy/redis-cache.conf has no maxmemory",
    ),
    (
        "files.prometheus",
        "deploy/prometheus/rules.yml",
        "holdfast_workers_alive",
        "holdfast_workers_living",
        "deploy/prometheus/rules.yml: HoldfastNoWorker: expr names holdfast_workers_living",
    ),
    (
        "files.prometheus",
        "deploy/prometheus/rules.yml",
        "groups:",
        "groups: {",
        "deploy/prometheus/rules.yml is not YAML",
    ),
    (
        "files.grafana",
        "deploy/grafana/holdfast.json",
        "holdfast_job_executions_total",
        "holdfast_jobs_executed_total",
        "expr names holdfast_jobs_executed_total, which no service exports",
    ),
    (
        "files.grafana",
        "deploy/grafana/holdfast.json",
        "\"panels\": [",
        "\"panels\": ",
        "deploy/grafana/holdfast.json is not JSON",
    ),
    (
        "files.env_example",
        ".env.example",
        "HOLDFAST__SERVER__HOST",
        "HOLDFAST__SERVER__HOTS",
        ".env.example: HOLDFAST__SERVER__HOTS sets nothing",
    ),
    (
        "files.holdfast_toml",
        "holdfast.toml",
        "batch_size = 50",
        "batch_size = 0",
        "holdfast.toml: worker.batch_size: ",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A directory with a copy of every file.
fn copied() -> Place {
    let place = Place::new();
    for file in FILES {
        let copy = place.path().join(file);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(root().join(file), copy).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    std::fs::write(place.path().join("holdfast.toml"), SETTINGS).unwrap();
    place
}

async fn validated(place: &Place) -> Checks {
    place.checks(&["validate", "--files"]).await
}

/// Breaks one place at a time, in the same copy, and mends it again.
async fn assert_each_is_told(faults: &[Fault]) {
    let place = copied();
    for (check, file, from, to, words) in faults {
        let path = place.path().join(file);
        let sound = std::fs::read_to_string(&path).unwrap();
        assert!(sound.contains(from), "{file} has no {from:?}");
        std::fs::write(&path, sound.replacen(from, to, 1)).unwrap();
        let checks = validated(&place).await;
        checks.assert_only(check, words);
        assert_eq!(checks.code, 1, "{file}: {from} became {to}");
        std::fs::write(&path, sound).unwrap();
    }
}

#[tokio::test]
async fn the_files_of_this_repository_are_sound_and_none_is_passed_over() {
    let checks = validated(&copied()).await;
    checks.assert_sound();
    let verdicts = checks.verdicts();
    assert_eq!(verdicts.len(), 14);
    for (name, verdict) in verdicts {
        assert_eq!(verdict, "pass", "{name}: {}", checks.said(&name));
    }
}

#[tokio::test]
async fn a_fault_of_railways_files_is_told() {
    assert_each_is_told(&RAILWAY).await;
}

#[tokio::test]
async fn a_fault_of_the_image_is_told() {
    assert_each_is_told(&IMAGE).await;
}

#[tokio::test]
async fn a_fault_of_another_platforms_file_is_told() {
    assert_each_is_told(&PLATFORMS).await;
}

#[tokio::test]
async fn a_fault_of_servers_metrics_or_settings_is_told() {
    assert_each_is_told(&SERVERS_AND_SETTINGS).await;
}

#[tokio::test]
async fn a_missing_file_is_no_fault_and_a_missing_directory_is_misuse() {
    let empty = Place::new();
    let checks = validated(&empty).await;
    checks.assert_sound();
    assert!(checks.verdicts().values().all(|verdict| verdict == "skipped"));

    let (code, text) = empty.run(&["validate", "--files", "no/such/directory"]).await;
    assert_eq!(code, 64, "{text}");
    assert!(
        text.contains("--files: no/such/directory is not a directory"),
        "{text}"
    );
}

/// Until 2026-12-01 a warning, from then on a fault: both name the file that is missing.
#[tokio::test]
async fn a_project_with_the_old_railway_file_alone_is_told_of_the_date() {
    let place = copied();
    std::fs::remove_file(place.path().join(".railway/railway.ts")).unwrap();
    let checks = validated(&place).await;
    checks.assert_only("files.railway_cutoff", "2026-12-01");
    assert!(
        checks
            .said("files.railway_cutoff")
            .contains("Describe the project in .railway/railway.ts"),
        "{:#}",
        checks.document
    );
}
