//! The command line.

use clap::{Args, Parser, Subcommand};
use holdfast_ops::Failure;
use holdfast_ops::client::Api;
use holdfast_services::Program;
use secrecy::SecretString;
use url::Url;

use crate::commands::{
    audit, autoscale, backup, batches, completions, console, copy, dead_letters, deploy, encryption,
    failures, healthcheck, import, jobs, keys, kinds, migrate, monitor, queues, redis_check, scaling,
    schedules, signing_keys, stats, users, validate, workers,
};

/// Background jobs that keep working when Redis does not.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version = holdfast_core::build::version(), about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run API, worker and beat in this one process, on an embedded database (the default; HOLDFAST_ROLE names another)
    Dev,
    /// Run the API alone, as the binary `api` does
    Api,
    /// Run a worker alone, as the binary `worker` does
    Worker,
    /// Run the scheduler alone, as the binary `beat` does
    Beat,
    /// Migrate the database's schema
    Migrate(migrate::Args),
    /// Write the embedded SQLite database into a new file, beside running services
    Backup(backup::Args),
    /// Copy an installation from SQLite to PostgreSQL, and compare both row by row
    Copy(copy::Args),
    /// Move what waits in the Redis of Celery, Sidekiq or BullMQ into Holdfast, each job once
    Import(Box<import::Args>),
    /// Create, list, rotate and revoke API keys
    Keys(keys::Args),
    /// List, create, rotate and delete the key that signs `http.request` jobs
    SigningKeys(signing_keys::Args),
    /// List the keys of encryption at rest, and encrypt stored values under the first of them
    Encryption(encryption::Args),
    /// Add, invite, show, list, disable and enable users, and set their passwords
    Users(users::Args),
    /// Enqueue, show, list, cancel and retry jobs
    Jobs(Box<jobs::Args>),
    /// List, show and cancel batches
    Batches(batches::Args),
    /// List, show, redrive and delete dead letters
    DeadLetters(Box<dead_letters::Args>),
    /// List and show groups of dead letters: what fails, how often, since when
    Failures(failures::Args),
    /// List and show the kinds of jobs that can be enqueued; declare and delete kinds of pull workers
    Kinds(kinds::Args),
    /// List, declare, delete, pause, resume, ring, limit and purge queues
    Queues(queues::Args),
    /// List workers, and drain pull workers
    Workers(workers::Args),
    /// Show what was done lately: jobs, waiting and running times, outages
    Stats(stats::Args),
    /// Show how many places and replicas the queues need
    Scaling(scaling::Args),
    /// Set the replicas of the workers once, as a beat does in each round
    Autoscale(autoscale::Args),
    /// List the audit log, newest first: pauses, purges, redrives, changes of keys and so on
    Audit(audit::Args),
    /// Create, show, change and run schedules
    Schedules(Box<schedules::Args>),
    /// Check that the service on this machine's PORT is alive
    Healthcheck(healthcheck::Args),
    /// Check a Redis server: connection, version, settings, speed
    RedisCheck(redis_check::Args),
    /// Check a whole system: configuration, database, Redis, API, workers, queues
    Validate(Box<validate::Args>),
    /// Monitor an API: dashboard or JSON lines, alerts, report
    Monitor(Box<monitor::Args>),
    /// Serve the web console of an API elsewhere on this machine
    Console(console::Args),
    /// Print a completion script for a shell: `source <(holdfast completions bash)`
    Completions(completions::Args),
    /// Deploy this version to Railway: migrate, deploy each service, wait, check, roll back on request
    Deploy(Box<deploy::Args>),
}

/// The arguments of a command that speaks to an API, with one of its subcommands.
#[derive(Debug, Args)]
pub(crate) struct OperatorArgs<C: Subcommand> {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(subcommand)]
    pub(crate) command: C,
}

impl<C: Subcommand> OperatorArgs<C> {
    /// The API, how to print what it answers, and what is asked for.
    pub(crate) async fn open(self, program: &Program) -> Result<(Api, OutputArgs, C), Failure> {
        let api = self.target.open(program).await?;
        Ok((api, self.output, self.command))
    }
}

/// Which API a command speaks to.
#[derive(Debug, Clone, Args)]
pub(crate) struct TargetArgs {
    /// URL of an API, such as http://127.0.0.1:8080. Without it an API is started in this process, with the configured database
    #[arg(long, env = "HOLDFAST_URL", global = true, value_parser = api_url)]
    pub(crate) url: Option<Url>,
    /// API key for --url
    #[arg(long, env = "HOLDFAST_API_KEY", hide_env_values = true, global = true)]
    pub(crate) key: Option<SecretString>,
}

impl TargetArgs {
    pub(crate) async fn open(self, program: &Program) -> Result<Api, Failure> {
        Api::open(self.url, self.key.as_ref(), program).await
    }
}

/// The parameters that were given.
pub(crate) fn query<const N: usize>(
    given: [(&'static str, Option<String>); N],
) -> Vec<(&'static str, String)> {
    given
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// How the answer is printed.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// An address without a path of its own, a user or a password.
pub(crate) fn api_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("expected http://host:port or https://host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("give the key with --key or HOLDFAST_API_KEY, not in the address".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_is_http_and_holds_no_secret() {
        assert!(api_url("http://127.0.0.1:8080").is_ok());
        for text in ["localhost:8080", "127.0.0.1:8080", "redis://h", "http://u:p@h"] {
            assert!(api_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_command_that_deletes_or_ends_something_asks() {
        const ENDS: [&str; 6] = ["cancel-many", "delete", "deploy", "purge", "remove", "revoke"];
        let has =
            |command: &clap::Command, name: &str| command.get_arguments().any(|arg| arg.get_id() == name);
        let (mut found, mut left) = (0, vec![Cli::command()]);
        while let Some(command) = left.pop() {
            if ENDS.contains(&command.get_name()) {
                assert!(has(&command, "yes"), "{}", command.get_name());
                found += 1;
            }
            assert!(!has(&command, "confirm"), "{}", command.get_name());
            left.extend(command.get_subcommands().cloned());
        }
        assert_eq!(found, 10);
    }

    #[test]
    fn no_key_is_shown_by_debug() {
        let cli = Cli::parse_from(["holdfast", "jobs", "--key", "hunter2", "list"]);
        assert!(!format!("{cli:?}").contains("hunter2"));
    }
}
