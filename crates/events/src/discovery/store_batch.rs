//! Stores a batch of what was read: checks it, removes duplicates, stores it and announces it.

use holdfast_jobs::ledger::LedgerError;

use super::Discoverer;
use super::dedupe::KnownEntries;
use super::news::{Announcer, AnnouncingWitness, piece};
use super::parse::{Entry, Note};
use super::run::{Change, Report};
use super::source::SourceRecord;
use crate::store::{NewEvent, Outcome, UpsertedEvent};

/// Changes that a report keeps.
const MAX_CHANGES: usize = 20;

impl Discoverer {
    pub(super) async fn keep(
        &self,
        source: &SourceRecord,
        batch: Vec<Entry>,
        report: &mut Report,
        seen: &mut KnownEntries,
    ) -> Result<(), LedgerError> {
        report.entries += batch.len() as u64;
        let mut events = Vec::with_capacity(batch.len());
        for entry in batch {
            match sound(event_of(source, entry).tidy(), report) {
                Ok(event) => events.push(event),
                Err(note) => report.skip(note),
            }
        }
        let (events, duplicates) = self.fresh(&source.id.to_string(), events, seen).await?;
        report.duplicates += duplicates;
        self.store(&events, report).await
    }

    /// Stores events, tells of those that are news, and reports what that did.
    pub(super) async fn store(&self, events: &[NewEvent], report: &mut Report) -> Result<(), LedgerError> {
        let stored = match &self.0.announcer {
            Some(announcer) => self.store_and_tell(&**announcer, events, report).await?,
            None => self.0.events.upsert(events).await?,
        };
        for (event, stored) in events.iter().zip(&stored) {
            let word = match stored.outcome {
                Outcome::Inserted => {
                    report.inserted += 1;
                    "inserted"
                }
                Outcome::Changed => {
                    report.changed += 1;
                    if stored.cancelled { "cancelled" } else { "changed" }
                }
                Outcome::Unchanged => {
                    report.unchanged += 1;
                    continue;
                }
            };
            if report.changes.len() < MAX_CHANGES {
                report.changes.push(Change {
                    id: stored.id,
                    title: event.title.clone(),
                    outcome: word.to_owned(),
                });
            }
        }
        Ok(())
    }

    async fn store_and_tell(
        &self,
        announcer: &dyn Announcer,
        events: &[NewEvent],
        report: &mut Report,
    ) -> Result<Vec<UpsertedEvent>, LedgerError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let ready = self.0.subscriptions.ready().await?;
        let piece = piece(announcer.endpoints().await?, ready.len());
        let telling = AnnouncingWitness::new(announcer, &ready);
        let mut stored = Vec::with_capacity(events.len());
        for events in events.chunks(piece) {
            stored.extend(self.0.events.upsert_before(Some(&telling), events).await?);
        }
        let (told, matches) = telling.ended();
        report.notices += matches;
        report.webhooks += told.webhooks;
        report.mails += told.mails;
        if told.too_large > 0 {
            let reason = format!(
                "{} notices were not sent: they are larger than jobs.max_payload_bytes",
                told.too_large
            );
            report.note(Note::new("webhooks and mails", reason));
        }
        Ok(stored)
    }
}

/// An event as it can be stored: an optional field that cannot be is left out, and noted.
fn sound(mut event: NewEvent, report: &mut Report) -> Result<NewEvent, Note> {
    while let Err(fault) = event.check() {
        match fault.field {
            "url" if event.url.is_some() => event.url = None,
            "category" if event.category.is_some() => event.category = None,
            "place" if event.place.is_some() => event.place = None,
            "description" if event.description.is_some() => event.description = None,
            "ends_at" if event.ends_at.is_some() => event.ends_at = None,
            "time_zone" if event.time_zone.is_some() => event.time_zone = None,
            "lat" | "lon" if event.position.is_some() => event.position = None,
            _ => return Err(Note::new(&event.title, fault.to_string())),
        }
        report.note(Note::new(
            &event.title,
            format!("is stored without a field: {fault}"),
        ));
    }
    Ok(event)
}

fn event_of(source: &SourceRecord, entry: Entry) -> NewEvent {
    let definition = &source.definition;
    let position = entry.position.or_else(|| definition.lat.zip(definition.lon));
    NewEvent {
        source: Some(source.id.to_string()),
        uid: entry.uid,
        title: entry.title,
        description: entry.description,
        url: entry.url,
        category: entry.category.or_else(|| definition.category.clone()),
        starts_at: entry.starts_at,
        ends_at: entry.ends_at,
        time_zone: entry.time_zone.or_else(|| definition.time_zone.clone()),
        position,
        place: entry.place.or_else(|| definition.place.clone()),
        cancelled: entry.cancelled,
    }
}
