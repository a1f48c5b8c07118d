//! What a user wants to be sent.

use std::collections::BTreeMap;

use actix_web::web;
use holdfast_http::{Anyone, Call, Reply, ok};
use holdfast_product::{AddressAuthority, own_user};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::preferences::{Channels, Mode, Preferences, PreferencesText, Quiet, Switch};
use crate::state::NotifyState;
use crate::{AddressState, PreferenceError};

/// A user's preferences for mail and webhooks. Absent fields have the defaults.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Preferences, example = json!({"language": "de-at", "time_zone": "Europe/Vienna",
    "address": "ada@example.com", "quiet_hours": {"from": "22:00", "until": "07:00"}, "digest_at": "08:00",
    "email": "on", "webhook": "on", "topics": {"news": {"email": "digest"}}}))]
pub(crate) struct PreferencesBody {
    /// `en`, `de-at`. The mail template `hello.de-at` or `hello.de` is then used for `hello`, if it exists.
    language: Option<String>,
    /// An IANA time zone; default UTC.
    time_zone: Option<String>,
    /// The address for mail; default: the user's name, if it is an address. An address that an admin sets is
    /// confirmed immediately. Any other receives a mail with a link that confirms it, and nothing else until
    /// then.
    address: Option<String>,
    /// `confirmed`; `unconfirmed`: a mail with a link was sent, or only an admin can confirm it (`notifications.public_url`
    /// is not set); `earlier`: set before confirmations existed, it receives mail. Null: there is no address. Read-only:
    /// ignored in requests.
    #[serde(default)]
    #[schema(read_only)]
    address_state: Option<String>,
    /// When no mail of a list is sent; it waits for their end.
    quiet_hours: Option<QuietBody>,
    /// The time of the digest, `HH:MM`; default 08:00.
    digest_at: Option<String>,
    /// The default of every topic: `on`, `off`, or `digest`, which queues mail and sends it as one.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "on")]
    email: Mode,
    /// Whether webhooks receive the user's subscriptions (`event.news`): `on` or `off`.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "on")]
    webhook: Switch,
    /// Preferences by topic, which is the `list` of a mail: `{"email": "on|off|digest", "webhook": "on|off"}`;
    /// 100 topics at most.
    #[serde(default)]
    #[schema(value_type = Object)]
    topics: BTreeMap<String, Channels>,
}

/// In the user's time zone; past midnight if `until` is the earlier one.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuietHours)]
pub(crate) struct QuietBody {
    #[schema(example = "22:00")]
    from: String,
    #[schema(example = "07:00")]
    until: String,
}

impl From<PreferencesBody> for PreferencesText {
    fn from(body: PreferencesBody) -> Self {
        Self {
            language: body.language,
            time_zone: body.time_zone,
            address: body.address,
            quiet_hours: body.quiet_hours.map(|quiet| Quiet {
                from: quiet.from,
                until: quiet.until,
            }),
            digest_at: body.digest_at,
            email: body.email,
            webhook: body.webhook,
            topics: body.topics,
        }
    }
}

impl PreferencesBody {
    fn new(preferences: &Preferences, state: Option<AddressState>) -> Self {
        let text = preferences.text();
        let state = state.map(|state| match state {
            AddressState::Confirmed => "confirmed",
            AddressState::Unconfirmed => "unconfirmed",
            AddressState::Earlier => "earlier",
        });
        Self {
            address_state: state.map(str::to_owned),
            language: text.language,
            time_zone: text.time_zone,
            address: text.address,
            quiet_hours: text.quiet_hours.map(|quiet| QuietBody {
                from: quiet.from,
                until: quiet.until,
            }),
            digest_at: text.digest_at,
            email: text.email,
            webhook: text.webhook,
            topics: text.topics,
        }
    }
}

/// Show a user's preferences
///
/// A session reads its own user's preferences; a key with `admin` reads every user's, also those of user ids of the application,
/// which need no account: an id for which nothing was set has the defaults.
#[utoipa::path(get, path = "/v1/users/{id}/preferences", tag = "users", operation_id = "get_preferences",
    params(("id" = String, Path, description = "The user's id, or the application's id of the user")),
    responses(
        (status = 200, body = PreferencesBody),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "user-not-found"),
    ),
    security(("api_key" = ["admin"])))]
pub(crate) async fn show(call: Call<Anyone, NotifyState>) -> Reply {
    let user = own_user(&call)?;
    let found = call
        .run(move |state| async move { state.preferences.preferences(&user).await })
        .await?;
    ok(&PreferencesBody::new(&found.preferences, found.address_state))
}

/// Replace a user's preferences
///
/// Replaces all preferences. They apply to mail with a `list` and a `user`; mail without a list (a receipt, a
/// new password) is always sent. A session writes its own user's preferences; a key with `admin` writes every
/// user's, also those of user ids of the application, which need no account: they are stored until the user is deleted.
#[utoipa::path(put, path = "/v1/users/{id}/preferences", tag = "users", operation_id = "put_preferences",
    request_body = PreferencesBody,
    params(("id" = String, Path, description = "The user's id, or the application's id of the user")),
    responses(
        (status = 200, body = PreferencesBody),
        (status = 400, description = "invalid-id, malformed-json"),
        (status = 404, description = "user-not-found"),
        (status = 413, description = "body-too-large"),
        (status = 422, description = "invalid-field"),
    ),
    security(("api_key" = ["admin"])))]
pub(crate) async fn put(call: Call<Anyone, NotifyState>, payload: web::Payload) -> Reply {
    let user = own_user(&call)?;
    let body: PreferencesBody = call.json(payload).await?;
    let preferences = Preferences::parse(body.into()).map_err(PreferenceError::Invalid)?;
    let (by, authority) = (call.actor(), AddressAuthority::of(call.allowed.is_admin()));
    let view = call
        .run(move |state| async move {
            let store = &state.preferences;
            let set = store.set_preferences(&by, &user, &preferences, authority).await;
            set.map(|state| PreferencesBody::new(&preferences, state))
        })
        .await?;
    ok(&view)
}
