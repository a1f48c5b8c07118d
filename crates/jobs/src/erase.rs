//! Taking a user out of stored jobs: what the deletion of a user asks of the engine.
//!
//! # Invariants
//! - All of it happens in the caller's transaction.
//! - A job stays a job: its kind, state and times are untouched, so that its history adds up. What named the user is replaced,
//!   and with it what may repeat the payload: keys, tags, result, errors and log.
//! - Jobs on the broker are not read: they end with their results (`jobs.broker_result_ttl_seconds`).

use std::fmt::Display;

use holdfast_core::sql::dialect::{on_either, rows};
use serde_json::json;
use uuid::Uuid;

use crate::LedgerTx;
use crate::audit::Actor;
use crate::client::Jobs;

/// By the user's name, a kind, and the payload that replaces the job's own. The second condition on the kind is that of the
/// partial index `holdfast_jobs_user`.
const BY_USER: &str = "update holdfast_jobs
    set payload = cast($3 as @json), unique_key = null, idempotency_key = null, limit_key = null, tags = null, result = null,
        errors = null
    where kind = $2 and kind in ('notify.email', 'notify.digest', 'ml.recommend') and @field(payload, 'user') = $1";

/// By the id of the row before, and the text that a payload to be rewritten contains. Payloads with an escape may spell it in
/// another way. The kind is written into the statement, because an index over one kind is not found by a parameter.
fn containing(kind: &'static str) -> String {
    format!(
        "select id, @text(payload) from holdfast_jobs
         where kind = '{kind}' and id > $1 and (@find(@text(payload), $2) > 0 or @find(@text(payload), '\\u') > 0)
         order by id limit $3"
    )
}

const REWRITE: &str =
    "update holdfast_jobs set payload = cast($2 as @json), result = null, errors = null where id = $1";

/// What the handlers of these jobs have written. Before their payloads are replaced, by which they are found.
const LOGS_BY_USER: &str = "delete from holdfast_job_logs where job in (
    select id from holdfast_jobs
    where kind = $2 and kind in ('notify.email', 'notify.digest', 'ml.recommend') and @field(payload, 'user') = $1)";

const LOG: &str = "delete from holdfast_job_logs where job = $1";

/// What a user enqueued, by the beginning of the keys (`$1`).
const KEYS: [&str; 2] = [
    "update holdfast_jobs set idempotency_key = null
     where substr(idempotency_key, 1, 5) = 'user-' and substr(idempotency_key, 1, 31) = $1",
    "update holdfast_batches set idempotency_key = null
     where substr(idempotency_key, 1, 5) = 'user-' and substr(idempotency_key, 1, 31) = $1",
];

/// As [`Actor::user`] names them. The second condition is that of the partial index `holdfast_jobs_enqueued_by_user`.
const ENQUEUED_BY: &str = "update holdfast_jobs set enqueued_by = null
    where enqueued_by = $1 and substr(enqueued_by, 1, 5) = 'user/'";

/// Rows read at once: each may hold a payload of 256 KiB.
const PAGE: usize = 50;

impl Jobs {
    /// Replaces the payload of each job of this kind whose payload has `user` in its field `user`; returns how many.
    ///
    /// # Errors
    /// The transaction is to be rolled back.
    pub async fn replace_payloads_of(
        &self,
        mut on: LedgerTx<'_>,
        kind: &str,
        user: &str,
        payload: &str,
    ) -> Result<u64, sqlx::Error> {
        let named = self.sql().named();
        on_either!(on.reborrow(), named, query(LOGS_BY_USER), [user, kind], execute)?;
        on_either!(on, named, query(BY_USER), [user, kind, payload], execute)
    }

    /// Rewrites the payload of each job of this kind that contains `text`, where `rewrite` returns another one; returns how
    /// many.
    ///
    /// # Errors
    /// The transaction is to be rolled back.
    pub async fn rewrite_payloads(
        &self,
        mut on: LedgerTx<'_>,
        kind: &'static str,
        text: &str,
        rewrite: impl Fn(&str) -> Option<String>,
    ) -> Result<u64, sqlx::Error> {
        let (named, read) = (self.sql().named(), containing(kind));
        let quoted = json!(text).to_string();
        let (mut before, mut changed) = (Uuid::nil(), 0);
        loop {
            let page = on_either!(
                on.reborrow(),
                named,
                query_as::<(Uuid, String)>(&read),
                [before, quoted.trim_matches('"'), rows(PAGE)],
                fetch_all
            )?;
            for (id, payload) in &page {
                if let Some(new) = rewrite(payload) {
                    on_either!(on.reborrow(), named, query(LOG), [id], execute)?;
                    changed += on_either!(on.reborrow(), named, query(REWRITE), [id, &new], execute)?;
                }
            }
            match page.last() {
                Some((id, _)) if page.len() == PAGE => before = *id,
                _ => return Ok(changed),
            }
        }
    }

    /// Takes the account's name out of the jobs and batches that it enqueued: their idempotency keys, and who enqueued them.
    ///
    /// # Errors
    /// The transaction is to be rolled back.
    pub async fn forget_enqueuer(
        &self,
        mut on: LedgerTx<'_>,
        account: impl Display,
    ) -> Result<(), sqlx::Error> {
        let (named, prefix) = (self.sql().named(), format!("user-{account}"));
        for text in KEYS {
            on_either!(on.reborrow(), named, query(text), [&prefix], execute)?;
        }
        let actor = Actor::user(account);
        on_either!(on, named, query(ENQUEUED_BY), [actor.as_str()], execute)?;
        Ok(())
    }
}
