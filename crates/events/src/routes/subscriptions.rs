//! Subscriptions: who wants to hear of which events.

use actix_web::http::StatusCode;
use actix_web::web;
use chrono::{DateTime, Utc};
use holdfast_http::problem::{FieldFault, Problem, ProblemKind, quote};
use holdfast_http::{Call, PageParams, Produce, Read, Reply, WithQuery, json, ok};
use holdfast_product::mail_address::check_address;
use holdfast_product::{AddressAuthority, MAX_USER};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::discovery::{Filter, MAX_SUBSCRIPTIONS, Subscription, SubscriptionId};
use crate::problems::EventsProblem;
use crate::state::EventsState;

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
        PageParams,
    ),
    responses(
        (status = 200, body = SubscriptionList),
        (status = 400, description = "invalid-parameter"),
    ))]
pub(crate) async fn list(call: Call<Read, EventsState, WithQuery>) -> Reply {
    let mut params = call.params(&["user", "after", "limit"]);
    let page = params.page();
    let user = params.short_text("user", MAX_USER);
    let after = params.parsed::<SubscriptionId>("after");
    params.finish()?;
    let wanted = page.wanted();
    let found =
        call.run(move |state| async move { state.subscriptions.list(user.as_deref(), after, wanted).await });
    let (subscriptions, next) = page.cut(found.await?, SubscriptionView::from, |one| one.id.to_string());
    ok(&SubscriptionList { subscriptions, next })
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
pub(crate) async fn create(call: Call<Produce, EventsState>, payload: web::Payload) -> Reply {
    let body: SubscriptionBody = call.json(payload).await?;
    let (user, email, filter) = checked(body)?;
    let authority = AddressAuthority::of(call.allowed.is_admin());
    let made = call.run(move |state| async move {
        let (subscriptions, email) = (&state.subscriptions, email.as_deref());
        subscriptions.create(&user, email, authority, &filter).await
    });
    let made = made.await?.ok_or_else(|| {
        let detail = format!("there are {MAX_SUBSCRIPTIONS} subscriptions already, and more are not kept");
        Problem::new(EventsProblem::TooManySubscriptions, detail)
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
pub(crate) async fn delete(call: Call<Produce, EventsState>) -> Reply {
    let text = call.path("id");
    let id = text.parse::<SubscriptionId>().map_err(|_| {
        let reason = format!(
            "{} is no subscription's id, which has 26 characters",
            quote(&text)
        );
        Problem::field(ProblemKind::InvalidId, "id", reason)
    })?;
    let gone = call.run(move |state| async move { state.subscriptions.delete(id).await });
    if !gone.await? {
        let reason = format!("there is no subscription {id}");
        return Err(Problem::field(EventsProblem::SubscriptionNotFound, "id", reason));
    }
    ok(&DeletedSubscription {
        id: id.to_string(),
        deleted: true,
    })
}
