//! `debug.echo`: returns its payload, which may be any JSON.
//!
//! It is what the README's first job runs, and the no-op of the benchmarks: the payload is neither parsed nor
//! copied beyond what the runner does for every job.

use holdfast_jobs::{Job, JobContext, JobError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The payload, as it came.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct DebugEcho(pub Box<RawValue>);

impl Job for DebugEcho {
    const KIND: &'static str = "debug.echo";
    type Output = Box<RawValue>;

    fn example() -> Option<Self> {
        let hello = serde_json::json!({"hello": "world"});
        serde_json::value::to_raw_value(&hello).ok().map(Self)
    }

    async fn run(self, _: JobContext) -> Result<Self::Output, JobError> {
        Ok(self.0)
    }
}
