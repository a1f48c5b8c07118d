//! Finding a value: the copy in the process, then Redis.

use std::sync::Arc;

use holdfast_core::redis::GateError;
use tokio::time::Instant;

use crate::cache::Inner;
use crate::class::lifetime;
use crate::entry::{Entry, Freshness, Now};
use crate::frame::{Content, Frame, StoredStamp};
use crate::key::Meta;
use crate::remote::Answer;
use crate::stats::count;

/// What there is for a key.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// To be served.
    Fresh(Arc<Entry>, Layer),
    /// To be served, and refreshed.
    Refreshable(Arc<Entry>, Layer),
    Missing(CacheMiss),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Local,
    Redis,
}

/// Nothing to be served.
#[derive(Debug, Default)]
pub(crate) struct CacheMiss {
    /// Except if loading fails.
    pub(crate) fallback: Option<Arc<Entry>>,
    /// What stands on Redis; `None` if that is not known, and then nothing loaded may be stored there.
    pub(crate) seen: Option<StoredStamp>,
}

impl Inner {
    pub(crate) fn now(&self, meta: &Meta) -> Now {
        let epoch = self.local.epoch();
        let generation = self
            .generations
            .current(meta.id, self.settings.local_ttl, epoch)
            .number;
        Now {
            at: Instant::now(),
            epoch,
            generation,
            local_ttl: self.settings.local_ttl,
        }
    }

    /// Whether copies of such values are kept at the moment.
    pub(crate) fn copies(&self, meta: &Meta) -> bool {
        meta.copied || !self.remote.serves()
    }

    pub(crate) async fn find(&self, key: &Arc<str>, meta: &Meta) -> Lookup {
        match self.find_here(key, meta) {
            Lookup::Missing(missing) => self.find_there(key, meta, missing.fallback).await,
            found => found,
        }
    }

    /// In this process. Never waits.
    pub(crate) fn find_here(&self, key: &str, meta: &Meta) -> Lookup {
        if !self.copies(meta) {
            return Lookup::Missing(CacheMiss::default());
        }
        let Some(entry) = self.local.get(key) else {
            return Lookup::Missing(CacheMiss::default());
        };
        match entry.standing(self.now(meta)) {
            Freshness::Fresh => Lookup::Fresh(entry, Layer::Local),
            Freshness::Refreshable => Lookup::Refreshable(entry, Layer::Local),
            Freshness::Fallback => Lookup::Missing(CacheMiss {
                fallback: Some(entry),
                seen: None,
            }),
            Freshness::Useless => Lookup::Missing(CacheMiss::default()),
        }
    }

    /// On Redis, if it serves and knows no less than we do.
    pub(crate) async fn find_there(
        &self,
        key: &Arc<str>,
        meta: &Meta,
        fallback: Option<Arc<Entry>>,
    ) -> Lookup {
        let unknown = |fallback| Lookup::Missing(CacheMiss { fallback, seen: None });
        if self.pending.concerns(key, meta.id) {
            self.count_degraded(meta);
            return unknown(fallback);
        }
        let (mark, epoch) = (self.local.mark(key), self.local.epoch());
        let answer = match self.read(key, meta).await {
            Ok(answer) => answer,
            Err(_known_to_the_gate) => {
                self.count_degraded(meta);
                return unknown(fallback);
            }
        };
        let seen = answer.seen;
        let missing = |fallback| {
            Lookup::Missing(CacheMiss {
                fallback,
                seen: Some(seen),
            })
        };
        let Some(frame) = self.value_of(answer, meta) else {
            return missing(fallback);
        };
        let now = Now {
            epoch,
            ..self.now(meta)
        };
        let times = lifetime(meta.id.class, meta.overrides, &self.settings);
        let entry = Arc::new(Entry::read(frame, seen, self.remote.now_ms(), times, now));
        let standing = entry.standing_as_read(now);
        if meta.copied && standing != Freshness::Useless {
            self.local.keep(key, &entry, mark);
        }
        match standing {
            Freshness::Fresh => Lookup::Fresh(entry, Layer::Redis),
            Freshness::Refreshable => Lookup::Refreshable(entry, Layer::Redis),
            Freshness::Fallback => missing(Some(entry)),
            Freshness::Useless => missing(fallback),
        }
    }

    /// A frame of this namespace's codec. Anything else that stands there counts as undecodable.
    fn value_of(&self, answer: Answer, meta: &Meta) -> Option<Frame> {
        match answer.content {
            Some(Content::Value(frame)) => Some(frame),
            Some(Content::Unknown) => {
                count(&self.counters.of(meta.id.class).undecodable);
                None
            }
            Some(Content::Tombstone) | None => None,
        }
    }

    /// Reads the value, and the namespace's number with it when that is due.
    async fn read(&self, key: &str, meta: &Meta) -> Result<Answer, GateError> {
        let epoch = self.local.epoch();
        let current = self.generations.current(meta.id, self.settings.local_ttl, epoch);
        let ask = (!current.confirmed).then_some(meta.id);
        let answer = self.remote.read(key, ask).await?;
        if let Some(number) = answer.generation
            && !self.pending.concerns(key, meta.id)
        {
            self.generations.confirm(meta.id, number, epoch, current.number);
        }
        Ok(answer)
    }

    /// The number to write with; asks Redis if it is not known.
    pub(crate) async fn generation(&self, meta: &Meta) -> Result<u64, GateError> {
        let epoch = self.local.epoch();
        let current = self.generations.current(meta.id, self.settings.local_ttl, epoch);
        if current.confirmed {
            return Ok(current.number);
        }
        let number = self.remote.generation(meta.id).await?;
        self.generations.confirm(meta.id, number, epoch, current.number);
        Ok(number)
    }

    /// Redis was needed and could not be asked, or did not answer.
    pub(crate) fn count_degraded(&self, meta: &Meta) {
        if self.remote.gate.is_configured() {
            count(&self.counters.of(meta.id.class).degraded);
        }
    }
}
