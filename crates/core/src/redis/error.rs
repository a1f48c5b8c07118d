//! What a call through the gate can fail with.

use std::time::Duration;

use redis::RedisError;

use super::Role;
use crate::failure::{Certainty, FailureClass, RedisFailure};
use crate::mode::DegradedReason;

/// Why a call through the gate has no result. Every variant says whether the command may have been applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GateError {
    /// No Redis is configured for this role.
    #[error("Redis is not configured")]
    NotConfigured,
    /// The breaker is open. Answered within microseconds; nothing was sent.
    #[error("Redis is unavailable ({reason})")]
    Unavailable { reason: DegradedReason },
    /// This process had too many calls in flight for the whole deadline. Nothing was sent.
    #[error("{op}: no free place among the concurrent Redis calls for {after:?}")]
    Saturated { op: &'static str, after: Duration },
    /// The deadline passed.
    #[error("{op}: Redis did not answer within {after:?}")]
    TimedOut {
        op: &'static str,
        after: Duration,
        certainty: Certainty,
    },
    /// The server or the connection answered with an error.
    #[error("{op}: Redis failed: {source}")]
    Failed {
        op: &'static str,
        failure: RedisFailure,
        source: RedisError,
    },
}

impl GateError {
    pub(super) fn failed(op: &'static str, failure: RedisFailure, source: RedisError) -> Self {
        Self::Failed { op, failure, source }
    }

    /// Whether the same call may succeed later.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Failed { failure, .. } => failure.class,
            Self::NotConfigured
            | Self::Unavailable { .. }
            | Self::Saturated { .. }
            | Self::TimedOut { .. } => FailureClass::Transient,
        }
    }

    /// Whether the command may have been applied although the call failed.
    pub fn certainty(&self) -> Certainty {
        match self {
            Self::NotConfigured | Self::Unavailable { .. } | Self::Saturated { .. } => Certainty::NotApplied,
            Self::TimedOut { certainty, .. } => *certainty,
            Self::Failed { failure, .. } => failure.certainty,
        }
    }

    /// Redis was not asked at all: the caller's substitute is the expected way now, and nothing to log.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::NotConfigured | Self::Unavailable { .. })
    }
}

/// A gate that cannot exist: its URL is not one. The text names the role and never the URL.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    #[error("the Redis URL of the {role} is not valid")]
    InvalidUrl { role: Role },
}

/// What redis-rs itself returns for a late reply.
pub(super) fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}
