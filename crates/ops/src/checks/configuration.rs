//! The configuration of this directory and environment, and of the platform as far as its files say.

use std::path::PathBuf;

use holdfast_core::config::{ConfigFaults, Settings};

use super::files::{self, Deployment};
use super::{Check, Finding, check};

#[derive(Debug)]
pub(crate) struct ConfigSubject {
    pub(crate) loaded: Result<Settings, ConfigFaults>,
    pub(crate) directory: PathBuf,
}

pub(crate) const CHECKS: &[Check<ConfigSubject>] = &[
    check!("settings", needs [], within 10, settings),
    check!("platform", needs ["settings"], within 10, platform),
];

async fn settings(subject: &ConfigSubject) -> Finding {
    match &subject.loaded {
        Ok(settings) if settings.is_production() => Finding::pass("sound, for production"),
        Ok(_) => Finding::pass("sound, for development"),
        Err(faults) => {
            let told: Vec<String> = faults
                .faults()
                .iter()
                .map(|fault| format!("{} (from {}): {}", fault.setting, fault.source, fault.problem))
                .collect();
            let fixes: Vec<&str> = faults.faults().iter().map(|fault| fault.fix.as_str()).collect();
            Finding::fail(told.join("; "), fixes.join("; "))
        }
    }
}

/// How long the platform's files will be read.
pub(crate) const CUTOFF: &[Check<Deployment>] =
    &[check!("railway_cutoff", needs [], within 10, files::cutoff)];

/// Would the platform give a stopping service the time that it takes?
async fn platform(subject: &ConfigSubject) -> Finding {
    let Ok(settings) = &subject.loaded else {
        return Finding::skipped("the settings cannot be read");
    };
    let deployment = Deployment::new(subject.directory.clone(), settings.server.grace);
    if !deployment.has(files::RAILWAY_JSON) && !deployment.has(files::RAILWAY_TS) {
        return Finding::skipped(
            "no file of a platform here; `holdfast validate --files DIR` checks them all",
        );
    }
    files::railway(&deployment).await
}
