//! Events: bringing them in, and finding them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use actix_web::web;
use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_http::body::items::{Names, RejectedItem, moment, none_good, read_items};
use holdfast_http::body::{BodySize, body_bytes, parse_off_thread};
use holdfast_http::params::Params;
use holdfast_http::responses::{CachedRoute, Lifetime};
use holdfast_http::{Call, Produce, Read, Reply, WithQuery, ok};
use holdfast_jobs::ledger::LedgerError;
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::state::EventsState;
use crate::{ANSWERS, Event, Filter, Near, NewEvent, Outcome, UpsertedEvent, search_words};

/// The cached answers of `GET /v1/events`.
const CACHED: CachedRoute = CachedRoute {
    namespace: ANSWERS,
    lifetime: Lifetime::Answer,
};

const NAMES: Names = Names {
    one: "event",
    many: "events",
    most: 1_000,
};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

/// Kilometres around a place.
const MAX_WITHIN: f64 = 20_000.0;

/// Longest text to search for, in bytes.
const MAX_SEARCH: usize = 500;

/// Longest category, in bytes.
const MAX_CATEGORY: usize = 64;

/// An event to be stored.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEvent, example = json!({"uid": "jazz-2030-06-01", "title": "Jazz at the river", "category": "music",
    "starts_at": "2030-06-01T18:00:00Z", "ends_at": "2030-06-01T21:00:00Z", "time_zone": "Europe/Vienna",
    "lat": 47.27, "lon": 11.4, "place": "Market square"}))]
pub(crate) struct EventBody {
    /// The source's id of the event, 1 to 512 bytes: source and uid identify an event.
    uid: String,
    /// The source's name, up to 128 bytes.
    source: Option<String>,
    /// 1 to 500 bytes.
    title: String,
    /// Up to 20,000 bytes.
    description: Option<String>,
    /// http or https.
    url: Option<String>,
    /// Up to 64 bytes; stored in lower case.
    category: Option<String>,
    /// RFC 3339, stored to the millisecond.
    #[schema(format = DateTime)]
    starts_at: String,
    #[schema(format = DateTime)]
    ends_at: Option<String>,
    /// An IANA name, such as Europe/Vienna.
    time_zone: Option<String>,
    /// Degrees; only together with `lon`.
    #[schema(minimum = -90, maximum = 90)]
    lat: Option<f64>,
    #[schema(minimum = -180, maximum = 180)]
    lon: Option<f64>,
    /// The name of the place.
    place: Option<String>,
    /// The event does not take place. It stays stored, and is found only with `cancelled=true`.
    #[serde(default)]
    cancelled: bool,
}

impl EventBody {
    fn checked(self) -> Result<NewEvent, (&'static str, String)> {
        let position = match (self.lat, self.lon) {
            (Some(lat), Some(lon)) => Some((lat, lon)),
            (None, None) => None,
            (Some(_), None) => return Err(("lon", "is missing: give lat and lon, or neither".to_owned())),
            (None, Some(_)) => return Err(("lat", "is missing: give lat and lon, or neither".to_owned())),
        };
        let ends_at = self.ends_at.as_deref().map(moment).transpose();
        let event = NewEvent {
            source: self.source,
            uid: self.uid,
            title: self.title,
            description: self.description,
            url: self.url,
            category: self.category,
            starts_at: moment(&self.starts_at).map_err(|reason| ("starts_at", reason))?,
            ends_at: ends_at.map_err(|reason| ("ends_at", reason))?,
            time_zone: self.time_zone,
            position,
            place: self.place,
            cancelled: self.cancelled,
        }
        .tidy();
        event.check().map_err(|fault| (fault.field, fault.reason))?;
        Ok(event)
    }
}

/// The result of storing events.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StoredEvents {
    inserted: usize,
    /// Events whose content changed, or that were cancelled or revived.
    changed: usize,
    unchanged: usize,
    /// The accepted events.
    events: Vec<StoredEvent>,
    /// The rejected items, with reasons.
    rejected: Vec<RejectedItem>,
}

/// The result for one event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StoredEvent {
    /// Its place in the request, from 0.
    index: usize,
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    id: Ulid,
    /// `inserted`, `changed` or `unchanged`.
    #[schema(value_type = String, example = "inserted")]
    outcome: Outcome,
}

/// Store events
///
/// Up to 1,000 events, `{"events": […]}` or a bare list. An event is identified by its source and its uid:
/// storing it again updates it and keeps its id. Each is checked by itself: the valid ones are stored, the
/// others are listed with their index, field and reason. If none is valid the response is 422.
#[utoipa::path(post, path = "/v1/events", tag = "events", operation_id = "store_events",
    request_body(content = Vec<EventBody>, description = "A list, or `{\"events\": […]}`"),
    responses(
        (status = 200, body = StoredEvents, description = "Stored, all or some"),
        (status = 400, description = "malformed-json"),
        (status = 413, description = "body-too-large, batch-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field, batch-empty: no event is valid"),
    ))]
pub(crate) async fn store(call: Call<Produce, EventsState>, payload: web::Payload) -> Reply {
    let context = call.context();
    let bytes = body_bytes(&call.request, payload, context, BodySize::Bulk, &[]).await?;
    let (read, mut rejected) =
        parse_off_thread(context, bytes, |bytes| read_items::<EventBody>(bytes, NAMES)).await?;
    let (mut places, mut events) = (Vec::new(), Vec::new());
    let mut named: HashMap<(Option<String>, String), usize> = HashMap::new();
    for (index, body) in read {
        let event = match body.checked() {
            Ok(event) => event,
            Err((field, reason)) => {
                rejected.push(RejectedItem::new(index, field, reason));
                continue;
            }
        };
        match named.entry((event.source.clone(), event.uid.clone())) {
            Entry::Occupied(first) => {
                let reason = format!("this source and uid stand at index {} already", first.get());
                rejected.push(RejectedItem::new(index, "uid", reason));
            }
            Entry::Vacant(free) => {
                free.insert(index);
                places.push(index);
                events.push(event);
            }
        }
    }
    if events.is_empty() {
        return Err(none_good(rejected, NAMES));
    }
    let stored = call.run(|state| async move { state.recommender.events().upsert(&events).await });
    let stored = stored.await?;
    rejected.sort_by_key(|one| one.index);
    ok(&answer(&places, &stored, rejected))
}

fn answer(places: &[usize], stored: &[UpsertedEvent], rejected: Vec<RejectedItem>) -> StoredEvents {
    let count = |outcome| stored.iter().filter(|one| one.outcome == outcome).count();
    StoredEvents {
        inserted: count(Outcome::Inserted),
        changed: count(Outcome::Changed),
        unchanged: count(Outcome::Unchanged),
        events: places
            .iter()
            .zip(stored)
            .map(|(index, one)| StoredEvent {
                index: *index,
                id: one.id,
                outcome: one.outcome,
            })
            .collect(),
        rejected,
    }
}

/// An event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub(crate) struct EventView {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    id: Ulid,
    source: Option<String>,
    uid: String,
    title: String,
    description: Option<String>,
    url: Option<String>,
    category: Option<String>,
    starts_at: DateTime<Utc>,
    ends_at: Option<DateTime<Utc>>,
    time_zone: Option<String>,
    lat: Option<f64>,
    lon: Option<f64>,
    place: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    cancelled_at: Option<DateTime<Utc>>,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        let Event {
            id,
            source,
            uid,
            title,
            description,
            url,
            category,
            starts_at,
            ends_at,
            time_zone,
            lat,
            lon,
            place,
            created_at,
            updated_at,
            cancelled_at,
        } = event;
        Self {
            id,
            source,
            uid,
            title,
            description,
            url,
            category,
            starts_at,
            ends_at,
            time_zone,
            lat,
            lon,
            place,
            created_at,
            updated_at,
            cancelled_at,
        }
    }
}

/// One page of events, by their start.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventPage {
    events: Vec<EventView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    next: Option<String>,
}

/// Find events
///
/// In pages, by start. Responses are cached for some minutes; a change of an event invalidates them.
#[utoipa::path(get, path = "/v1/events", tag = "events", operation_id = "find_events",
    params(
        ("from" = Option<String>, Query, description = "Begins at or after this time (RFC 3339); default: now"),
        ("to" = Option<String>, Query, description = "Begins before this time (RFC 3339)"),
        ("category" = Option<String>, Query, description = "Only this category; case-insensitive"),
        ("lat" = Option<f64>, Query, description = "With `lon` and `within_km`: around this place, in degrees"),
        ("lon" = Option<f64>, Query, description = "See `lat`"),
        ("within_km" = Option<f64>, Query, description = "See `lat`; up to 20000 kilometres"),
        ("q" = Option<String>, Query, description = "Words that all occur in the title, category, place or description; 10 at most"),
        ("cancelled" = Option<bool>, Query, description = "`true`: cancelled ones too"),
        ("after" = Option<String>, Query, description = "The `next` of the previous page"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 200, description = "1 to 200; default 50"),
    ),
    responses(
        (status = 200, body = EventPage),
        (status = 400, description = "invalid-cursor, invalid-parameter"),
    ))]
pub(crate) async fn list(call: Call<Read, EventsState, WithQuery>) -> Reply {
    let mut params = call.params(&[
        "from",
        "to",
        "category",
        "lat",
        "lon",
        "within_km",
        "q",
        "cancelled",
        "after",
        "limit",
    ]);
    let page = params.page_of(DEFAULT_LIMIT, MAX_LIMIT);
    let filter = filter(&mut params);
    params.finish()?;
    let after = page.cursor_of(read_cursor)?;
    let found = |state: Arc<EventsState>| async move {
        let from = filter.from.or_else(|| Some(clock::now()));
        let filter = Filter {
            from,
            after,
            ..filter
        };
        let found = state.recommender.events().find(&filter, page.wanted()).await?;
        let (events, next) = page.cut(found, EventView::from, cursor_at);
        Ok::<_, LedgerError>(EventPage { events, next })
    };
    call.cached(&CACHED, found).await
}

fn filter(params: &mut Params) -> Filter {
    let category = params.short_text("category", MAX_CATEGORY);
    Filter {
        from: params.moment("from"),
        to: params.moment("to"),
        category: category.map(|category| category.trim().to_lowercase()),
        near: near(params),
        words: search(params),
        cancelled: params.parsed("cancelled").unwrap_or(false),
        after: None,
    }
}

fn near(params: &mut Params) -> Option<Near> {
    let lat = params.number("lat", -90.0, 90.0);
    let lon = params.number("lon", -180.0, 180.0);
    let kilometres = params.number("within_km", 0.0, MAX_WITHIN);
    let given = ["lat", "lon", "within_km"].map(|name| (name, params.text(name).is_some()));
    if given.iter().any(|(_, given)| *given) {
        for (name, _) in given.iter().filter(|(_, given)| !given) {
            params.fault(
                name,
                "is missing: give lat, lon and within_km together".to_owned(),
            );
        }
    }
    Some(Near {
        lat: lat?,
        lon: lon?,
        kilometres: kilometres?,
    })
}

fn search(params: &mut Params) -> Vec<String> {
    let Some(text) = params.short_text("q", MAX_SEARCH) else {
        return Vec::new();
    };
    search_words(&text).unwrap_or_else(|fault| {
        params.fault("q", fault.to_string());
        Vec::new()
    })
}

fn cursor_at(event: &Event) -> String {
    format!("{}.{}", event.starts_at.timestamp_millis(), event.id)
}

fn read_cursor(text: &str) -> Option<(DateTime<Utc>, Ulid)> {
    let (millis, id) = text.split_once('.')?;
    let at = DateTime::from_timestamp_millis(millis.parse().ok()?)?;
    Some((at, Ulid::from_string(id).ok()?))
}
