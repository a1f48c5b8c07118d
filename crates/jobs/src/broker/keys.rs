//! The keys of a queue, as `apalis_redis::Config` 1.0 forms them for a queue named `{name}`, and those we add.
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

use crate::id::{JobId, WorkerId};

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
    /// `{name}`
    tag: String,
}

impl QueueKeys {
    pub(super) fn new(queue: &str) -> Self {
        Self {
            tag: format!("{{{queue}}}"),
        }
    }

    pub(super) fn data(&self) -> String {
        self.key("data")
    }

    pub(super) fn active(&self) -> String {
        self.key("active")
    }

    pub(super) fn scheduled(&self) -> String {
        self.key("scheduled")
    }

    pub(super) fn workers(&self) -> String {
        self.key("workers")
    }

    pub(super) fn signal(&self) -> String {
        self.key("signal")
    }

    pub(super) fn crashes(&self) -> String {
        self.key("crashes")
    }

    pub(super) fn lost(&self) -> String {
        self.key("lost")
    }

    pub(super) fn cancel(&self) -> String {
        self.key("cancel")
    }

    pub(super) fn inflight(&self, member: &str) -> String {
        format!("{}:inflight:{member}", self.tag)
    }

    pub(super) fn meta(&self, id: impl std::fmt::Display) -> String {
        format!("{}:meta:{id}", self.tag)
    }

    /// As [`Self::meta`], into a buffer that is used again and again.
    pub(super) fn write_meta(&self, id: JobId, buffer: &mut String) {
        buffer.clear();
        // Writing into a String cannot fail.
        let _ = write!(buffer, "{}:meta:{id}", self.tag);
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.tag)
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

impl<'a> QueueKey<'a> {
    pub(super) fn parse(key: &'a str) -> Option<Self> {
        let (queue, rest) = key.strip_prefix('{')?.split_once("}:")?;
        match rest.split_once(':')? {
            ("meta", id) => Some(Self::Meta { queue, id }),
            ("inflight", member) => Some(Self::Inflight { queue, member }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_stock() {
        let stock = apalis_redis::Config::default().queue("{events}");
        let ours = QueueKeys::new("events");
        assert_eq!(ours.data(), stock.job_data_hash());
        assert_eq!(ours.active(), stock.active_jobs_list());
        assert_eq!(ours.scheduled(), stock.scheduled_jobs_set());
        assert_eq!(ours.workers(), stock.workers_set());
        assert_eq!(ours.signal(), stock.signal_list());
        assert_eq!(ours.inflight("w"), format!("{}:w", stock.inflight_jobs_set()));
        assert_eq!(ours.meta("7"), format!("{}:7", stock.job_meta_hash()));
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
