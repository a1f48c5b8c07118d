//! The table `holdfast_mails`: under one key an address gets one mail.
//!
//! A job first puts its name under (key, address), then sends, then notes that it has. Another job that finds the mail sent
//! has nothing to do; one that finds it being sent waits for [`LEASE`], which is longer than a sending may take: then the job that
//! held it is dead, or has failed and says so itself by its next attempt.

use std::time::Duration;

use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::{JobId, LedgerTx};

use super::Mail;
use crate::preferences;
use holdfast_core::sql::dialect::{millis, on_either, rows, write_either};
use holdfast_product::UserName;

/// Longest that a mail counts as being sent.
pub(super) const LEASE: Duration = Duration::from_mins(3);

/// Rows pruned by one statement, and statements of one look.
const PRUNE: usize = 1_000;
const PRUNE_STEPS: usize = 20;

/// What stands under a key for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// This job is to send it.
    Ours,
    Sent,
    /// Another job sends it right now.
    Theirs,
    /// The user that it was for is deleted.
    Gone,
}

impl Mail {
    /// `user`: whose address it is, if that user is stored.
    pub(super) async fn claim(
        &self,
        key: &str,
        address: &str,
        job: JobId,
        user: Option<&UserName>,
    ) -> Result<Claim, LedgerError> {
        // The same job again is a retry of its own attempt; the worker's lease sees to it that there is one at a time.
        let take =
            "insert into holdfast_mails (key, address, job_id, sent, at) values ($1, $2, $3, false, @now)
            on conflict (key, address) do update set job_id = excluded.job_id, at = excluded.at
            where not holdfast_mails.sent
              and (holdfast_mails.job_id = excluded.job_id or holdfast_mails.at < @ago($4))";
        let look = "select sent from holdfast_mails where key = $1 and address = $2";
        let sql = &self.0.sql;
        sql.within("claim a mail", async {
            let mut tx = sql.begin().await?;
            if let Some(user) = user
                && !preferences::hold(tx.on(), sql.named(), user).await?
            {
                return Ok(Claim::Gone);
            }
            let taken = on_either!(
                tx.on(),
                sql.named(),
                query(take),
                [key, address, job.as_uuid(), millis(LEASE)],
                execute
            )?;
            let sent = on_either!(
                tx.on(),
                sql.named(),
                query_as::<(bool,)>(look),
                [key, address],
                fetch_optional
            )?;
            tx.commit().await?;
            Ok(match (taken, sent) {
                (1.., _) => Claim::Ours,
                (_, Some((true,))) => Claim::Sent,
                _ => Claim::Theirs,
            })
        })
        .await
    }

    /// The server has taken it.
    pub(super) async fn note_sent(&self, key: &str, address: &str) -> Result<(), LedgerError> {
        let sql = &self.0.sql;
        sql.within("note that a mail is sent", async {
            let mut tx = sql.begin().await?;
            self.note_sent_in(tx.on(), key, address).await?;
            tx.commit().await
        })
        .await
    }

    pub(super) async fn note_sent_in(
        &self,
        on: LedgerTx<'_>,
        key: &str,
        address: &str,
    ) -> Result<(), sqlx::Error> {
        let text = "update holdfast_mails set sent = true, at = @now where key = $1 and address = $2";
        on_either!(on, self.0.sql.named(), query(text), [key, address], execute)?;
        Ok(())
    }

    /// Forgets what was sent longer ago than `notifications.retain_deliveries_seconds`, a bounded number; how many.
    pub async fn prune(&self) -> Result<u64, LedgerError> {
        let text = "delete from holdfast_mails where (key, address) in
            (select key, address from holdfast_mails where at < @ago($1) order by at limit $2 @skip_locked)";
        let age = millis(self.0.settings.retain_deliveries);
        let sql = &self.0.sql;
        let mut gone = 0;
        for _ in 0..PRUNE_STEPS {
            let step = write_either!(sql, "prune mails", query(text), [age, rows(PRUNE)], execute)?;
            gone += step;
            if step < PRUNE as u64 {
                break;
            }
        }
        Ok(gone)
    }
}
