//! `holdfast deploy`: a new version onto Railway, by its own CLI, followed to the end.
//!
//! The states of a deployment, in order, and what happens when one of them fails:
//! 1. *Look* ([`look`]): is the CLI there, new enough, logged in, linked; are the services there; what would change in
//!    the project. Nothing has been touched; the exit code is 64 and the message says what to do.
//! 2. *Plan* ([`plan`]): shown, and agreed to (or `--yes`). `--dry-run` prints its commands and runs none at all.
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

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::json;
use url::Url;

use self::follow::{Ending, Outcome};
use self::look::Project;
use self::plan::{Plan, Step};
use self::railway::{Railway, RailwayError};
use crate::args::{OutputArgs, api_url};
use crate::failure::Failure;

/// Log lines shown of a service that did not come alive.
const SHOWN_LOG_LINES: usize = 30;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Railway project, by id. Default: the one that this directory is linked to
    #[arg(long, env = "RAILWAY_PROJECT_ID")]
    project: Option<String>,
    /// Environment of the project, by name or id
    #[arg(long, env = "RAILWAY_ENVIRONMENT_ID", default_value = "production")]
    environment: String,
    /// Services to deploy, in this order
    #[arg(long = "service", value_name = "NAME", value_delimiter = ',', default_values = ["api", "worker", "beat"])]
    services: Vec<String>,
    /// When the schema is brought up to date
    #[arg(long, value_enum, default_value_t = Migration::PreDeploy)]
    migrate: Migration,
    /// Leave the project as it is, whatever .railway/railway.ts says
    #[arg(long)]
    no_config: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Run nothing: print every command
    #[arg(long)]
    dry_run: bool,
    /// If a service does not come alive or the check fails, go back to the deployments of before
    #[arg(long)]
    rollback: bool,
    /// Public address to check afterwards. Default: the domain of the service `api`
    #[arg(long, value_parser = api_url)]
    url: Option<Url>,
    /// API key for the checks of workers and queues; without one they are left out
    #[arg(long, env = "HOLDFAST_API_KEY", hide_env_values = true)]
    key: Option<SecretString>,
    /// Do not check the public address afterwards
    #[arg(long, conflicts_with = "url")]
    no_check: bool,
    /// Longest a service may take from its upload to its final status, in seconds
    #[arg(long, default_value_t = 1200.0, value_parser = seconds)]
    timeout_seconds: f64,
    /// Longest one command of the Railway CLI may take, an upload ten times that, in seconds
    #[arg(long, default_value_t = 60.0, value_parser = seconds)]
    command_timeout_seconds: f64,
    /// Pause between two looks at a deployment, in seconds
    #[arg(long, default_value_t = 3.0, value_parser = seconds, hide = true)]
    poll_seconds: f64,
    /// Longest wait for the public address to answer as healthy, in seconds
    #[arg(long, default_value_t = 60.0, value_parser = seconds)]
    live_timeout_seconds: f64,
    /// The check fails if a twentieth of its requests takes longer, in milliseconds
    #[arg(long, default_value_t = 1000.0)]
    max_p95_ms: f64,
    /// The Railway CLI
    #[arg(long, value_name = "PROGRAM", default_value = "railway", hide = true)]
    railway: PathBuf,
    #[arg(long, env = "RAILWAY_TOKEN", hide = true, hide_env_values = true)]
    project_token: Option<SecretString>,
    #[arg(long, env = "RAILWAY_API_TOKEN", hide = true, hide_env_values = true)]
    account_token: Option<SecretString>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Migration {
    /// By the pre-deploy command of `api`, inside Railway's network: `api` is deployed first, and alone
    PreDeploy,
    /// From this machine, with the variables of `api`: the database must have a public address
    Here,
    /// Not at all
    Skip,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    service: Duration,
    poll: Duration,
    live: Duration,
}

/// What became of one service.
#[derive(Debug, Serialize)]
struct Shipped {
    service: String,
    deployment: String,
    outcome: Outcome,
    seconds: f64,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    if args.dry_run {
        let plan = Plan::of(&args, args.has_project_file());
        return args.output.print(&json!({ "commands": plan.commands() }), || {
            plan.commands().join("\n")
        });
    }
    let railway = Railway::new(args.railway.clone(), duration(args.command_timeout_seconds));
    let project = look::look(&railway, &args).await.map_err(refused)?;
    let plan = Plan::of(&args, project.pending.is_some());
    say(&plan.describe(&project));
    agree(&args, &project)?;
    Deployment::new(&args, &railway, &project).ship(&plan).await
}

/// One run, after everybody agreed to it.
struct Deployment<'a> {
    args: &'a Args,
    railway: &'a Railway,
    project: &'a Project,
    limits: Limits,
    shipped: Vec<Shipped>,
}

impl<'a> Deployment<'a> {
    fn new(args: &'a Args, railway: &'a Railway, project: &'a Project) -> Self {
        let limits = Limits {
            service: duration(args.timeout_seconds),
            poll: duration(args.poll_seconds),
            live: duration(args.live_timeout_seconds),
        };
        Self {
            args,
            railway,
            project,
            limits,
            shipped: Vec::new(),
        }
    }

    async fn ship(mut self, plan: &Plan) -> Result<(), Failure> {
        let outcome = self.take_steps(plan).await;
        let outcome = match outcome {
            Ok(()) => self.check().await,
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(live) => {
                self.print(live.as_ref())?;
                live.map_or(Ok(()), |live| live.all_was_asked())
            }
            Err(failure) => Err(self.give_up(failure).await),
        }
    }

    async fn take_steps(&mut self, plan: &Plan) -> Result<(), Failure> {
        for step in plan.steps() {
            match step {
                Step::Apply(command) => {
                    say("changing the project as .railway/railway.ts says");
                    self.railway.text(command).await.map_err(failed)?;
                }
                Step::Migrate(command) => {
                    say("bringing the schema up to date");
                    let said = self.railway.upload(command).await.map_err(failed)?;
                    say(said.trim());
                }
                Step::Deploy { service, up } => self.deploy(service, up).await?,
            }
        }
        Ok(())
    }

    async fn deploy(&mut self, service: &str, up: &[String]) -> Result<(), Failure> {
        say(&format!("{service}: uploading"));
        let begun = Instant::now();
        let started: documents::Started = self.railway.upload_json(up).await.map_err(failed)?;
        say(&format!("{service}: deployment {}", started.deployment_id));
        let ending = follow::follow(
            self.railway,
            &self.args.list(service),
            &started.deployment_id,
            self.limits,
        )
        .await;
        let outcome = ending.outcome();
        self.shipped.push(Shipped {
            service: service.to_owned(),
            deployment: started.deployment_id.clone(),
            outcome,
            seconds: begun.elapsed().as_secs_f64(),
        });
        match ending {
            Ending::Alive | Ending::Unchanged => {
                say(&format!(
                    "{service}: {} after {:.0} s",
                    outcome.words(),
                    begun.elapsed().as_secs_f64()
                ));
                Ok(())
            }
            Ending::Dead { why } => {
                self.show_logs(service, &started.deployment_id).await;
                Err(Failure::no(format!("{service} was not deployed: {why}")))
            }
        }
    }

    async fn check(&self) -> Result<Option<live::Checked>, Failure> {
        if self.args.no_check {
            return Ok(None);
        }
        let Some(url) = self.args.url.clone().or_else(|| self.project.public_address()) else {
            say(
                "api has no public domain, so nothing was checked from outside: `railway domain --service api` makes one",
            );
            return Ok(None);
        };
        say(&format!("checking {url}"));
        let checked = live::check(url, self.args.key.clone(), self.limits.live).await?;
        checked.verdict(self.args.max_p95_ms)?;
        Ok(Some(checked))
    }

    /// The last lines of a service that did not come alive: of its run, or if it never ran, of its build.
    async fn show_logs(&self, service: &str, deployment: &str) {
        for kind in ["--deployment", "--build"] {
            let command = self.args.logs(service, deployment, kind, SHOWN_LOG_LINES);
            match self.railway.text(&command).await {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => {
                    say(&format!("{service}: its last log lines ({})", &kind[2..]));
                    for line in documents::log_lines(&text, SHOWN_LOG_LINES) {
                        say(&format!("  {line}"));
                    }
                    return;
                }
                Err(error) => say(&format!("{service}: its logs cannot be shown: {error}")),
            }
        }
    }

    async fn give_up(&self, failure: Failure) -> Failure {
        let changed: Vec<&Shipped> = self
            .shipped
            .iter()
            .filter(|shipped| shipped.outcome.has_replaced_the_old())
            .collect();
        if changed.is_empty() {
            say("nothing that runs was changed");
            return failure;
        }
        let names: Vec<&str> = changed.iter().map(|shipped| shipped.service.as_str()).collect();
        if !self.args.rollback {
            say(&format!(
                "{} run the new version; --rollback would have gone back to the one before",
                names.join(", ")
            ));
            return failure;
        }
        let undone = rollback::roll_back(self.railway, self.args, self.project, &changed, self.limits).await;
        match undone {
            Ok(()) => Failure::no(format!("{failure}; {} rolled back", names.join(", "))),
            Err(also) => Failure::no(format!("{failure}; and rolling back failed: {also}")),
        }
    }

    fn print(&self, live: Option<&live::Checked>) -> Result<(), Failure> {
        let document = json!({
            "project": self.project.name,
            "environment": self.project.environment,
            "services": self.shipped,
            "live": live.map(live::Checked::document),
        });
        self.args.output.print(&document, || {
            let services = self
                .shipped
                .iter()
                .map(|shipped| format!("{} {}", shipped.service, shipped.outcome.words()));
            format!(
                "{} ({}): {}",
                self.project.name,
                self.project.environment,
                services.collect::<Vec<_>>().join(", ")
            )
        })
    }
}

/// Asks on the terminal; without one, `--yes` must have been given.
fn agree(args: &Args, project: &Project) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Misused(
            "nobody is here to agree: give --yes to deploy, or --dry-run to see the commands".to_owned(),
        ));
    }
    eprint!("Deploy to {} ({})? [y/N] ", project.name, project.environment);
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::no("not deployed")),
    }
}

/// Progress, for people. The answer goes to stdout.
fn say(text: &str) {
    eprintln!("{text}");
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

fn seconds(text: &str) -> Result<f64, String> {
    const MOST: f64 = 86_400.0;
    let seconds: f64 = text
        .parse()
        .map_err(|_| "expected a number of seconds".to_owned())?;
    if (0.01..=MOST).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("expected 0.01 to {MOST} seconds"))
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}
