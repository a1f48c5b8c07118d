//! What is brought twice, under two names.
//!
//! An event of a name that is known is itself, whatever it says. One of a new name that says what another one says already
//! (the same text, time and place) is that other one: from another source, or from this one, whose names do not last. It is
//! not stored, as long as the other one stands. Two sources that bring the same at the same moment may both be stored.

use std::collections::{HashMap, HashSet};

use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use uuid::Uuid;

use super::Discoverer;
use crate::store::NewEvent;

/// What this run has brought already.
#[derive(Debug, Default)]
pub(super) struct KnownEntries {
    hashes: HashSet<Uuid>,
    /// Names of this source that stand for what was brought under others.
    standing: HashSet<String>,
}

impl KnownEntries {
    /// Whether what is stored under a name was brought under another one.
    pub(super) fn stands(&self, name: &str) -> bool {
        self.standing.contains(name)
    }
}

/// What an event says, and the source and name under which it is stored.
type StoredContent = (Uuid, String, String);

/// What is stored already.
struct StoredEvents {
    /// Names of this source that are among those brought.
    names: HashSet<String>,
    /// Under any name: source and name of each.
    said: HashMap<Uuid, Vec<(String, String)>>,
}

impl Discoverer {
    /// Those that are not duplicates, and how many were.
    pub(super) async fn fresh(
        &self,
        source: &str,
        events: Vec<NewEvent>,
        seen: &mut KnownEntries,
    ) -> Result<(Vec<NewEvent>, u64), LedgerError> {
        if events.is_empty() {
            return Ok((events, 0));
        }
        let hashes: Vec<Uuid> = events.iter().map(NewEvent::content_hash).collect();
        let known = self.known(source, &events, &hashes).await?;
        let before = events.len();
        let mut fresh = Vec::with_capacity(before);
        for (event, hash) in events.into_iter().zip(hashes) {
            let new_here = seen.hashes.insert(hash);
            if known.names.contains(&event.uid) || new_here && !known.said.contains_key(&hash) {
                fresh.push(event);
                continue;
            }
            let said = known.said.get(&hash).into_iter().flatten();
            seen.standing
                .extend(said.filter(|(of, _)| of == source).map(|(_, name)| name.clone()));
        }
        let duplicates = (before - fresh.len()) as u64;
        Ok((fresh, duplicates))
    }

    /// Which names of this source are known, and which texts stand already under any name.
    async fn known(
        &self,
        source: &str,
        events: &[NewEvent],
        hashes: &[Uuid],
    ) -> Result<StoredEvents, LedgerError> {
        let uids: Vec<&str> = events.iter().map(|event| event.uid.as_str()).collect();
        let sql = &self.0.sources.0.sql;
        let encode = |error| sqlx::Error::Encode(Box::new(error));
        let (named, said): (Vec<(String,)>, Vec<StoredContent>) = sql
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
                            "select content_hash, coalesce(source, ''), uid from holdfast_events
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
                            "select content_hash, coalesce(source, ''), uid from holdfast_events
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
        let mut known = StoredEvents {
            names: named.into_iter().map(|(uid,)| uid).collect(),
            said: HashMap::new(),
        };
        for (hash, source, uid) in said {
            known.said.entry(hash).or_default().push((source, uid));
        }
        Ok(known)
    }
}
