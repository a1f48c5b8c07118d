//! `holdfast.probe`: does nothing. `holdfast validate` sends one through each queue to see that it comes back.
//!
//! In every process, unlike `debug.echo`: what runs in production is what has to be checked.

use holdfast_jobs::{Job, JobContext, JobError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The payload: an empty object.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {}

impl Job for Probe {
    const KIND: &'static str = "holdfast.probe";
    type Output = ();

    fn example() -> Option<Self> {
        Some(Self {})
    }

    async fn run(self, _: JobContext) -> Result<(), JobError> {
        Ok(())
    }
}
