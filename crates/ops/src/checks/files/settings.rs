//! Files of our own settings: every name must be one, and every value sound.

use std::collections::BTreeSet;

use holdfast_core::config::Sources;
use holdfast_services::{load_from, settings_table};

use super::{Deployment, Faults};
use crate::checks::{CheckResult, Finding, either};

pub(super) async fn env_example(deployment: &Deployment) -> Finding {
    either(variables(deployment))
}

/// Variables of ours that set nothing. Others belong to other programs.
fn variables(deployment: &Deployment) -> CheckResult<Finding> {
    const PATH: &str = ".env.example";
    let Some(text) = deployment.read(PATH)? else {
        return Ok(Finding::skipped(format!("no {PATH} here")));
    };
    let table = settings_table();
    let known: BTreeSet<&str> = table.iter().map(|setting| setting.env.as_str()).collect();
    let mut faults = Faults::default();
    let mut found = 0;
    for line in text.lines() {
        let line = line.trim().trim_start_matches('#').trim();
        let Some((name, _)) = line.split_once('=').filter(|(name, _)| is_variable(name)) else {
            continue;
        };
        found += 1;
        // The name of a queue (or kind) is the operator's own.
        let of_ours = name.starts_with("HOLDFAST__") && !name.starts_with("HOLDFAST__QUEUES__");
        if of_ours && !known.contains(name) && !known.iter().any(|known| matches_pattern(known, name)) {
            faults.add(format!("{PATH}: {name} sets nothing"));
        }
    }
    Ok(faults.finding(
        format!("{found} variables"),
        "See the table of settings in docs/configuration.md.",
    ))
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// `HOLDFAST__KINDS__NAME__X` stands for any name.
fn matches_pattern(known: &str, name: &str) -> bool {
    known
        .split_once("__NAME__")
        .is_some_and(|(before, after)| name.starts_with(before) && name.ends_with(after))
}

pub(super) async fn holdfast_toml(deployment: &Deployment) -> Finding {
    either(configuration_file(deployment))
}

fn configuration_file(deployment: &Deployment) -> CheckResult<Finding> {
    const PATH: &str = "holdfast.toml";
    let Some(text) = deployment.read(PATH)? else {
        return Ok(Finding::skipped(format!("no {PATH} here")));
    };
    let mut faults = Faults::default();
    let sources = Sources {
        file: Some((PATH.into(), text)),
        ..Sources::default()
    };
    if let Err(found) = load_from(sources) {
        // Secrets come from the environment of the platform, which is not here.
        let of_the_file = found.faults().iter().filter(|fault| fault.source == PATH);
        of_the_file.for_each(|fault| faults.add(format!("{PATH}: {}: {}", fault.setting, fault.problem)));
    }
    Ok(faults.finding(
        format!("{PATH} is sound"),
        "See the table of settings in docs/configuration.md.",
    ))
}
