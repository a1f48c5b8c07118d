//! Documents.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::web;
use chrono::{DateTime, Utc};
use holdfast_http::body::BodySize;
use holdfast_http::body::fields::Seconds;
use holdfast_http::problem::Problem;
use holdfast_http::{Call, ProduceOrWork, Reply, ok};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check;
use crate::state::ResultsState;
use crate::{Document, DocumentPage, DocumentWrite, WrittenDocument};

/// A document to be written.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ResultBody, example = json!({"body": "{\"status\": \"SUCCESS\"}", "ttl_seconds": 3600, "finished": true}))]
pub(crate) struct ResultBody {
    /// Any text, of up to `jobs.max_payload_bytes` bytes.
    body: String,
    /// How long it is stored; a day by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 31_536_000)]
    ttl_seconds: Option<u32>,
    /// The document is final.
    #[serde(default)]
    finished: bool,
    /// Leave a document as it is that was written as `finished`.
    #[serde(default)]
    unless_finished: bool,
}

/// A document to be written, with its id.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewResult)]
pub(crate) struct NewResult {
    /// 1 to 255 bytes.
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    /// Any text, of up to `jobs.max_payload_bytes` bytes.
    body: String,
    /// How long it is stored; a day by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 31_536_000)]
    ttl_seconds: Option<u32>,
    /// The document is final.
    #[serde(default)]
    finished: bool,
    /// Leave a document as it is that was written as `finished`.
    #[serde(default)]
    unless_finished: bool,
}

/// Documents to be written.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ResultWrite)]
pub(crate) struct WriteBody {
    /// 1 to 1,000. An id may occur more than once: they are applied in order.
    #[schema(min_items = 1, max_items = 1_000)]
    results: Vec<NewResult>,
}

/// What became of a write.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WrittenResult)]
pub(crate) struct WrittenView {
    id: String,
    /// Of the document as it is stored now. Grows with every write, also after the document has expired or was deleted.
    version: i64,
    /// False: the document was finished, and was left as it is.
    stored: bool,
}

impl From<WrittenDocument> for WrittenView {
    fn from(written: WrittenDocument) -> Self {
        Self {
            id: written.id,
            version: written.version,
            stored: written.is_stored,
        }
    }
}

/// What became of each write, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WrittenResults)]
pub(crate) struct WrittenList {
    results: Vec<WrittenView>,
}

/// Which documents are read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ResultRead, example = json!({"ids": ["a", "b"], "known": {"a": 1_764_506_000_000_000_i64}, "wait_seconds": 10}))]
pub(crate) struct ReadBody {
    /// 1 to 1,000.
    #[schema(min_items = 1, max_items = 1_000)]
    ids: BTreeSet<String>,
    /// The versions that the reader has; 0 for ids that are not named.
    #[serde(default)]
    known: BTreeMap<String, i64>,
    /// How long to wait for a document with another version than the known one.
    #[serde(default)]
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 30)]
    wait_seconds: Option<Seconds>,
}

/// A document.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StoredResult)]
pub(crate) struct ResultView {
    id: String,
    body: String,
    version: i64,
    expires_at: DateTime<Utc>,
}

impl From<Document> for ResultView {
    fn from(document: Document) -> Self {
        Self {
            id: document.id,
            body: document.body,
            version: document.version,
            expires_at: document.expires_at,
        }
    }
}

/// The documents whose version differs from the known one.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StoredResults)]
pub(crate) struct ResultList {
    results: Vec<ResultView>,
    /// Those that did not fit into the answer: ask for them again.
    left_out: Vec<String>,
}

/// Which documents are deleted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ResultDeletion)]
pub(crate) struct DeleteBody {
    /// 1 to 1,000.
    #[schema(min_items = 1, max_items = 1_000)]
    ids: BTreeSet<String>,
}

/// How many documents were deleted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeletedResults)]
pub(crate) struct DeletedView {
    deleted: u64,
}

/// The write of one document, checked; `prefix` is where it is in the request.
fn checked(id: String, body: ResultBody, prefix: &str, most: usize) -> Result<DocumentWrite, Problem> {
    check::name(&format!("{prefix}id"), &id)?;
    check::body(&format!("{prefix}body"), &body.body, most)?;
    Ok(DocumentWrite {
        id,
        ttl: check::ttl(&format!("{prefix}ttl_seconds"), body.ttl_seconds)?,
        body: body.body,
        finished: body.finished,
        unless_finished: body.unless_finished,
    })
}

/// Write a result
///
/// A text that others read by its id until it expires. Repeating it is harmless. Everyone with the scope reads and writes every result.
#[utoipa::path(put, path = "/v1/results/{id}", tag = "results", operation_id = "put_result",
    request_body = ResultBody,
    params(("id" = String, Path, description = "1 to 255 bytes, chosen by the caller")),
    responses(
        (status = 200, body = WrittenView),
        (status = 413, description = "body-too-large, payload-too-large"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn put(call: Call<ProduceOrWork, ResultsState>, payload: web::Payload) -> Reply {
    let body: ResultBody = call.json_of(payload, BodySize::Bulk).await?;
    let write = checked(call.path("id"), body, "", call.state().max_body)?;
    let written = call.run(|state| async move { state.results.write(vec![write]).await });
    match written.await?.into_iter().next() {
        Some(written) => ok(&WrittenView::from(written)),
        None => Err(Problem::internal("a write has no outcome")),
    }
}

/// Write results
///
/// Up to 1,000, all or none.
#[utoipa::path(post, path = "/v1/results/write", tag = "results", operation_id = "write_results",
    request_body = WriteBody,
    responses(
        (status = 200, body = WrittenList),
        (status = 413, description = "body-too-large, payload-too-large, batch-too-large"),
        (status = 422, description = "invalid-field, batch-empty"),
    ))]
pub(crate) async fn write(call: Call<ProduceOrWork, ResultsState>, payload: web::Payload) -> Reply {
    let body: WriteBody = call.json_of(payload, BodySize::Bulk).await?;
    check::count("results", body.results.len(), check::MAX_ITEMS)?;
    let most = call.state().max_body;
    let writes = body.results.into_iter().enumerate().map(|(index, result)| {
        let body = ResultBody {
            body: result.body,
            ttl_seconds: result.ttl_seconds,
            finished: result.finished,
            unless_finished: result.unless_finished,
        };
        checked(result.id, body, &format!("results[{index}]."), most)
    });
    let writes = writes.collect::<Result<Vec<_>, Problem>>()?;
    let written = call.run(|state| async move { state.results.write(writes).await });
    ok(&WrittenList {
        results: written.await?.into_iter().map(WrittenView::from).collect(),
    })
}

/// Read results
///
/// The documents whose version differs from the known one: all that exist, where none is known. With `wait_seconds` the answer comes
/// as soon as there is one.
#[utoipa::path(post, path = "/v1/results/read", tag = "results", operation_id = "read_results",
    request_body = ReadBody,
    responses(
        (status = 200, body = ResultList),
        (status = 413, description = "body-too-large, batch-too-large"),
        (status = 422, description = "invalid-field, batch-empty"),
    ))]
pub(crate) async fn read(call: Call<ProduceOrWork, ResultsState>, payload: web::Payload) -> Reply {
    let ReadBody {
        ids,
        mut known,
        wait_seconds,
    } = call.json_of(payload, BodySize::Bulk).await?;
    check::count("ids", ids.len(), check::MAX_ITEMS)?;
    ids.iter().try_for_each(|id| check::name("ids", id))?;
    let wait = check::wait(wait_seconds, call.context().max_wait)?;
    let known: BTreeMap<String, i64> = ids
        .into_iter()
        .map(|id| {
            let version = known.remove(&id).unwrap_or(0);
            (id, version)
        })
        .collect();
    let stopping = call.context().stopping.clone();
    let found = call.run(move |state| async move {
        tokio::select! {
            found = state.results.read(&known, wait) => found,
            () = stopping.cancelled(), if !wait.is_zero() => Ok(DocumentPage::default()),
        }
    });
    let page = found.await?;
    ok(&ResultList {
        results: page.documents.into_iter().map(ResultView::from).collect(),
        left_out: page.left_out,
    })
}

/// Delete results
///
/// The documents and the parts of these ids. What does not exist is no error.
#[utoipa::path(post, path = "/v1/results/delete", tag = "results", operation_id = "delete_results",
    request_body = DeleteBody,
    responses(
        (status = 200, body = DeletedView),
        (status = 413, description = "body-too-large, batch-too-large"),
        (status = 422, description = "invalid-field, batch-empty"),
    ))]
pub(crate) async fn delete(call: Call<ProduceOrWork, ResultsState>, payload: web::Payload) -> Reply {
    let DeleteBody { ids } = call.json_of(payload, BodySize::Bulk).await?;
    check::count("ids", ids.len(), check::MAX_ITEMS)?;
    ids.iter().try_for_each(|id| check::name("ids", id))?;
    let deleted = call
        .run(move |state| async move { state.results.delete(&ids).await })
        .await?;
    ok(&DeletedView { deleted })
}
