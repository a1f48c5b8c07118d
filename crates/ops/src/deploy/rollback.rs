//! Back to the deployments of before.
//!
//! `railway redeploy` repeats the newest deployment, which is the one that fell: the platform's own rollback is a
//! mutation of its API, which the CLI passes on. Who was deployed last goes back first. The schema stays as it is.

use std::time::Instant;

use super::documents::{Deployment, RolledBack};
use super::look::Project;
use super::railway::{Railway, RailwayError};
use super::{Options, ServiceDeployment};

pub(crate) fn command(deployment: &str) -> Vec<String> {
    let words = [
        "api",
        "mutation($id: String!) { deploymentRollback(id: $id) }",
        "--raw-var",
        &format!("id={deployment}"),
        "--compact",
    ];
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(crate) async fn roll_back(
    railway: &Railway,
    options: &Options,
    project: &Project,
    changed: &[&ServiceDeployment],
) -> Result<(), RailwayError> {
    for shipped in changed.iter().rev() {
        let service = &shipped.service;
        let Some(before) = project.serving(service) else {
            options.say(&format!(
                "{service}: there was no deployment before this one to go back to"
            ));
            continue;
        };
        options.say(&format!("{service}: going back to {}", before.id));
        let list = options.list(service);
        let known: Vec<Deployment> = railway.json(&list).await?;
        let answer: RolledBack = railway.json(&command(&before.id)).await?;
        if !answer.data.deployment_rollback {
            return Err(RailwayError::Lacks(format!(
                "Railway did not roll {service} back"
            )));
        }
        wait_until_back(railway, options, service, before, &known).await?;
    }
    Ok(())
}

/// Back is: the old deployment serves again, or a new one (Railway makes one of the old image) does.
async fn wait_until_back(
    railway: &Railway,
    options: &Options,
    service: &str,
    before: &Deployment,
    known: &[Deployment],
) -> Result<(), RailwayError> {
    let list = options.list(service);
    let begun = Instant::now();
    let is_new = |deployment: &Deployment| known.iter().all(|old| old.id != deployment.id);
    while begun.elapsed() < options.service_deadline {
        let now: Vec<Deployment> = railway.json(&list).await?;
        let serves = |deployment: &Deployment| {
            deployment.status == "SUCCESS" && (deployment.id == before.id || is_new(deployment))
        };
        if now.iter().any(serves) {
            return Ok(());
        }
        let fell = now.iter().find(|deployment| {
            is_new(deployment) && matches!(deployment.status.as_str(), "FAILED" | "CRASHED")
        });
        if let Some(fell) = fell {
            return Err(RailwayError::Lacks(format!(
                "the deployment {} of the old version is {}",
                fell.id, fell.status
            )));
        }
        tokio::time::sleep(options.poll).await;
    }
    Err(RailwayError::Lacks(format!(
        "the old version was not back after {} s",
        options.service_deadline.as_secs_f64()
    )))
}
