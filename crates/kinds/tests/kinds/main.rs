//! The built-in kinds as a worker runs them, against real sockets.
#![allow(clippy::unwrap_used, reason = "a broken helper must stop the test at once")]

mod addresses;
mod debug_kinds;
mod exchange;
mod json_result;
mod payload;
mod redirects;
mod signing;
mod statuses;

use std::str::FromStr;

use holdfast_core::config::HttpRequestSettings;
use holdfast_jobs::{Job, JobContext, JobError, JobId, PayloadFault, Registry, Resources};
use holdfast_kinds::{HttpOutput, HttpRequest, HttpResult, KindsProduct, ResultLimit};
use holdfast_outbound::{AddressPolicy, Outbound};
use holdfast_product::Product as _;
use serde_json::Value;
use serde_json::value::RawValue;

const RESULT_LIMIT: usize = 256 * 1024;
const JOB: &str = "01JD3V0S7W8Q4M2XKZC5T9R6BH";

fn settings() -> HttpRequestSettings {
    HttpRequestSettings {
        allow_private: false,
        allow_hosts: Vec::new(),
        max_response_bytes: 64 * 1024,
        max_redirects: 3,
    }
}

/// Reaches anything.
fn open() -> Outbound {
    Outbound::with_policy(&settings(), AddressPolicy::anything()).unwrap()
}

fn context(attempt: u32, outbound: Outbound) -> JobContext {
    JobContext::detached(
        JobId::from_str(JOB).unwrap(),
        attempt,
        4,
        Resources::default()
            .with(outbound)
            .with(ResultLimit(RESULT_LIMIT)),
    )
}

/// Runs `http.request` with this payload, on its second attempt.
async fn request_with(outbound: Outbound, payload: Value) -> Result<HttpResult, JobError> {
    match run(context(2, outbound), payload).await? {
        HttpOutput::Response(result) => Ok(result),
        HttpOutput::Json(json) => panic!("{json}"),
    }
}

async fn run(context: JobContext, payload: Value) -> Result<HttpOutput, JobError> {
    let job: HttpRequest = serde_json::from_value(payload).unwrap();
    job.validate().unwrap();
    job.run(context).await
}

async fn request(payload: Value) -> Result<HttpResult, JobError> {
    request_with(open(), payload).await
}

/// The class of an error, and what it says.
fn told<T: std::fmt::Debug>(outcome: Result<T, JobError>) -> (&'static str, String) {
    let error = outcome.unwrap_err();
    (error.class(), error.to_string())
}

/// Checks a payload as an enqueue does.
fn check(kind: &str, payload: &Value) -> Result<(), PayloadFault> {
    let raw: Box<RawValue> = serde_json::value::to_raw_value(payload).unwrap();
    let registry = KindsProduct.development_kinds(KindsProduct.kinds(Registry::new()));
    registry.get(kind).unwrap().check(&raw)
}
