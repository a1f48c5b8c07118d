//! The job as it stands on the broker: the value of apalis-redis' data hash, encoded as its `JsonCodec` would.
//!
//! A stock `apalis_redis::RedisStorage<Envelope>` can push what our workers run, and can run what we push.
//! Unknown fields are ignored and optional ones left out when unset, so old and new processes understand each other.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::enqueue::{EnqueueError, typed_request};
use crate::job::Job;
use crate::retry::Backoff;

/// A job and what a worker must know to run it. Its id is the hash field; its queue is the hash's name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    pub kind: String,
    #[serde(default = "null")]
    pub payload: Box<RawValue>,
    /// Executions at most, the first included; the kind's policy when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Longest one attempt may take, in milliseconds; the kind's timeout when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// W3C trace context of the enqueue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl Envelope {
    /// A job with the policies of its kind.
    ///
    /// # Errors
    /// [`EnqueueError::Invalid`]: the kind's `validate` refuses the payload, or it is not representable as JSON.
    pub fn of<J: Job>(job: &J) -> Result<Self, EnqueueError> {
        let request = typed_request(job).map_err(EnqueueError::Invalid)?;
        Ok(Self {
            kind: request.kind,
            payload: request.payload,
            max_attempts: None,
            timeout_ms: None,
            backoff: None,
            traceparent: None,
        })
    }
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}
