//! `http.request`: calls a URL.
//!
//! Delivery is at least once: a worker that dies between the call and its outcome leaves a job that runs again.
//! So that the receiver can tell a repetition, every attempt carries `Idempotency-Key: <job id>`, unless the
//! payload sets one, and `Holdfast-Attempt: <n>`. The next of a chain says `Holdfast-Parent: <id of the job before>`, the
//! callback of a batch `Holdfast-Batch: <id>; total=<n>; completed=<n>; discarded=<n>; cancelled=<n>`.
//!
//! The answer decides: an expected status (2xx by default) completes the job with a [`HttpResult`]; 408, 425, 429,
//! 5xx, timeouts and network faults are tried again, after `Retry-After` if the server gives one; everything else
//! discards it. Redirects are followed. Which addresses may be reached, and the whole table of faults, is the
//! business of [`holdfast_outbound`].
//!
//! With `sign`, the request carries the signature of [Standard Webhooks](https://www.standardwebhooks.com), made anew for each
//! attempt with the installation's keys ([`crate::signing_keys`]). Its `webhook-id` is the job's id, the same for every attempt, so
//! a receiver can drop a repetition. Without a key nothing is sent.
//!
//! With `result: "json"`, the body of an accepted answer is the job's result, as it came, so that the next job of a chain reads it
//! without a wrapper. A body that is not JSON fails the attempt: a proxy may have answered instead of the service. One that is
//! too large or nested too deeply to be a result discards the job, as it would the job of any other kind.
//!
//! A cancelled job drops its request at once; whether the server has acted on it is unknown then.

mod json;
mod result;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use holdfast_jobs::{Job, JobContext, JobError, PayloadFault, SecretField, SecretPart};
use percent_encoding::percent_decode_str;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::Url;

use holdfast_outbound::{AddressPolicy, Call, Outbound, is_of_signature, is_public, shown, signed_headers};

use crate::signing_keys::SigningKeys;

pub use result::{HttpResult, ResultLimit};

/// Timeout of a payload that sets none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest timeout of a payload.
const MAX_TIMEOUT: Duration = Duration::from_mins(5);
/// What the runner grants beyond [`MAX_TIMEOUT`], so that our own error, which says more, comes first.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(15);
const MAX_URL_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
/// Names and values together.
const MAX_HEADER_BYTES: usize = 16 * 1024;
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
const MAX_EXPECTED: usize = 32;

/// What the schema says of a URL: more than this is decided by the parser.
const URL_PATTERN: &str = "^\\s*[Hh][Tt][Tt][Pp][Ss]?:";
/// A token of RFC 9110.
const HEADER_NAME_PATTERN: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
const HEADER_VALUE_PATTERN: &str = r"^[^\u0000-\u0008\u000a-\u001f\u007f]*$";

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const HOLDFAST_ATTEMPT: HeaderName = HeaderName::from_static("holdfast-attempt");
const HOLDFAST_PARENT: HeaderName = HeaderName::from_static("holdfast-parent");
const HOLDFAST_BATCH: HeaderName = HeaderName::from_static("holdfast-batch");

/// Headers that belong to the connection or to the framing of the message, which are the client's to decide: from
/// a payload they would smuggle requests or reach another virtual host than the one whose address was checked.
const REFUSED_HEADERS: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// The methods that `http.request` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl From<Method> for reqwest::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Get => Self::GET,
            Method::Head => Self::HEAD,
            Method::Post => Self::POST,
            Method::Put => Self::PUT,
            Method::Patch => Self::PATCH,
            Method::Delete => Self::DELETE,
            Method::Options => Self::OPTIONS,
        }
    }
}

/// A request to make.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
// A GET or HEAD request has no body, and the answer to HEAD has none.
#[schemars(extend("allOf" = [
    {"not": {
        "required": ["method", "body"],
        "properties": {"method": {"enum": ["GET", "HEAD"]}, "body": {"not": {"type": "null"}}},
    }},
    {"not": {"required": ["method", "result"], "properties": {"method": {"const": "HEAD"}, "result": {"const": "json"}}}},
]))]
pub struct HttpRequest {
    /// `http` or `https`. A user and password in it are sent as `Authorization: Basic`.
    #[schemars(length(max = MAX_URL_BYTES), extend("pattern" = URL_PATTERN))]
    pub url: String,
    /// Default: `POST` with a body, `GET` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Headers of the request.
    #[schemars(extend(
        "maxProperties" = MAX_HEADERS,
        "propertyNames" = {"pattern": HEADER_NAME_PATTERN},
        "additionalProperties" = {"type": "string", "pattern": HEADER_VALUE_PATTERN},
    ))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// A JSON string is sent as text, any other JSON unchanged. The content type is set accordingly, unless
    /// `headers` sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Box<RawValue>>,
    /// Timeout of the whole exchange, redirects included; above 0, at most 300. Default: 30.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = MAX_TIMEOUT.as_secs()))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// The statuses that complete the job, instead of 2xx. A redirect status listed here is not followed.
    #[schemars(length(max = MAX_EXPECTED), inner(range(min = 200, max = 599)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected_status: Vec<u16>,
    /// Whether the request is signed with the installation's key (`/v1/signing-keys`), as Standard Webhooks specifies.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sign: bool,
    /// What the job's result is: `response` (status, headers, and the body as text) or `json` (the body, which must be JSON).
    /// Default: `response`.
    #[serde(default, skip_serializing_if = "ResultForm::is_default")]
    pub result: ResultForm,
}

/// What an `http.request` job returns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResultForm {
    /// Status, headers, and the body as text.
    #[default]
    Response,
    /// The body of the answer, parsed as JSON.
    Json,
}

impl ResultForm {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "what serde calls takes a reference"
    )]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The result of an `http.request` job.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum HttpOutput {
    Response(HttpResult),
    Json(Box<RawValue>),
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = Url::parse(&self.url).map_or_else(|_| "(not a URL)".to_owned(), |url| shown(&url));
        f.debug_struct("HttpRequest")
            .field("url", &url)
            .field("method", &self.method)
            .field("headers", &self.headers.keys())
            .field("body_bytes", &self.body.as_ref().map(|body| body.get().len()))
            .field("timeout_seconds", &self.timeout_seconds)
            .field("expected_status", &self.expected_status)
            .field("sign", &self.sign)
            .field("result", &self.result)
            .finish()
    }
}

impl HttpRequest {
    /// A request without a body.
    pub fn to(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            method: None,
            headers: BTreeMap::new(),
            body: None,
            timeout_seconds: None,
            expected_status: Vec::new(),
            sign: false,
            result: ResultForm::Response,
        }
    }

    /// Whether these settings allow the address, as far as the URL names it.
    pub(crate) fn check_address(&self, policy: &AddressPolicy) -> Result<(), PayloadFault> {
        policy
            .check_url(&self.parsed_url()?)
            .map_err(|refused| PayloadFault::new("url", format!("leads to {refused}")))
    }

    /// The request as the client takes it; the one place that checks the payload.
    fn to_call(&self) -> Result<Call, PayloadFault> {
        let mut url = self.parsed_url()?;
        let mut headers = self.parsed_headers()?;
        move_credentials(&mut url, &mut headers)?;
        let body = self.parsed_body(&mut headers)?;
        Ok(Call {
            method: self.effective_method()?.into(),
            url,
            headers,
            body,
            timeout: self.timeout()?,
            accept: self.accepted()?,
        })
    }

    fn parsed_url(&self) -> Result<Url, PayloadFault> {
        let fault = |reason: &str| PayloadFault::new("url", reason);
        if self.url.len() > MAX_URL_BYTES {
            return Err(fault("is longer than 8192 bytes"));
        }
        let url =
            Url::parse(&self.url).map_err(|error| fault(&format!("is not an absolute URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(fault("must begin with http:// or https://"));
        }
        if url.port() == Some(0) {
            return Err(fault("names port 0, where nothing can listen"));
        }
        Ok(url)
    }

    fn parsed_headers(&self) -> Result<HeaderMap, PayloadFault> {
        if self.headers.len() > MAX_HEADERS {
            return Err(PayloadFault::new("headers", "has more than 64 entries"));
        }
        let bytes: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if bytes > MAX_HEADER_BYTES {
            return Err(PayloadFault::new("headers", "is longer than 16384 bytes"));
        }
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 4);
        for (name, value) in &self.headers {
            let fault = |reason: &str| PayloadFault::new(format!("headers.{name}"), reason);
            let parsed = parsed_name(name).map_err(fault)?;
            if self.sign && is_of_signature(&parsed) {
                return Err(fault("is set by `sign` and cannot be given with it"));
            }
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| fault("has a control character in its value, such as a line break"))?;
            value.set_sensitive(!is_public(&parsed));
            if headers.insert(parsed, value).is_some() {
                return Err(fault("is given twice, in different spellings"));
            }
        }
        Ok(headers)
    }

    fn parsed_body(&self, headers: &mut HeaderMap) -> Result<Option<Bytes>, PayloadFault> {
        let Some(raw) = &self.body else { return Ok(None) };
        let fault = |reason: &str| PayloadFault::new("body", reason);
        if raw.get().len() > MAX_BODY_BYTES {
            return Err(fault("is longer than 4 MiB"));
        }
        let is_text = raw.get().starts_with('"');
        let (body, content_type) = if is_text {
            let text: String = serde_json::from_str(raw.get()).map_err(|error| fault(&error.to_string()))?;
            (Bytes::from(text), "text/plain; charset=utf-8")
        } else {
            (Bytes::copy_from_slice(raw.get().as_bytes()), "application/json")
        };
        headers
            .entry(CONTENT_TYPE)
            .or_insert(HeaderValue::from_static(content_type));
        Ok(Some(body))
    }

    fn effective_method(&self) -> Result<Method, PayloadFault> {
        match (self.method, &self.body) {
            (None, None) => Ok(Method::Get),
            (None, Some(_)) => Ok(Method::Post),
            (Some(Method::Get | Method::Head), Some(_)) => Err(PayloadFault::new(
                "body",
                "has no meaning in a GET or HEAD request",
            )),
            (Some(method), _) => Ok(method),
        }
    }

    fn timeout(&self) -> Result<Duration, PayloadFault> {
        let Some(seconds) = self.timeout_seconds else {
            return Ok(DEFAULT_TIMEOUT);
        };
        match Duration::try_from_secs_f64(seconds) {
            // Less than a nanosecond is above 0 too.
            Ok(timeout) if seconds > 0.0 && timeout <= MAX_TIMEOUT => {
                Ok(timeout.max(Duration::from_nanos(1)))
            }
            _ => Err(PayloadFault::new(
                "timeout_seconds",
                "must be more than 0 and at most 300",
            )),
        }
    }

    fn accepted(&self) -> Result<Vec<StatusCode>, PayloadFault> {
        if self.expected_status.len() > MAX_EXPECTED {
            return Err(PayloadFault::new("expected_status", "has more than 32 entries"));
        }
        let parse = |(index, &status): (usize, &u16)| {
            StatusCode::from_u16(status)
                .ok()
                .filter(|_| (200..600).contains(&status))
                .ok_or_else(|| {
                    PayloadFault::new(
                        format!("expected_status[{index}]"),
                        "is not a status from 200 to 599",
                    )
                })
        };
        self.expected_status.iter().enumerate().map(parse).collect()
    }
}

fn parsed_name(name: &str) -> Result<HeaderName, &'static str> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is not a header name")?;
    if REFUSED_HEADERS.contains(&name.as_str()) {
        return Err("is set by the client itself and cannot be given");
    }
    if name.as_str().starts_with("holdfast-") {
        return Err("has a name that is reserved for Holdfast");
    }
    Ok(name)
}

/// Moves user and password from the URL into the header, where redirects treat them as the secret that they are.
fn move_credentials(url: &mut Url, headers: &mut HeaderMap) -> Result<(), PayloadFault> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(());
    }
    if headers.contains_key(AUTHORIZATION) {
        return Err(PayloadFault::new(
            "url",
            "has a user and password besides headers.authorization",
        ));
    }
    let password = url.password().unwrap_or_default();
    let credentials: Vec<u8> = percent_decode_str(url.username())
        .chain(*b":")
        .chain(percent_decode_str(password))
        .collect();
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64.encode(credentials)))
        .map_err(|_| PayloadFault::new("url", "has a user or password that cannot be sent"))?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    // Neither can fail for a URL with a host, which http and https always have.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Ok(())
}

impl Job for HttpRequest {
    const KIND: &'static str = "http.request";
    type Output = HttpOutput;

    fn example() -> Option<Self> {
        let body = serde_json::value::to_raw_value(&serde_json::json!({"month": "2026-11"}));
        Some(Self {
            body: body.ok(),
            timeout_seconds: Some(10.0),
            ..Self::to("https://example.com/hooks/report")
        })
    }

    fn timeout() -> Option<Duration> {
        Some(MAX_TIMEOUT + TIMEOUT_MARGIN)
    }

    fn secret_fields() -> &'static [SecretField] {
        &[("url", SecretPart::Url), ("headers", SecretPart::Headers)]
    }

    fn validate(&self) -> Result<(), PayloadFault> {
        let call = self.to_call()?;
        if self.result == ResultForm::Json && call.method == reqwest::Method::HEAD {
            return Err(PayloadFault::new(
                "result",
                "cannot be json: HEAD is answered without a body",
            ));
        }
        Ok(())
    }

    async fn run(self, ctx: JobContext) -> Result<HttpOutput, JobError> {
        let (outbound, limit) = (ctx.resource::<Outbound>()?, ctx.resource::<ResultLimit>()?);
        let mut call = self.to_call().map_err(JobError::permanent)?;
        introduce(&mut call.headers, &ctx)?;
        if self.sign {
            sign(&mut call, &ctx).await?;
        }
        let answer = tokio::select! {
            answer = outbound.send(call) => answer?,
            () = ctx.cancelled() => return Err(JobError::Cancelled),
        };
        Ok(match self.result {
            ResultForm::Response => HttpOutput::Response(HttpResult::of(&answer, *limit)),
            ResultForm::Json => HttpOutput::Json(json::body_of(&answer, *limit)?),
        })
    }
}

/// The id is the job's: the same for every attempt.
async fn sign(call: &mut Call, ctx: &JobContext) -> Result<(), JobError> {
    let secrets = ctx.resource::<SigningKeys>()?.secrets().await?;
    let body = call.body.as_deref().unwrap_or_default();
    call.headers
        .extend(signed_headers(&ctx.id().to_string(), &secrets, body)?);
    Ok(())
}

/// Tells the receiver which job this is, which attempt, and what brought it about.
fn introduce(headers: &mut HeaderMap, ctx: &JobContext) -> Result<(), JobError> {
    let id = HeaderValue::try_from(ctx.id().to_string())?;
    headers.entry(IDEMPOTENCY_KEY).or_insert(id);
    headers.insert(HOLDFAST_ATTEMPT, HeaderValue::from(ctx.attempt()));
    if let Some(previous) = ctx.previous() {
        headers.insert(HOLDFAST_PARENT, HeaderValue::try_from(previous.id.to_string())?);
    }
    if let Some(batch) = ctx.ended_batch() {
        let counts = format!(
            "{}; total={}; completed={}; discarded={}; cancelled={}",
            batch.id, batch.total, batch.completed, batch.discarded, batch.cancelled
        );
        headers.insert(HOLDFAST_BATCH, HeaderValue::try_from(counts)?);
    }
    Ok(())
}
