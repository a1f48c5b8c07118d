//! What waits in a Redis of Sidekiq: jobs as JSON in `queue:NAME`, and in the sorted sets `schedule` and `retry`.

use chrono::DateTime;
use holdfast_control::wire::{Attempts, JobBody};
use holdfast_http::wire::Moment;
use holdfast_jobs::enqueue::{MAX_TAGS, is_tag};
use redis::RedisError;
use serde_json::Value;
use serde_json::value::RawValue;

use super::store::{Entry, Place, Shape, Store};
use super::{FoundJob, ImportOptions, names};

/// What Sidekiq does unless a job says otherwise.
const RETRIES: u64 = 25;

pub(super) async fn places(store: &mut Store, options: &ImportOptions) -> Result<Vec<Place>, RedisError> {
    let mut places: Vec<Place> = store
        .keys("queue:*", "list")
        .await?
        .iter()
        .map(|key| place_of(key))
        .filter(|place| options.wants(&place.queue))
        .collect();
    for set in ["schedule", "retry"] {
        if !store.keys(set, "zset").await?.is_empty() {
            places.push(place_of(set));
        }
    }
    Ok(places)
}

pub(super) fn place_of(key: &str) -> Place {
    let queue = key.strip_prefix("queue:");
    Place {
        key: key.to_owned(),
        shape: if queue.is_some() {
            Shape::List
        } else {
            Shape::Sorted
        },
        queue: queue.unwrap_or_default().to_owned(),
    }
}

pub(super) fn job(place: &Place, entry: &Entry, options: &ImportOptions) -> Result<FoundJob, String> {
    let payload: Box<RawValue> =
        serde_json::from_str(&entry.text).map_err(|error| format!("it is not JSON: {error}"))?;
    let read: Value =
        serde_json::from_str(&entry.text).map_err(|error| format!("it is not JSON: {error}"))?;
    let class = read["wrapped"].as_str().or_else(|| read["class"].as_str());
    let (Some(class), Some(id)) = (class, read["jid"].as_str()) else {
        return Err("it has no class or no jid: it is no job of Sidekiq".to_owned());
    };
    let queue = match read["queue"].as_str() {
        Some(queue) if place.queue.is_empty() => queue.to_owned(),
        _ => place.queue.clone(),
    };
    if !options.wants(&queue) {
        return Err(format!(
            "it is of the queue {queue:?}, which is not to be imported"
        ));
    }
    let retries = match &read["retry"] {
        Value::Bool(false) => 0,
        Value::Number(number) => number.as_u64().unwrap_or(0),
        _ => RETRIES,
    };
    // The count begins with 0 at the first failure.
    let failed = read["retry_count"].as_u64().map_or(0, |count| count + 1);
    let left = (retries + 1).saturating_sub(failed).clamp(1, 100);
    let run_at = match place.shape {
        Shape::Sorted => DateTime::from_timestamp_micros((entry.score * 1e6) as i64),
        Shape::List | Shape::Unacked => None,
    };
    Ok(FoundJob {
        key: names::key(
            "sidekiq",
            &format!("{id}/{failed}"),
            read["args"].to_string().as_bytes(),
        ),
        id: id.to_owned(),
        body: JobBody {
            queue: Some(options.queue.clone().unwrap_or_else(|| names::queue(&queue))),
            run_at: run_at.map(Moment),
            max_attempts: Some(Attempts(left as u32)),
            tags: tags(&read["tags"]),
            ..JobBody::new(
                options.kind.clone().unwrap_or_else(|| names::kind(class)),
                payload,
            )
        },
        keys: Vec::new(),
    })
}

/// Those that a job may have here. Sidekiq has no bounds for them, and a job is worth more than its tags.
fn tags(given: &Value) -> Vec<String> {
    let mut tags: Vec<String> = Vec::new();
    for tag in given.as_array().into_iter().flatten().filter_map(Value::as_str) {
        if tags.len() < MAX_TAGS && is_tag(tag) && !tags.iter().any(|known| known == tag) {
            tags.push(tag.to_owned());
        }
    }
    tags
}
