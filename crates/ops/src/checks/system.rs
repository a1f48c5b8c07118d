//! Queues and workers, through the API.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::future::join_all;
use holdfast_control::wire::{
    AcceptedJob, Attempts, JobBody, JobView, QueueList, QueueView, Urgency, WorkerList, WorkerView,
};
use holdfast_http::wire::Seconds;
use holdfast_jobs::State;
use holdfast_jobs::ledger::Priority;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::OnceCell;

use super::timing::{millis, shown};
use super::{Check, CheckResult, Finding, check, either};
use crate::client::{Api, ApiError};

/// Longest way of a probe job through its queue. An idle worker that hears no bell looks every five seconds.
const ROUND_TRIP: Duration = Duration::from_secs(20);
/// Longest execution of a probe job.
const EXECUTION: Duration = Duration::from_secs(10);

/// A longer line than this is worth a look.
const LONG_LINE: u64 = 100;

#[derive(Debug)]
pub(crate) struct SystemSubject {
    api: Api,
    queues: OnceCell<Vec<QueueView>>,
    workers: OnceCell<Vec<WorkerView>>,
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
    pub(crate) fn new(api: Api) -> Self {
        Self {
            api,
            queues: OnceCell::new(),
            workers: OnceCell::new(),
        }
    }

    async fn queues(&self) -> CheckResult<&[QueueView]> {
        let asking = self.queues.get_or_try_init(|| async {
            let list: QueueList = self.list("queues").await?;
            Ok(list.queues)
        });
        asking.await.map(Vec::as_slice)
    }

    async fn workers(&self) -> CheckResult<&[WorkerView]> {
        let asking = self.workers.get_or_try_init(|| async {
            let list: WorkerList = self.list("workers").await?;
            Ok(list.workers)
        });
        asking.await.map(Vec::as_slice)
    }

    async fn list<T: DeserializeOwned>(&self, name: &str) -> CheckResult<T> {
        let answer = self.api.get(&["v1", name], &[]).await;
        let document = answer.map_err(|error| unread(&error))?;
        document.read().map_err(|_| {
            Finding::fail(
                format!("/v1/{name} is not as documented"),
                "Another version answers: check what is deployed.",
            )
        })
    }

    async fn served(&self) -> CheckResult<BTreeSet<&str>> {
        let alive = self.workers().await?.iter().filter(|worker| worker.alive);
        Ok(alive
            .flat_map(|worker| &worker.queues)
            .map(String::as_str)
            .collect())
    }
}

fn unread(error: &ApiError) -> Finding {
    Finding::fail(error.to_string(), "See the checks above, and the log of the API.")
}

async fn alive(subject: &SystemSubject) -> Finding {
    either(count_workers(subject).await)
}

async fn count_workers(subject: &SystemSubject) -> CheckResult<Finding> {
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

async fn find_unserved(subject: &SystemSubject) -> CheckResult<Finding> {
    let served = subject.served().await?;
    let unserved = configured(subject).await?;
    let unserved = unserved.filter(|queue| !served.contains(queue.name.as_str()));
    let (pull, unserved): (Vec<&QueueView>, Vec<&QueueView>) = unserved.partition(|queue| is_pulled(queue));
    let names = |queues: &[&QueueView]| {
        let names: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
        names.join(", ")
    };
    if unserved.is_empty() && !pull.is_empty() {
        return Err(Finding::warn(
            format!("no pull worker serves {}: their jobs wait", names(&pull)),
            "Start a worker that registers for them with POST /v1/workers, or delete the queues that nobody needs.",
        ));
    }
    if unserved.is_empty() {
        return Ok(Finding::pass(format!(
            "every queue is served: {}",
            served.into_iter().collect::<Vec<_>>().join(", ")
        )));
    }
    Err(Finding::fail(
        format!("no worker serves {}", names(&unserved)),
        "Add them to worker.queues of a worker, or start one that serves every queue.",
    ))
}

/// Jobs of a pull queue are not run by Rust workers.
fn is_pulled(queue: &QueueView) -> bool {
    queue.served_by.as_deref() == Some("pull")
}

async fn configured(subject: &SystemSubject) -> CheckResult<impl Iterator<Item = &QueueView>> {
    Ok(subject
        .queues()
        .await?
        .iter()
        .filter(|queue| queue.durability.is_some()))
}

async fn paused(subject: &SystemSubject) -> Finding {
    either(find_paused(subject).await)
}

async fn find_paused(subject: &SystemSubject) -> CheckResult<Finding> {
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

async fn find_long_lines(subject: &SystemSubject) -> CheckResult<Finding> {
    let queues = subject.queues().await?;
    let shown = |queue: &QueueView| format!("{} {}", queue.name, queue.depth.available);
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

/// A real job through each queue that has workers, and back.
async fn probe_queues(subject: &SystemSubject) -> CheckResult<Finding> {
    let served = subject.served().await?;
    let queues: Vec<&QueueView> = configured(subject).await?.collect();
    let (probed, passed_over): (Vec<&QueueView>, Vec<&QueueView>) = queues
        .into_iter()
        .partition(|queue| !queue.paused && !is_pulled(queue) && served.contains(queue.name.as_str()));
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
    let accepted = subject
        .api
        .post_json(&["v1", "jobs"], &probe_of(queue)?, None)
        .await
        .map_err(|error| format!("{queue} does not accept: {error}"))?;
    let job: AcceptedJob = accepted.read().map_err(|error| format!("{queue}: {error}"))?;
    let id = job.id.to_string();
    let (_, job) = subject
        .api
        .wait(&["v1", "jobs", &id], ROUND_TRIP, |job: &JobView| {
            job.state.is_final()
        })
        .await
        .map_err(|error| format!("{queue}: {error}"))?;
    match job.state {
        State::Completed => Ok(millis(started.elapsed())),
        state if state.is_final() => Err(format!("{queue}: the probe job was {state}")),
        state => {
            subject.api.post(&["v1", "jobs", &id, "cancel"]).await.ok();
            let waited = ROUND_TRIP.as_secs();
            Err(format!("{queue}: accepted, and still {state} after {waited} s"))
        }
    }
}

fn probe_of(queue: &str) -> Result<JobBody, String> {
    let payload = RawValue::from_string("{}".to_owned()).map_err(|error| error.to_string())?;
    Ok(JobBody {
        queue: Some(queue.to_owned()),
        priority: Some(Urgency(Priority::High)),
        max_attempts: Some(Attempts(1)),
        timeout_seconds: Some(Seconds(EXECUTION)),
        ..JobBody::new("holdfast.probe".to_owned(), payload)
    })
}
