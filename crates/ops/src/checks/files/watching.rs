//! What watches the services: Prometheus' rules and Grafana's dashboard. A rule over a metric that does not exist never
//! fires, and nobody notices.

use holdfast_core::telemetry::catalogue::ALL;
use holdfast_core::telemetry::metrics::MetricKind;
use serde_json::Value;

use super::{Deployment, Faults};
use crate::checks::{CheckResult, Finding, either};

const HINT: &str = "See the list of metrics in docs/operations.md, and this repository's own file.";

pub(super) async fn prometheus(deployment: &Deployment) -> Finding {
    either(rules(deployment))
}

fn rules(deployment: &Deployment) -> CheckResult<Finding> {
    const PATH: &str = "deploy/prometheus/rules.yml";
    let Some(text) = deployment.read(PATH)? else {
        return Ok(Finding::skipped(format!("no {PATH} here")));
    };
    let mut faults = Faults::default();
    let mut alerts = 0;
    match serde_norway::from_str::<Value>(&text) {
        Err(error) => faults.add(format!("{PATH} is not YAML: {error}")),
        Ok(document) => {
            let groups = document.get("groups").and_then(Value::as_array);
            let rules = groups
                .into_iter()
                .flatten()
                .filter_map(|group| group.get("rules")?.as_array())
                .flatten();
            for rule in rules {
                alerts += 1;
                let name = rule.get("alert").or(rule.get("record")).and_then(Value::as_str);
                let place = format!("{PATH}: {}", name.unwrap_or("a rule without a name"));
                expression(&place, rule, &mut faults);
            }
            if alerts == 0 {
                faults.add(format!("{PATH} has no rules in groups"));
            }
        }
    }
    Ok(faults.finding(format!("{alerts} rules over metrics that exist"), HINT))
}

pub(super) async fn grafana(deployment: &Deployment) -> Finding {
    either(dashboard(deployment))
}

fn dashboard(deployment: &Deployment) -> CheckResult<Finding> {
    const PATH: &str = "deploy/grafana/holdfast.json";
    let Some(text) = deployment.read(PATH)? else {
        return Ok(Finding::skipped(format!("no {PATH} here")));
    };
    let mut faults = Faults::default();
    let mut panels = 0;
    match serde_json::from_str::<Value>(&text) {
        Err(error) => faults.add(format!("{PATH} is not JSON: {error}")),
        Ok(document) => {
            let all = document.get("panels").and_then(Value::as_array);
            for panel in all.into_iter().flatten() {
                panels += 1;
                let title = panel.get("title").and_then(Value::as_str).unwrap_or("a panel");
                let targets = panel.get("targets").and_then(Value::as_array);
                for target in targets.into_iter().flatten() {
                    expression(&format!("{PATH}: {title}"), target, &mut faults);
                }
            }
            if panels == 0 {
                faults.add(format!("{PATH} has no panels"));
            }
        }
    }
    Ok(faults.finding(format!("{panels} panels over metrics that exist"), HINT))
}

/// The `expr` of a rule or of a panel's target.
fn expression(place: &str, holder: &Value, faults: &mut Faults) {
    let Some(text) = holder.get("expr").and_then(Value::as_str) else {
        faults.add(format!("{place} has no expr"));
        return;
    };
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    for word in words.filter(|word| word.starts_with("holdfast_")) {
        if !is_exported(word) {
            faults.add(format!("{place}: expr names {word}, which no service exports"));
        }
    }
}

/// Under its own name, or as Prometheus spells the parts of a histogram.
fn is_exported(name: &str) -> bool {
    ALL.iter().any(|metric| match metric.kind {
        MetricKind::Histogram => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|part| name.strip_suffix(part) == Some(metric.name)),
        _ => name == metric.name,
    })
}
