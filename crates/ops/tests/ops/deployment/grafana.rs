//! The dashboard: Grafana's format, and metrics that exist.

use std::collections::BTreeSet;

use holdfast_core::telemetry::catalogue::ALL;
use holdfast_core::telemetry::metrics::MetricKind;
use serde_json::Value;

use super::files::json;

/// The names that Prometheus has for a metric of ours.
fn names() -> BTreeSet<String> {
    let all = ALL.iter().flat_map(|metric| {
        let endings: &[&str] = match metric.kind {
            MetricKind::Histogram => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        endings
            .iter()
            .map(move |ending| format!("{}{ending}", metric.name))
    });
    all.collect()
}

/// Every metric that an expression names.
fn metrics_of(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("holdfast_") || word.starts_with("process_"))
        .collect()
}

#[test]
fn every_panel_asks_for_metrics_that_exist() {
    let dashboard = json("deploy/grafana/holdfast.json");
    let known = names();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut expressions = 0;
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title} has another's id"
        );
        let place = &panel["gridPos"];
        assert!(
            place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24,
            "{title}"
        );
        if panel["type"] == "row" {
            continue;
        }
        assert!(
            panel["description"].as_str().is_some_and(|text| text.len() > 20),
            "{title} is not explained"
        );
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let named = metrics_of(expression);
            assert!(!named.is_empty(), "{title}: {expression}");
            for metric in named {
                assert!(
                    known.contains(metric),
                    "{title} asks for {metric}, which does not exist"
                );
            }
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            expressions += 1;
        }
    }
    assert!(expressions >= 15, "only {expressions} expressions");
    assert_overlap_free(panels);
}

fn assert_overlap_free(panels: &[Value]) {
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} lies over another panel", panel["title"]);
            }
        }
    }
}
