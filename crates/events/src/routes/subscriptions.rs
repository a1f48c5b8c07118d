//! Subscriptions: who wants to hear of which events.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use holdfast_http::body::json_body;
use holdfast_http::json;
use holdfast_http::params::Params;
use holdfast_http::problem::{FieldFault, Problem, ProblemKind, quote};
use holdfast_http::{Allowed, Produce, Read};
use holdfast_product::mail_address::check_address;
use holdfast_product::{AddressAuthority, MAX_USER};
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::discovery::{Filter, MAX_SUBSCRIPTIONS, Subscription, SubscriptionId};
use crate::state::EventsState;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Which events a user wants to be notified of: those that match every given condition.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewSubscription, example = json!({"user": "anna", "category": "music", "text": "jazz", "lat": 48.2,
    "lon": 16.37, "within_km": 25}))]
pub(crate) struct SubscriptionBody {
    /// The application's id of the user who subscribes: 1 to 128 bytes.
    user: String,
    /// One address, `ada@example.com` or `Ada <ada@example.com>`, which receives mail about matching events,
    /// written from the template `event.news`. Default: no mail, webhooks only.
    email: Option<String>,
    /// Case-insensitive.
    category: Option<String>,
    /// Up to 10 words, each of which occurs in the title, category, place or description.
    text: Option<String>,
    /// With `lon` and `within_km`: around this place, in degrees.
    lat: Option<f64>,
    lon: Option<f64>,
    within_km: Option<f64>,
}

/// A subscription.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Subscription)]
pub(crate) struct SubscriptionView {
    id: String,
    user: String,
    email: Option<String>,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    filter: Filter,
    created_at: DateTime<Utc>,
}

impl From<Subscription> for SubscriptionView {
    fn from(subscription: Subscription) -> Self {
        Self {
            id: subscription.id.to_string(),
            user: subscription.user,
            email: subscription.email,
            filter: subscription.filter,
            created_at: subscription.created_at,
        }
    }
}

/// A page of subscriptions, in the order of creation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SubscriptionList {
    subscriptions: Vec<SubscriptionView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    next: Option<String>,
}

/// A deleted subscription.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeletedSubscription {
    id: String,
    deleted: bool,
}

/// List subscriptions
#[utoipa::path(get, path = "/v1/subscriptions", tag = "sources", operation_id = "list_subscriptions",
    params(
        ("user" = Option<String>, Query, description = "Only of this user"),
        ("after" = Option<String>, Query, description = "The `next` of the previous page"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; default 100"),
    ),
    responses(
        (status = 200, body = SubscriptionList),
        (status = 400, description = "invalid-parameter"),
    ))]
pub(crate) async fn list(
    _: Allowed<Read>,
    state: web::Data<EventsState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request, &["user", "after", "limit"]);
    let limit = params.count("limit", 1, MAX_LIMIT).unwrap_or(DEFAULT_LIMIT);
    let user = params.short_text("user", MAX_USER);
    let after = params.parsed::<Ulid>("after").map(SubscriptionId);
    params.finish()?;
    let subscriptions = state.subscriptions.clone();
    let mut found = state
        .http
        .on_runtime(async move { subscriptions.list(user.as_deref(), after, limit + 1).await })
        .await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|one| one.id.to_string());
    let subscriptions = found.into_iter().map(SubscriptionView::from).collect();
    json(StatusCode::OK, &SubscriptionList { subscriptions, next })
}

/// Subscribe to events
///
/// From now on, new, changed and cancelled events of every source are matched against it. Webhooks that
/// subscribe to `event.discovered`, `event.changed` or `event.cancelled` receive matching events with their
/// subscriptions; an `email` receives one mail for each run of a source.
#[utoipa::path(post, path = "/v1/subscriptions", tag = "sources", operation_id = "create_subscription",
    request_body = SubscriptionBody,
    responses(
        (status = 201, body = SubscriptionView),
        (status = 400, description = "malformed-json"),
        (status = 409, description = "too-many-subscriptions"),
        (status = 413, description = "body-too-large"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn create(
    allowed: Allowed<Produce>,
    state: web::Data<EventsState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let body: SubscriptionBody = json_body(&request, payload, &state.http).await?;
    let (user, email, filter) = checked(body)?;
    let (subscriptions, authority) = (
        state.subscriptions.clone(),
        AddressAuthority::of(allowed.is_admin()),
    );
    let made = state
        .http
        .on_runtime(async move {
            subscriptions
                .create(&user, email.as_deref(), authority, &filter)
                .await
        })
        .await?;
    let made = made.ok_or_else(|| {
        let detail = format!("there are {MAX_SUBSCRIPTIONS} subscriptions already, and more are not kept");
        Problem::new(ProblemKind::TooManySubscriptions, detail)
    })?;
    json(StatusCode::CREATED, &SubscriptionView::from(made))
}

fn checked(body: SubscriptionBody) -> Result<(String, Option<String>, Filter), Problem> {
    let filter = Filter {
        category: body.category,
        text: body.text,
        lat: body.lat,
        lon: body.lon,
        within_km: body.within_km,
    };
    let mut faults: Vec<FieldFault> = filter
        .faults()
        .into_iter()
        .map(|fault| FieldFault::new(fault.field, fault.reason))
        .collect();
    let sound = (1..=MAX_USER).contains(&body.user.len()) && !body.user.chars().any(char::is_control);
    if !sound {
        let reason = format!("must have 1 to {MAX_USER} bytes, and no control characters");
        faults.insert(0, FieldFault::new("user", reason));
    }
    if let Some(Err(reason)) = body.email.as_deref().map(check_address) {
        faults.push(FieldFault::new("email", reason));
    }
    if faults.is_empty() {
        return Ok((body.user, body.email, filter));
    }
    Err(Problem::faults(ProblemKind::InvalidField, faults))
}

/// Delete a subscription
#[utoipa::path(delete, path = "/v1/subscriptions/{id}", tag = "sources", operation_id = "delete_subscription",
    params(("id" = String, Path, description = "The subscription's id")),
    responses(
        (status = 200, body = DeletedSubscription),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "subscription-not-found"),
    ))]
pub(crate) async fn delete(
    _: Allowed<Produce>,
    state: web::Data<EventsState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let text = request.match_info().get("id").unwrap_or_default();
    let id = text.parse::<Ulid>().map(SubscriptionId).map_err(|_| {
        let reason = format!("{} is no subscription's id, which has 26 characters", quote(text));
        Problem::field(ProblemKind::InvalidId, "id", reason)
    })?;
    let subscriptions = state.subscriptions.clone();
    let gone = state
        .http
        .on_runtime(async move { subscriptions.delete(id).await })
        .await?;
    if !gone {
        let reason = format!("there is no subscription {id}");
        return Err(Problem::field(ProblemKind::SubscriptionNotFound, "id", reason));
    }
    let gone = DeletedSubscription {
        id: id.to_string(),
        deleted: true,
    };
    json(StatusCode::OK, &gone)
}
