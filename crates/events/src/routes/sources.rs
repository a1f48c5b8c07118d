//! Sources: where events are found.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use holdfast_control::enqueue::AcceptedJob;
use holdfast_http::body::json_body;
use holdfast_http::json;
use holdfast_http::params::Params;
use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::{Admin, Allowed, Produce, Read};
use holdfast_product::redaction::redacted_feed;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::discovery::parse::Mapping;
use crate::discovery::{Definition, Listing, NewSource, Report, SourceId, SourceKind, SourceRecord};
use crate::state::EventsState;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Of a source that says nothing of it.
const DEFAULT_INTERVAL: u64 = 3_600;

/// A source to be stored.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewSource, example = json!({"name": "city-calendar", "kind": "ical", "interval_seconds": 3600,
    "url": "https://example.com/events.ics", "time_zone": "Europe/Vienna", "category": "city"}))]
pub(crate) struct SourceBody {
    /// 1 to 100 bytes; no two sources have the same.
    name: String,
    /// `ical`, `rss` (RSS, Atom, JSON Feed), `json` (with a `mapping`) or `reddit`.
    #[schema(value_type = String, pattern = "^(ical|rss|json|reddit)$")]
    kind: SourceKind,
    /// http or https; of every kind but `reddit`.
    url: Option<String>,
    /// For `json`: JSON pointers. `entries` points to the list; `title` and `starts_at` are required; `uid`,
    /// `ends_at`, `description`, `url`, `category`, `time_zone`, `lat`, `lon`, `place` and `cancelled` are
    /// optional.
    #[schema(value_type = Option<Object>)]
    mapping: Option<Mapping>,
    /// For `reddit`, without `r/`.
    subreddit: Option<String>,
    /// For `reddit`: `new` (default), `hot` or `rising`.
    #[schema(value_type = Option<String>, pattern = "^(new|hot|rising)$")]
    listing: Option<Listing>,
    /// For `reddit`: number of pages of 100 posts, 1 to 10; default 1.
    #[schema(minimum = 1, maximum = 10)]
    pages: Option<u32>,
    /// About how often the source is read; default 3600.
    interval_seconds: Option<u64>,
    /// An IANA name, for times without a zone.
    time_zone: Option<String>,
    /// For entries that name none.
    category: Option<String>,
    /// For entries that name none.
    place: Option<String>,
    /// For entries without a place; only together with `lon`.
    #[schema(minimum = -90, maximum = 90)]
    lat: Option<f64>,
    #[schema(minimum = -180, maximum = 180)]
    lon: Option<f64>,
    /// Default: true.
    enabled: Option<bool>,
}

impl SourceBody {
    fn into_source(self) -> NewSource {
        NewSource {
            name: self.name,
            enabled: self.enabled.unwrap_or(true),
            definition: Definition {
                kind: self.kind,
                url: self.url,
                mapping: self.mapping,
                subreddit: self.subreddit,
                listing: self.listing,
                pages: self.pages,
                interval_seconds: self.interval_seconds.unwrap_or(DEFAULT_INTERVAL),
                time_zone: self.time_zone,
                category: self.category,
                place: self.place,
                lat: self.lat,
                lon: self.lon,
            },
        }
    }
}

/// A source.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Source)]
pub(crate) struct SourceView {
    /// The `source` of its events.
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    id: SourceId,
    name: String,
    enabled: bool,
    /// Its definition: `kind`, `url`, `interval_seconds` and the other given fields.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    definition: Definition,
    /// Null if the source is disabled.
    next_run_at: Option<DateTime<Utc>>,
    last_run_at: Option<DateTime<Utc>>,
    last_success_at: Option<DateTime<Utc>>,
    /// Consecutive failures. Each one lengthens the time until the next run.
    consecutive_failures: u32,
    /// What the last run did: `status` (`ok`, `unchanged`, `failed`), `error`, counts, `notes` on what was skipped (20 at
    /// most), `changes` (20 at most). Null: it has not run yet.
    #[schema(value_type = Option<Object>)]
    last_run: Option<Report>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl SourceView {
    /// A private feed's address is its key: who may not see secrets sees its host.
    fn shown_to<N>(mut self, allowed: &Allowed<N>) -> Self {
        if !allowed.sees_secrets() {
            self.definition.url = self.definition.url.as_deref().map(redacted_feed);
        }
        self
    }
}

impl From<SourceRecord> for SourceView {
    fn from(record: SourceRecord) -> Self {
        Self {
            id: record.id,
            name: record.name,
            enabled: record.enabled,
            definition: record.definition,
            next_run_at: record.next_run_at,
            last_run_at: record.last_run_at,
            last_success_at: record.last_success_at,
            consecutive_failures: record.failures,
            last_run: record.report,
            created_at: record.created_at,
            updated_at: record.updated_at,
        }
    }
}

/// A page of sources, in the order of creation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SourceList {
    sources: Vec<SourceView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    next: Option<String>,
}

/// A deleted source.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeletedSource {
    id: String,
    deleted: bool,
}

fn source_id(request: &HttpRequest) -> Result<SourceId, Problem> {
    let text = request.match_info().get("id").unwrap_or_default();
    text.parse().map_err(|_| {
        let reason = format!("{} is no source's id, which has 26 characters", quote(text));
        Problem::field(ProblemKind::InvalidId, "id", reason)
    })
}

/// List sources
///
/// In the order of creation, each with the report of its last run.
#[utoipa::path(get, path = "/v1/sources", tag = "sources", operation_id = "list_sources",
    params(
        ("after" = Option<String>, Query, description = "The `next` of the previous page"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; default 100"),
    ),
    responses(
        (status = 200, body = SourceList),
        (status = 400, description = "invalid-parameter"),
    ))]
pub(crate) async fn list(
    allowed: Allowed<Read>,
    state: web::Data<EventsState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request, &["after", "limit"]);
    let limit = params.count("limit", 1, MAX_LIMIT).unwrap_or(DEFAULT_LIMIT);
    let after: Option<SourceId> = params.parsed("after");
    params.finish()?;
    let sources = state.sources.clone();
    let mut found = state
        .http
        .on_runtime(async move { sources.list(after, limit + 1).await })
        .await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|record| record.id.to_string());
    let view = |record| SourceView::from(record).shown_to(&allowed);
    let sources = found.into_iter().map(view).collect();
    json(StatusCode::OK, &SourceList { sources, next })
}

/// Register a source
///
/// The source is read immediately, and then about every `interval_seconds`. All errors in the definition are
/// reported together.
#[utoipa::path(post, path = "/v1/sources", tag = "sources", operation_id = "create_source",
    request_body = SourceBody,
    responses(
        (status = 201, body = SourceView, headers(("Location" = String, description = "The source's address"))),
        (status = 400, description = "malformed-json"),
        (status = 409, description = "name-taken, too-many-sources"),
        (status = 413, description = "body-too-large"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn create(
    allowed: Allowed<Admin>,
    state: web::Data<EventsState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let body: SourceBody = json_body(&request, payload, &state.http).await?;
    let (sources, source) = (state.sources.clone(), body.into_source());
    let by = allowed.by(&request);
    let record = state
        .http
        .on_runtime(async move { sources.create(&by, &source).await })
        .await?;
    let location = HeaderValue::from_str(&format!("/v1/sources/{}", record.id)).map_err(Problem::internal)?;
    let mut response = json(StatusCode::CREATED, &SourceView::from(record))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// Show a source
#[utoipa::path(get, path = "/v1/sources/{id}", tag = "sources", operation_id = "get_source",
    params(("id" = String, Path, description = "The source's id")),
    responses(
        (status = 200, body = SourceView),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "source-not-found"),
    ))]
pub(crate) async fn show(
    allowed: Allowed<Read>,
    state: web::Data<EventsState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (sources, id) = (state.sources.clone(), source_id(&request)?);
    let record = state
        .http
        .on_runtime(async move { sources.get(id).await })
        .await?;
    json(StatusCode::OK, &SourceView::from(record).shown_to(&allowed))
}

/// Replace a source
///
/// The source keeps its id and its events, its failures are reset, and it is read again immediately.
#[utoipa::path(put, path = "/v1/sources/{id}", tag = "sources", operation_id = "put_source",
    params(("id" = String, Path, description = "The source's id")),
    request_body = SourceBody,
    responses(
        (status = 200, body = SourceView),
        (status = 400, description = "malformed-json, invalid-id"),
        (status = 404, description = "source-not-found"),
        (status = 409, description = "name-taken"),
        (status = 413, description = "body-too-large"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn put(
    allowed: Allowed<Admin>,
    state: web::Data<EventsState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let id = source_id(&request)?;
    let body: SourceBody = json_body(&request, payload, &state.http).await?;
    let (sources, source) = (state.sources.clone(), body.into_source());
    let by = allowed.by(&request);
    let record = state
        .http
        .on_runtime(async move { sources.replace(&by, id, &source).await })
        .await?;
    json(StatusCode::OK, &SourceView::from(record))
}

/// Delete a source
///
/// Its events stay stored until they are over.
#[utoipa::path(delete, path = "/v1/sources/{id}", tag = "sources", operation_id = "delete_source",
    params(("id" = String, Path, description = "The source's id")),
    responses(
        (status = 200, body = DeletedSource),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "source-not-found"),
    ))]
pub(crate) async fn delete(
    allowed: Allowed<Admin>,
    state: web::Data<EventsState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (sources, id) = (state.sources.clone(), source_id(&request)?);
    let by = allowed.by(&request);
    state
        .http
        .on_runtime(async move { sources.delete(&by, id).await })
        .await?;
    let gone = DeletedSource {
        id: id.to_string(),
        deleted: true,
    };
    json(StatusCode::OK, &gone)
}

/// Read a source now
///
/// Enqueues a run now, in addition to the regular ones, whether or not the source is enabled. If a run already
/// waits or runs, the response names that one.
#[utoipa::path(post, path = "/v1/sources/{id}/discover", tag = "sources", operation_id = "discover_source",
    params(("id" = String, Path, description = "The source's id")),
    responses(
        (status = 202, body = AcceptedJob, headers(("Location" = String, description = "The job's address"))),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "source-not-found"),
    ))]
pub(crate) async fn discover(
    _: Allowed<Produce>,
    state: web::Data<EventsState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (sources, id) = (state.sources.clone(), source_id(&request)?);
    let job = state
        .http
        .on_runtime(async move { sources.discover_now(id).await })
        .await?;
    let location = HeaderValue::from_str(&format!("/v1/jobs/{}", job.id)).map_err(Problem::internal)?;
    let mut response = json(StatusCode::ACCEPTED, &AcceptedJob::from(job))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}
