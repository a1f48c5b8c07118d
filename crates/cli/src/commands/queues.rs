//! `holdfast queues`: seen, declared, deleted, paused, resumed, rung, limited and purged.

use clap::Subcommand;
use holdfast_control::wire::{
    DeclaredQueue, DepthView, ForgottenName, LimitedQueue, LimitsBody, Places, PurgeBody, PurgedView,
    QueueBody, QueueList, QueueView,
};
use holdfast_core::config::{Rate, check_max_running};
use holdfast_ops::Failure;
use holdfast_ops::client::Api;
use holdfast_services::Program;
use serde_json::json;

use crate::args::{OperatorArgs, OutputArgs};
use crate::commands::{bulk, queue_keys};
use crate::confirm::{ConfirmArgs, counted};
use crate::output::table;

pub(crate) type Args = OperatorArgs<Command>;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List queues with their depth
    List,
    /// Show one queue
    Show { name: String },
    /// Declare a queue for pull workers
    Declare { name: String },
    /// Delete a declared queue that no kind names and that has no job to run
    Delete {
        name: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Stop workers from claiming jobs of a queue; running jobs continue
    Pause { name: String },
    /// Let workers claim jobs of a queue again
    Resume { name: String },
    /// Wake the waiting workers of a queue, after jobs were enqueued by SQL
    Ring { name: String },
    /// Set the limits of a queue over all workers, in place of the configured ones
    Limit(Limit),
    #[command(flatten)]
    Key(queue_keys::Command),
    /// Cancel every waiting job of a queue
    Purge {
        name: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let (api, output, command) = args.open(program).await?;
    match command {
        Command::List => list(&api, output).await,
        Command::Show { name } => {
            let document = api.get(&["v1", "queues", &name], &[]).await?;
            let queue: QueueView = api.read(&document)?;
            output.print(&document, || table(HEADER, &[row(queue)]))
        }
        Command::Declare { name } => {
            let document = api
                .put_json(&["v1", "queues", &name], &QueueBody::default())
                .await?;
            let queue: DeclaredQueue = api.read(&document)?;
            output.print(&document, || format!("declared the queue {}", queue.name))
        }
        Command::Delete { name, confirm } => {
            confirm.agree_to(format!("Delete the queue {name}")).await?;
            let document = api.delete(&["v1", "queues", &name], &[]).await?;
            let ForgottenName { name, .. } = api.read(&document)?;
            output.print(&document, || format!("deleted the queue {name}"))
        }
        Command::Ring { name } => {
            let document = api.post(&["v1", "queues", &name, "ring"]).await?;
            output.print(&document, || format!("the workers of {name} were woken"))
        }
        Command::Pause { name } => steer(&api, &name, true, output).await,
        Command::Resume { name } => steer(&api, &name, false, output).await,
        Command::Limit(limit) => limit.run(&api, output).await,
        Command::Key(command) => queue_keys::run(&api, command, output).await,
        Command::Purge { name, confirm } => {
            confirm.agree(async || purge_question(&api, &name).await).await?;
            purge(&api, name, output).await
        }
    }
}

const HEADER: [&str; 8] = [
    "NAME",
    "PAUSED",
    "AVAILABLE",
    "SCHEDULED",
    "RETRYABLE",
    "RUNNING",
    "DEAD",
    "OLDEST",
];

async fn list(api: &Api, output: OutputArgs) -> Result<(), Failure> {
    let document = api.get(&["v1", "queues"], &[]).await?;
    let list: QueueList = api.read(&document)?;
    output.print(&document, || {
        let rows: Vec<_> = list.queues.into_iter().map(row).collect();
        table(HEADER, &rows)
    })
}

fn row(queue: QueueView) -> [String; 8] {
    let DepthView {
        available,
        scheduled,
        retryable,
        running,
        discarded,
    } = queue.depth;
    [
        queue.name,
        if queue.paused { "yes" } else { "-" }.to_owned(),
        available.to_string(),
        scheduled.to_string(),
        retryable.to_string(),
        running.to_string(),
        discarded.to_string(),
        format!("{:.1} s", queue.oldest_age_seconds),
    ]
}

async fn steer(api: &Api, name: &str, paused: bool, output: OutputArgs) -> Result<(), Failure> {
    let (verb, state) = if paused {
        ("pause", "paused")
    } else {
        ("resume", "resumed")
    };
    let document = api.post(&["v1", "queues", name, verb]).await?;
    output.print(&document, || format!("{name} is {state}"))
}

/// What shall hold, all of it.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("limits").required(true).multiple(true)))]
pub(crate) struct Limit {
    name: String,
    /// Jobs of the queue that run concurrently
    #[arg(long, value_name = "JOBS", value_parser = places, group = "limits")]
    max_running: Option<u32>,
    /// Jobs of the queue that start in a period, such as 100/60s
    #[arg(long, value_name = "STARTS/TIME", group = "limits")]
    rate: Option<Rate>,
    /// Jobs that run concurrently for each limit_key
    #[arg(long, value_name = "JOBS", value_parser = places, group = "limits")]
    key_max_running: Option<u32>,
    /// Jobs that start in a period for each limit_key, such as 10/1s
    #[arg(long, value_name = "STARTS/TIME", group = "limits")]
    key_rate: Option<Rate>,
    /// Remove all limits, the configured ones included
    #[arg(long, group = "limits", conflicts_with_all = ["max_running", "rate", "key_max_running", "key_rate"])]
    unlimited: bool,
    /// Restore the configured limits
    #[arg(long, group = "limits", conflicts_with_all = ["max_running", "rate", "key_max_running", "key_rate", "unlimited"])]
    configured: bool,
}

pub(super) fn places(text: &str) -> Result<u32, String> {
    let number = text.parse().map_err(|_| format!("{text:?} is no whole number"))?;
    check_max_running(number).map_err(|error| error.to_string())
}

impl Limit {
    async fn run(self, api: &Api, output: OutputArgs) -> Result<(), Failure> {
        let path = ["v1", "queues", &self.name, "limits"];
        let document = if self.configured {
            api.delete(&path, &[]).await?
        } else {
            let body = LimitsBody {
                max_running: self.max_running.map(Places),
                rate: self.rate,
                key_max_running: self.key_max_running.map(Places),
                key_rate: self.key_rate,
            };
            api.put_json(&path, &body).await?
        };
        let LimitedQueue { name, .. } = api.read(&document)?;
        output.print(&document, || match (self.configured, self.unlimited) {
            (true, _) => format!("{name} has its configured limits"),
            (_, true) => format!("{name} has no limits"),
            _ => format!("{name} is limited"),
        })
    }
}

async fn purge_question(api: &Api, name: &str) -> Result<String, Failure> {
    let document = api.get(&["v1", "queues", name], &[]).await?;
    let QueueView { depth, .. } = api.read(&document)?;
    let waiting = depth.available + depth.scheduled + depth.retryable;
    Ok(format!(
        "Cancel {} of the queue {name}",
        counted(waiting, "waiting job")
    ))
}

/// Asks again under one key until the queue is empty.
async fn purge(api: &Api, name: String, output: OutputArgs) -> Result<(), Failure> {
    let body = PurgeBody { confirm: name };
    let (key, name) = (bulk::fresh_key(), &*body.confirm);
    let mut on_broker = 0;
    loop {
        let document = api
            .post_json(&["v1", "queues", name, "purge"], &body, Some(&key))
            .await?;
        let purged: PurgedView = api.read(&document)?;
        on_broker += purged.cancelled_on_broker;
        if purged.finished {
            let document = json!({
                "name": name, "cancelled": purged.cancelled, "cancelled_on_broker": on_broker,
            });
            return output.print(&document, || {
                format!("cancelled {} of {name}", purged.cancelled + on_broker)
            });
        }
    }
}
