//! What waits in a Redis of BullMQ: ids in `bull:QUEUE:wait`, `…:paused`, `…:delayed` and `…:prioritized`, and a hash for each job.

use std::collections::HashMap;

use chrono::DateTime;
use holdfast_control::wire::{Attempts, JobBody, Urgency};
use holdfast_http::wire::Moment;
use holdfast_jobs::ledger::Priority;
use redis::RedisError;
use serde_json::Value;
use serde_json::value::RawValue;

use super::store::{Entry, Place, Shape, Store};
use super::{FoundJob, ImportOptions, names};

const PREFIX: &str = "bull:";

/// Where jobs wait, and how.
const LISTS: [(&str, Shape); 4] = [
    ("wait", Shape::List),
    ("paused", Shape::List),
    ("delayed", Shape::Sorted),
    ("prioritized", Shape::Sorted),
];

/// The score of a delayed job is its time in milliseconds, times this, plus a number that keeps those of one time in order.
const SCORE: f64 = 4_096.0;

pub(super) async fn places(store: &mut Store, options: &ImportOptions) -> Result<Vec<Place>, RedisError> {
    let mut places = Vec::new();
    for (name, shape) in LISTS {
        let kind = if shape == Shape::List { "list" } else { "zset" };
        let keys = store.keys(&format!("{PREFIX}*:{name}"), kind).await?;
        places.extend(
            keys.iter()
                .filter_map(|key| place_of(key))
                .filter(|place| options.wants(&place.queue)),
        );
    }
    Ok(places)
}

pub(super) fn place_of(key: &str) -> Option<Place> {
    let (queue, list) = key.strip_prefix(PREFIX)?.rsplit_once(':')?;
    let (_, shape) = LISTS.into_iter().find(|(name, _)| *name == list)?;
    Some(Place {
        key: key.to_owned(),
        shape,
        queue: queue.to_owned(),
    })
}

pub(super) fn hash_key(place: &Place, entry: &Entry) -> String {
    format!("{PREFIX}{}:{}", place.queue, entry.text)
}

/// `hash`: of the key above.
pub(super) fn job(
    place: &Place,
    entry: &Entry,
    hash: &HashMap<String, String>,
    options: &ImportOptions,
) -> Result<FoundJob, String> {
    let id = &entry.text;
    if id.starts_with("repeat:") || hash.contains_key("rjk") {
        return Err("it is of a repeatable job: make that a schedule".to_owned());
    }
    if hash.contains_key("parentKey") {
        return Err("it is part of a flow: its parent waits for it in BullMQ".to_owned());
    }
    let (Some(name), Some(data)) = (hash.get("name"), hash.get("data")) else {
        return Err(format!("there is no job {}", hash_key(place, entry)));
    };
    let payload: Box<RawValue> =
        serde_json::from_str(data).map_err(|error| format!("its data is not JSON: {error}"))?;
    let opts: Value = hash
        .get("opts")
        .and_then(|opts| serde_json::from_str(opts).ok())
        .unwrap_or_default();
    let made = hash.get("atm").or_else(|| hash.get("attemptsMade"));
    let made: u64 = made.and_then(|made| made.parse().ok()).unwrap_or(0);
    let left = opts["attempts"]
        .as_u64()
        .unwrap_or(1)
        .saturating_sub(made)
        .clamp(1, 100);
    let is_delayed = place.key.ends_with(":delayed");
    let run_at = is_delayed
        .then(|| DateTime::from_timestamp_millis((entry.score / SCORE) as i64))
        .flatten();
    let is_later = opts["priority"].as_u64().is_some_and(|priority| priority > 0);
    let key = hash_key(place, entry);
    Ok(FoundJob {
        key: names::key("bullmq", &format!("{}/{id}/{made}", place.queue), data.as_bytes()),
        id: id.clone(),
        body: JobBody {
            queue: Some(
                options
                    .queue
                    .clone()
                    .unwrap_or_else(|| names::queue(&place.queue)),
            ),
            run_at: run_at.map(Moment),
            max_attempts: Some(Attempts(left as u32)),
            priority: Some(Urgency(if is_later { Priority::Low } else { Priority::Normal })),
            ..JobBody::new(options.kind.clone().unwrap_or_else(|| names::kind(name)), payload)
        },
        keys: vec![format!("{key}:logs"), key],
    })
}
