//! What waits in a Redis of Celery: kombu's messages, in one list for each queue and priority, and those that workers had prefetched.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use holdfast_control::wire::{JobBody, Urgency};
use holdfast_http::wire::Moment;
use holdfast_jobs::ledger::Priority;
use redis::RedisError;
use serde_json::Value;
use serde_json::value::RawValue;

use super::store::{Entry, Place, Shape, Store};
use super::{FoundJob, ImportOptions, NewKind, names};

/// The kind of every Celery task, as the transport declares it.
pub(super) const KIND: NewKind<'static> = NewKind {
    name: "celery",
    queue: "celery",
    timeout_seconds: Some(86_400),
    max_attempts: Some(100),
};

/// Between a queue's name and a priority, and between the fields of a binding.
const SEPARATOR: &str = "\u{6}\u{16}";

/// Queues that carry answers and events, and no tasks.
fn is_internal(queue: &str) -> bool {
    queue.ends_with(".pidbox") || queue.starts_with("celeryev.") || queue.starts_with("_kombu")
}

pub(super) async fn places(store: &mut Store, options: &ImportOptions) -> Result<Vec<Place>, RedisError> {
    let mut places = Vec::new();
    for key in store.keys("*", "list").await? {
        let queue = key.split_once(SEPARATOR).map_or(key.as_str(), |(queue, _)| queue);
        let is_wanted = options.wants(queue) && !is_internal(queue) && !key.starts_with("holdfast-import:");
        if is_wanted && store.oldest(&key).await?.is_some_and(|entry| is_message(&entry)) {
            places.push(Place {
                queue: queue.to_owned(),
                key,
                shape: Shape::List,
            });
        }
    }
    if !store.keys("unacked_index", "zset").await?.is_empty() {
        places.push(unacked());
    }
    Ok(places)
}

pub(super) fn unacked() -> Place {
    Place {
        key: "unacked_index".to_owned(),
        shape: Shape::Unacked,
        queue: String::new(),
    }
}

/// The place of an interrupted import.
pub(super) fn place_of(key: &str) -> Place {
    if key == "unacked_index" {
        return unacked();
    }
    let queue = key.split_once(SEPARATOR).map_or(key, |(queue, _)| queue);
    Place {
        key: key.to_owned(),
        shape: Shape::List,
        queue: queue.to_owned(),
    }
}

/// The queue of each routing key of each exchange, as far as bindings say it.
pub(super) async fn bindings(store: &mut Store) -> Result<BTreeMap<(String, String), String>, RedisError> {
    let mut queues = BTreeMap::new();
    for key in store.keys("_kombu.binding.*", "set").await? {
        let exchange = key.trim_start_matches("_kombu.binding.").to_owned();
        for member in store.members(&key).await? {
            let fields: Vec<&str> = member.split(SEPARATOR).collect();
            if let [routing_key, _, queue] = fields[..] {
                queues.insert((exchange.clone(), routing_key.to_owned()), queue.to_owned());
            }
        }
    }
    Ok(queues)
}

fn is_message(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Value>(bytes)
        .is_ok_and(|message| message["body"].is_string() && message["properties"].is_object())
}

/// The job of an entry, or why there is none.
pub(super) fn job(
    place: &Place,
    entry: &Entry,
    bindings: &BTreeMap<(String, String), String>,
    options: &ImportOptions,
) -> Result<FoundJob, String> {
    let (queue, message) = match place.shape {
        Shape::Unacked => of_unacked(&entry.text, bindings)?,
        Shape::List | Shape::Sorted => (place.queue.clone(), entry.text.clone()),
    };
    if !options.wants(&queue) {
        return Err(format!(
            "it is of the queue {queue:?}, which is not to be imported"
        ));
    }
    let payload: Box<RawValue> =
        serde_json::from_str(&message).map_err(|error| format!("it is not JSON: {error}"))?;
    let read: Value = serde_json::from_str(&message).map_err(|error| format!("it is not JSON: {error}"))?;
    let Some(body) = read["body"].as_str().filter(|_| read["properties"].is_object()) else {
        return Err("it has no body or no properties: it is no message of kombu".to_owned());
    };
    let headers = &read["headers"];
    let id = headers["id"]
        .as_str()
        .or_else(|| read["properties"]["correlation_id"].as_str());
    let retries = headers["retries"].as_u64().unwrap_or(0);
    let moment = |field: &str| headers[field].as_str().and_then(moment);
    // Otherwise a worker has to receive it, to mark it as revoked or to fail its chord.
    let may_vanish = headers["ignore_result"] == true && headers["group"].is_null();
    let kind = options.kind.as_deref().unwrap_or(KIND.name);
    let id = id.unwrap_or_default();
    Ok(FoundJob {
        key: names::key("celery", &format!("{id}/{retries}"), body.as_bytes()),
        id: id.to_owned(),
        body: JobBody {
            queue: Some(options.queue.clone().unwrap_or_else(|| names::queue(&queue))),
            run_at: moment("eta").map(Moment),
            expires_at: moment("expires").filter(|_| may_vanish).map(Moment),
            priority: Some(Urgency(priority(&read["properties"]["priority"]))),
            ..JobBody::new(kind.to_owned(), payload)
        },
        keys: Vec::new(),
    })
}

/// `[message, exchange, routing key]`.
fn of_unacked(text: &str, bindings: &BTreeMap<(String, String), String>) -> Result<(String, String), String> {
    let (message, exchange, routing_key): (Box<RawValue>, Option<String>, Option<String>) =
        serde_json::from_str(text)
            .map_err(|error| format!("it is no prefetched message of kombu: {error}"))?;
    let (exchange, routing_key) = (exchange.unwrap_or_default(), routing_key.unwrap_or_default());
    let queue = bindings
        .get(&(exchange, routing_key.clone()))
        .cloned()
        .unwrap_or(routing_key);
    Ok((queue, message.get().to_owned()))
}

/// A time without a zone says nothing here: the worker, which knows its zone, waits for it.
fn moment(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc())
}

/// 0 comes first on Redis.
fn priority(value: &Value) -> Priority {
    match value.as_u64() {
        None | Some(0..=2) => Priority::High,
        Some(3..=5) => Priority::Normal,
        Some(_) => Priority::Low,
    }
}
