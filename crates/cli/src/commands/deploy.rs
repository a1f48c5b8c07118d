//! `holdfast deploy`: a new version onto Railway, by its own CLI, followed to the end. Progress goes to stderr.
//!
//! Exit codes: 0; 1 the deployment or its check failed; 64 something is missing before a deployment can begin.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use holdfast_ops::Failure;
use holdfast_ops::deploy::{self, Options};
use secrecy::SecretString;
use serde_json::json;
use url::Url;

use crate::args::{OutputArgs, api_url};
use crate::confirm::ConfirmArgs;

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
    #[command(flatten)]
    confirm: ConfirmArgs,
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
    #[arg(long, default_value = "1200", value_parser = seconds)]
    timeout_seconds: Duration,
    /// Longest one command of the Railway CLI may take, an upload ten times that, in seconds
    #[arg(long, default_value = "60", value_parser = seconds)]
    command_timeout_seconds: Duration,
    /// Pause between two looks at a deployment, in seconds
    #[arg(long, default_value = "3", value_parser = seconds, hide = true)]
    poll_seconds: Duration,
    /// Longest wait for the public address to answer as healthy, in seconds
    #[arg(long, default_value = "60", value_parser = seconds)]
    live_timeout_seconds: Duration,
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

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let (dry_run, confirm, output) = (args.dry_run, args.confirm, args.output);
    let options = options_of(args);
    if dry_run {
        let commands = deploy::commands(&options);
        return output.print(&json!({ "commands": commands }), || commands.join("\n"));
    }
    let prepared = deploy::prepare(&options).await?;
    say(&prepared.description());
    confirm
        .agree_to(format!("Deploy to {}", prepared.destination()))
        .await?;
    let report = prepared.ship().await?;
    output.print(&report, || report.text())?;
    report.all_was_checked()
}

fn options_of(args: Args) -> Options {
    Options {
        project: args.project,
        environment: args.environment,
        services: args.services,
        migrate: match args.migrate {
            Migration::PreDeploy => deploy::Migration::PreDeploy,
            Migration::Here => deploy::Migration::Here,
            Migration::Skip => deploy::Migration::Skip,
        },
        no_config: args.no_config,
        rollback: args.rollback,
        url: args.url,
        key: args.key,
        no_check: args.no_check,
        service_deadline: args.timeout_seconds,
        command_deadline: args.command_timeout_seconds,
        poll: args.poll_seconds,
        live_deadline: args.live_timeout_seconds,
        max_p95_ms: args.max_p95_ms,
        railway: args.railway,
        project_token: args.project_token,
        account_token: args.account_token,
        progress: say,
    }
}

/// Progress, for people. The answer goes to stdout.
fn say(text: &str) {
    eprintln!("{text}");
}

fn seconds(text: &str) -> Result<Duration, String> {
    const MOST: f64 = 86_400.0;
    let seconds: f64 = text
        .parse()
        .map_err(|_| "expected a number of seconds".to_owned())?;
    if (0.01..=MOST).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("expected 0.01 to {MOST} seconds"))
    }
}
