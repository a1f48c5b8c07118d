//! What holds for one limit key of a queue for a time.

use std::time::Duration;

use serde_json::json;

use super::AdminHandle;
use crate::audit::{AuditEntry, action};
use crate::ledger::LedgerError;
use crate::limits::{self, KeyOverride, KeyRule};

impl AdminHandle<'_> {
    /// Pauses a key, or gives it a limit in place of the queue's, for `time`. Every worker keeps to it from its next claim on; running
    /// jobs continue. `None`: the queue has [`limits::MAX_KEY_OVERRIDES`] others.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn override_key(
        &self,
        queue: &str,
        key: &str,
        rule: KeyRule,
        time: Duration,
    ) -> Result<Option<KeyOverride>, LedgerError> {
        let details = json!({ "key": key, "rule": rule, "seconds": time.as_secs() });
        let entry = AuditEntry::new(action::QUEUE_KEY).target(queue).details(details);
        let sql = self.jobs.sql();
        let put = sql
            .within("override the limit of a key", async {
                let mut tx = sql.begin().await?;
                let put = limits::put_override_in(tx.on(), sql.named, (queue, key), rule, time).await?;
                if put.is_some() {
                    self.jobs.audit().record_in(tx.on(), self.by, &entry).await?;
                }
                tx.commit().await?;
                Ok(put)
            })
            .await?;
        self.jobs.ring(queue);
        Ok(put)
    }

    /// Ends what holds for a key. False: nothing did.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn end_override(&self, queue: &str, key: &str) -> Result<bool, LedgerError> {
        let entry = AuditEntry::new(action::QUEUE_KEY)
            .target(queue)
            .details(json!({ "key": key, "rule": null }));
        let sql = self.jobs.sql();
        let ended = sql
            .within("end the override of a key", async {
                let mut tx = sql.begin().await?;
                let ended = limits::end_override_in(tx.on(), sql.named, queue, key).await?;
                if ended {
                    self.jobs.audit().record_in(tx.on(), self.by, &entry).await?;
                }
                tx.commit().await?;
                Ok(ended)
            })
            .await?;
        self.jobs.ring(queue);
        Ok(ended)
    }
}
