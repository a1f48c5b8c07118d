//! The body of every error, for the OpenAPI document; [`Problem`](super::Problem) writes it.

use utoipa::ToSchema;

/// Every error (RFC 9457).
#[derive(Debug, ToSchema)]
#[schema(as = Problem)]
#[allow(dead_code, reason = "the schema is what it is for")]
pub struct ProblemBody {
    /// Never changes for a kind of problem.
    #[schema(rename = "type", example = "urn:holdfast:problem:unknown-kind")]
    kind: String,
    title: String,
    status: u16,
    detail: String,
    /// The requested path.
    instance: Option<String>,
    /// The path of the invalid field, or the name of a header or parameter.
    field: Option<String>,
    /// Which job of a batch, from 0.
    index: Option<usize>,
    /// Every invalid field.
    errors: Option<Vec<FaultBody>>,
    /// For malformed JSON.
    line: Option<usize>,
    column: Option<usize>,
    job_id: Option<String>,
    /// The request's id in the server's log; also in `X-Request-Id`.
    request_id: Option<String>,
}

#[derive(Debug, ToSchema)]
#[schema(as = Fault)]
#[allow(dead_code, reason = "the schema is what it is for")]
pub struct FaultBody {
    field: String,
    reason: String,
    index: Option<usize>,
}
