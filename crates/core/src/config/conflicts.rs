//! Settings held against each other: what no single one can tell.

use super::reader::Reader;
use super::sections::{Durability, ServedBy};
use super::settings::Settings;

/// The second of the settings is that of the sections of products, which check themselves.
pub(super) fn check(settings: &Settings, reader: &mut Reader<'_>, _: &Settings) {
    let Settings {
        server,
        database,
        redis,
        cache,
        jobs,
        worker,
        beat,
        auth,
        ..
    } = settings;
    reader.require(
        auth.access_token <= cache.session_ttl,
        "auth.access_token_seconds",
        "cache.session_ttl_seconds",
        "more than",
        "lower it: a token must not outlive its session",
    );
    reader.require(
        cache.session_max >= cache.session_ttl,
        "cache.session_max_seconds",
        "cache.session_ttl_seconds",
        "less than",
        "raise it: no session could last for its own idle time",
    );
    reader.require(
        cache.load_timeout < server.request_timeout,
        "cache.load_timeout_seconds",
        "server.request_timeout_seconds",
        "not less than",
        "lower it: a request must be able to answer with a stale value in time",
    );
    reader.require(
        beat.lost_after >= 2 * beat.heartbeat,
        "beat.lost_after_seconds",
        "beat.heartbeat_seconds",
        "less than twice",
        "give it two heartbeats or more",
    );
    reader.require(
        worker.lost_after >= 2 * worker.heartbeat,
        "worker.lost_after_seconds",
        "worker.heartbeat_seconds",
        "less than twice",
        "give it two heartbeats or more: a single late one would get running jobs rescued",
    );
    reader.require(
        worker.watchdog > worker.lost_after,
        "worker.watchdog_seconds",
        "worker.lost_after_seconds",
        "not more than",
        "raise it: the process would exit before it is even lost",
    );
    reader.require(
        worker.degraded_poll_min <= worker.degraded_poll_max,
        "worker.degraded_poll_min_ms",
        "worker.degraded_poll_max_ms",
        "more than",
        "swap them",
    );
    reader.require(
        jobs.retry.cap >= jobs.retry.base,
        "jobs.retry.cap_seconds",
        "jobs.retry.base_seconds",
        "less than",
        "raise the cap or lower the base",
    );
    reader.require(
        jobs.max_payload_bytes <= server.max_body_bytes,
        "jobs.max_payload_bytes",
        "server.max_body_bytes",
        "more than",
        "raise the body's limit: no request could carry such a payload",
    );
    reader.require(
        server.max_body_bytes_in_flight / 4 * 3 >= server.max_body_bytes,
        "server.max_body_bytes_in_flight",
        "server.max_body_bytes",
        "less than four thirds of",
        "raise it: no request could send the largest body",
    );
    reader.require(
        redis.command_timeout < server.request_timeout,
        "redis.command_timeout_ms",
        "server.request_timeout_seconds",
        "not less than",
        "lower it: a request must be able to fail over in time",
    );
    reader.require(
        database.acquire_timeout < server.request_timeout,
        "database.acquire_timeout_seconds",
        "server.request_timeout_seconds",
        "not less than",
        "lower it: a request must be able to answer 503 in time",
    );
    reader.require(
        database.min_connections <= database.max_connections,
        "database.min_connections",
        "database.max_connections",
        "more than",
        "lower it",
    );
    check_served_queues(reader, settings);
    check_pull_queues(reader, settings);
}

/// A pull worker holds its jobs in SQL alone, and a worker of Holdfast takes none of them.
fn check_pull_queues(reader: &mut Reader<'_>, settings: &Settings) {
    let pull = settings
        .queues
        .iter()
        .filter(|(_, queue)| queue.served_by == ServedBy::Pull);
    for (name, queue) in pull {
        if queue.durability == Durability::Redis {
            reader.fault_once(&format!("queues.{name}.durability"), || {
                (
                    "pull workers serve queues of the durability \"ledger\" alone".to_owned(),
                    "make it \"ledger\", or served_by \"rust\"".to_owned(),
                )
            });
        }
        if settings.worker.queues.contains(name) {
            reader.fault_once("worker.queues", || {
                (
                    format!("the queue {name} is served by pull workers"),
                    format!("leave it out, or set queues.{name}.served_by = \"rust\""),
                )
            });
        }
    }
}

/// A worker's queues are queues.
fn check_served_queues(reader: &mut Reader<'_>, settings: &Settings) {
    let missing: Vec<&str> = settings
        .worker
        .queues
        .iter()
        .map(String::as_str)
        .filter(|name| !settings.queues.contains_key(*name))
        .collect();
    if missing.is_empty() {
        return;
    }
    let known: Vec<&str> = settings.queues.keys().map(String::as_str).collect();
    let problem = format!("there is no queue {}", missing.join(", "));
    let fix = format!(
        "name some of {}, or declare it: [queues.{}]",
        known.join(", "),
        missing[0]
    );
    reader.fault_once("worker.queues", || (problem, fix));
}
