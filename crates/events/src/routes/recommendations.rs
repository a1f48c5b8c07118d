//! What people did with events, and what is recommended to them.

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderValue;
use actix_web::web;
use chrono::{DateTime, Utc};
use holdfast_cache::{LoadError, Source};
use holdfast_core::clock;
use holdfast_http::body::items::{Names, RejectedItem, moment, none_good, read_items};
use holdfast_http::body::{BodySize, body_bytes, parse_off_thread};
use holdfast_http::problem::{Problem, ProblemKind, RETRY_AFTER, quote};
use holdfast_http::responses::X_CACHE;
use holdfast_http::{Anyone, Call, Produce, Reply, WithQuery, json, ok};
use holdfast_product::UserName;
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::interactions::Interaction;
use crate::recommend::{Item, List, ListSource, MAX_LISTED, Reason, RecommendError};
use crate::state::EventsState;

const NAMES: Names = Names {
    one: "interaction",
    many: "interactions",
    most: 1_000,
};

const DEFAULT_LIMIT: usize = 20;

/// How far an interaction may lie ahead: clocks of devices are wrong.
const MAX_AHEAD: chrono::Duration = chrono::Duration::days(1);

/// 2000-01-01.
const EARLIEST: i64 = 946_684_800;

/// What a user did with an event.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewInteraction, example = json!({"user": "user-17", "event": "01JD3V0S7W8Q4M2XKZC5T9R6BH", "action": "save",
    "at": "2030-05-01T09:30:00Z"}))]
pub(crate) struct InteractionBody {
    /// The application's id of the user, 1 to 128 bytes. If it is the id of a user of Holdfast, that user's
    /// sessions can read the recommendations.
    user: String,
    /// The event's id.
    event: String,
    /// `view`, `save`, `attend` or `dismiss`.
    #[schema(example = "save")]
    action: String,
    /// RFC 3339, stored to the millisecond; 2000 at the earliest, a day ahead at the latest. Default: now; then
    /// a repeat is another interaction.
    #[schema(format = DateTime)]
    at: Option<String>,
}

impl InteractionBody {
    fn checked(&self, now: DateTime<Utc>) -> Result<Interaction, (&'static str, String)> {
        let user = self.user.parse::<UserName>();
        let event = Ulid::from_string(&self.event).map_err(|_| {
            let reason = "is not an id: expected a ULID, 26 characters";
            ("event", reason.to_owned())
        })?;
        let action = self.action.parse();
        let at = self.at.as_deref().map(moment).transpose();
        let at = at.map_err(|reason| ("at", reason))?.unwrap_or(now);
        if at > now + MAX_AHEAD {
            return Err(("at", "lies more than a day ahead".to_owned()));
        }
        if at.timestamp() < EARLIEST {
            return Err(("at", "lies before the year 2000".to_owned()));
        }
        Ok(Interaction {
            user: user.map_err(|fault| ("user", fault.to_string()))?,
            event,
            action: action
                .map_err(|fault: crate::interactions::UnknownAction| ("action", fault.to_string()))?,
            at,
        })
    }
}

/// The result of storing interactions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AcceptedInteractions {
    /// Stored, now or before.
    accepted: usize,
    /// Jobs that already existed.
    duplicates: usize,
    /// The rejected items, with reasons.
    rejected: Vec<RejectedItem>,
}

/// Store interactions
///
/// Up to 1,000 interactions, `{"interactions": […]}` or a bare list: what users did with events, from which
/// recommendations are learned. An interaction is identified by user, event, action and time: sending it again
/// changes nothing. Each is checked by itself: the valid ones are stored, the others are listed with their
/// index, field and reason. If none is valid the response is 422.
#[utoipa::path(post, path = "/v1/interactions", tag = "recommendations", operation_id = "store_interactions",
    request_body(content = Vec<InteractionBody>, description = "A list, or `{\"interactions\": […]}`"),
    responses(
        (status = 202, body = AcceptedInteractions, description = "Stored, all or some"),
        (status = 400, description = "malformed-json"),
        (status = 413, description = "body-too-large, batch-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field, batch-empty: no interaction is valid"),
    ))]
pub(crate) async fn interact(call: Call<Produce, EventsState>, payload: web::Payload) -> Reply {
    let bytes = body_bytes(&call.request, payload, call.context(), BodySize::Bulk, &[]).await?;
    let (read, mut rejected) = parse_off_thread(call.context(), bytes, |bytes| {
        read_items::<InteractionBody>(bytes, NAMES)
    })
    .await?;
    let now = clock::now();
    let mut good = Vec::with_capacity(read.len());
    for (index, body) in read {
        match body.checked(now) {
            Ok(interaction) => good.push((index, interaction)),
            Err((field, reason)) => rejected.push(RejectedItem::new(index, field, reason)),
        }
    }
    if good.is_empty() {
        return Err(none_good(rejected, NAMES));
    }
    let given: Vec<_> = good.iter().map(|(_, interaction)| interaction.clone()).collect();
    let stored = call
        .run(move |state| async move { state.recommender.accept(&given).await })
        .await?;
    for (index, interaction) in &good {
        if stored.unknown.contains(&interaction.event) {
            let reason = format!("there is no event {}", interaction.event);
            rejected.push(RejectedItem::new(*index, "event", reason));
        }
    }
    let accepted = good
        .iter()
        .filter(|(_, interaction)| !stored.unknown.contains(&interaction.event))
        .count();
    if accepted == 0 {
        return Err(none_good(rejected, NAMES));
    }
    rejected.sort_by_key(|one| one.index);
    let view = AcceptedInteractions {
        accepted,
        duplicates: accepted.saturating_sub(stored.stored as usize),
        rejected,
    };
    json(StatusCode::ACCEPTED, &view)
}

/// A user's recommendations.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the name that a client reads")]
#[schema(as = RecommendationList)]
pub(crate) struct Recommendations {
    user: String,
    /// `personal`: based on the user's interactions. `popular`: there are none, or the list was not ready in
    /// time.
    #[schema(value_type = String, example = "personal")]
    source: ListSource,
    made_at: DateTime<Utc>,
    /// Best first.
    recommendations: Vec<RecommendationView>,
}

/// One recommended event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Recommendation)]
pub(crate) struct RecommendationView {
    event: RecommendedEvent,
    /// 0 to 1; compares within one answer only.
    score: f32,
    reason: ReasonView,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RecommendedEvent {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    id: Ulid,
    title: String,
    category: Option<String>,
    url: Option<String>,
    starts_at: DateTime<Utc>,
    place: Option<String>,
}

/// Why an event is recommended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RecommendationReason)]
pub(crate) struct ReasonView {
    /// `similar`: users who like that event like this one. `words`: a similar description. `near`: a nearby
    /// place. `category`, `popular`, `soon`.
    #[schema(value_type = String, example = "similar")]
    kind: Reason,
    /// That event.
    #[schema(value_type = Option<String>)]
    event: Option<Ulid>,
    /// A readable description.
    text: String,
}

impl From<Item> for RecommendationView {
    fn from(item: Item) -> Self {
        Self {
            event: RecommendedEvent {
                id: item.event,
                title: item.title,
                category: item.category,
                url: item.url,
                starts_at: item.starts_at,
                place: item.place,
            },
            score: item.score,
            reason: ReasonView {
                kind: item.because.why,
                event: item.because.event,
                text: item.because.text,
            },
        }
    }
}

/// Recommend events to a user
///
/// Upcoming events, best first, each with a reason. The list is cached for an hour, and served while a newer
/// one is computed; saving, attending or dismissing an event invalidates it. If none can be computed in time,
/// the response is the list of popular events, marked as such. A session reads its own user's list; a key with
/// `read` reads every user's.
#[utoipa::path(get, path = "/v1/users/{id}/recommendations", tag = "recommendations", operation_id = "recommend",
    params(
        ("id" = String, Path, description = "The application's id of the user"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 50, description = "1 to 50; default 20"),
    ),
    responses(
        (status = 200, body = Recommendations),
        (status = 400, description = "invalid-id, invalid-parameter"),
    ),
    security(("api_key" = ["read"])))]
pub(crate) async fn recommend(call: Call<Anyone, EventsState, WithQuery>) -> Reply {
    let id = call.path("id");
    call.allowed.reads_user(&id)?;
    let mut params = call.params(&["limit"]);
    let limit = params.count("limit", 1, MAX_LISTED).unwrap_or(DEFAULT_LIMIT);
    params.finish()?;
    let user = id
        .parse::<UserName>()
        .map_err(|fault| Problem::field(ProblemKind::InvalidId, "id", format!("{} {fault}", quote(&id))))?;
    let found = call
        .state()
        .recommender
        .list(&user)
        .await
        .map_err(|error| problem(&error))?;
    let came = match found.source {
        Source::Local | Source::Redis => "hit",
        Source::Stale => "stale",
        Source::Loaded => "miss",
    };
    let List {
        source,
        made_at,
        items,
    } = found.value;
    let view = Recommendations {
        user: user.to_string(),
        source,
        made_at,
        recommendations: items
            .into_iter()
            .take(limit)
            .map(RecommendationView::from)
            .collect(),
    };
    let mut response = ok(&view)?;
    response
        .headers_mut()
        .insert(X_CACHE, HeaderValue::from_static(came));
    Ok(response)
}

/// The cause is shared by all who waited for it, so its words go to the log.
fn problem(error: &LoadError<RecommendError>) -> Problem {
    match error {
        LoadError::Failed(cause) => match &**cause {
            RecommendError::Sql(sql) if sql.is_transient() => Problem::unavailable(
                "the database does not answer now, and nothing is cached; try again",
                RETRY_AFTER,
            )
            .caused_by(format!("{sql:?}")),
            other => Problem::internal(format!("{other:?}")),
        },
        LoadError::TimedOut => Problem::new(ProblemKind::TimedOut, "there was no answer in time; try again"),
        LoadError::Unencodable(_) | LoadError::Lost => Problem::internal(error.to_string()),
    }
}
