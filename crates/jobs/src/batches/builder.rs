//! Typed batches: `jobs.batch(files.map(|file| jobs.enqueue(Import { file }))).callback(jobs.enqueue(Report)).await`.

use std::future::IntoFuture;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{BatchRequest, EnqueuedBatch};
use crate::client::Jobs;
use crate::enqueue::{Enqueue, EnqueueError};

/// A batch about to be enqueued. Await it to enqueue; dropped, it does nothing.
#[derive(Debug)]
#[must_use = "a batch is enqueued by `.await`"]
pub struct BatchBuilder {
    jobs: Jobs,
    members: Vec<Enqueue>,
    callback: Option<Enqueue>,
    name: Option<String>,
    idempotency_key: Option<String>,
}

impl BatchBuilder {
    pub(super) fn new(jobs: Jobs, members: impl IntoIterator<Item = Enqueue>) -> Self {
        Self {
            jobs,
            members: members.into_iter().collect(),
            callback: None,
            name: None,
            idempotency_key: None,
        }
    }

    /// A readable description.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Enqueued once, when every job of the batch is completed, discarded or cancelled. It is told the counts:
    /// [`JobContext::ended_batch`](crate::JobContext::ended_batch).
    pub fn callback(mut self, callback: Enqueue) -> Self {
        self.callback = Some(callback);
        self
    }

    /// As long as the first batch with this key is kept, another one is answered with the first.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    fn into_request(self) -> Result<(Jobs, BatchRequest), EnqueueError> {
        let members = self.members.into_iter().enumerate();
        let jobs = members
            .map(|(index, job)| {
                job.into_request().map_err(|error| match error {
                    EnqueueError::Invalid(mut fault) => {
                        fault.index = Some(index);
                        EnqueueError::Invalid(fault)
                    }
                    other => other,
                })
            })
            .collect::<Result<_, _>>()?;
        let callback = self.callback.map(Enqueue::into_request).transpose();
        let request = BatchRequest {
            name: self.name,
            jobs,
            callback: callback.map_err(|error| match error {
                EnqueueError::Invalid(fault) => EnqueueError::Invalid(fault.under("callback")),
                other => other,
            })?,
            idempotency_key: self.idempotency_key,
        };
        Ok((self.jobs, request))
    }
}

impl IntoFuture for BatchBuilder {
    type Output = Result<EnqueuedBatch, EnqueueError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let (jobs, request) = self.into_request()?;
            let requests = request.jobs.iter().chain(request.callback.as_ref());
            jobs.producer().look_up(requests).await?;
            let batch = jobs.producer().check_group(request, true)?;
            jobs.producer().store_group(batch).await
        }
        .boxed()
    }
}
