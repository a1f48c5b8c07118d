//! `debug.fail`: fails in the way it is told, so that every way a job can end can be seen and tested.
//!
//! With `times`, the first `times` attempts fail and the next one succeeds. `snooze` and `abort` spend no attempt,
//! so there is nothing to count, and `times` is refused with them.
//!
//! `abort` kills the whole process with SIGABRT, as a crash of native code would: nothing is flushed, handed back
//! or reported, and the other jobs of the worker die with it. It exists for the chaos suite, and is the reason
//! why no production process knows the `debug.*` kinds (see [`crate::KindsProduct`]).

use std::time::Duration;

use holdfast_jobs::{Job, JobContext, JobError, PayloadFault};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest `retry_after_seconds`.
const MAX_RETRY_AFTER_SECONDS: u64 = 24 * 60 * 60;

/// How to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailMode {
    /// An error worth a retry.
    Transient,
    /// An error that discards the job.
    Permanent,
    /// An error that sets its own delay, `retry_after_seconds`.
    RetryAfter,
    /// A panic in the handler.
    Panic,
    /// Run again after `retry_after_seconds`, without spending an attempt.
    Snooze,
    /// Never return, and ignore a cancellation: only the timeout ends it.
    Hang,
    /// Kill the process.
    Abort,
}

/// A failure to be shown.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
// The modes that spend no attempt refuse a number of them.
#[schemars(extend("not" = {
    "required": ["times"],
    "properties": {"mode": {"enum": ["snooze", "abort"]}, "times": {"type": "integer"}},
}))]
pub struct DebugFail {
    /// How to fail.
    pub mode: FailMode,
    /// Number of attempts that fail before one succeeds. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// The error's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Delay in seconds, for `retry_after` and `snooze`. Default: 1.
    #[schemars(range(max = MAX_RETRY_AFTER_SECONDS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
}

/// The result of an attempt after the failing ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Recovered")]
pub struct RecoveryReport {
    /// The attempt that succeeded.
    pub attempt: u32,
}

impl DebugFail {
    pub fn new(mode: FailMode) -> Self {
        Self {
            mode,
            times: None,
            message: None,
            retry_after_seconds: None,
        }
    }

    /// Succeed after `times` failures.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }
}

impl Job for DebugFail {
    const KIND: &'static str = "debug.fail";
    type Output = RecoveryReport;

    fn example() -> Option<Self> {
        Some(Self::new(FailMode::Transient).times(1))
    }

    fn validate(&self) -> Result<(), PayloadFault> {
        if self.times.is_some() && matches!(self.mode, FailMode::Snooze | FailMode::Abort) {
            return Err(PayloadFault::new(
                "times",
                "counts attempts, and this mode spends none",
            ));
        }
        if self
            .retry_after_seconds
            .is_some_and(|seconds| seconds > MAX_RETRY_AFTER_SECONDS)
        {
            return Err(PayloadFault::new(
                "retry_after_seconds",
                "must not exceed one day (86400)",
            ));
        }
        Ok(())
    }

    async fn run(self, ctx: JobContext) -> Result<RecoveryReport, JobError> {
        if self.times.is_some_and(|times| ctx.attempt() > times) {
            return Ok(RecoveryReport {
                attempt: ctx.attempt(),
            });
        }
        let rest = Duration::from_secs(self.retry_after_seconds.unwrap_or(1));
        let message = self
            .message
            .unwrap_or_else(|| "debug.fail was asked to fail".to_owned());
        match self.mode {
            FailMode::Transient => Err(JobError::transient(message)),
            FailMode::Permanent => Err(JobError::permanent(message)),
            FailMode::RetryAfter => Err(JobError::retry_after(rest, message)),
            FailMode::Snooze => Err(JobError::Snooze(rest)),
            FailMode::Panic => panic!("{message}"),
            FailMode::Hang => std::future::pending().await,
            FailMode::Abort => std::process::abort(),
        }
    }
}
