//! Queues and workers, through the API or straight from the database.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::future::join_all;
use holdfast_jobs::State;
use holdfast_jobs::enqueue::JobRequest;
use holdfast_jobs::ledger::Priority;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::OnceCell;

use super::timing::{millis, shown};
use super::{Check, Checked, Finding, check, either};
use crate::failure::Failure;
use crate::target::Target;

/// Longest way of a probe job through its queue. An idle worker that hears no bell looks every five seconds.
const ROUND_TRIP: Duration = Duration::from_secs(20);
/// Longest execution of a probe job.
const EXECUTION: Duration = Duration::from_secs(10);

/// A longer line than this is worth a look.
const LONG_LINE: u64 = 100;

#[derive(Debug)]
pub(crate) struct SystemSubject {
    target: Target,
    /// A worker that was silent for longer is not alive.
    lost_after: Duration,
    queues: OnceCell<Vec<QueueFacts>>,
    workers: OnceCell<Vec<WorkerFacts>>,
}

/// As `GET /v1/queues` words them.
#[derive(Debug, Deserialize)]
struct QueueFacts {
    name: String,
    /// Present for a configured queue.
    #[serde(default)]
    durability: Option<String>,
    paused: bool,
    depth: DepthFacts,
}

#[derive(Debug, Deserialize)]
struct DepthFacts {
    available: u64,
}

/// As `GET /v1/workers` words them.
#[derive(Debug, Deserialize)]
struct WorkerFacts {
    alive: bool,
    queues: Vec<String>,
}

pub(crate) const WORKERS: &[Check<SystemSubject>] = &[
    check!("alive", needs [], within 20, alive),
    check!("queues", needs ["alive"], within 20, every_queue_is_served),
];

pub(crate) const QUEUE: &[Check<SystemSubject>] = &[
    check!("paused", needs [], within 20, paused),
    check!("depth", needs [], within 20, depth),
    check!("round_trip", needs ["workers.alive"], within 60, round_trip),
];

impl SystemSubject {
    pub(crate) fn new(target: Target, lost_after: Duration) -> Self {
        Self {
            target,
            lost_after,
            queues: OnceCell::new(),
            workers: OnceCell::new(),
        }
    }

    async fn queues(&self) -> Checked<&[QueueFacts]> {
        let asking = self.queues.get_or_try_init(|| async {
            match &self.target {
                Target::Api(api) => {
                    let answer = api.get(&["v1", "queues"], &[], Duration::ZERO).await;
                    list(answer.map_err(|error| unread(&error.into()))?.as_ref(), "queues")
                }
                Target::Database { jobs, .. } => {
                    let stats = jobs.queue_stats().await.map_err(|error| unread(&error.into()))?;
                    let configured =
                        |name: &str| jobs.queues().contains_key(name).then(|| "configured".to_owned());
                    let facts = stats.into_iter().map(|stats| QueueFacts {
                        durability: configured(&stats.queue),
                        name: stats.queue,
                        paused: stats.paused,
                        depth: DepthFacts {
                            available: stats.available,
                        },
                    });
                    Ok(facts.collect())
                }
            }
        });
        asking.await.map(Vec::as_slice)
    }

    async fn workers(&self) -> Checked<&[WorkerFacts]> {
        let asking = self.workers.get_or_try_init(|| async {
            match &self.target {
                Target::Api(api) => {
                    let answer = api.get(&["v1", "workers"], &[], Duration::ZERO).await;
                    list(answer.map_err(|error| unread(&error.into()))?.as_ref(), "workers")
                }
                Target::Database { jobs, .. } => {
                    let workers = jobs.workers().await.map_err(|error| unread(&error.into()))?;
                    let facts = workers.into_iter().map(|worker| WorkerFacts {
                        alive: worker.seen_seconds_ago < self.lost_after.as_secs_f64(),
                        queues: worker.queues,
                    });
                    Ok(facts.collect())
                }
            }
        });
        asking.await.map(Vec::as_slice)
    }

    async fn served(&self) -> Checked<BTreeSet<&str>> {
        let alive = self.workers().await?.iter().filter(|worker| worker.alive);
        Ok(alive
            .flat_map(|worker| &worker.queues)
            .map(String::as_str)
            .collect())
    }
}

fn list<T: for<'de> Deserialize<'de>>(answer: Option<&Value>, name: &str) -> Checked<Vec<T>> {
    let list = answer.and_then(|answer| answer.get(name));
    list.and_then(|list| Vec::deserialize(list).ok()).ok_or_else(|| {
        Finding::fail(
            format!("/v1/{name} is not as documented"),
            "Another version answers: check what is deployed.",
        )
    })
}

fn unread(failure: &Failure) -> Finding {
    Finding::fail(
        failure.to_string(),
        "See the checks above, and the log of the API.",
    )
}

async fn alive(subject: &SystemSubject) -> Finding {
    either(count_workers(subject).await)
}

async fn count_workers(subject: &SystemSubject) -> Checked<Finding> {
    let workers = subject.workers().await?;
    let alive = workers.iter().filter(|worker| worker.alive).count();
    if alive == 0 {
        return Err(Finding::fail(
            "no worker is alive: jobs are accepted and wait",
            "Start `worker` with the same DATABASE_URL; see its log if it does run.",
        ));
    }
    Ok(Finding::pass(format!("{alive} alive")).with("alive", alive))
}

async fn every_queue_is_served(subject: &SystemSubject) -> Finding {
    either(find_unserved(subject).await)
}

async fn find_unserved(subject: &SystemSubject) -> Checked<Finding> {
    let served = subject.served().await?;
    let configured = || configured(subject);
    let unserved: Vec<&str> = configured()
        .await?
        .map(|queue| queue.name.as_str())
        .filter(|name| !served.contains(name))
        .collect();
    if unserved.is_empty() {
        return Ok(Finding::pass(format!(
            "every queue is served: {}",
            served.into_iter().collect::<Vec<_>>().join(", ")
        )));
    }
    Err(Finding::fail(
        format!("no worker serves {}", unserved.join(", ")),
        "Add them to worker.queues of a worker, or start one that serves every queue.",
    ))
}

async fn configured(subject: &SystemSubject) -> Checked<impl Iterator<Item = &QueueFacts>> {
    Ok(subject
        .queues()
        .await?
        .iter()
        .filter(|queue| queue.durability.is_some()))
}

async fn paused(subject: &SystemSubject) -> Finding {
    either(find_paused(subject).await)
}

async fn find_paused(subject: &SystemSubject) -> Checked<Finding> {
    let paused: Vec<&str> = subject
        .queues()
        .await?
        .iter()
        .filter(|queue| queue.paused)
        .map(|queue| queue.name.as_str())
        .collect();
    if paused.is_empty() {
        return Ok(Finding::pass("no queue is paused"));
    }
    Err(Finding::warn(
        format!("paused: {}", paused.join(", ")),
        "Resume with POST /v1/queues/NAME/resume when the reason has passed.",
    ))
}

async fn depth(subject: &SystemSubject) -> Finding {
    either(find_long_lines(subject).await)
}

async fn find_long_lines(subject: &SystemSubject) -> Checked<Finding> {
    let queues = subject.queues().await?;
    let shown = |queue: &QueueFacts| format!("{} {}", queue.name, queue.depth.available);
    let long: Vec<String> = queues
        .iter()
        .filter(|queue| queue.depth.available > LONG_LINE)
        .map(shown)
        .collect();
    let total: u64 = queues.iter().map(|queue| queue.depth.available).sum();
    if long.is_empty() {
        return Ok(Finding::pass(format!("{total} jobs wait")).with("waiting", total));
    }
    Err(Finding::warn(
        format!("more than {LONG_LINE} jobs wait: {}", long.join(", ")),
        "Start more workers, raise the queue's concurrency, or see what its jobs wait for.",
    )
    .with("waiting", total))
}

async fn round_trip(subject: &SystemSubject) -> Finding {
    either(probe_queues(subject).await)
}

/// A real job through each queue that somebody serves, and back.
async fn probe_queues(subject: &SystemSubject) -> Checked<Finding> {
    let served = subject.served().await?;
    let queues: Vec<&QueueFacts> = configured(subject).await?.collect();
    let (probed, passed_over): (Vec<&QueueFacts>, Vec<&QueueFacts>) = queues
        .into_iter()
        .partition(|queue| !queue.paused && served.contains(queue.name.as_str()));
    if probed.is_empty() {
        return Ok(Finding::skipped("every queue is paused or unserved"));
    }
    let took = join_all(probed.iter().map(|queue| probe(subject, &queue.name))).await;
    let faults: Vec<&str> = took
        .iter()
        .filter_map(|took| took.as_ref().err().map(String::as_str))
        .collect();
    if !faults.is_empty() {
        return Err(Finding::fail(
            faults.join("; "),
            "See `holdfast jobs list`, the log of the worker, and docs/runbook.md: a deaf worker.",
        ));
    }
    let mut finding = Finding::pass(String::new());
    let mut lines = Vec::new();
    for (queue, ms) in probed.iter().zip(took.into_iter().flatten()) {
        lines.push(format!("{} {}", queue.name, shown(ms)));
        finding = finding.with(&queue.name, ms);
    }
    if !passed_over.is_empty() {
        lines.push(format!("{} not probed", passed_over.len()));
    }
    finding.summary = lines.join(", ");
    Ok(finding)
}

/// How long it took, in milliseconds.
async fn probe(subject: &SystemSubject, queue: &str) -> Result<f64, String> {
    let started = Instant::now();
    let payload = RawValue::from_string("{}".to_owned()).map_err(|error| error.to_string())?;
    let mut request = JobRequest::new("holdfast.probe", payload);
    request.queue = Some(queue.to_owned());
    request.priority = Priority::High;
    request.max_attempts = Some(1);
    request.timeout = Some(EXECUTION);
    let accepted = subject
        .target
        .enqueue(request)
        .await
        .map_err(|failure| format!("{queue} does not accept: {failure}"))?;
    let job = subject
        .target
        .show(accepted.id, Some(ROUND_TRIP))
        .await
        .map_err(|failure| format!("{queue}: {failure}"))?;
    let state = job
        .as_ref()
        .and_then(|job| job.get("state"))
        .map(State::deserialize);
    match state {
        Some(Ok(State::Completed)) => Ok(millis(started.elapsed())),
        Some(Ok(state)) if state.is_final() => Err(format!("{queue}: the probe job was {state}")),
        Some(Ok(state)) => {
            subject.target.cancel(accepted.id).await.ok();
            let waited = ROUND_TRIP.as_secs();
            Err(format!("{queue}: accepted, and still {state} after {waited} s"))
        }
        _ => Err(format!("{queue}: the accepted job is not there")),
    }
}
