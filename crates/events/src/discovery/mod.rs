//! Discovery: finding events where others publish them.
//!
//! # States of a source
//! A source waits for `next_run_at`, or is disabled. When it is due, a beat makes its job (`events.discover`) and moves
//! `next_run_at` on by its interval and a jitter ([`sweep`](Sources::sweep)). The job fetches, reads, stores, and writes down
//! what came of it ([`Report`]). A failure moves `next_run_at` again: by the interval, doubled with each failure in a row, up
//! to `discovery.max_backoff_seconds`, and never before the rest that the server asked for.
//!
//! # Invariants
//! - One due moment is one job, however many beats there are: the job is keyed by the source and the moment, and the moment is
//!   moved on only by a process that still finds it. Of one source one job waits or runs at a time.
//! - There is no schedule for each source: the moment stands in the source's own row, so that no source can be without one,
//!   and ten thousand sources cost a beat one look at an index.
//! - What fails at a source is news of the source, not of the job: the job completes and tells it. Only what is ours (the
//!   database) fails the job, which is then tried again.
//! - An event is (source, uid); what says the same as another source's event is not stored twice.
//! - What is remembered for conditional requests is of an answer that was read to its end.
//! - A calendar that was read to its end is all there is: what it does not name any more is cancelled (`missing.rs`). What it
//!   repeats is written out as time passes, also while its server answers that nothing has changed (`horizon.rs`).
//! - A run that began before an edit of its source stores its events and nothing of its report.
//! - Nothing is unbounded: bytes (also unpacked), time, entries, notes and changes have limits with names.
//!
//! # When things fail
//! - *The server* refuses, hangs, floods, answers HTML or a bomb: the report says so, the source backs off, nothing else waits.
//! - *The database is away*: beats try again at their next look, jobs by their retry policy. Batches that were stored stand,
//!   and are the same when they are brought again.
//! - *A run is timed out or cancelled*: its parse, which runs where the job cannot reach it, ends at its next step
//!   ([`parse::Stop`]).
//! - *A worker dies*: the job is rescued, and runs again.

mod announcement;
mod dedupe;
mod edit;
mod fetch;
mod horizon;
mod missing;
mod news;
pub mod parse;
mod reddit;
mod run;
mod source;
mod store;
mod store_batch;
mod subscriptions;
mod sweep;

use std::fmt;
use std::sync::Arc;

use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_jobs::Jobs;
use holdfast_jobs::sql::Sql;

use crate::store::Events;
use crate::{DiscoverySettings, RedditSettings};
use holdfast_outbound::{AddressPolicy, Outbound};

pub use self::announcement::{NEWS, NewsAnnouncer};
pub use self::news::{AnnouncementCounts, Announcer, EventChange, News};
pub use self::run::{Change, DiscoverySummary, EventsDiscover, Report, Status};
pub use self::source::{
    Definition, Listing, MAX_NAME, MAX_PAGES, MAX_SOURCES, NewSource, SourceFault, SourceId, SourceKind,
    SourceRecord,
};
pub(crate) use self::store::SEALED;
pub use self::store::SourceError;
pub use self::subscriptions::{
    Filter, MAX_SUBSCRIPTIONS, Subscription, SubscriptionId, SubscriptionMatch, Subscriptions,
};

/// The sources of one database. Cheap to clone.
#[derive(Clone)]
pub struct Sources(Arc<Inner>);

struct Inner {
    sql: Sql,
    jobs: Jobs,
    settings: DiscoverySettings,
    policy: AddressPolicy,
}

impl Sources {
    /// It reaches nothing yet.
    pub fn new(settings: &Settings, database: &Database, jobs: Jobs) -> Self {
        Self(Arc::new(Inner {
            sql: Sql::new(database, &settings.database),
            jobs,
            settings: settings.section(),
            policy: AddressPolicy::of(&settings.http_request),
        }))
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// What the handler of `events.discover` works with. Cheap to clone.
#[derive(Clone)]
pub struct Discoverer(Arc<Tools>);

struct Tools {
    sources: Sources,
    subscriptions: Subscriptions,
    events: Events,
    outbound: Outbound,
    reddit: reddit::Reddit,
    announcer: Option<Arc<dyn Announcer>>,
}

impl Discoverer {
    /// It reaches nothing yet. Without an announcer nothing is sent about what is found.
    pub fn new(
        settings: &Settings,
        sources: Sources,
        events: Events,
        outbound: &Outbound,
        announcer: Option<Arc<dyn Announcer>>,
    ) -> Self {
        let outbound = outbound.limited_to(settings.section::<DiscoverySettings>().max_bytes);
        let reddit = settings.section::<RedditSettings>();
        Self(Arc::new(Tools {
            subscriptions: Subscriptions::of(&sources),
            sources,
            events,
            reddit: reddit::Reddit::new(reddit, outbound.clone()),
            outbound,
            announcer,
        }))
    }
}

impl fmt::Debug for Discoverer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discoverer").finish_non_exhaustive()
    }
}
