//! The body of an answer as a job's result.

use holdfast_jobs::JobError;
use holdfast_jobs::enqueue::depth_of;
use holdfast_outbound::{Answer, shown};
use reqwest::StatusCode;
use serde_json::value::RawValue;

use super::ResultLimit;

/// Deepest nesting of a result: what every reader of JSON takes.
const MAX_DEPTH: usize = 120;

/// The body as it came. That of a 204, which has none, is `null`.
///
/// # Errors
/// Transient: it is not JSON. Permanent: it is larger, or nested deeper, than a result may be.
pub(super) fn body_of(answer: &Answer, ResultLimit(limit): ResultLimit) -> Result<Box<RawValue>, JobError> {
    let fault = |what: String| format!("{} answered {}, and {what}", shown(&answer.url), answer.status);
    let bytes = answer.body.len();
    if answer.truncated || bytes > limit {
        let most = limit.min(bytes);
        let what = format!(
            "its body is larger than a result may be: {most} bytes (jobs.max_payload_bytes, http_request.max_response_bytes)"
        );
        return Err(JobError::permanent(fault(what)));
    }
    if bytes == 0 && answer.status == StatusCode::NO_CONTENT {
        return Ok(RawValue::NULL.to_owned());
    }
    let json: Box<RawValue> = serde_json::from_slice(&answer.body)
        .map_err(|error| JobError::transient(fault(format!("its body is not JSON: {error}"))))?;
    if depth_of(json.get()) > MAX_DEPTH {
        let what = format!("its body is nested deeper than {MAX_DEPTH}");
        return Err(JobError::permanent(fault(what)));
    }
    Ok(json)
}
