//! What an application names in most of its files: `use holdfast::prelude::*;`

pub use holdfast_jobs::enqueue::{EnqueueError, EnqueuedJob};
pub use holdfast_jobs::{
    Backoff, Job, JobContext, JobError, JobId, Jobs, PayloadFault, RetryPolicy, SecretField, SecretPart,
    State,
};

/// Payloads and results derive it: see [`Job`](holdfast_jobs::Job#schemas). The derive looks for the crate `schemars`, which is here too.
pub use schemars::{self, JsonSchema};

pub use crate::App;
