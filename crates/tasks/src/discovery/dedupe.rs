//! What is brought twice, under two names.
//!
//! An event of a name that is known is itself, whatever it says. One of a new name that says what another one says already
//! (the same text, time and place) is that other one: from another source, or from this one, whose names do not last. It is
//! not stored, as long as the other one stands. Two sources that bring the same at the same moment may both be stored.

use std::collections::HashSet;

use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use uuid::Uuid;

use super::Discoverer;
use crate::events::NewEvent;

/// What this run has brought already.
#[derive(Debug, Default)]
pub(super) struct Seen(HashSet<Uuid>);

impl Discoverer {
    /// Those that are not duplicates, and how many were.
    pub(super) async fn fresh(
        &self,
        source: &str,
        events: Vec<NewEvent>,
        seen: &mut Seen,
    ) -> Result<(Vec<NewEvent>, u64), LedgerError> {
        if events.is_empty() {
            return Ok((events, 0));
        }
        let hashes: Vec<Uuid> = events.iter().map(NewEvent::content_hash).collect();
        let (named, said) = self.known(source, &events, &hashes).await?;
        let before = events.len();
        let fresh: Vec<NewEvent> = events
            .into_iter()
            .zip(hashes)
            .filter(|(event, hash)| {
                let new_here = seen.0.insert(*hash);
                named.contains(&event.uid) || new_here && !said.contains(hash)
            })
            .map(|(event, _)| event)
            .collect();
        let duplicates = (before - fresh.len()) as u64;
        Ok((fresh, duplicates))
    }

    /// Which names of this source are known, and which texts stand already under any name.
    async fn known(
        &self,
        source: &str,
        events: &[NewEvent],
        hashes: &[Uuid],
    ) -> Result<(HashSet<String>, HashSet<Uuid>), LedgerError> {
        let uids: Vec<&str> = events.iter().map(|event| event.uid.as_str()).collect();
        let sql = &self.0.sources.0.sql;
        let encode = |error| sqlx::Error::Encode(Box::new(error));
        let (named, said): (Vec<(String,)>, Vec<(Uuid,)>) = sql
            .within("look for known events", async {
                let mut tx = sql.begin_read().await?;
                let found = match tx.on() {
                    LedgerTx::Postgres(on) => {
                        let named = sqlx::query_as(
                            "select uid from holdfast_events where coalesce(source, '') = $1 and uid = any($2)",
                        )
                        .bind(source)
                        .bind(&uids)
                        .persistent(sql.named())
                        .fetch_all(&mut *on)
                        .await?;
                        let said = sqlx::query_as(
                            "select distinct content_hash from holdfast_events
                             where content_hash = any($1) and cancelled_at is null",
                        )
                        .bind(hashes)
                        .persistent(sql.named())
                        .fetch_all(on)
                        .await?;
                        (named, said)
                    }
                    LedgerTx::Sqlite(on) => {
                        let hex: Vec<String> = hashes.iter().map(|hash| hash.simple().to_string()).collect();
                        let named = sqlx::query_as(
                            "select uid from holdfast_events
                             where coalesce(source, '') = ?1 and uid in (select value from json_each(?2))",
                        )
                        .bind(source)
                        .bind(serde_json::to_string(&uids).map_err(encode)?)
                        .fetch_all(&mut *on)
                        .await?;
                        let said = sqlx::query_as(
                            "select distinct content_hash from holdfast_events
                             where content_hash in (select unhex(value) from json_each(?1)) and cancelled_at is null",
                        )
                        .bind(serde_json::to_string(&hex).map_err(encode)?)
                        .fetch_all(on)
                        .await?;
                        (named, said)
                    }
                };
                tx.commit().await?;
                Ok(found)
            })
            .await?;
        Ok((
            named.into_iter().map(|(uid,)| uid).collect(),
            said.into_iter().map(|(hash,)| hash).collect(),
        ))
    }
}
