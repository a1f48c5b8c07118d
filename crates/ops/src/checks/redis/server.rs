//! How the server is set up: would it keep what it is given?

use holdfast_core::redis::Role;

use super::RedisSubject;
use crate::checks::database::CROWDED;
use crate::checks::{CheckResult, Finding, either};

/// The scripts of `redis` queues need it.
const OLDEST: (u32, u32) = (6, 2);
/// What is tested.
const TESTED: (u32, u32) = (7, 0);

/// Of each role and process: the worker's pop that waits for a bell, the subscription to other caches' changes.
const OUTSIDE_THE_POOL: u64 = 1;

/// Over this share of its limit, a server is about to refuse or evict.
const FULL: f64 = 0.8;

/// Under this share of hits a cache costs more than it saves.
const GOOD_HITS: f64 = 0.8;
/// Fewer lookups say nothing about a ratio.
const ENOUGH_LOOKUPS: u64 = 1_000;

pub(super) async fn server(subject: &RedisSubject) -> Finding {
    either(version_and_role(subject).await)
}

async fn version_and_role(subject: &RedisSubject) -> CheckResult<Finding> {
    let info = subject.info().await?;
    if info.get("role").is_some_and(|role| role == "slave") {
        return Err(Finding::fail(
            "it is a replica, which refuses writes",
            "Point the URL at the primary, or write redis+sentinel:// with its Sentinels.",
        ));
    }
    let Some(version) = info.get("redis_version") else {
        return Ok(Finding::pass(
            "a primary; its provider does not report the version",
        ));
    };
    let upgrade = "Upgrade to Redis 7 or later.";
    Ok(match parsed(version) {
        Some(found) if found < OLDEST => Finding::fail(
            format!("{version} is too old: 6.2 is the oldest that serves"),
            upgrade,
        ),
        Some(found) if found < TESTED => {
            Finding::warn(format!("{version} serves, but 7 is what is tested"), upgrade)
        }
        _ => Finding::pass(format!("version {version}, a primary")),
    })
}

fn parsed(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

pub(super) async fn pools(subject: &RedisSubject) -> Finding {
    either(pools_fit(subject).await)
}

/// The connections of all processes together against what the server takes.
async fn pools_fit(subject: &RedisSubject) -> CheckResult<Finding> {
    let limit = match subject.number("maxclients").await? {
        Some(limit) => Some(limit),
        // Before Redis 7 it stands in the configuration alone.
        None => subject
            .configured("maxclients")
            .await?
            .and_then(|limit| limit.parse().ok()),
    };
    let Some(limit) = limit else {
        return Ok(Finding::skipped(
            "the provider does not report the limit of clients",
        ));
    };
    let roles = if subject.shared { 2 } else { 1 };
    let each = roles * (subject.settings.max_connections as u64 + OUTSIDE_THE_POOL);
    let processes = subject.processes;
    let sum = processes * each;
    let summary =
        format!("{processes} processes × {each} connections = {sum}, of {limit} that the server takes");
    let hint =
        "Lower redis.max_connections, raise the server's maxclients (or its plan), or run fewer processes.";
    let finding = if sum > limit {
        Finding::fail(summary, hint)
    } else if sum as f64 > limit as f64 * CROWDED {
        Finding::warn(summary, hint)
    } else {
        Finding::pass(summary)
    };
    Ok(finding.with("sum", sum).with("limit", limit))
}

pub(super) async fn policy(subject: &RedisSubject) -> Finding {
    either(eviction(subject).await)
}

async fn eviction(subject: &RedisSubject) -> CheckResult<Finding> {
    let info = subject.info().await?;
    let policy = match info.get("maxmemory_policy") {
        Some(policy) => policy.clone(),
        None => match subject.configured("maxmemory-policy").await? {
            Some(policy) => policy,
            None => {
                return Ok(Finding::skipped(
                    "the provider does not report its eviction policy",
                ));
            }
        },
    };
    let finding = match subject.role {
        Role::Queue => policy_for_queues(&policy, subject),
        Role::Cache => policy_for_cache(&policy, subject.number("maxmemory").await?.unwrap_or(0)),
    };
    Ok(finding.with("policy", policy))
}

fn policy_for_queues(policy: &str, subject: &RedisSubject) -> Finding {
    let hint = if subject.shared {
        "Set maxmemory-policy to noeviction (or volatile-lru where the cache shares the server)."
    } else {
        "Set maxmemory-policy to noeviction, and give the cache a server of its own (REDIS_CACHE_URL)."
    };
    if !policy.starts_with("allkeys") {
        return Finding::pass(format!("{policy} evicts nothing of a queue"));
    }
    if subject.job_queues.is_empty() {
        return Finding::warn(
            format!("{policy} may evict bells: jobs are then picked up later, at the safety poll"),
            hint,
        );
    }
    let queues = subject.job_queues.join(", ");
    Finding::fail(format!("{policy} may evict waiting jobs of {queues}"), hint)
}

fn policy_for_cache(policy: &str, limit: u64) -> Finding {
    if policy == "noeviction" && limit > 0 {
        return Finding::warn(
            "noeviction: a full cache refuses to cache anything more",
            "Set maxmemory-policy to allkeys-lru, or volatile-lru where queues share the server.",
        );
    }
    Finding::pass(format!("{policy} makes room when memory is short"))
}

pub(super) async fn persistence(subject: &RedisSubject) -> Finding {
    if subject.role == Role::Cache {
        return Finding::skipped("a cache need not survive a restart");
    }
    either(survives_restart(subject).await)
}

async fn survives_restart(subject: &RedisSubject) -> CheckResult<Finding> {
    let appends = subject.number("aof_enabled").await? == Some(1);
    let snapshots = subject.configured("save").await?;
    let queues = subject.job_queues.join(", ");
    let hint = "Set `appendonly yes` (appendfsync everysec), or `durability = \"ledger\"` for these queues.";
    Ok(match (appends, snapshots.as_deref()) {
        (true, _) => Finding::pass("an append-only file: up to a second is lost by a crash"),
        (false, _) if queues.is_empty() => Finding::pass("nothing to keep: every queue's jobs live in SQL"),
        (false, Some("")) => Finding::warn(
            format!("nothing is persisted: a restart loses what waits in {queues}"),
            hint,
        ),
        (false, Some(_)) => Finding::warn(
            format!("snapshots only: a crash loses minutes of what waits in {queues}"),
            hint,
        ),
        (false, None) => Finding::warn(format!("no append-only file, and {queues} live on it"), hint),
    })
}

pub(super) async fn memory(subject: &RedisSubject) -> Finding {
    either(room(subject).await)
}

async fn room(subject: &RedisSubject) -> CheckResult<Finding> {
    let used = subject.number("used_memory").await?.unwrap_or(0);
    let limit = subject.number("maxmemory").await?.unwrap_or(0);
    let used_mb = megabytes(used);
    if limit == 0 {
        let finding = match subject.role {
            Role::Cache if !subject.shared => Finding::warn(
                format!("{used_mb:.1} MB used, without a limit: a cache grows until the machine is full"),
                "Set maxmemory and an evicting maxmemory-policy.",
            ),
            _ => Finding::pass(format!("{used_mb:.1} MB used, no limit set")),
        };
        return Ok(finding.with("used_mb", used_mb));
    }
    let share = used as f64 / limit as f64;
    let summary = format!(
        "{used_mb:.1} MB used of {:.1} ({:.0} %)",
        megabytes(limit),
        share * 100.0
    );
    let finding = if share > FULL {
        Finding::warn(
            summary,
            "Raise maxmemory, or find what grows: holdfast jobs list, redis-cli --bigkeys.",
        )
    } else {
        Finding::pass(summary)
    };
    Ok(finding.with("used_mb", used_mb).with("share", share))
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

pub(super) async fn hit_ratio(subject: &RedisSubject) -> Finding {
    either(hits(subject).await)
}

async fn hits(subject: &RedisSubject) -> CheckResult<Finding> {
    let hits = subject.number("keyspace_hits").await?.unwrap_or(0);
    let lookups = hits + subject.number("keyspace_misses").await?.unwrap_or(0);
    if subject.role == Role::Queue && !subject.shared {
        return Ok(Finding::skipped("no cache on this server"));
    }
    if lookups < ENOUGH_LOOKUPS {
        return Ok(Finding::skipped(format!(
            "only {lookups} lookups so far: too few to judge"
        )));
    }
    let ratio = hits as f64 / lookups as f64;
    let summary = format!(
        "{:.0} % of {lookups} lookups since the server's start hit",
        ratio * 100.0
    );
    // A queue looks up keys that are not there by design: on a shared server the number is a mixture.
    let finding = if ratio < GOOD_HITS && !subject.shared {
        Finding::warn(
            summary,
            "Raise the memory limit or the TTLs, or cache what is read more than once.",
        )
    } else {
        Finding::pass(summary)
    };
    Ok(finding.with("ratio", ratio))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(parsed("7.4.1"), Some((7, 4)));
        assert!(parsed("6.0.16") < Some(OLDEST) && parsed("10.0") > Some(TESTED));
        assert_eq!(parsed("unstable"), None);
    }
}
