//! One deployment, followed to a final status.
//!
//! `railway up --ci` would follow too, but does not end on SKIPPED, REMOVED or NEEDS_APPROVAL: so the upload is
//! detached, and the list of deployments is looked at until the deadline. A look that fails is tried again, a few times.

use std::time::Instant;

use serde::Serialize;

use super::Options;
use super::documents::Deployment;
use super::railway::Railway;

/// Looks that may fail one after another.
const MOST_FAILED_LOOKS: u32 = 5;

/// How a deployment ended.
#[derive(Debug)]
pub(crate) enum DeploymentEnd {
    Alive,
    /// Railway saw no reason to deploy: no watched file has changed. What served before serves on.
    Unchanged,
    Dead {
        why: DeployFailure,
    },
}

/// The same, for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Alive,
    Unchanged,
    /// It never served: the old deployment does.
    NeverAlive,
    /// It served and fell, or nobody knows.
    Lost,
}

impl Outcome {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Unchanged => "unchanged",
            Self::NeverAlive => "never alive",
            Self::Lost => "lost",
        }
    }

    pub(crate) fn has_replaced_the_old(self) -> bool {
        matches!(self, Self::Alive | Self::Lost)
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployFailure {
    #[error("its build or its health check failed (FAILED)")]
    Failed,
    #[error("it started and crashed (CRASHED)")]
    Crashed,
    #[error("it was removed before it was alive ({0}): was there another deployment?")]
    Removed(String),
    #[error(
        "it waits for an approval (NEEDS_APPROVAL): approve it in Railway's dashboard, then run this again"
    )]
    NeedsApproval,
    #[error("it was {status} after {seconds:.0} s: give it longer with --timeout-seconds")]
    Deadline { status: String, seconds: f64 },
    #[error("its status cannot be asked for: {0}")]
    Blind(String),
}

impl DeploymentEnd {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Alive => Outcome::Alive,
            Self::Unchanged => Outcome::Unchanged,
            Self::Dead {
                why: DeployFailure::Failed | DeployFailure::NeedsApproval,
            } => Outcome::NeverAlive,
            Self::Dead { .. } => Outcome::Lost,
        }
    }
}

pub(crate) async fn follow(railway: &Railway, options: &Options, service: &str, id: &str) -> DeploymentEnd {
    let list = options.list(service);
    let begun = Instant::now();
    let mut status = "unknown".to_owned();
    let mut failed_looks = 0;
    while begun.elapsed() < options.service_deadline {
        match railway.json::<Vec<Deployment>>(&list).await {
            Ok(deployments) => {
                failed_looks = 0;
                // Not listed yet: it was uploaded a moment ago.
                if let Some(found) = deployments.into_iter().find(|deployment| deployment.id == id) {
                    if found.status != status {
                        options.say(&format!("  {}", found.status.to_lowercase()));
                    }
                    status = found.status;
                    if let Some(ending) = ending(&status) {
                        return ending;
                    }
                }
            }
            Err(error) => {
                failed_looks += 1;
                if failed_looks >= MOST_FAILED_LOOKS {
                    let why = DeployFailure::Blind(error.to_string());
                    return DeploymentEnd::Dead { why };
                }
            }
        }
        tokio::time::sleep(options.poll).await;
    }
    let seconds = options.service_deadline.as_secs_f64();
    DeploymentEnd::Dead {
        why: DeployFailure::Deadline { status, seconds },
    }
}

/// `None` while it is under way. A status that is not known here may be one on the way: the deadline ends it.
fn ending(status: &str) -> Option<DeploymentEnd> {
    let dead = |why| Some(DeploymentEnd::Dead { why });
    match status {
        "SUCCESS" | "SLEEPING" => Some(DeploymentEnd::Alive),
        "SKIPPED" => Some(DeploymentEnd::Unchanged),
        "FAILED" => dead(DeployFailure::Failed),
        "CRASHED" => dead(DeployFailure::Crashed),
        "REMOVED" | "REMOVING" => dead(DeployFailure::Removed(status.to_owned())),
        "NEEDS_APPROVAL" => dead(DeployFailure::NeedsApproval),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_railway_is_under_way_or_final() {
        let under_way = ["BUILDING", "DEPLOYING", "INITIALIZING", "QUEUED", "WAITING"];
        for status in under_way {
            assert!(ending(status).is_none(), "{status}");
        }
        let over = [
            ("SUCCESS", Outcome::Alive),
            ("SLEEPING", Outcome::Alive),
            ("SKIPPED", Outcome::Unchanged),
            ("FAILED", Outcome::NeverAlive),
            ("NEEDS_APPROVAL", Outcome::NeverAlive),
            ("CRASHED", Outcome::Lost),
            ("REMOVED", Outcome::Lost),
            ("REMOVING", Outcome::Lost),
        ];
        for (status, outcome) in over {
            assert_eq!(
                ending(status).map(|ending| ending.outcome()),
                Some(outcome),
                "{status}"
            );
        }
    }
}
