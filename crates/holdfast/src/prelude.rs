//! What an application names in most of its files: `use holdfast::prelude::*;`

pub use holdfast_jobs::enqueue::{EnqueueError, Enqueued};
pub use holdfast_jobs::{
    Backoff, Job, JobContext, JobError, JobId, Jobs, PayloadFault, RetryPolicy, SecretField, SecretPart,
    State,
};

pub use crate::App;
