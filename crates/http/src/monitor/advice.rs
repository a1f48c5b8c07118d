//! What an operator should change about a Redis server, each with the reason. Rules only: nothing here asks anybody.
//!
//! A ledger queue keeps nothing on Redis, so what can lose jobs is a warning only where some queue is a `redis` one.

use holdfast_core::redis::IDLE_CONNECTION;
use serde::Serialize;
use utoipa::ToSchema;

use super::info::ServerInfo;

/// The part of `maxmemory` from which on it is nearly used up.
const MEMORY_HIGH: f64 = 0.8;

/// The part of reads that a cache should answer.
const HIT_RATIO_LOW: f64 = 0.8;

/// Fewer reads say nothing about the ratio: every cache begins empty.
const READS_THAT_TELL: f64 = 1_000.0;

/// More jobs waiting in a queue are worth a look.
const DEEP_QUEUE: u64 = 100;

/// The oldest version that has what the scripts use.
const OLDEST_VERSION: (u32, u32) = (6, 2);

/// The rule that gives the advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdviceCode {
    EvictsJobs,
    SharedEvictingServer,
    NoPersistence,
    IdleTimeout,
    MemoryHigh,
    LowHitRatio,
    DeepQueue,
    OldVersion,
}

/// The severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is lost if it stays so.
    Info,
    /// Jobs or much speed can be lost.
    Warning,
}

/// One thing to change.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Advice {
    pub code: AdviceCode,
    pub severity: Severity,
    /// The condition.
    pub message: String,
    /// What to do.
    pub remedy: &'static str,
}

impl AdviceCode {
    pub const ALL: [Self; 8] = [
        Self::EvictsJobs,
        Self::SharedEvictingServer,
        Self::NoPersistence,
        Self::IdleTimeout,
        Self::MemoryHigh,
        Self::LowHitRatio,
        Self::DeepQueue,
        Self::OldVersion,
    ];

    pub const fn remedy(self) -> &'static str {
        match self {
            Self::EvictsJobs => "Set `maxmemory-policy noeviction` on the queue's server.",
            Self::SharedEvictingServer => {
                "Give the cache a server of its own (`redis.cache_url`), or set `maxmemory-policy volatile-lru`: \
                 every cache key expires, no queue key does."
            }
            Self::NoPersistence => "Set `appendonly yes` with `appendfsync everysec`.",
            Self::IdleTimeout => "Set `timeout 0`, or longer than idle connections are kept.",
            Self::MemoryHigh => "Raise `maxmemory`, or see what fills it: `redis-cli --bigkeys`.",
            Self::LowHitRatio => {
                "Give the cache more memory, or longer times to live; see `evicted_keys` in `INFO stats`."
            }
            Self::DeepQueue => {
                "Start more workers, or raise the queue's `concurrency`; see whether it is paused."
            }
            Self::OldVersion => "Upgrade to Redis 7 or later.",
        }
    }

    fn advise(self, severity: Severity, message: String) -> Advice {
        Advice {
            code: self,
            severity,
            message,
            remedy: self.remedy(),
        }
    }
}

/// What the server is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    /// Bells, and the jobs of `redis` queues.
    pub(super) queue: bool,
    pub(super) cache: bool,
    /// Some queue keeps its jobs here.
    pub(super) holds_jobs: bool,
}

impl Use {
    /// Of what can lose jobs.
    fn gravity(self) -> Severity {
        if self.holds_jobs {
            Severity::Warning
        } else {
            Severity::Info
        }
    }
}

/// Every rule, in the order of what it can cost.
pub(super) fn on_server(info: &ServerInfo, for_what: Use) -> Vec<Advice> {
    [
        eviction(info, for_what),
        sharing(info, for_what),
        persistence(info, for_what),
        version(info),
        memory(info),
        idle_timeout(info),
        hit_ratio(info, for_what),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Depths are those of jobs that are due and wait.
pub(super) fn on_queues<'a>(depths: impl Iterator<Item = (&'a str, u64)>) -> Vec<Advice> {
    depths
        .filter(|(_, depth)| *depth > DEEP_QUEUE)
        .map(|(queue, depth)| {
            let message = format!("{depth} jobs are due and wait in the queue `{queue}`");
            AdviceCode::DeepQueue.advise(Severity::Info, message)
        })
        .collect()
}

fn evicting_policy(info: &ServerInfo) -> Option<&str> {
    info.eviction_policy()
        .filter(|policy| policy.starts_with("allkeys-"))
}

fn eviction(info: &ServerInfo, for_what: Use) -> Option<Advice> {
    let policy = evicting_policy(info).filter(|_| for_what.queue)?;
    let message = if for_what.holds_jobs {
        format!("`maxmemory-policy {policy}` lets the server throw away jobs that wait")
    } else {
        format!("`maxmemory-policy {policy}` lets the server throw away rings; jobs are safe in the ledger")
    };
    Some(AdviceCode::EvictsJobs.advise(for_what.gravity(), message))
}

fn sharing(info: &ServerInfo, for_what: Use) -> Option<Advice> {
    let policy = evicting_policy(info).filter(|_| for_what.queue && for_what.cache)?;
    let message =
        format!("cache and queue share a server that evicts (`{policy}`): a full cache drives out the queue");
    Some(AdviceCode::SharedEvictingServer.advise(for_what.gravity(), message))
}

fn persistence(info: &ServerInfo, for_what: Use) -> Option<Advice> {
    let none = info.setting("appendonly")? == "no" && info.setting("save")?.is_empty();
    (none && for_what.queue).then(|| {
        let message = if for_what.holds_jobs {
            "the server persists nothing: a restart loses the jobs of `redis` queues"
        } else {
            "the server persists nothing; with ledger queues alone, a restart loses only rings"
        };
        AdviceCode::NoPersistence.advise(for_what.gravity(), message.to_owned())
    })
}

fn version(info: &ServerInfo) -> Option<Advice> {
    let old = info.version()? < OLDEST_VERSION;
    old.then(|| {
        let (major, minor) = OLDEST_VERSION;
        let version = info.text("redis_version").unwrap_or_default();
        let message = format!("Redis {version} is older than {major}.{minor}, the oldest that is supported");
        AdviceCode::OldVersion.advise(Severity::Warning, message)
    })
}

fn memory(info: &ServerInfo) -> Option<Advice> {
    let most = info.number("maxmemory").filter(|most| *most > 0.0)?;
    let part = info.number("used_memory")? / most;
    (part > MEMORY_HIGH).then(|| {
        let message = format!("{:.0} % of `maxmemory` are used", part * 100.0);
        AdviceCode::MemoryHigh.advise(Severity::Warning, message)
    })
}

fn idle_timeout(info: &ServerInfo) -> Option<Advice> {
    let seconds: u64 = info.setting("timeout")?.parse().ok()?;
    let kept = IDLE_CONNECTION.as_secs();
    (seconds > 0 && seconds <= kept).then(|| {
        let message = format!(
            "the server closes connections after {seconds} s without a command; idle ones are kept for {kept} s here"
        );
        AdviceCode::IdleTimeout.advise(Severity::Info, message)
    })
}

fn hit_ratio(info: &ServerInfo, for_what: Use) -> Option<Advice> {
    let ratio = info.hit_ratio()?;
    let tells = for_what.cache && info.reads()? >= READS_THAT_TELL;
    (tells && ratio < HIT_RATIO_LOW).then(|| {
        let message = format!("only {:.0} % of reads found their key", ratio * 100.0);
        AdviceCode::LowHitRatio.advise(Severity::Info, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_version_is_named() {
        let all = Use {
            queue: true,
            cache: true,
            holds_jobs: true,
        };
        for (version, old) in [
            ("5.0.14", true),
            ("6.0.9", true),
            ("6.2.0", false),
            ("7.2.4", false),
            ("10.0.0", false),
        ] {
            let info = ServerInfo::of(&format!("redis_version:{version}\r\n"), &[]);
            let advice = on_server(&info, all);
            assert_eq!(
                advice.iter().any(|one| one.code == AdviceCode::OldVersion),
                old,
                "{version}"
            );
        }
    }

    #[test]
    fn without_the_right_to_read_settings_nothing_is_made_up() {
        let all = Use {
            queue: true,
            cache: true,
            holds_jobs: true,
        };
        assert_eq!(on_server(&ServerInfo::of("", &[]), all), []);
    }

    #[test]
    fn few_reads_say_nothing_of_the_hit_ratio() {
        let all = Use {
            queue: false,
            cache: true,
            holds_jobs: false,
        };
        let few = ServerInfo::of("keyspace_hits:1\r\nkeyspace_misses:99\r\n", &[]);
        assert_eq!(on_server(&few, all), []);
    }
}
