//! Webhooks: endpoints that receive events, as [Standard Webhooks](https://www.standardwebhooks.com) says.
//!
//! # States
//! An endpoint is *enabled* or *disabled*; by its owner, or by Holdfast once it has failed for
//! `notifications.webhook_disable_after_seconds` without a success, or answered 410 (Gone). One delivery is one job of the
//! kind `notify.webhook`: its retries are the delivery's, its dead letter is a delivery that was given up.
//!
//! # Invariants
//! - One event is one message id, the same for every endpoint and every attempt, so a receiver can tell a repeat. Delivery is
//!   at least once.
//! - An endpoint receives an event if it is enabled and one of its filters matches when the event is published; the jobs
//!   are made in the transaction that publishes ([`Webhooks::publish_in`]).
//! - Every request is signed at the moment it is sent, with the secret of the endpoint, and with the one before it while that
//!   one is still good: a receiver may change over at any time within the period of grace.
//! - A secret is shown once, in the answer that makes it. It is stored as it is, because it has to sign, and appears in no
//!   log, no error, no `Debug` and no list.
//! - The engine's events ([`ENGINE_EVENTS`]) are enqueued with what they tell of, in its transaction, for the endpoints that name
//!   them ([`engine_events`]). Nobody else can publish them, and deliveries themselves have none.
//! - Where requests may go is the business of [`holdfast_outbound`]; redirects are not followed, since a signature is for one
//!   receiver.
//! - Each attempt is one row of the log of deliveries, bounded by [`EXCERPT`], kept for
//!   `notifications.retain_deliveries_seconds`.
//!
//! # When things fail
//! - *The receiver is away, slow, or answers anything but 2xx*: the attempt has failed, and is repeated with growing rests
//!   over at least a day (after `Retry-After`, if it asks for one). 410 ends the delivery and disables the endpoint.
//! - *The endpoint is deleted or disabled while a job waits*: the job is discarded, and says so; it may be redriven.
//! - *SQL is away*: nothing is published. A delivery under way is made; its row in the log may be missing.

mod anonymise;
mod deliver;
mod endpoints;
mod engine_events;
mod log;
mod model;
mod publish;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_jobs::Jobs;
use holdfast_jobs::enqueue::EnqueueError;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;

pub(crate) use self::anonymise::without_user;
pub use self::deliver::{DeliveryReport, NotifyWebhook};
use crate::NotificationsSettings;

use self::endpoints::CachedEndpoint;
pub(crate) use self::endpoints::SEALED;
pub use self::endpoints::{MadeWebhook, RotatedSecret};
pub use self::engine_events::{EngineEvents, SUBSCRIPTIONS_TTL};
pub use self::log::{Delivery, DeliveryFilter, DeliveryId};
use self::log::{Log, LogParts};
pub use self::model::{
    ENGINE_EVENTS, EventType, Filter, InvalidEvent, WebhookDraft, WebhookFault, WebhookId, WebhookRecord,
};
pub use self::publish::Event;
pub(crate) use self::publish::RETRY_AFTER;
pub use self::watch::Watch;
use holdfast_outbound::AddressPolicy;
pub use holdfast_outbound::{InvalidSecret, SigningSecret};

/// Most endpoints that are kept.
pub const MAX_WEBHOOKS: usize = 1_000;

/// Most enabled endpoints that are sent events of the engine.
pub const MAX_ENGINE_WEBHOOKS: usize = 20;

/// Most bytes of a request's and of a response's body that the log keeps.
pub const EXCERPT: usize = 1_024;

/// Longest that a changed endpoint (another secret, disabled, deleted) is taken for what it was.
pub const ENDPOINT_TTL: Duration = Duration::from_secs(1);

/// Why a webhook was not made, changed, shown or told.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("{0}")]
    Invalid(#[from] WebhookFault),
    #[error("there is no webhook {0}")]
    Unknown(WebhookId),
    #[error("{MAX_WEBHOOKS} webhooks already exist, which is the limit")]
    TooMany,
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    #[error(transparent)]
    Sql(#[from] LedgerError),
}

/// The webhooks of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Webhooks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sql: Sql,
    jobs: Jobs,
    settings: NotificationsSettings,
    policy: AddressPolicy,
    known: Mutex<HashMap<WebhookId, CachedEndpoint>>,
    log: Log,
}

impl Webhooks {
    /// Call it inside tokio; it reaches nothing yet.
    pub fn new(settings: &Settings, database: &Database, jobs: Jobs) -> Self {
        let sql = Sql::new(database, &settings.database);
        let log = Log::spawn(LogParts {
            sql: sql.clone(),
            jobs: jobs.clone(),
            disable_after: settings.section::<NotificationsSettings>().webhook_disable_after,
        });
        Self(Arc::new(Inner {
            sql,
            jobs,
            settings: settings.section(),
            policy: AddressPolicy::of(&settings.http_request),
            known: Mutex::default(),
            log,
        }))
    }
}
