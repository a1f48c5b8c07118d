//! What a declared kind is.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::config::RetryOverride;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::schema::Schema;
use crate::job::PayloadFault;
use crate::marks::{Marks, REDACTED};
use crate::meters::KindMeters;

/// Longest name of a declared kind, in bytes.
const MAX_NAME: usize = 100;

/// Whether a declared kind may have this name: a letter, then up to 99 of letters, digits, `_`, `-`, `.` and `:`.
pub fn is_kind_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':'))
}

/// A kind as it is declared. Its JSON is the row's `definition`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct KindDefinition {
    /// Where its jobs go unless a job says otherwise.
    #[serde(skip)]
    pub queue: String,
    /// Longest time of one attempt. `None`: the configured default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    #[serde(default)]
    pub retry: RetryDefinition,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_schema: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_schema: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Paths to what only admins see of a payload: see [`FieldPath`](crate::marks::FieldPath).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<String>,
}

impl KindDefinition {
    /// Whether both declare the same, to the byte of their schemas.
    pub fn is_same(&self, other: &Self) -> bool {
        let text = |schema: &Option<Box<RawValue>>| schema.as_deref().map(|schema| schema.get().to_owned());
        self.queue == other.queue
            && self.timeout_seconds == other.timeout_seconds
            && self.retry == other.retry
            && text(&self.payload_schema) == text(&other.payload_schema)
            && text(&self.result_schema) == text(&other.result_schema)
            && self.description == other.description
            && self.redact == other.redact
    }
}

/// The parts of a retry policy that a kind decides; the others are the configured default's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RetryDefinition {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<bool>,
}

impl RetryDefinition {
    pub(crate) fn parts(self) -> RetryOverride {
        RetryOverride {
            max_attempts: self.max_attempts,
            base: seconds(self.base_seconds),
            cap: seconds(self.cap_seconds),
            jitter: self.jitter,
        }
    }
}

fn seconds(number: Option<f64>) -> Option<Duration> {
    number.and_then(|number| Duration::try_from_secs_f64(number).ok())
}

/// A declared kind, ready to check payloads and results.
#[derive(Debug)]
pub struct DeclaredKind {
    pub name: Arc<str>,
    pub definition: KindDefinition,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    payload: Option<Schema>,
    result: Option<Schema>,
    marks: Marks,
    pub(crate) meters: KindMeters,
}

impl DeclaredKind {
    /// # Errors
    /// The field, and what is wrong with its schema.
    pub(crate) fn new(
        name: &str,
        definition: KindDefinition,
        created_at: DateTime<Utc>,
        updated_at: DateTime<Utc>,
    ) -> Result<Self, (&'static str, String)> {
        let compiled = |field, schema: &Option<Box<RawValue>>| {
            let schema = schema.as_deref().map(Schema::compile);
            schema.transpose().map_err(|reason| (field, reason))
        };
        Ok(Self {
            payload: compiled("payload_schema", &definition.payload_schema)?,
            result: compiled("result_schema", &definition.result_schema)?,
            name: Arc::from(name),
            marks: Marks::of_paths(definition.redact.iter().map(String::as_str)),
            definition,
            created_at,
            updated_at,
            meters: KindMeters::of(name),
        })
    }

    pub fn timeout(&self) -> Option<Duration> {
        seconds(self.definition.timeout_seconds)
    }

    pub(crate) fn check_payload(&self, payload: &RawValue) -> Result<(), PayloadFault> {
        self.payload
            .as_ref()
            .map_or(Ok(()), |schema| schema.check(payload))
    }

    /// No result is the result `null`.
    pub(crate) fn check_result(&self, result: Option<&RawValue>) -> Result<(), PayloadFault> {
        let result = result.unwrap_or(RawValue::NULL);
        self.result.as_ref().map_or(Ok(()), |schema| schema.check(result))
    }

    /// What only admins see of a payload.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }
}

/// What is shown in place of a payload that is hidden whole.
pub fn hidden() -> Box<RawValue> {
    serde_json::value::to_raw_value(REDACTED).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
