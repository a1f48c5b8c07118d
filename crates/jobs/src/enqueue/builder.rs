//! Typed enqueue: `jobs.enqueue(SendInvite { … }).delay(Duration::from_secs(60)).await`.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::value::RawValue;

use super::{EnqueueError, EnqueuedJob, Fault, FaultCode, JobRequest};
use crate::client::Jobs;
use crate::job::Job;
use crate::ledger::{NewJob, Priority};
use crate::retry::Backoff;

/// A job about to be enqueued. Await it to enqueue; dropped, it does nothing.
#[derive(Debug)]
#[must_use = "a job is enqueued by `.await`"]
pub struct Enqueue {
    jobs: Jobs,
    request: Result<JobRequest, Fault>,
}

impl Enqueue {
    pub(crate) fn new<J: Job>(jobs: Jobs, job: &J) -> Self {
        Self {
            jobs,
            request: typed_request(job),
        }
    }

    fn set(mut self, change: impl FnOnce(&mut JobRequest)) -> Self {
        if let Ok(request) = &mut self.request {
            change(request);
        }
        self
    }

    pub fn queue(self, queue: impl Into<String>) -> Self {
        self.set(|request| request.queue = Some(queue.into()))
    }

    /// Not before `delay` from now, by the database's clock.
    pub fn delay(self, delay: Duration) -> Self {
        self.set(|request| request.delay = Some(delay))
    }

    /// Not before `at`.
    pub fn run_at(self, at: DateTime<Utc>) -> Self {
        self.set(|request| request.run_at = Some(at))
    }

    /// Cancelled, and never run, if it has not begun by then, by the database's clock.
    pub fn expires_at(self, at: DateTime<Utc>) -> Self {
        self.set(|request| request.expires_at = Some(at))
    }

    pub fn priority(self, priority: Priority) -> Self {
        self.set(|request| request.priority = priority)
    }

    /// Executions at most, the first included: 1 to 100.
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.set(|request| request.max_attempts = Some(attempts))
    }

    pub fn timeout(self, timeout: Duration) -> Self {
        self.set(|request| request.timeout = Some(timeout))
    }

    pub fn backoff(self, backoff: Backoff) -> Self {
        self.set(|request| request.backoff = Some(backoff))
    }

    /// While a job of this kind with this key waits or runs, another one is not accepted but answered with the first.
    pub fn unique(self, key: impl Into<String>) -> Self {
        self.set(|request| request.unique_key = Some(key.into()))
    }

    /// Whose place and tokens the job takes in a queue with limits by key: the customer's, say, where each customer may have
    /// one job running at a time. Without such limits it means nothing.
    pub fn limit_key(self, key: impl Into<String>) -> Self {
        self.set(|request| request.limit_key = Some(key.into()))
    }

    /// Words by which the job is found (`tag:vip`): at most 8, each of up to 64 characters.
    pub fn tags<T: Into<String>>(self, tags: impl IntoIterator<Item = T>) -> Self {
        self.set(|request| request.tags = tags.into_iter().map(Into::into).collect())
    }

    /// Who enqueues it, for people who look at the job: `user/4711`. Never a secret.
    pub fn enqueued_by(self, name: impl Into<Arc<str>>) -> Self {
        self.set(|request| request.enqueued_by = Some(name.into()))
    }

    /// As long as the first job with this key is kept, another one is answered with the first.
    pub fn idempotency_key(self, key: impl Into<String>) -> Self {
        self.set(|request| request.idempotency_key = Some(key.into()))
    }

    /// What is enqueued when the job completes, in the same transaction; called again, what comes after that. It is not if the
    /// job is discarded or cancelled. [`JobContext::previous`](crate::JobContext::previous) tells it what the job before
    /// it returned.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a job that is enqueued is given away"
    )]
    pub fn then<J: Job>(self, job: J) -> Self {
        let next = Self::new(self.jobs.clone(), &job);
        self.then_enqueue(next)
    }

    /// The same, with a queue, a delay or whatever else of its own: `then_enqueue(jobs.enqueue(Report).queue("reports"))`.
    pub fn then_enqueue(mut self, next: Self) -> Self {
        self.request = match (self.request, next.request) {
            (Ok(mut first), Ok(next)) => {
                let mut last = &mut first.then;
                while let Some(link) = last {
                    last = &mut link.then;
                }
                *last = Some(Box::new(next));
                Ok(first)
            }
            (Ok(_), Err(fault)) => Err(fault.under("then")),
            (Err(fault), _) => Err(fault),
        };
        self
    }

    pub(crate) fn into_request(self) -> Result<JobRequest, EnqueueError> {
        self.request.map_err(EnqueueError::Invalid)
    }

    pub(crate) async fn check(self) -> Result<(Jobs, NewJob), EnqueueError> {
        let jobs = self.jobs.clone();
        let request = self.into_request()?;
        jobs.producer().look_up([&request]).await?;
        let job = jobs.producer().check_typed(request)?;
        Ok((jobs, job))
    }
}

impl IntoFuture for Enqueue {
    type Output = Result<EnqueuedJob, EnqueueError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let (jobs, job) = self.check().await?;
            jobs.store_one(job).await
        }
        .boxed()
    }
}

/// The request a typed job makes; checked by the kind's own `validate`, without parsing what was just encoded.
pub(crate) fn typed_request<J: Job>(job: &J) -> Result<JobRequest, Fault> {
    job.validate().map_err(|fault| {
        Fault::new(
            FaultCode::InvalidPayload,
            format!("payload.{}", fault.field),
            fault.reason,
        )
    })?;
    let payload: Box<RawValue> = serde_json::value::to_raw_value(job)
        .map_err(|error| Fault::new(FaultCode::InvalidPayload, "payload", error.to_string()))?;
    Ok(JobRequest::new(J::KIND, payload))
}
