//! The log of a job: lines that its handlers write while they run.
//!
//! # Invariants
//! - A job has at most [`MAX_LINES`] lines of [`MAX_BYTES`] bytes together. When there are more, the oldest are dropped in chunks of up
//!   to [`CHUNK_LINES`], and counted.
//! - Lines are written under the fence of the execution that wrote them: an execution that has lost its lease writes nothing.
//! - Lines that repeat secret fields of the payload are cleaned of them, as errors are.
//! - The lines go with the job, whatever deletes it.
//!
//! # When things fail
//! Lines that cannot be stored now are held with the running job, within the same bounds, and stored with the next poll, or
//! before the job's outcome. The outcome waits for them as it waits for the database. Lines that the database refuses for good are dropped.
//! A process that dies loses the lines since the last poll.
//!
//! # Cost
//! A job that writes no line costs no statement and no row. One that does costs a statement for each poll in which it has written.
//! A job of a `redis` queue has no row that lines could belong to: they go to the log of the process.

mod store;

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::client::Jobs;
use crate::id::WorkerId;
use crate::ledger::{ClaimedJob, Fence, LedgerError};

pub(crate) use store::append;
pub use store::{JobLog, LoggedLine};

/// Most lines of a job.
pub const MAX_LINES: usize = 1_000;

/// Most bytes of the lines of a job.
pub const MAX_BYTES: usize = 256 * 1_024;

/// What is stored of one line, in bytes.
pub const MAX_LINE_BYTES: usize = 4_096;

/// Most lines of one row.
const CHUNK_LINES: usize = 100;

/// Most bytes of one row.
const CHUNK_BYTES: usize = 32 * 1_024;

/// A line, and when it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub at: DateTime<Utc>,
    pub text: String,
}

impl Line {
    /// Cuts the text to [`MAX_LINE_BYTES`], and drops NUL characters and the end of the line.
    pub(crate) fn new(text: &str) -> Self {
        let mut text = text.trim_end_matches(['\n', '\r']).replace('\0', "");
        text.truncate(text.floor_char_boundary(MAX_LINE_BYTES));
        Self {
            at: clock::now(),
            text,
        }
    }
}

/// Lines that are stored together.
#[derive(Debug, Clone)]
pub(crate) struct LogChunk {
    /// Of its row: a repeated write changes nothing.
    pub id: Uuid,
    pub fence: Fence,
    /// Lines before its first that were dropped.
    pub dropped: usize,
    pub lines: Vec<Line>,
}

impl LogChunk {
    fn new(fence: Fence) -> Self {
        Self {
            id: ulid::Ulid::generate().into(),
            fence,
            dropped: 0,
            lines: Vec::new(),
        }
    }

    fn bytes(&self) -> usize {
        self.lines.iter().map(|line| line.text.len()).sum()
    }

    fn has_room_for(&self, line: &Line) -> bool {
        self.lines.len() < CHUNK_LINES && self.bytes() + line.text.len() <= CHUNK_BYTES
    }
}

/// Chunks of the newest lines of one execution, within the bounds of a job.
pub(crate) fn chunks(fence: Fence, lines: impl IntoIterator<Item = Line>) -> Vec<LogChunk> {
    let mut pending = PendingLines::default();
    lines.into_iter().for_each(|line| pending.push(line));
    pending.into_chunks(fence)
}

/// Lines of one execution that are not stored yet.
#[derive(Debug, Default)]
struct PendingLines {
    lines: VecDeque<Line>,
    bytes: usize,
    dropped: usize,
}

impl PendingLines {
    fn push(&mut self, line: Line) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            let oldest = self.lines.pop_front();
            self.bytes -= oldest.map_or(0, |line| line.text.len());
            self.dropped += 1;
        }
    }

    fn into_chunks(self, fence: Fence) -> Vec<LogChunk> {
        let mut chunks: Vec<LogChunk> = Vec::new();
        for line in self.lines {
            match chunks.last_mut() {
                Some(last) if last.has_room_for(&line) => last.lines.push(line),
                _ => {
                    let mut next = LogChunk::new(fence);
                    next.lines.push(line);
                    chunks.push(next);
                }
            }
        }
        if let Some(first) = chunks.first_mut() {
            first.dropped = self.dropped;
        }
        chunks
    }
}

/// The lines of a running job between its handler and the database.
#[derive(Debug, Default)]
pub(crate) struct LogBuffer(Mutex<BufferState>);

#[derive(Debug, Default)]
struct BufferState {
    pending: PendingLines,
    /// Given out to be stored, and not known to be stored.
    unstored: Vec<LogChunk>,
}

impl LogBuffer {
    fn lock(&self) -> MutexGuard<'_, BufferState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self, text: &str) {
        self.lock().pending.push(Line::new(text));
    }

    pub(crate) fn is_empty(&self) -> bool {
        let buffered = self.lock();
        buffered.pending.lines.is_empty() && buffered.unstored.is_empty()
    }

    /// What is to be stored next, cleaned of the job's secrets; the same again until [`Self::stored`].
    pub(crate) fn take(&self, jobs: &Jobs, job: &ClaimedJob) -> Vec<LogChunk> {
        let mut buffered = self.lock();
        if buffered.unstored.is_empty() {
            let mut lines = std::mem::take(&mut buffered.pending);
            jobs.clean_lines(job, &mut lines.lines);
            buffered.unstored = lines.into_chunks(job.fence());
        }
        buffered.unstored.clone()
    }

    /// These were stored, or are void.
    pub(crate) fn stored(&self, chunks: &[LogChunk]) {
        let mut buffered = self.lock();
        buffered
            .unstored
            .retain(|one| chunks.iter().all(|stored| stored.id != one.id));
    }

    /// The lines, for the log of the process.
    pub(crate) fn drain(&self) -> Vec<Line> {
        std::mem::take(&mut self.lock().pending).lines.into()
    }
}

impl Jobs {
    /// Writes lines as the worker that holds a job under this fence, for tests that have no worker.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable.
    #[doc(hidden)]
    pub async fn write_log(&self, worker: WorkerId, fence: Fence, texts: &[&str]) -> Result<(), LedgerError> {
        let lines = texts.iter().map(|text| Line::new(text));
        append(self.sql(), worker, &chunks(fence, lines)).await
    }

    /// Cleans lines of the secret fields of the job's payload.
    pub(crate) fn clean_lines<'l>(&self, job: &ClaimedJob, lines: impl IntoIterator<Item = &'l mut Line>) {
        let Some(known) = self.producer().kind(&job.kind) else {
            return;
        };
        if known.marks().is_empty() {
            return;
        }
        let opened = self.opened(&job.kind, &job.payload).ok().flatten();
        let secrets = known
            .marks()
            .secrets_of(opened.as_deref().unwrap_or(&job.payload));
        for line in lines {
            line.text = secrets.removed_from(std::mem::take(&mut line.text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::JobId;

    fn fence() -> Fence {
        Fence {
            id: JobId::generate(),
            attempt: 0,
            crashes: 0,
        }
    }

    #[test]
    fn the_newest_lines_are_held_and_cut_into_rows() {
        let lines = (0..1_250).map(|number| Line::new(&format!("line {number}")));
        let chunks = chunks(fence(), lines);
        assert_eq!(chunks.len(), 10);
        assert_eq!(
            (chunks[0].lines[0].text.as_str(), chunks[0].dropped),
            ("line 250", 250)
        );
        assert_eq!(chunks[9].lines[99].text, "line 1249");
        let ids: std::collections::BTreeSet<Uuid> = chunks.iter().map(|chunk| chunk.id).collect();
        assert_eq!(ids.len(), 10);
    }

    #[test]
    fn long_lines_are_cut_and_bytes_are_bounded() {
        let long = "ä".repeat(3_000);
        let lines = (0..100).map(|_| Line::new(&format!("{long}\n")));
        let chunks = chunks(fence(), lines);
        assert!(chunks.iter().all(|chunk| chunk.bytes() <= CHUNK_BYTES));
        assert_eq!(chunks[0].lines[0].text.len(), MAX_LINE_BYTES);
        assert_eq!(chunks.iter().map(LogChunk::bytes).sum::<usize>(), MAX_BYTES);
    }

    #[test]
    fn a_line_has_no_nul_and_no_end_of_line() {
        assert_eq!(Line::new("a\0b\r\n").text, "ab");
    }
}
