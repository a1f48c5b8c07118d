//! One loader at a time for a key.
//!
//! A flight is a task of the process' own runtime, apart from whoever asked for it: a caller that goes away, or an HTTP
//! thread that ends, takes nobody's value along. Those who come while it is under way wait for its outcome. It ends by
//! itself: the loader has a deadline, and a panic ends the task, which tells those who wait.
//!
//! A flight is on the board from before the loader starts until its value is stored, so whoever finds neither a value
//! nor a flight has missed the flight altogether; [`Inner::fly`] looks once more if a flight of that key landed since
//! the caller looked.

use std::any::Any;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::cache::Inner;
use crate::class::lifetime;
use crate::codec::CodecError;
use crate::entry::{Entry, Now};
use crate::frame::{Frame, StoredStamp};
use crate::key::Meta;
use crate::lookup::Lookup;
use crate::marks::{Mark, Marks};
use crate::stats::count;

/// Why a flight brought nothing. Shared by all who waited for it.
#[derive(Debug, Clone)]
pub(crate) enum Crash {
    /// The loader's own error.
    Failed(Arc<dyn Any + Send + Sync>),
    Unencodable(Arc<CodecError>),
    TimedOut,
    /// It panicked, or the process is ending.
    Lost,
}

pub(crate) type Landing = Result<Arc<Entry>, Crash>;
pub(crate) type LoadFuture = BoxFuture<'static, Result<Bytes, Crash>>;

#[derive(Debug)]
pub(crate) struct Flights {
    board: Mutex<HashMap<Arc<str>, Flight>>,
    landed: Marks,
}

#[derive(Debug, Clone)]
struct Flight {
    number: u64,
    /// Of the namespace when it started: who asks after that was forgotten waits for another.
    generation: u64,
    landing: LandingReceiver,
}

pub(crate) type LandingReceiver = watch::Receiver<Option<Landing>>;

/// What a flight is started with.
pub(crate) struct Order {
    pub(crate) key: Arc<str>,
    pub(crate) meta: Meta,
    pub(crate) codec: u8,
    /// What stands on Redis.
    pub(crate) seen: Option<StoredStamp>,
    /// Taken before the caller looked for a value.
    pub(crate) since: Mark,
    /// Somebody else may have refreshed the value already: look before loading.
    pub(crate) look_first: bool,
    pub(crate) loading: LoadFuture,
}

impl Flights {
    pub(crate) fn new() -> Self {
        Self {
            board: Mutex::default(),
            landed: Marks::new(),
        }
    }

    /// Taken before a value is looked for.
    pub(crate) fn mark(&self, key: &str) -> Mark {
        self.landed.take(key)
    }

    pub(crate) fn is_under_way(&self, key: &str) -> bool {
        self.lock().contains_key(key)
    }

    /// The key has changed: who comes from now on shall not wait for what is under way.
    pub(crate) fn abandon(&self, key: &str) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Flight>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the flight off the board, however it ends.
struct OnBoard {
    inner: Arc<Inner>,
    key: Arc<str>,
    number: u64,
}

impl Drop for OnBoard {
    fn drop(&mut self) {
        self.inner.flights.landed.note(&self.key);
        let mut board = self.inner.flights.lock();
        // Not one that started after this one was abandoned.
        if board
            .get(&self.key)
            .is_some_and(|flight| flight.number == self.number)
        {
            board.remove(&self.key);
        }
    }
}

impl Inner {
    /// The flight of this key that is under way, or else a new one.
    pub(crate) fn board(
        self: &Arc<Self>,
        order: impl FnOnce() -> Order,
        key: &Arc<str>,
        meta: &Meta,
    ) -> LandingReceiver {
        let (sender, landing) = watch::channel(None);
        let number = rand::random();
        let generation = self.now(meta).generation;
        {
            let mut board = self.flights.lock();
            if let Some(flight) = board.get(key)
                && flight.generation == generation
            {
                return flight.landing.clone();
            }
            let flight = Flight {
                number,
                generation,
                landing: landing.clone(),
            };
            board.insert(Arc::clone(key), flight);
        }
        let on_board = OnBoard {
            inner: Arc::clone(self),
            key: Arc::clone(key),
            number,
        };
        let order = order();
        self.runtime.spawn(async move {
            let inner = Arc::clone(&on_board.inner);
            inner.fly(order, &sender, on_board).await;
        });
        landing
    }

    async fn fly(&self, order: Order, landing: &watch::Sender<Option<Landing>>, on_board: OnBoard) {
        let Order {
            key,
            meta,
            codec,
            mut seen,
            since,
            look_first,
            loading,
        } = order;
        let another_landed = !self.flights.landed.unchanged(since);
        if another_landed || look_first {
            match self.look_again(&key, &meta).await {
                Ok(entry) => {
                    landing.send_replace(Some(Ok(entry)));
                    return;
                }
                Err(now_seen) => seen = now_seen,
            }
        }
        let counters = self.counters.of(meta.id.class);
        count(&counters.loads);
        // What changes while the loader runs may not be in what it brings.
        let mark = self.local.mark(&key);
        let started = self.now(&meta);
        let loading = AssertUnwindSafe(loading).catch_unwind();
        let loaded = match timeout(self.settings.load_timeout, loading).await {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(_panic)) => Err(Crash::Lost),
            Err(_elapsed) => Err(Crash::TimedOut),
        };
        match loaded {
            Ok(payload) => {
                let loaded = LoaderOutput {
                    key,
                    meta,
                    codec,
                    seen,
                    payload,
                    started,
                };
                self.land(loaded, mark, landing, on_board).await;
            }
            Err(crash) => {
                count(&counters.load_errors);
                // Who comes after the failure is told tries again.
                drop(on_board);
                landing.send_replace(Some(Err(crash)));
            }
        }
    }

    /// A value that came meanwhile, or else what stands on Redis now.
    async fn look_again(&self, key: &Arc<str>, meta: &Meta) -> Result<Arc<Entry>, Option<StoredStamp>> {
        if let Lookup::Fresh(entry, _) = self.find_here(key, meta) {
            return Ok(entry);
        }
        match self.find_there(key, meta, None).await {
            Lookup::Fresh(entry, _) => Ok(entry),
            Lookup::Refreshable(entry, _) => Err(entry.seen),
            Lookup::Missing(missing) => Err(missing.seen),
        }
    }

    /// Keeps a loaded value here, hands it to those who wait, and stores it on Redis.
    async fn land(
        &self,
        loaded: LoaderOutput,
        mark: Mark,
        landing: &watch::Sender<Option<Landing>>,
        on_board: OnBoard,
    ) {
        let LoaderOutput {
            key,
            meta,
            codec,
            seen,
            payload,
            started,
        } = loaded;
        let times = lifetime(meta.id.class, meta.overrides, &self.settings);
        // Of the generation and the epoch in which it was asked for, not of those in which it came.
        let now = Now {
            at: Instant::now(),
            ..started
        };
        let frame = Frame {
            codec,
            generation: now.generation,
            made_ms: self.remote.now_ms(),
            fresh: times.fresh,
            payload: payload.clone(),
        };
        let fits = payload.len() <= self.settings.max_value_bytes;
        // Only what is going to be stored is worth compressing.
        let stored = (fits && seen.is_some() && self.remote.serves())
            .then(|| frame.encode(self.settings.compress_above));
        let stamp = stored.as_ref().map(|(_, stamp)| *stamp);
        let entry = Arc::new(Entry::made_here(payload, codec, times, stamp, now));
        let mut kept = false;
        if !fits {
            count(&self.counters.of(meta.id.class).too_large);
        } else if self.copies(&meta) {
            kept = self.local.keep(&key, &entry, mark);
        }
        // What is kept nowhere is told last: who asks after that loads anew, and shares no flight that is over.
        let _on_board = fits.then_some(on_board);
        landing.send_replace(Some(Ok(entry)));
        let (Some(seen), Some((raw, _))) = (seen, stored) else {
            if kept {
                count(&self.counters.of(meta.id.class).stores);
            }
            return;
        };
        count(&self.counters.of(meta.id.class).stores);
        match self.remote.fill(&key, seen, raw, times.kept()).await {
            Ok(true) => {}
            // Somebody changed it meanwhile: what they wrote is newer.
            Ok(false) => {
                self.local.forget(&key);
            }
            Err(_known_to_the_gate) => self.count_degraded(&meta),
        }
    }
}

/// What a loader brought.
struct LoaderOutput {
    key: Arc<str>,
    meta: Meta,
    codec: u8,
    seen: Option<StoredStamp>,
    payload: Bytes,
    started: Now,
}
