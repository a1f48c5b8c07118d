//! Sources: where events are found.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};
use chrono::{DateTime, Utc};
use holdfast_control::enqueue::AcceptedJob;
use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::{
    Admin, AuthorizedCaller, Call, PageParams, Produce, Read, Reply, WithQuery, json_at, ok,
};
use holdfast_product::redaction::redacted_feed;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::discovery::parse::Mapping;
use crate::discovery::{Definition, Listing, NewSource, Report, SourceId, SourceKind, SourceRecord};
use crate::state::EventsState;

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
    fn shown_to<N>(mut self, allowed: &AuthorizedCaller<N>) -> Self {
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
        PageParams,
    ),
    responses(
        (status = 200, body = SourceList),
        (status = 400, description = "invalid-parameter"),
    ))]
pub(crate) async fn list(call: Call<Read, EventsState, WithQuery>) -> Reply {
    let mut params = call.params(&["after", "limit"]);
    let page = params.page();
    let after: Option<SourceId> = params.parsed("after");
    params.finish()?;
    let wanted = page.wanted();
    let found = call.run(move |state| async move { state.sources.list(after, wanted).await });
    let view = |record| SourceView::from(record).shown_to(&call.allowed);
    let (sources, next) = page.cut(found.await?, view, |record| record.id.to_string());
    ok(&SourceList { sources, next })
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
pub(crate) async fn create(call: Call<Admin, EventsState>, payload: web::Payload) -> Reply {
    let source = call.json::<SourceBody>(payload).await?.into_source();
    let by = call.actor();
    let record = call.run(|state| async move { state.sources.create(&by, &source).await });
    let record = record.await?;
    let location = format!("/v1/sources/{}", record.id);
    json_at(StatusCode::CREATED, &location, &SourceView::from(record))
}

/// Show a source
#[utoipa::path(get, path = "/v1/sources/{id}", tag = "sources", operation_id = "get_source",
    params(("id" = String, Path, description = "The source's id")),
    responses(
        (status = 200, body = SourceView),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "source-not-found"),
    ))]
pub(crate) async fn show(call: Call<Read, EventsState>) -> Reply {
    let id = source_id(&call.request)?;
    let record = call.run(move |state| async move { state.sources.get(id).await });
    ok(&SourceView::from(record.await?).shown_to(&call.allowed))
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
pub(crate) async fn put(call: Call<Admin, EventsState>, payload: web::Payload) -> Reply {
    let (id, by) = (source_id(&call.request)?, call.actor());
    let source = call.json::<SourceBody>(payload).await?.into_source();
    let record = call.run(move |state| async move { state.sources.replace(&by, id, &source).await });
    ok(&SourceView::from(record.await?))
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
pub(crate) async fn delete(call: Call<Admin, EventsState>) -> Reply {
    let (id, by) = (source_id(&call.request)?, call.actor());
    call.run(move |state| async move { state.sources.delete(&by, id).await })
        .await?;
    ok(&DeletedSource {
        id: id.to_string(),
        deleted: true,
    })
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
pub(crate) async fn discover(call: Call<Produce, EventsState>) -> Reply {
    let id = source_id(&call.request)?;
    let job = call.run(move |state| async move { state.sources.discover_now(id).await });
    AcceptedJob::from(job.await?).reply(StatusCode::ACCEPTED)
}
