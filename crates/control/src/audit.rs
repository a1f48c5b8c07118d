//! Who did what.

use chrono::{DateTime, Utc};
use holdfast_http::{Admin, Call, PageParams, Reply, WithQuery, ok};
use holdfast_jobs::audit::{AuditFilter, AuditId, AuditRecord};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::state::ControlState;

/// Longest actor, action or target in a filter, in bytes.
const MAX_NAME: usize = 255;

/// One administrative action.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditView {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    pub id: AuditId,
    pub at: DateTime<Utc>,
    /// `key/<id>`, `user/<name>`, `cli/<login>`, `bootstrap` (HOLDFAST_API_KEY), `local` or `system`.
    pub actor: String,
    #[schema(example = "queue.pause")]
    pub action: String,
    /// The queue, job, key, … that the action changed.
    pub target: Option<String>,
    /// Number of changed rows, for actions that change many.
    pub count: Option<u64>,
    /// The request's id in the server's log.
    pub request_id: Option<String>,
    #[schema(value_type = Option<Value>)]
    pub details: Option<Box<RawValue>>,
    /// False if a bulk operation has more to do.
    pub finished: bool,
}

impl From<AuditRecord> for AuditView {
    fn from(record: AuditRecord) -> Self {
        let AuditRecord {
            id,
            at,
            actor,
            action,
            target,
            count,
            request_id,
            details,
            finished,
        } = record;
        Self {
            id,
            at,
            actor,
            action,
            target,
            count,
            request_id,
            details,
            finished,
        }
    }
}

/// One page of the audit log, newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    pub entries: Vec<AuditView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    #[schema(value_type = Option<String>)]
    pub next: Option<AuditId>,
}

/// List the audit log
///
/// Administrative actions with their actors, newest first: pauses, purges, cancellations, retries, redrives,
/// deletions, changes of keys, users and schedules.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", operation_id = "list_audit",
    params(
        ("actor" = Option<String>, Query, description = "Only this actor, such as `bootstrap` or `key/01J…`"),
        ("action" = Option<String>, Query,
            description = "Only this action; with a dot at the end (`queue.`) every action with this prefix"),
        ("target" = Option<String>, Query, description = "Only actions on this queue, job, key, …"),
        ("from" = Option<String>, Query, description = "At or after this time (RFC 3339)"),
        ("to" = Option<String>, Query, description = "Before this time (RFC 3339)"),
        PageParams,
    ),
    responses(
        (status = 200, body = AuditPage),
        (status = 400, description = "invalid-parameter, invalid-cursor"),
    ))]
pub(crate) async fn list(call: Call<Admin, ControlState, WithQuery>) -> Reply {
    let mut params = call.params(&["actor", "action", "target", "from", "to", "after", "limit"]);
    let mut filter = AuditFilter {
        actor: params.short_text("actor", MAX_NAME),
        action: params.short_text("action", MAX_NAME),
        target: params.short_text("target", MAX_NAME),
        from: params.moment("from"),
        to: params.moment("to"),
        after: None,
        limit: 0,
    };
    let page = params.page();
    params.finish()?;
    (filter.after, filter.limit) = (page.cursor()?, page.wanted());
    let found = call.run(|state| async move { state.jobs.audit().list(&filter).await });
    let (entries, next) = page.cut(found.await?, AuditView::from, |record| record.id);
    ok(&AuditPage { entries, next })
}
