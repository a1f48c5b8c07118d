//! A new version onto Railway, by its own CLI, followed to the end.
//!
//! The states of a deployment, in order, and what happens when one of them fails:
//! 1. *Look* ([`look`]): is the CLI there, new enough, logged in, linked; are the services there; what would change in
//!    the project. Nothing has been touched; the exit code is 64 and the message says what to do.
//! 2. *Plan* ([`plan`]): shown, and agreed to (or `--yes`). [`commands`] lists its commands and runs none.
//! 3. *Ship*: the project's changes, the migration, then one service after the other, each followed ([`follow`]) to a
//!    final status. The first that does not come alive ends the run: its last log lines are shown, later services are
//!    not touched.
//! 4. *Check* ([`live`]): once the public address is healthy, everything that `holdfast validate --url` asks it, a job
//!    through each queue if a key was given, and its speed. A warning is shown; what fails, fails the run.
//! 5. *Roll back* ([`rollback`]), only if asked (`--rollback`), and only what this run has changed. Migrations stay:
//!    they add, and the version before works with them.
//!
//! Every wait has a deadline of its own: the CLI never ends on some statuses, and a hanging one must not hang us.
//! No command that prints variables is ever run: their values are secrets.

mod documents;
mod follow;
mod live;
mod look;
mod plan;
mod railway;
mod rollback;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde::Serialize;
use url::Url;

use self::follow::{DeploymentEnd, Outcome};
use self::look::Project;
use self::plan::{Plan, Step};
use self::railway::{Railway, RailwayError};
use crate::failure::Failure;

/// Log lines shown of a service that did not come alive.
const SHOWN_LOG_LINES: usize = 30;

/// What is deployed where, and how long it may take.
#[derive(Debug)]
pub struct Options {
    /// Railway project, by id. `None`: the one that this directory is linked to.
    pub project: Option<String>,
    /// Environment of the project, by name or id.
    pub environment: String,
    /// Services to deploy, in this order.
    pub services: Vec<String>,
    pub migrate: Migration,
    /// Leave the project as it is, whatever .railway/railway.ts says.
    pub no_config: bool,
    /// Go back to the previous deployments if a service does not come alive or the check fails.
    pub rollback: bool,
    /// Public address to check afterwards. `None`: the domain of the service `api`.
    pub url: Option<Url>,
    /// API key for the checks of workers and queues; without one they are left out.
    pub key: Option<SecretString>,
    /// Do not check the public address afterwards.
    pub no_check: bool,
    /// Longest a service may take from its upload to its final status.
    pub service_deadline: Duration,
    /// Longest one command of the Railway CLI may take; an upload may take ten times that.
    pub command_deadline: Duration,
    /// Pause between two polls of a deployment.
    pub poll: Duration,
    /// Longest wait for the public address to answer as healthy.
    pub live_deadline: Duration,
    /// The check fails if a twentieth of its requests takes longer, in milliseconds.
    pub max_p95_ms: f64,
    /// The Railway CLI.
    pub railway: PathBuf,
    pub project_token: Option<SecretString>,
    pub account_token: Option<SecretString>,
    /// Receives each line of progress.
    pub progress: fn(&str),
}

impl Options {
    fn say(&self, text: &str) {
        (self.progress)(text);
    }
}

/// When the schema is brought up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migration {
    /// By the pre-deploy command of `api`, inside Railway's network: `api` is deployed first, and alone
    PreDeploy,
    /// From this machine, with the variables of `api`: the database must have a public address
    Here,
    /// Not at all
    Skip,
}

/// What became of one service.
#[derive(Debug, Serialize)]
struct ServiceDeployment {
    service: String,
    deployment: String,
    outcome: Outcome,
    seconds: f64,
}

/// A finished deployment.
#[derive(Debug, Serialize)]
pub struct Report {
    project: String,
    environment: String,
    services: Vec<ServiceDeployment>,
    /// What was found at the public address; `None` if it was not checked.
    live: Option<live::LiveReport>,
}

impl Report {
    /// One line: the project and each service with its outcome.
    pub fn text(&self) -> String {
        let services = self
            .services
            .iter()
            .map(|shipped| format!("{} {}", shipped.service, shipped.outcome.words()));
        format!(
            "{} ({}): {}",
            self.project,
            self.environment,
            services.collect::<Vec<_>>().join(", ")
        )
    }

    /// An error if the address refused the key, so that workers and queues were not checked.
    pub fn all_was_checked(&self) -> Result<(), Failure> {
        self.live.as_ref().map_or(Ok(()), live::LiveReport::all_was_asked)
    }
}

/// Every command that a deployment would run, in order. Runs none.
pub fn commands(options: &Options) -> Vec<String> {
    Plan::of(options, options.has_project_file()).commands().to_vec()
}

/// Looks at the project and changes nothing.
pub async fn prepare(options: &Options) -> Result<PreparedDeployment<'_>, Failure> {
    let railway = Railway::new(options.railway.clone(), options.command_deadline);
    let project = look::look(&railway, options).await.map_err(refused)?;
    let plan = Plan::of(options, project.pending.is_some());
    Ok(PreparedDeployment {
        options,
        railway,
        project,
        plan,
    })
}

/// A deployment that can begin.
#[derive(Debug)]
pub struct PreparedDeployment<'a> {
    options: &'a Options,
    railway: Railway,
    project: Project,
    plan: Plan,
}

impl PreparedDeployment<'_> {
    /// What is going to be done, a line a step.
    pub fn description(&self) -> String {
        self.plan.describe(&self.project)
    }

    /// `project (environment)`.
    pub fn destination(&self) -> String {
        format!("{} ({})", self.project.name, self.project.environment)
    }

    pub async fn ship(&self) -> Result<Report, Failure> {
        Deployment::new(self.options, &self.railway, &self.project)
            .ship(&self.plan)
            .await
    }
}

/// One run, after everybody agreed to it.
struct Deployment<'a> {
    options: &'a Options,
    railway: &'a Railway,
    project: &'a Project,
    shipped: Vec<ServiceDeployment>,
}

impl<'a> Deployment<'a> {
    fn new(options: &'a Options, railway: &'a Railway, project: &'a Project) -> Self {
        Self {
            options,
            railway,
            project,
            shipped: Vec::new(),
        }
    }

    async fn ship(mut self, plan: &Plan) -> Result<Report, Failure> {
        let outcome = match self.take_steps(plan).await {
            Ok(()) => self.check().await,
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(live) => Ok(Report {
                project: self.project.name.clone(),
                environment: self.project.environment.clone(),
                services: self.shipped,
                live,
            }),
            Err(failure) => Err(self.give_up(failure).await),
        }
    }

    async fn take_steps(&mut self, plan: &Plan) -> Result<(), Failure> {
        for step in plan.steps() {
            match step {
                Step::Apply(command) => {
                    self.options
                        .say("changing the project as .railway/railway.ts says");
                    self.railway.text(command).await.map_err(failed)?;
                }
                Step::Migrate(command) => {
                    self.options.say("bringing the schema up to date");
                    let said = self.railway.upload(command).await.map_err(failed)?;
                    self.options.say(said.trim());
                }
                Step::Deploy { service, up } => self.deploy(service, up).await?,
            }
        }
        Ok(())
    }

    async fn deploy(&mut self, service: &str, up: &[String]) -> Result<(), Failure> {
        self.options.say(&format!("{service}: uploading"));
        let begun = Instant::now();
        let started: documents::StartedDeployment = self.railway.upload_json(up).await.map_err(failed)?;
        self.options
            .say(&format!("{service}: deployment {}", started.deployment_id));
        let ending = follow::follow(self.railway, self.options, service, &started.deployment_id).await;
        let outcome = ending.outcome();
        self.shipped.push(ServiceDeployment {
            service: service.to_owned(),
            deployment: started.deployment_id.clone(),
            outcome,
            seconds: begun.elapsed().as_secs_f64(),
        });
        match ending {
            DeploymentEnd::Alive | DeploymentEnd::Unchanged => {
                self.options.say(&format!(
                    "{service}: {} after {:.0} s",
                    outcome.words(),
                    begun.elapsed().as_secs_f64()
                ));
                Ok(())
            }
            DeploymentEnd::Dead { why } => {
                self.show_logs(service, &started.deployment_id).await;
                Err(Failure::no(format!("{service} was not deployed: {why}")))
            }
        }
    }

    async fn check(&self) -> Result<Option<live::LiveReport>, Failure> {
        if self.options.no_check {
            return Ok(None);
        }
        let Some(url) = self.options.url.clone().or_else(|| self.project.public_address()) else {
            self.options.say(
                "api has no public domain, so nothing was checked from outside: `railway domain --service api` makes one",
            );
            return Ok(None);
        };
        self.options.say(&format!("checking {url}"));
        let checked = live::check(url, self.options).await?;
        checked.verdict(self.options.max_p95_ms)?;
        Ok(Some(checked))
    }

    /// The last lines of a service that did not come alive: of its run, or if it never ran, of its build.
    async fn show_logs(&self, service: &str, deployment: &str) {
        for kind in ["--deployment", "--build"] {
            let command = self.options.logs(service, deployment, kind, SHOWN_LOG_LINES);
            match self.railway.text(&command).await {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => {
                    self.options
                        .say(&format!("{service}: its last log lines ({})", &kind[2..]));
                    for line in documents::log_lines(&text, SHOWN_LOG_LINES) {
                        self.options.say(&format!("  {line}"));
                    }
                    return;
                }
                Err(error) => self
                    .options
                    .say(&format!("{service}: its logs cannot be shown: {error}")),
            }
        }
    }

    async fn give_up(&self, failure: Failure) -> Failure {
        let changed: Vec<&ServiceDeployment> = self
            .shipped
            .iter()
            .filter(|shipped| shipped.outcome.has_replaced_the_old())
            .collect();
        if changed.is_empty() {
            self.options.say("nothing that runs was changed");
            return failure;
        }
        let names: Vec<&str> = changed.iter().map(|shipped| shipped.service.as_str()).collect();
        if !self.options.rollback {
            self.options.say(&format!(
                "{} run the new version; --rollback would have gone back to the one before",
                names.join(", ")
            ));
            return failure;
        }
        let undone = rollback::roll_back(self.railway, self.options, self.project, &changed).await;
        match undone {
            Ok(()) => Failure::no(format!("{failure}; {} rolled back", names.join(", "))),
            Err(also) => Failure::no(format!("{failure}; and rolling back failed: {also}")),
        }
    }
}

/// Before anything was touched: what is missing is for the caller to put right.
fn refused(error: RailwayError) -> Failure {
    match error {
        error if error.is_for_the_caller() => Failure::Misused(error.to_string()),
        error => failed(error),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn failed(error: RailwayError) -> Failure {
    Failure::no(error.to_string())
}
