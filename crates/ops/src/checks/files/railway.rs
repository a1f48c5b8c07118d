//! Railway: `.railway/railway.ts`, and the `railway.json` files of projects that use those already.

use chrono::NaiveDate;
use holdfast_core::clock;
use serde_json::{Map, Value};

use super::{Deployment, Faults, RAILWAY_JSON, RAILWAY_TS};
use crate::checks::{CheckResult, Finding, either};

/// Until then Railway reads `railway.json`.
const CUTOFF: Option<NaiveDate> = NaiveDate::from_ymd_opt(2026, 12, 1);

/// Fields of `deploy` that want a whole number, as a number: a text is ignored in silence.
const INTEGERS: [&str; 5] = [
    "healthcheckTimeout",
    "restartPolicyMaxRetries",
    "numReplicas",
    "overlapSeconds",
    "drainingSeconds",
];

const NOT_STARTED_ANEW: &str = "a worker that its watchdog ended must be started again";

const FIX: &str = "Set drainingSeconds above server.grace_seconds and overlapSeconds above 0: Railway's defaults are 0 and 0.";

pub(crate) async fn railway(deployment: &Deployment) -> Finding {
    either(all_files(deployment))
}

fn all_files(deployment: &Deployment) -> CheckResult<Finding> {
    let mut faults = Faults::default();
    let mut read = Vec::new();
    if let Some(text) = deployment.read(RAILWAY_TS)? {
        typescript(&text, deployment, &mut faults);
        read.push(RAILWAY_TS.to_owned());
    }
    let mut documents = deployment.read_all("deploy/railway", ".json")?;
    if let Some(text) = deployment.read(RAILWAY_JSON)? {
        documents.insert(0, (RAILWAY_JSON.to_owned(), text));
    }
    for (path, text) in documents {
        match serde_json::from_str::<Value>(&text) {
            Ok(document) => json(&path, &document, deployment, &mut faults),
            Err(error) => faults.add(format!("{path} is not JSON: {error}")),
        }
        read.push(path);
    }
    if read.is_empty() {
        return Ok(Finding::skipped("no Railway file here"));
    }
    Ok(faults.finding(format!("sound: {}", read.join(", ")), FIX))
}

fn json(path: &str, document: &Value, deployment: &Deployment, faults: &mut Faults) {
    let none = Map::new();
    let section = |name: &str| document.get(name).and_then(Value::as_object).unwrap_or(&none);
    let (build, deploy) = (section("build"), section("deploy"));
    for name in INTEGERS {
        if deploy.get(name).is_some_and(|value| value.as_u64().is_none()) {
            faults.add(format!("{path}: deploy.{name} must be a whole number"));
        }
    }
    let number = |name: &str| deploy.get(name).and_then(Value::as_f64);
    faults.stop_time(path, "drainingSeconds", number("drainingSeconds"), deployment);
    if number("overlapSeconds").is_none_or(|seconds| seconds <= 0.0) {
        faults.add(format!(
            "{path} has no overlapSeconds: requests fail while a deployment takes over"
        ));
    }
    if deploy.get("restartPolicyType").and_then(Value::as_str) == Some("NEVER") {
        faults.add(format!("{path}: restartPolicyType is NEVER: {NOT_STARTED_ANEW}"));
    }
    if let Some(route) = deploy.get("healthcheckPath").and_then(Value::as_str) {
        faults.health_route(path, route);
    }
    if let Some(dockerfile) = build.get("dockerfilePath").and_then(Value::as_str)
        && !deployment.has(dockerfile)
    {
        faults.add(format!("{path}: there is no {dockerfile}"));
    }
}

/// The values of these names wherever they stand: the file is a program, and only Railway's own CLI can run it.
fn typescript(text: &str, deployment: &Deployment, faults: &mut Faults) {
    let draining = numbers_of(text, "drainingSeconds");
    let least = draining.iter().copied().reduce(f64::min);
    faults.stop_time(RAILWAY_TS, "drainingSeconds", least, deployment);
    if !numbers_of(text, "overlapSeconds")
        .iter()
        .any(|seconds| *seconds > 0.0)
    {
        faults.add(format!(
            "{RAILWAY_TS} has no overlapSeconds: requests fail while a deployment takes over"
        ));
    }
    if texts_of(text, "restartPolicyType").contains(&"NEVER") {
        faults.add(format!(
            "{RAILWAY_TS}: restartPolicyType is NEVER: {NOT_STARTED_ANEW}"
        ));
    }
    for route in texts_of(text, "healthcheck") {
        faults.health_route(RAILWAY_TS, route);
    }
    for dockerfile in texts_of(text, "dockerfilePath") {
        if !deployment.has(dockerfile) {
            faults.add(format!("{RAILWAY_TS}: there is no {dockerfile}"));
        }
    }
}

/// What follows `name:` outside comments.
fn values_of<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or(line));
    let value = |line: &'a str| {
        let (before, value) = line.split_once(name)?;
        let is_name = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        is_name.then(|| value.strip_prefix(':'))?.map(str::trim)
    };
    code.filter_map(value).collect()
}

fn numbers_of(text: &str, name: &str) -> Vec<f64> {
    let number = |value: &str| {
        let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
        value[..end].parse().ok()
    };
    values_of(text, name).into_iter().filter_map(number).collect()
}

fn texts_of<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let quoted = |value: &'a str| value.strip_prefix('"')?.split('"').next();
    values_of(text, name).into_iter().filter_map(quoted).collect()
}

/// `railway.json` alone has an end date.
pub(crate) async fn cutoff(deployment: &Deployment) -> Finding {
    if !deployment.has(RAILWAY_JSON) {
        return Finding::skipped("no railway.json here");
    }
    if deployment.has(RAILWAY_TS) {
        return Finding::pass(".railway/railway.ts is there to take over on 2026-12-01");
    }
    let hint =
        "Describe the project in .railway/railway.ts (docs/deploying.md) and run `railway config apply`.";
    if CUTOFF.is_some_and(|cutoff| clock::now().date_naive() >= cutoff) {
        return Finding::fail("railway.json is not read any more since 2026-12-01", hint);
    }
    Finding::warn(
        "railway.json is read until 2026-12-01 only, and by services that use it already",
        hint,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_name_and_not_in_comments() {
        let text = "a = { drainingSeconds: 40, };\n// drainingSeconds: 1\nmydrainingSeconds: 2\n  healthcheck: \"/health/ready\",\n healthcheckTimeout: 300,";
        assert_eq!(numbers_of(text, "drainingSeconds"), [40.0]);
        assert_eq!(texts_of(text, "healthcheck"), ["/health/ready"]);
    }
}
