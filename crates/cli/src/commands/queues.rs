//! `holdfast queues`: seen, paused, resumed, limited and purged.

use std::time::Duration;

use clap::Subcommand;
use holdfast_core::config::{Durability, Rate, check_max_running};
use holdfast_jobs::audit::{Actor, By};
use holdfast_jobs::limits::QueueLimits;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::args::{OutputArgs, TargetArgs};
use crate::commands::bulk;
use crate::output::table;
use holdfast_ops::Failure;
use holdfast_ops::target::Target;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List queues with their depth
    List,
    /// Stop workers from claiming jobs of a queue; running jobs continue
    Pause { name: String },
    /// Let workers claim jobs of a queue again
    Resume { name: String },
    /// Set the limits of a queue over all workers, in place of the configured ones
    Limit(Limit),
    /// Cancel every waiting job of a queue
    Purge {
        name: String,
        /// The name of the queue, as a confirmation
        #[arg(long, value_name = "NAME")]
        confirm: String,
    },
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Args {
        target,
        output,
        command,
    } = args;
    let target = Target::open(target.url.as_ref(), target.key.as_ref()).await?;
    match command {
        Command::List => list(&target, output).await,
        Command::Pause { name } => steer(&target, &name, true, output).await,
        Command::Resume { name } => steer(&target, &name, false, output).await,
        Command::Limit(limit) => limit.run(&target, output).await,
        Command::Purge { name, confirm } => purge(&target, &name, &confirm, output).await,
    }
}

#[derive(Debug, Deserialize)]
struct QueueView {
    name: String,
    paused: bool,
    depth: Depth,
    oldest_age_seconds: f64,
}

#[derive(Debug, Deserialize)]
struct Depth {
    available: u64,
    scheduled: u64,
    retryable: u64,
    running: u64,
    discarded: u64,
}

async fn list(target: &Target, output: OutputArgs) -> Result<(), Failure> {
    let document = match target {
        Target::Api(api) => api
            .get(&["v1", "queues"], &[], Duration::ZERO)
            .await?
            .ok_or_else(|| Failure::no("the answer names no queues"))?,
        Target::Database { jobs, .. } => {
            let queues: Vec<Value> = jobs
                .queue_stats()
                .await?
                .into_iter()
                .map(|queue| {
                    json!({
                        "name": queue.queue, "paused": queue.paused,
                        "oldest_age_seconds": queue.oldest_age_seconds,
                        "depth": {
                            "available": queue.available, "scheduled": queue.scheduled,
                            "retryable": queue.retryable, "running": queue.running, "discarded": queue.discarded,
                        },
                    })
                })
                .collect();
            json!({ "queues": queues })
        }
    };
    let queues = Vec::<QueueView>::deserialize(&document["queues"])
        .map_err(|error| Failure::no(format!("the answer is not a list of queues: {error}")))?;
    let rows: Vec<[String; 8]> = queues.into_iter().map(row).collect();
    output.print(&document, || {
        let header = [
            "NAME",
            "PAUSED",
            "AVAILABLE",
            "SCHEDULED",
            "RETRYABLE",
            "RUNNING",
            "DEAD",
            "OLDEST",
        ];
        table(header, &rows)
    })
}

fn row(queue: QueueView) -> [String; 8] {
    let QueueView {
        name,
        paused,
        depth,
        oldest_age_seconds,
    } = queue;
    [
        name,
        if paused { "yes" } else { "-" }.to_owned(),
        depth.available.to_string(),
        depth.scheduled.to_string(),
        depth.retryable.to_string(),
        depth.running.to_string(),
        depth.discarded.to_string(),
        format!("{oldest_age_seconds:.1} s"),
    ]
}

fn known(jobs: &holdfast_jobs::Jobs, name: &str) -> Result<(), Failure> {
    if jobs.queues().contains_key(name) {
        return Ok(());
    }
    let known: Vec<_> = jobs.queues().keys().map(String::as_str).collect();
    Err(Failure::no(format!(
        "{name:?} is not among the configured queues: {}",
        known.join(", ")
    )))
}

async fn steer(target: &Target, name: &str, paused: bool, output: OutputArgs) -> Result<(), Failure> {
    match target {
        Target::Api(api) => {
            let verb = if paused { "pause" } else { "resume" };
            api.post(&["v1", "queues", name, verb]).await?;
        }
        Target::Database { jobs, gate } => {
            known(jobs, name)?;
            let by = By::new(Actor::cli());
            if paused {
                jobs.steer(&by).pause(name).await?;
            } else {
                jobs.steer(&by).resume(name).await?;
                holdfast_ops::local::let_the_bell_ring(gate).await;
            }
        }
    }
    let state = if paused { "paused" } else { "resumed" };
    output.print(&json!({ "name": name, "paused": paused }), || {
        format!("{name} is {state}")
    })
}

/// What shall hold, all of it.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("limits").required(true).multiple(true)))]
struct Limit {
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

fn places(text: &str) -> Result<u32, String> {
    let number = text.parse().map_err(|_| format!("{text:?} is no whole number"))?;
    check_max_running(number).map_err(|error| error.to_string())
}

impl Limit {
    /// `None`: the configured ones.
    fn limits(&self) -> Option<QueueLimits> {
        (!self.configured).then_some(QueueLimits {
            max_running: self.max_running,
            rate: self.rate,
            key_max_running: self.key_max_running,
            key_rate: self.key_rate,
        })
    }

    async fn run(self, target: &Target, output: OutputArgs) -> Result<(), Failure> {
        let (name, limits) = (self.name.as_str(), self.limits());
        match target {
            Target::Api(api) => {
                let path = ["v1", "queues", name, "limits"];
                match &limits {
                    Some(limits) => drop(api.put_json(&path, &json!(limits)).await?),
                    None => drop(api.delete(&path).await?),
                }
            }
            Target::Database { jobs, gate } => {
                known(jobs, name)?;
                let queue = jobs.queues().get(name);
                let bypassed = queue
                    .is_some_and(|queue| queue.durability == Durability::Redis && queue.limits.is_empty());
                if bypassed && limits.is_some_and(|limits| !limits.is_empty()) {
                    return Err(Failure::no(
                        "the jobs of this queue live on the broker, which knows no limits; name some in its \
                         configuration, or make its durability \"ledger\"",
                    ));
                }
                let by = By::new(Actor::cli());
                jobs.steer(&by).limit(name, limits.as_ref()).await?;
                holdfast_ops::local::let_the_bell_ring(gate).await;
            }
        }
        let document = json!({ "name": name, "limits": limits });
        output.print(&document, || match limits {
            None => format!("{name} has its configured limits"),
            Some(limits) if limits.is_empty() => format!("{name} has no limits"),
            Some(_) => format!("{name} is limited"),
        })
    }
}

#[derive(Debug, Deserialize)]
struct PurgedView {
    cancelled: u64,
    cancelled_on_broker: u64,
    finished: bool,
}

async fn purge(target: &Target, name: &str, confirm: &str, output: OutputArgs) -> Result<(), Failure> {
    let key = bulk::fresh_key();
    let mut on_broker = 0;
    loop {
        let purged = match target {
            Target::Api(api) => {
                let body = json!({ "confirm": confirm });
                let answer = api
                    .post_json(&["v1", "queues", name, "purge"], &body, Some(&key))
                    .await?;
                PurgedView::deserialize(answer)
                    .map_err(|error| Failure::no(format!("the answer is of no use: {error}")))?
            }
            Target::Database { jobs, .. } => {
                known(jobs, name)?;
                if confirm != name {
                    return Err(Failure::no(format!(
                        "--confirm must repeat the name of the queue to be purged, {name}"
                    )));
                }
                let by = By::new(Actor::cli());
                let purged = jobs.steer(&by).purge(name, Some(key.clone())).await?;
                PurgedView {
                    cancelled: purged.ledger.affected,
                    cancelled_on_broker: purged.broker,
                    finished: purged.ledger.finished && purged.broker_finished,
                }
            }
        };
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
