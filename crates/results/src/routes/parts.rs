//! Sets of parts.

use std::collections::BTreeSet;

use actix_web::web;
use holdfast_http::body::BodySize;
use holdfast_http::problem::Problem;
use holdfast_http::{Call, ProduceOrWork, Reply, WithQuery, ok};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check;
use crate::state::ResultsState;

/// Longest part, in bytes: what an index of PostgreSQL takes beside the id.
const MAX_PART: usize = 1_024;

/// Parts of a page at most, and by default.
const MAX_PAGE: usize = 10_000;

/// Parts to be added.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewParts, example = json!({"parts": ["task-1"], "ttl_seconds": 3600}))]
pub(crate) struct PartsBody {
    /// 1 to 1,000 texts of 1 to 1,024 bytes.
    #[schema(min_items = 1, max_items = 1_000)]
    parts: BTreeSet<String>,
    /// How long each of them is stored from now on; a day by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 31_536_000)]
    ttl_seconds: Option<u32>,
}

/// The set after parts were added.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AddedParts)]
pub(crate) struct AddedView {
    /// Parts of the set. Of two concurrent requests one sees the parts of the other.
    count: i64,
    /// How many of the given parts were not in it.
    added: i64,
}

/// Parts to be deleted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PartDeletion)]
pub(crate) struct DeletePartsBody {
    /// 1 to 1,000.
    #[schema(min_items = 1, max_items = 1_000)]
    parts: BTreeSet<String>,
}

/// The set after parts were deleted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeletedParts)]
pub(crate) struct DeletedView {
    /// Parts that are left.
    count: i64,
    deleted: i64,
}

/// One page of the parts of a set, in the order of their bytes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PartPage)]
pub(crate) struct PartList {
    parts: Vec<String>,
    /// Of the whole set.
    count: i64,
    /// Pass it as `after` to get the next page. Null on the last page.
    next: Option<String>,
}

fn checked(parts: &BTreeSet<String>) -> Result<(), Problem> {
    check::count("parts", parts.len(), check::MAX_ITEMS)?;
    if parts.iter().all(|part| (1..=MAX_PART).contains(&part.len())) {
        return Ok(());
    }
    Err(check::invalid(
        "parts",
        format!("each must have 1 to {MAX_PART} bytes"),
    ))
}

/// Add parts to a result
///
/// A part that is in the set already is counted once, and its time to live begins again. A set has at most 100,000 parts.
#[utoipa::path(post, path = "/v1/results/{id}/parts", tag = "results", operation_id = "add_result_parts",
    request_body = PartsBody,
    params(("id" = String, Path, description = "1 to 255 bytes; a document of this id may exist or not")),
    responses(
        (status = 200, body = AddedView),
        (status = 413, description = "body-too-large, batch-too-large"),
        (status = 422, description = "invalid-field, batch-empty"),
    ))]
pub(crate) async fn add(call: Call<ProduceOrWork, ResultsState>, payload: web::Payload) -> Reply {
    let (id, body): (String, PartsBody) = (call.path("id"), call.json_of(payload, BodySize::Bulk).await?);
    check::name("id", &id)?;
    checked(&body.parts)?;
    let ttl = check::ttl("ttl_seconds", body.ttl_seconds)?;
    let added = call
        .run(move |state| async move { state.results.add_parts(&id, &body.parts, ttl).await })
        .await?;
    ok(&AddedView {
        count: added.count,
        added: added.added,
    })
}

/// List the parts of a result
#[utoipa::path(get, path = "/v1/results/{id}/parts", tag = "results", operation_id = "list_result_parts",
    params(
        ("id" = String, Path, description = "As the parts were added"),
        ("after" = Option<String>, Query, description = "The `next` of the previous page"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 10000, description = "1 to 10000; default 10000"),
    ),
    responses(
        (status = 200, body = PartList),
        (status = 400, description = "invalid-parameter"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn list(call: Call<ProduceOrWork, ResultsState, WithQuery>) -> Reply {
    let id = call.path("id");
    let mut params = call.params(&["after", "limit"]);
    let limit = params.count("limit", 1, MAX_PAGE).unwrap_or(MAX_PAGE);
    let after = params.short_text("after", MAX_PART).unwrap_or_default();
    params.finish()?;
    check::name("id", &id)?;
    let page = call
        .run(move |state| async move { state.results.parts(&id, &after, limit).await })
        .await?;
    ok(&PartList {
        next: page.parts.last().filter(|_| page.more).cloned(),
        parts: page.parts,
        count: page.count,
    })
}

/// Delete parts of a result
#[utoipa::path(post, path = "/v1/results/{id}/parts/delete", tag = "results", operation_id = "delete_result_parts",
    request_body = DeletePartsBody,
    params(("id" = String, Path, description = "As the parts were added")),
    responses(
        (status = 200, body = DeletedView),
        (status = 413, description = "body-too-large, batch-too-large"),
        (status = 422, description = "invalid-field, batch-empty"),
    ))]
pub(crate) async fn delete(call: Call<ProduceOrWork, ResultsState>, payload: web::Payload) -> Reply {
    let (id, body): (String, DeletePartsBody) =
        (call.path("id"), call.json_of(payload, BodySize::Bulk).await?);
    check::name("id", &id)?;
    checked(&body.parts)?;
    let deleted = call
        .run(move |state| async move { state.results.delete_parts(&id, &body.parts).await })
        .await?;
    ok(&DeletedView {
        count: deleted.count,
        deleted: deleted.deleted,
    })
}
