//! What the functions `holdfast.enqueue` and `holdfast.enqueue_many` know of this process (migration 0030): SQL can read the rows of
//! declared kinds and queues, but neither the kinds of the program nor its configuration.
//!
//! Each service writes them when it starts, as one document; the last one to start wins, as it should while a deployment rolls. On
//! SQLite there are no such functions, and nothing is written.
//!
//! # When things fail
//! - *The database is unavailable, or its schema is older*: the document is written later ([`Jobs::publish_catalogue`] repeats it).
//!   Until a first process has written it, the functions refuse every job, and say so; afterwards they use the last document.
//! - *The role may not make the functions* in the schema `holdfast`: a warning says what to run, once for each start. Nothing else
//!   depends on them.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_core::backoff::Backoff;
use serde::Serialize;

use super::check::Checker;
use crate::LedgerTx;
use crate::client::Jobs;
use crate::ledger::LedgerError;

/// Between tries.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// The document is read by the functions of migration 0030: a field may be added, and none changed.
#[derive(Debug, Serialize)]
pub(super) struct Catalogue<'c> {
    kinds: BTreeMap<&'c str, CodedKind<'c>>,
    /// Which fleet serves each configured queue: `rust` or `pull`.
    queues: BTreeMap<&'c str, &'static str>,
    /// The configuration's largest numbers of attempts, by kind and by queue.
    kind_attempts: BTreeMap<&'c str, u32>,
    queue_attempts: BTreeMap<&'c str, u32>,
    max_attempts: u32,
    timeout_ms: u64,
    max_payload_bytes: usize,
    max_payload_depth: usize,
    max_batch: usize,
}

#[derive(Debug, Serialize)]
struct CodedKind<'c> {
    queue: &'c str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
}

impl<'c> Catalogue<'c> {
    pub(super) fn of(checker: &'c Checker) -> Self {
        let kinds = checker.registry.kinds().map(|kind| {
            let coded = CodedKind {
                queue: kind.queue,
                timeout_ms: kind.timeout.map(whole_millis),
                max_attempts: kind.retry.map(|retry| retry.max_attempts),
            };
            (kind.name, coded)
        });
        let queues = checker.queues.iter();
        let attempts = checker.retries.configured_attempts();
        Self {
            kinds: kinds.collect(),
            queues: queues
                .map(|(name, queue)| (name.as_str(), queue.served_by.name()))
                .collect(),
            kind_attempts: attempts.kinds,
            queue_attempts: attempts.queues,
            max_attempts: attempts.default,
            timeout_ms: whole_millis(checker.settings.default_timeout),
            max_payload_bytes: checker.settings.max_payload_bytes,
            max_payload_depth: checker.settings.max_payload_depth,
            max_batch: checker.settings.max_batch,
        }
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Jobs {
    /// Tells the database what its functions that enqueue are to know of this process. Returns once it is told, however long that
    /// takes: to be spawned by each service when it starts.
    pub async fn publish_catalogue(&self) {
        for attempt in 1.. {
            match self.try_publish_catalogue().await {
                Ok(None) => return,
                Ok(Some(reason)) => {
                    tracing::warn!(
                        reason,
                        "holdfast.enqueue cannot be made: jobs cannot be enqueued by SQL"
                    );
                    return;
                }
                Err(error) => {
                    tracing::debug!(error = ?error, attempt, "the kinds are not announced to the database yet");
                    tokio::time::sleep(BACKOFF.delay(attempt)).await;
                }
            }
        }
    }

    /// Once. The answer is why there are no such functions; `None`: there are, or it is SQLite.
    ///
    /// # Errors
    /// The database does not answer, or its schema is older than this release.
    pub async fn try_publish_catalogue(&self) -> Result<Option<String>, LedgerError> {
        let document = serde_json::to_string(&self.producer().catalogue())
            .map_err(|error| LedgerError::Corrupt(format!("the kinds cannot be written: {error}")))?;
        let sql = self.sql();
        sql.within("announce the kinds", async {
            let mut tx = sql.begin().await?;
            let LedgerTx::Postgres(on) = tx.on() else {
                return Ok(None);
            };
            sqlx::query(WRITE)
                .bind(document.as_str())
                .persistent(sql.named)
                .execute(&mut *on)
                .await?;
            let refused: Option<String> = sqlx::query_scalar("select holdfast_install_enqueue_2()")
                .persistent(sql.named)
                .fetch_one(&mut *on)
                .await?;
            sqlx::query("select holdfast_settle_search_path_1()")
                .persistent(sql.named)
                .execute(on)
                .await?;
            tx.commit().await?;
            Ok(refused)
        })
        .await
    }
}

const WRITE: &str = "
insert into holdfast_catalogue (id, document) values (1, $1::json)
on conflict (id) do update set document = excluded.document, updated_at = now()
where holdfast_catalogue.document::text <> excluded.document::text";
