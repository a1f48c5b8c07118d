//! Reads a body on a thread of its own, and sends its entries off in batches.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::report::MAX_NOTES;
use crate::discovery::fetch::Body;
use crate::discovery::horizon::KeptBody;
use crate::discovery::parse::{
    Entry, Form, Note, ParseFault, ParsedItem, Reading, Sink, Stop, Survey, parse_page, parse_until,
};
use crate::discovery::source::{Definition, SourceKind};

/// Entries that are stored at once.
const BATCH: usize = 500;

/// What a body leaves to do.
#[derive(Default)]
pub(super) struct PendingWork {
    /// Names the next page, if there is one.
    pub(super) after: Option<String>,
    pub(super) kept: Option<KeptBody>,
}

/// How reading a body ended.
pub(super) struct ReadOutcome {
    pub(super) taken: PendingWork,
    /// Of a calendar.
    pub(super) survey: Option<Survey>,
}

/// Ends a parse whose run is dropped: by its timeout, a cancellation, or a failure to store.
#[derive(Default)]
pub(super) struct StopOnDrop(pub(super) Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What was found besides entries.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) skipped: u64,
    pub(super) outside: u64,
    pub(super) notes: Vec<Note>,
    /// Of the entries.
    pub(super) names: HashSet<String>,
}

impl Tally {
    fn note(&mut self, note: Note) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        }
    }
}

/// Reads a body and sends its entries off in batches, each name once; at most `room` of them.
pub(super) fn read_body(
    definition: &Definition,
    body: &Body,
    reading: &Reading<'_>,
    room: usize,
    stop: &Stop,
    sender: &mpsc::Sender<Vec<Entry>>,
) -> (Tally, Result<ReadOutcome, ParseFault>) {
    let (mut tally, mut batch, mut cut) = (Tally::default(), Vec::with_capacity(BATCH), false);
    // Waiting for the database is not reading. If nobody receives any more, the run was given up.
    let send = |batch| {
        let began = std::time::Instant::now();
        let sent = sender.blocking_send(batch);
        stop.excuse(began.elapsed());
        if sent.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    let mut sink = |found: ParsedItem| {
        match found {
            ParsedItem::Entry(entry) => {
                if tally.names.len() == room {
                    let reason =
                        format!("more than {room} entries (discovery.max_entries); the rest was not read");
                    tally.note(Note::new("the end", reason));
                    cut = true;
                    return ControlFlow::Break(());
                }
                if !tally.names.insert(entry.uid.clone()) {
                    tally.skipped += 1;
                    tally.note(Note::new(&entry.title, "has the name of an entry before it"));
                    return ControlFlow::Continue(());
                }
                batch.push(*entry);
                if batch.len() == BATCH {
                    return send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)));
                }
            }
            ParsedItem::Skipped(note) => {
                tally.skipped += 1;
                tally.note(note);
            }
            ParsedItem::Noted(note) => tally.note(note),
            ParsedItem::Outside => tally.outside += 1,
        }
        ControlFlow::Continue(())
    };
    let ended = read_form(definition, body, reading, stop, &mut sink);
    if !batch.is_empty() {
        let _ = send(batch);
    }
    let ended = ended.map(|ended| ReadOutcome {
        survey: ended.survey.filter(|_| !cut),
        ..ended
    });
    (tally, ended)
}

fn read_form(
    definition: &Definition,
    body: &Body,
    reading: &Reading<'_>,
    stop: &Stop,
    sink: &mut Sink<'_>,
) -> Result<ReadOutcome, ParseFault> {
    let form = match (definition.kind, &definition.mapping) {
        (SourceKind::Json, Some(mapping)) => Form::Json(mapping),
        (SourceKind::Ical, _) => Form::Calendar,
        (SourceKind::Reddit, _) => {
            let page = parse_page(&body.bytes, reading, sink)?;
            let taken = PendingWork {
                after: page.after,
                ..PendingWork::default()
            };
            return Ok(ReadOutcome { taken, survey: None });
        }
        (SourceKind::Rss | SourceKind::Json, _) => Form::Feed,
    };
    let survey = parse_until(form, &body.bytes, reading, stop, sink)?;
    let asked_for_again = body.etag.is_some() || body.last_modified.is_some();
    let keep = survey.repeats && asked_for_again;
    Ok(ReadOutcome {
        taken: PendingWork {
            after: None,
            kept: keep.then(|| KeptBody::of(body, reading.until)),
        },
        survey: matches!(form, Form::Calendar).then_some(survey),
    })
}
