//! One direction of a connection: reads, holds back as the mode says, delivers.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::connection::count;
use super::dialogue::Dialogue;
use super::{Mode, Setting};

const READ_CHUNK: usize = 64 * 1024;
/// What a lane holds at most before it stops reading, as a router's buffer would.
const HOLD_LIMIT: usize = 1024 * 1024;
/// A bandwidth is dealt out in slices of this length.
const SLICE: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Requests,
    Replies,
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionEnd {
    /// Both sides have said goodbye.
    Quietly,
    /// By the mode, or because a side broke it off.
    Abruptly,
    /// On purpose, after the server has replied.
    ReplyCut,
}

/// Bytes on their way.
struct Parcel {
    bytes: Vec<u8>,
    delivered: usize,
    due: Instant,
}

pub(super) struct Lane<'a> {
    side: Side,
    reader: ReadHalf<'a>,
    writer: WriteHalf<'a>,
    settings: watch::Receiver<Setting>,
    dialogue: &'a Dialogue<'a>,
    delivered: &'a AtomicU64,
    parcels: VecDeque<Parcel>,
    held: usize,
    scratch: Vec<u8>,
    source_ended: bool,
    /// The reply to be cut has come: end when what precedes it is delivered.
    cutting: bool,
}

/// What a lane woke up for.
enum Event {
    ModeChanged,
    Delivered(usize),
    /// So many bytes are in the scratch buffer; 0: the source has ended.
    Read(usize),
}

impl<'a> Lane<'a> {
    pub(super) fn new(
        side: Side,
        reader: ReadHalf<'a>,
        writer: WriteHalf<'a>,
        settings: watch::Receiver<Setting>,
        dialogue: &'a Dialogue<'a>,
        delivered: &'a AtomicU64,
    ) -> Self {
        Self {
            side,
            reader,
            writer,
            settings,
            dialogue,
            delivered,
            parcels: VecDeque::new(),
            held: 0,
            scratch: vec![0; READ_CHUNK],
            source_ended: false,
            cutting: false,
        }
    }

    /// Runs until the source has ended and everything is delivered (`Ok`), or the connection is over (`Err`).
    pub(super) async fn run(mut self) -> Result<(), ConnectionEnd> {
        loop {
            let mode = self.settings.borrow_and_update().mode;
            match mode {
                Mode::Refuse | Mode::Reset => return Err(ConnectionEnd::Abruptly),
                _ if self.is_held_by(mode) => {
                    self.settings
                        .changed()
                        .await
                        .map_err(|_| ConnectionEnd::Abruptly)?;
                    continue;
                }
                _ => {}
            }
            if self.cutting && self.parcels.is_empty() {
                return Err(ConnectionEnd::ReplyCut);
            }
            if self.source_ended && self.parcels.is_empty() {
                return self.writer.shutdown().await.map_err(|_| ConnectionEnd::Abruptly);
            }
            match self.next_event(mode).await? {
                Event::ModeChanged => {}
                Event::Delivered(bytes) => self.note_delivered(bytes),
                Event::Read(0) => self.source_ended = true,
                Event::Read(bytes) => self.take_in(bytes, mode),
            }
        }
    }

    fn is_held_by(&self, mode: Mode) -> bool {
        mode == Mode::BlackHole || (mode == Mode::HalfOpen && self.side == Side::Replies)
    }

    /// The mode comes first: once it has changed, nothing more is read or written under the old one.
    async fn next_event(&mut self, mode: Mode) -> Result<Event, ConnectionEnd> {
        let may_read = !self.source_ended && !self.cutting && self.held < HOLD_LIMIT;
        let room = &mut self.scratch[..chunk_size(mode)];
        let event = tokio::select! {
            biased;
            changed = self.settings.changed() => changed.map(|()| Event::ModeChanged).map_err(|_| ConnectionEnd::Abruptly)?,
            written = deliver(&mut self.writer, self.parcels.front()) => match written {
                Ok(bytes) if bytes > 0 => Event::Delivered(bytes),
                _ => return Err(ConnectionEnd::Abruptly),
            },
            read = self.reader.read(room), if may_read => Event::Read(read.map_err(|_| ConnectionEnd::Abruptly)?),
        };
        Ok(event)
    }

    /// Puts what was read on its way, as far as no reply is to be cut.
    fn take_in(&mut self, length: usize, mode: Mode) {
        let read = &self.scratch[..length];
        let passing = match self.side {
            Side::Requests => {
                self.dialogue.client_sent(read);
                read
            }
            Side::Replies => {
                let verdict = self.dialogue.server_sent(read);
                self.cutting = verdict.cut;
                &read[..verdict.deliver]
            }
        };
        if !passing.is_empty() {
            let parcel = Parcel {
                bytes: passing.to_vec(),
                delivered: 0,
                due: self.due(passing.len(), mode),
            };
            self.held += parcel.bytes.len();
            self.parcels.push_back(parcel);
        }
    }

    fn due(&self, length: usize, mode: Mode) -> Instant {
        let now = Instant::now();
        match mode {
            Mode::Latency(round_trip) => now + round_trip / 2,
            Mode::Bandwidth(rate) => {
                let free = self.parcels.back().map_or(now, |last| last.due.max(now));
                free + Duration::from_secs_f64(length as f64 / rate.max(1) as f64)
            }
            _ => now,
        }
    }

    fn note_delivered(&mut self, bytes: usize) {
        count(self.delivered, bytes);
        self.held -= bytes;
        if let Some(parcel) = self.parcels.front_mut() {
            parcel.delivered += bytes;
            if parcel.delivered == parcel.bytes.len() {
                self.parcels.pop_front();
            }
        }
    }
}

/// Writes some of the first parcel when it is due; waits for ever without one. Safe to drop at any await.
async fn deliver(writer: &mut WriteHalf<'_>, parcel: Option<&Parcel>) -> std::io::Result<usize> {
    let Some(parcel) = parcel else {
        return std::future::pending().await;
    };
    if parcel.due > Instant::now() {
        sleep_until(parcel.due).await;
    }
    writer.write(&parcel.bytes[parcel.delivered..]).await
}

fn chunk_size(mode: Mode) -> usize {
    match mode {
        Mode::Bandwidth(rate) => ((rate as f64 * SLICE.as_secs_f64()) as usize).clamp(1, READ_CHUNK),
        _ => READ_CHUNK,
    }
}
