//! Docker, compose, Kubernetes, Fly, Render, systemd, Heroku's Procfile, and the Redis servers' own files.

use serde::Deserialize as _;
use serde_norway::Value;

use super::{Deployment, Faults, seconds};
use crate::checks::{CheckResult, Finding, either};

const STOP_HINT: &str =
    "Give a stopping service more time than server.grace_seconds, and check its health at /health/ready.";

/// Our programs, as images and files name them.
const PROGRAMS: [&str; 3] = ["api", "worker", "beat"];

pub(super) async fn dockerfile(deployment: &Deployment) -> Finding {
    either(image(deployment))
}

fn image(deployment: &Deployment) -> CheckResult<Finding> {
    const PATH: &str = "Dockerfile.production";
    let Some(text) = deployment.read(PATH)? else {
        return Ok(Finding::skipped(format!("no {PATH} here")));
    };
    let mut faults = Faults::default();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .collect();
    let last_stage = lines
        .iter()
        .rposition(|line| line.starts_with("FROM "))
        .unwrap_or(0);
    let stage = &lines[last_stage..];
    let value = |name: &str| {
        stage
            .iter()
            .rev()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    match value("USER ").map(|user| user.split(':').next().unwrap_or(user)) {
        None => faults.add(format!("{PATH} has no USER: it runs as root")),
        Some("root" | "0") => faults.add(format!("{PATH}: USER is root")),
        Some(_) => {}
    }
    if value("CMD ").is_none_or(|command| !command.starts_with('[')) {
        faults.add(format!(
            "{PATH}: CMD is not in exec form: signals would go to a shell"
        ));
    }
    if value("ENTRYPOINT ").is_some() {
        faults.add(format!("{PATH}: an ENTRYPOINT precedes every start command"));
    }
    if !stage.iter().any(|line| line.starts_with("HEALTHCHECK ")) {
        faults.add(format!("{PATH} has no HEALTHCHECK"));
    }
    if value("STOPSIGNAL ").is_some_and(|signal| !matches!(signal, "SIGTERM" | "SIGINT" | "15" | "2")) {
        faults.add(format!(
            "{PATH}: STOPSIGNAL is neither SIGTERM nor SIGINT, which the services obey"
        ));
    }
    if lines.iter().any(|line| line.contains("--mount=type=cache")) {
        faults.add(format!("{PATH}: Railway refuses --mount=type=cache"));
    }
    Ok(faults.finding(
        format!("{PATH}: non-root, exec form, health check"),
        "See the comments in this repository's Dockerfile.production.",
    ))
}

pub(super) async fn procfile(deployment: &Deployment) -> Finding {
    either(processes(deployment))
}

fn processes(deployment: &Deployment) -> CheckResult<Finding> {
    let Some(text) = deployment.read("Procfile")? else {
        return Ok(Finding::skipped("no Procfile here"));
    };
    let mut faults = Faults::default();
    let mut programs = Vec::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        match line.split_once(':') {
            Some((_, command)) => {
                let path = command.split_whitespace().next().unwrap_or_default();
                programs.push(path.rsplit('/').next().unwrap_or_default().to_owned());
            }
            None => faults.add(format!("Procfile: {line:?} is not `name: command`")),
        }
    }
    for program in &PROGRAMS[..2] {
        if !programs.iter().any(|found| found == program) {
            faults.add(format!("Procfile: no process runs {program}"));
        }
    }
    Ok(faults.finding(
        format!("{} processes", programs.len()),
        "One line each: `web: ./target/release/api`.",
    ))
}

/// The documents of a YAML file, merge keys applied.
fn yaml(path: &str, text: &str, faults: &mut Faults) -> Vec<Value> {
    let mut documents = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        match Value::deserialize(document) {
            Ok(mut value) => {
                value.apply_merge().ok();
                documents.push(value);
            }
            Err(error) => {
                faults.add(format!("{path} is not YAML: {error}"));
                break;
            }
        }
    }
    documents
}

/// The first word of a command, as text or list, without its directory.
fn program(command: Option<&Value>) -> Option<&str> {
    let first = match command? {
        Value::String(text) => text.split_whitespace().next(),
        Value::Sequence(words) => words.first().and_then(Value::as_str),
        _ => None,
    };
    first?.rsplit('/').next()
}

fn is_ours(command: Option<&Value>) -> bool {
    program(command).is_some_and(|program| PROGRAMS.contains(&program))
}

/// A number, or a text such as `40s`.
fn time_of(value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::String(text) => seconds(text),
        value => value.as_f64(),
    }
}

pub(super) async fn compose(deployment: &Deployment) -> Finding {
    either(compose_services(deployment))
}

fn compose_services(deployment: &Deployment) -> CheckResult<Finding> {
    const PATH: &str = "deploy/compose.yaml";
    let Some(text) = deployment.read(PATH)? else {
        return Ok(Finding::skipped(format!("no {PATH} here")));
    };
    let mut faults = Faults::default();
    let mut ours = 0;
    for document in yaml(PATH, &text, &mut faults) {
        let Some(services) = document.get("services").and_then(Value::as_mapping) else {
            faults.add(format!("{PATH} has no services"));
            continue;
        };
        for (name, service) in services {
            let name = name.as_str().unwrap_or_default();
            if is_ours(service.get("command")) {
                ours += 1;
                let place = format!("{PATH}: {name}");
                faults.stop_time(
                    &place,
                    "stop_grace_period",
                    time_of(service.get("stop_grace_period")),
                    deployment,
                );
            }
        }
    }
    Ok(faults.finding(format!("{ours} services of ours"), STOP_HINT))
}

pub(super) async fn kubernetes(deployment: &Deployment) -> Finding {
    either(manifests(deployment))
}

fn manifests(deployment: &Deployment) -> CheckResult<Finding> {
    let mut faults = Faults::default();
    let files = deployment.read_all("deploy/kubernetes", ".yaml")?;
    if files.is_empty() {
        return Ok(Finding::skipped("no deploy/kubernetes here"));
    }
    let mut workloads = 0;
    for (path, text) in &files {
        for document in yaml(path, text, &mut faults) {
            if document.get("kind").and_then(Value::as_str) == Some("Deployment") {
                workloads += 1;
                workload(path, &document, deployment, &mut faults);
            }
        }
    }
    Ok(faults.finding(
        format!("{} files, {workloads} deployments", files.len()),
        STOP_HINT,
    ))
}

fn workload(path: &str, document: &Value, deployment: &Deployment, faults: &mut Faults) {
    let pod = ["spec", "template", "spec"]
        .iter()
        .try_fold(document, |value, name| value.get(name));
    let Some(pod) = pod else {
        faults.add(format!("{path}: a Deployment without a pod"));
        return;
    };
    faults.stop_time(
        path,
        "terminationGracePeriodSeconds",
        time_of(pod.get("terminationGracePeriodSeconds")),
        deployment,
    );
    let containers = pod.get("containers").and_then(Value::as_sequence);
    for container in containers.into_iter().flatten() {
        if container.get("readinessProbe").is_none() {
            faults.add(format!("{path}: a container without a readinessProbe"));
        }
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let route = ["httpGet", "path"]
                .iter()
                .try_fold(container.get(probe), |value, name| Some(value?.get(name)));
            if let Some(route) = route.flatten().and_then(Value::as_str) {
                faults.health_route(path, route);
            }
        }
    }
}

pub(super) async fn fly(deployment: &Deployment) -> Finding {
    either(fly_toml(deployment))
}

fn fly_toml(deployment: &Deployment) -> CheckResult<Finding> {
    const PATH: &str = "deploy/fly.toml";
    let Some(text) = deployment.read(PATH)? else {
        return Ok(Finding::skipped(format!("no {PATH} here")));
    };
    let mut faults = Faults::default();
    match toml::from_str::<toml::Table>(&text) {
        Err(error) => faults.add(format!("{PATH} is not TOML: {}", error.message())),
        Ok(table) => {
            let timeout = match table.get("kill_timeout") {
                Some(toml::Value::String(text)) => seconds(text),
                Some(toml::Value::Integer(seconds)) => Some(*seconds as f64),
                _ => None,
            };
            faults.stop_time(PATH, "kill_timeout", timeout, deployment);
        }
    }
    Ok(faults.finding(format!("{PATH} gives time to stop"), STOP_HINT))
}

pub(super) async fn render(deployment: &Deployment) -> Finding {
    either(blueprint(deployment))
}

fn blueprint(deployment: &Deployment) -> CheckResult<Finding> {
    const PATH: &str = "deploy/render.yaml";
    let Some(text) = deployment.read(PATH)? else {
        return Ok(Finding::skipped(format!("no {PATH} here")));
    };
    let mut faults = Faults::default();
    let mut ours = 0;
    for document in yaml(PATH, &text, &mut faults) {
        let services = document.get("services").and_then(Value::as_sequence);
        for service in services.into_iter().flatten() {
            if !is_ours(service.get("dockerCommand").or(service.get("startCommand"))) {
                continue;
            }
            ours += 1;
            let place = format!(
                "{PATH}: {}",
                service.get("name").and_then(Value::as_str).unwrap_or("a service")
            );
            faults.stop_time(
                &place,
                "maxShutdownDelaySeconds",
                time_of(service.get("maxShutdownDelaySeconds")),
                deployment,
            );
            if let Some(route) = service.get("healthCheckPath").and_then(Value::as_str) {
                faults.health_route(&place, route);
            }
        }
    }
    Ok(faults.finding(format!("{ours} services of ours"), STOP_HINT))
}

pub(super) async fn systemd(deployment: &Deployment) -> Finding {
    either(units(deployment))
}

fn units(deployment: &Deployment) -> CheckResult<Finding> {
    let mut faults = Faults::default();
    let mut ours = 0;
    for (path, text) in deployment.read_all("deploy/systemd", ".service")? {
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))
        };
        let program =
            value("ExecStart").and_then(|command| command.split_whitespace().next()?.rsplit('/').next());
        if !program.is_some_and(|program| PROGRAMS.contains(&program)) {
            continue;
        }
        ours += 1;
        faults.stop_time(
            &path,
            "TimeoutStopSec",
            value("TimeoutStopSec").and_then(seconds),
            deployment,
        );
        if !matches!(value("Restart"), Some("on-failure" | "always")) {
            faults.add(format!(
                "{path} has no Restart: a worker that its watchdog ended is not started again"
            ));
        }
        if matches!(value("User"), None | Some("root")) {
            faults.add(format!("{path} runs as root: no User"));
        }
    }
    if ours == 0 && faults.0.is_empty() {
        return Ok(Finding::skipped("no unit of ours in deploy/systemd"));
    }
    Ok(faults.finding(format!("{ours} units"), STOP_HINT))
}

pub(super) async fn redis_conf(deployment: &Deployment) -> Finding {
    either(redis_files(deployment))
}

fn redis_files(deployment: &Deployment) -> CheckResult<Finding> {
    const QUEUE: &str = "deploy/redis-queue.conf";
    const CACHE: &str = "deploy/redis-cache.conf";
    let mut faults = Faults::default();
    let (queue, cache) = (deployment.read(QUEUE)?, deployment.read(CACHE)?);
    if queue.is_none() && cache.is_none() {
        return Ok(Finding::skipped(format!("no {QUEUE} or {CACHE} here")));
    }
    if let Some(text) = &queue {
        if redis_setting(text, "maxmemory-policy").is_some_and(|policy| policy != "noeviction") {
            faults.add(format!(
                "{QUEUE} may evict jobs: maxmemory-policy must be noeviction"
            ));
        }
        if redis_setting(text, "appendonly") != Some("yes") {
            faults.add(format!("{QUEUE} keeps nothing: appendonly must be yes"));
        }
    }
    if let Some(text) = &cache {
        if !redis_setting(text, "maxmemory-policy").is_some_and(|policy| policy.starts_with("allkeys")) {
            faults.add(format!(
                "{CACHE} cannot make room: maxmemory-policy must be allkeys-lru or -lfu"
            ));
        }
        if redis_setting(text, "maxmemory").is_none_or(|limit| limit == "0") {
            faults.add(format!(
                "{CACHE} has no maxmemory: it would grow until the machine is full"
            ));
        }
    }
    Ok(faults.finding(
        "queues are persistent, the cache may evict",
        "See this repository's deploy/redis-queue.conf and redis-cache.conf.",
    ))
}

/// The last one counts, as for the server.
fn redis_setting<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| {
        let (found, value) = line.trim().split_once(char::is_whitespace)?;
        (found == name).then(|| value.trim().trim_matches('"'))
    };
    text.lines().filter_map(value).next_back()
}
