//! The keys of a queue: those of `apalis_redis::Config` for a queue named `{name}` ([`stock::config`]), and those we add.
//!
//! | key | type | |
//! | --- | --- | --- |
//! | `{q}:data` | hash | id → envelope, from push to acknowledgement |
//! | `{q}:meta:<id>` | hash | what stock needs to know (`attempts`, `max_attempts`, `status`); later the outcome, with a TTL |
//! | `{q}:active` | list | ids that are due, oldest first |
//! | `{q}:scheduled` | zset | id → due, unix seconds |
//! | `{q}:inflight:<member>` | set | ids that a member holds |
//! | `{q}:workers` | zset | member → last heartbeat, unix seconds |
//! | `{q}:signal` | list | one entry that wakes stock workers |
//! | `{q}:crashes` | hash | ours: id → crashes, negative while the job runs again; exists only while a job has crashed |
//! | `{q}:lost` | zset | ours: member → 0 while its jobs are taken away, then when its name may be forgotten |
//! | `{q}:cancel` | zset | ours: running ids to be cancelled → when the wish may be forgotten; expires |
//!
//! The braces make all keys of a queue share a Cluster slot.

use std::fmt::Write as _;
use std::sync::LazyLock;

use crate::id::{JobId, WorkerId};
use crate::stock::{self, Config};

/// Tells our members from stock workers, which beat more slowly.
pub(super) const MEMBER_PREFIX: &str = "holdfast-";

/// What a worker is called on Redis.
pub(super) fn member(worker: WorkerId) -> String {
    format!("{MEMBER_PREFIX}{worker}")
}

/// The worker behind a member's name, if it is one of ours.
pub(super) fn worker(member: &str) -> Option<WorkerId> {
    member.strip_prefix(MEMBER_PREFIX)?.parse().ok()
}

/// The keys of one queue.
#[derive(Debug, Clone)]
pub(super) struct QueueKeys {
    stock: Config,
    /// `{name}:meta`, which is needed for every job.
    meta: String,
}

impl QueueKeys {
    pub(super) fn new(queue: &str) -> Self {
        let stock = stock::config(queue);
        let meta = stock.job_meta_hash();
        Self { stock, meta }
    }

    pub(super) fn data(&self) -> String {
        self.stock.job_data_hash()
    }

    pub(super) fn active(&self) -> String {
        self.stock.active_jobs_list()
    }

    pub(super) fn scheduled(&self) -> String {
        self.stock.scheduled_jobs_set()
    }

    pub(super) fn workers(&self) -> String {
        self.stock.workers_set()
    }

    pub(super) fn signal(&self) -> String {
        self.stock.signal_list()
    }

    pub(super) fn inflight(&self, member: &str) -> String {
        format!("{}:{member}", self.stock.inflight_jobs_set())
    }

    pub(super) fn meta(&self, id: impl std::fmt::Display) -> String {
        format!("{}:{id}", self.meta)
    }

    /// As [`Self::meta`], into a buffer that is used again and again.
    pub(super) fn write_meta(&self, id: JobId, buffer: &mut String) {
        buffer.clear();
        // Writing into a String cannot fail.
        let _ = write!(buffer, "{}:{id}", self.meta);
    }

    pub(super) fn crashes(&self) -> String {
        self.added("crashes")
    }

    pub(super) fn lost(&self) -> String {
        self.added("lost")
    }

    pub(super) fn cancel(&self) -> String {
        self.added("cancel")
    }

    /// A key that apalis-redis does not have.
    fn added(&self, name: &str) -> String {
        format!("{}:{name}", self.stock.queue)
    }
}

/// What the keyspace sweep looks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum QueueKey<'a> {
    Meta { queue: &'a str, id: &'a str },
    Inflight { queue: &'a str, member: &'a str },
}

/// Matches every key of every queue (braces are no glob characters).
pub(super) const EVERY_QUEUE: &str = "{*}:*";

/// What follows `{name}` in the keys of jobs' meta hashes and of inflight sets.
static ENDINGS: LazyLock<(String, String)> = LazyLock::new(|| {
    let stock = Config::default().queue("");
    (
        format!("{}:", stock.job_meta_hash()),
        format!("{}:", stock.inflight_jobs_set()),
    )
});

impl<'a> QueueKey<'a> {
    pub(super) fn parse(key: &'a str) -> Option<Self> {
        let (of_meta, of_inflight) = &*ENDINGS;
        let (queue, ending) = key.strip_prefix('{')?.split_once('}')?;
        let id = ending.strip_prefix(of_meta.as_str());
        let member = ending.strip_prefix(of_inflight.as_str());
        id.map(|id| Self::Meta { queue, id })
            .or_else(|| member.map(|member| Self::Inflight { queue, member }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Literal names: a version of apalis-redis that renames its keys would lose the jobs of those before it.
    #[test]
    fn keys_have_the_names_that_running_systems_use() {
        let keys = QueueKeys::new("events");
        let mut meta = "old".to_owned();
        let id = JobId::generate();
        keys.write_meta(id, &mut meta);
        assert_eq!(meta, keys.meta(id));
        let named = [
            (keys.data(), "{events}:data"),
            (keys.active(), "{events}:active"),
            (keys.scheduled(), "{events}:scheduled"),
            (keys.workers(), "{events}:workers"),
            (keys.signal(), "{events}:signal"),
            (keys.inflight("w"), "{events}:inflight:w"),
            (keys.meta("7"), "{events}:meta:7"),
            (keys.crashes(), "{events}:crashes"),
            (keys.lost(), "{events}:lost"),
            (keys.cancel(), "{events}:cancel"),
        ];
        for (key, name) in named {
            assert_eq!(key, name);
        }
    }

    #[test]
    fn the_sweep_knows_metas_and_inflight_sets_and_nothing_else() {
        let (queue, id) = ("events", "01JD3V0S7W8Q4M2XKZC5T9R6BH");
        assert_eq!(
            QueueKey::parse(&QueueKeys::new(queue).meta(id)),
            Some(QueueKey::Meta { queue, id })
        );
        let member = "rango:tango";
        let inflight = QueueKeys::new(queue).inflight(member);
        assert_eq!(
            QueueKey::parse(&inflight),
            Some(QueueKey::Inflight { queue, member })
        );
        for other in [
            "{events}:data",
            "{events}:workers:metadata:w",
            "events:meta:1",
            "{holdfast:bell}:events",
        ] {
            assert_eq!(QueueKey::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_member_name_tells_the_worker() {
        let id = WorkerId::generate();
        assert_eq!(worker(&member(id)), Some(id));
        assert_eq!(worker("rango-tango"), None);
    }
}
