//! What the entries of a calendar know of each other: versions of one event, and the occurrences that have an entry of their
//! own.
//!
//! One UID is one event. Of several entries that say the same of it (the event itself, or one occurrence), the newest one
//! counts: the highest `SEQUENCE`, then `LAST-MODIFIED`, then `DTSTAMP`; of equals the first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use chrono::{DateTime, NaiveTime, Utc};

use super::reader::{Event, Revision, TimeProperty};
use super::when::{Clock, Stamp};
use super::zone::{Begin, Zones};

/// Entries for an occurrence and all that follow (`RANGE=THISANDFUTURE`) that are kept while a calendar is read.
const MAX_FOLLOWING: usize = 1_000;

/// Entries that may have to do with others, that are compared.
const MAX_RELATED: usize = 50_000;

/// Which UIDs have several entries, or one for an occurrence: the others have to do with no other entry, and cost a hash.
#[derive(Default)]
pub(super) struct SeriesIndex {
    hasher: RandomState,
    once: HashSet<u64>,
    several: HashSet<u64>,
    /// Those that are found again by [`Self::head`].
    heads: usize,
}

impl SeriesIndex {
    pub(super) fn see(&mut self, event: &Event) {
        let Some(uid) = &event.uid else { return };
        let hash = self.hasher.hash_one(uid);
        if !self.once.insert(hash) || event.original.is_some() {
            self.several.insert(hash);
        }
    }

    pub(super) fn has_any(&self) -> bool {
        !self.several.is_empty()
    }

    /// The head of an entry, if it may have to do with others.
    pub(super) fn head(&mut self, event: Event) -> Option<Head> {
        if !self.several.contains(&self.hasher.hash_one(event.uid.as_ref()?)) {
            return None;
        }
        self.heads += 1;
        if self.is_overfull() { None } else { Head::of(event) }
    }

    /// There are more than are compared.
    pub(super) fn is_overfull(&self) -> bool {
        self.heads > MAX_RELATED
    }
}

/// What one entry says of itself, besides its content.
pub(super) struct Head {
    line: usize,
    uid: String,
    summary: Option<String>,
    start: TimeProperty,
    original: TimeProperty,
    following: bool,
    revision: Revision,
}

impl Head {
    /// `None`: an entry without a UID stands for itself.
    fn of(event: Event) -> Option<Self> {
        Some(Self {
            line: event.line,
            uid: event.uid?,
            summary: event.summary,
            start: event.start,
            original: event.original,
            following: event.following,
            revision: event.revision,
        })
    }
}

/// The entry that counts.
#[derive(Debug, Clone, Copy)]
struct Version {
    revision: Revision,
    line: usize,
}

/// Everything that goes by one UID.
#[derive(Default)]
pub(super) struct Series {
    master: Option<Version>,
    begin: Option<Begin>,
    pub(super) summary: Option<String>,
    /// By the moment for which they were planned.
    replaced: BTreeMap<DateTime<Utc>, Version>,
    /// Those that also replace what follows, by the same moment.
    pub(super) following: BTreeMap<DateTime<Utc>, Event>,
}

/// All series of a calendar, by UID.
#[derive(Default)]
pub(super) struct AllSeries {
    by_uid: HashMap<String, Series>,
    /// Lines of the entries to keep in [`Series::following`], and for which moment.
    wanted: HashMap<usize, DateTime<Utc>>,
}

impl AllSeries {
    pub(super) fn of(heads: Vec<Head>, zones: &Zones<'_>) -> Self {
        let mut all = Self::default();
        let (masters, others): (Vec<_>, Vec<_>) = heads.into_iter().partition(|head| head.original.is_none());
        for head in masters {
            let series = all.by_uid.entry(head.uid).or_default();
            let version = Version {
                revision: head.revision,
                line: head.line,
            };
            if series
                .master
                .is_none_or(|master| master.revision < version.revision)
            {
                series.master = Some(version);
                series.begin = match head.start {
                    Some(Ok(start)) => Begin::of(&start, zones, None).ok(),
                    _ => None,
                };
                series.summary = head.summary;
            }
        }
        let mut following = HashMap::new();
        for head in others {
            let Some(Ok(original)) = head.original else {
                continue;
            };
            let series = all.by_uid.entry(head.uid.clone()).or_default();
            let Ok(moment) = series.planned(&original, zones) else {
                continue;
            };
            let version = Version {
                revision: head.revision,
                line: head.line,
            };
            let replaced = series.replaced.entry(moment).or_insert(version);
            if replaced.revision < version.revision {
                *replaced = version;
            }
            if replaced.line == head.line {
                following.insert((head.uid, moment), head.following.then_some(head.line));
            }
        }
        let lines = following
            .into_iter()
            .filter_map(|((_, moment), line)| Some((line?, moment)));
        all.wanted = lines.take(MAX_FOLLOWING).collect();
        all
    }

    /// Whether entries have to be [kept](Self::keep).
    pub(super) fn wants_entries(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Keeps an entry that other ones follow.
    pub(super) fn keep(&mut self, mut event: Event) {
        let Some(moment) = self.wanted.get(&event.line) else {
            return;
        };
        if let Some(series) = event.uid.as_ref().and_then(|uid| self.by_uid.get_mut(uid)) {
            (event.dates, event.except) = (Vec::new(), Vec::new());
            series.following.insert(*moment, event);
        }
    }

    pub(super) fn find(&self, event: &Event) -> Option<&Series> {
        self.by_uid.get(event.uid.as_ref()?)
    }

    /// Why an entry does not count, if another one does.
    pub(super) fn superseded(&self, event: &Event, zones: &Zones<'_>) -> Option<String> {
        let series = self.find(event)?;
        let version = match &event.original {
            None => series.master,
            Some(Ok(original)) => series
                .replaced
                .get(&series.planned(original, zones).ok()?)
                .copied(),
            Some(Err(_)) => None,
        }?;
        let line = version.line;
        (line != event.line).then(|| {
            if version.revision > event.revision {
                format!("is out of date: line {line} has a newer version of it")
            } else {
                format!("has the name of an entry before it, on line {line}")
            }
        })
    }
}

impl Series {
    /// The moment for which an occurrence was planned, as `RECURRENCE-ID` names it. A day names what begins on it; of a series
    /// of whole days, a time names its day.
    ///
    /// # Errors
    /// Its zone is unknown.
    pub(super) fn planned(&self, original: &Stamp, zones: &Zones<'_>) -> Result<DateTime<Utc>, String> {
        let Some(begin) = &self.begin else {
            return Ok(Begin::of(original, zones, None)?.utc());
        };
        let local = match original.clock {
            Clock::Day(day) if !begin.whole_day => day.and_time(begin.local.time()),
            Clock::Local(at) | Clock::Utc(at) if begin.whole_day => at.date().and_time(NaiveTime::MIN),
            _ => return Ok(Begin::of(original, zones, Some(&begin.zone))?.utc()),
        };
        Ok(begin.zone.to_utc(local))
    }

    /// Whether an occurrence has an entry of its own.
    pub(super) fn replaces(&self, planned: DateTime<Utc>) -> bool {
        self.replaced.contains_key(&planned)
    }
}
