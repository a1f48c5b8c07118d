//! Occurrences that a calendar does not name any more: they are cancelled.
//!
//! A calendar changes its mind by leaving out: an event, or a day of a series (`EXDATE`, an earlier `UNTIL`, another rule).
//! Whatever is stored of the source, lies ahead, and was not found in a calendar that was read to its end, is cancelled, and
//! that is news as any other cancellation. If it comes back, it takes place after all.
//!
//! # Invariants
//! - Only a whole calendar proves anything: none that failed, was cut off, has more entries than are read, or has an event
//!   that does not end ([`Survey`]). An event that was not read to its end is left alone, with all of its occurrences.
//! - Only what is to come: not what has begun, and of what repeats nothing beyond the horizon of this run.
//! - What says the same as an entry of this run, under an older name, stands for it, and is not gone ([`KnownEntries`]).

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use holdfast_jobs::ledger::LedgerError;
use ulid::Ulid;
use uuid::Uuid;

use super::Discoverer;
use super::dedupe::KnownEntries;
use super::parse::{Survey, is_occurrence};
use super::run::Report;
use super::source::SourceRecord;
use crate::store::{Event, NewEvent};
use holdfast_core::sql::dialect::{read_either, rows};

/// Names that are looked at in one step.
const PAGE: usize = 1_000;

/// Events that are cancelled in one step.
const CANCELLED_AT_ONCE: usize = 200;

type Row = (Uuid, String, i64);

/// What a calendar was found to hold.
pub(super) struct Inventory {
    pub(super) names: HashSet<String>,
    pub(super) survey: Survey,
    pub(super) until: DateTime<Utc>,
}

impl Inventory {
    fn lacks(&self, name: &str, starts: i64, seen: &KnownEntries) -> bool {
        let in_view = !is_occurrence(name) || starts <= self.until.timestamp_millis();
        in_view && !self.names.contains(name) && !seen.stands(name) && self.survey.vouches_for(name)
    }
}

impl Discoverer {
    /// Cancels what is stored of a source and is not in its calendar.
    pub(super) async fn cancel_missing(
        &self,
        source: &SourceRecord,
        inventory: &Inventory,
        seen: &KnownEntries,
        report: &mut Report,
    ) -> Result<(), LedgerError> {
        let name = source.id.to_string();
        let mut after = String::new();
        loop {
            let page = self.ahead_of(&name, &after).await?;
            let Some((_, last, _)) = page.last() else {
                return Ok(());
            };
            after.clone_from(last);
            let missing: Vec<Ulid> = page
                .iter()
                .filter(|(_, uid, starts)| inventory.lacks(uid, *starts, seen))
                .map(|(id, ..)| Ulid(id.as_u128()))
                .collect();
            for ids in missing.chunks(CANCELLED_AT_ONCE) {
                let events = self.0.events.by_ids(ids).await?;
                let events: Vec<NewEvent> = events.into_iter().map(cancelled).collect();
                self.store(&events, report).await?;
            }
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// Names of what is stored of a source and lies ahead, in the order of names from the one after `after`.
    async fn ahead_of(&self, source: &str, after: &str) -> Result<Vec<Row>, LedgerError> {
        let text = "select id, uid, @ms(starts_at) from holdfast_events
            where coalesce(source, '') = $1 and uid > $2 and cancelled_at is null and starts_at > @now
            order by uid limit $3";
        read_either!(
            self.0.sources.0.sql,
            "look for what is gone",
            query_as::<Row>(text),
            [source, after, rows(PAGE)],
            fetch_all
        )
    }
}

fn cancelled(event: Event) -> NewEvent {
    NewEvent {
        source: event.source,
        uid: event.uid,
        title: event.title,
        description: event.description,
        url: event.url,
        category: event.category,
        starts_at: event.starts_at,
        ends_at: event.ends_at,
        time_zone: event.time_zone,
        position: event.lat.zip(event.lon),
        place: event.place,
        cancelled: true,
    }
}
