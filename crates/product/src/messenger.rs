//! How a product has messages sent without knowing the product that sends them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::future::BoxFuture;
use holdfast_jobs::LedgerTx;
use holdfast_jobs::enqueue::{EnqueueError, EnqueuedJob};
use holdfast_jobs::ledger::LedgerError;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::user::UserName;

/// What the payload of a delivery holds beside its data, in bytes: ids, the type, the time.
pub const ANNOUNCEMENT_FRAME: usize = 1_024;

/// A message to every endpoint that listens to its type.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// Two to four words with dots between, such as `event.discovered`.
    pub event_type: &'static str,
    pub data: Box<RawValue>,
}

/// A mail that is written from a template when it is sent.
#[derive(Debug, Clone)]
pub struct AnnouncementMail {
    pub to: String,
    /// The user whose mail it is, if it is stored: its preferences apply.
    pub user: Option<UserName>,
    pub template: &'static str,
    pub data: Value,
    /// From what its reader may unsubscribe.
    pub list: &'static str,
}

/// Sends messages to endpoints and readers. All of its jobs are made in the caller's transaction.
pub trait Messenger: Send + Sync {
    /// How many endpoints may receive an announcement.
    fn endpoints(&self) -> BoxFuture<'_, Result<usize, LedgerError>>;

    /// Which of these users are stored, as accounts or with preferences, and whether endpoints may be told of each on this topic.
    fn users<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        topic: &'a str,
        users: &'a BTreeSet<UserName>,
    ) -> BoxFuture<'a, Result<HashMap<UserName, bool>, LedgerError>>;

    /// Enqueues a delivery for each endpoint that listens.
    fn announce<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        announcements: Vec<Announcement>,
    ) -> BoxFuture<'a, Result<Vec<EnqueuedJob>, EnqueueError>>;

    /// Enqueues the mails.
    fn mail<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        mails: Vec<AnnouncementMail>,
    ) -> BoxFuture<'a, Result<Vec<EnqueuedJob>, EnqueueError>>;

    /// The transaction is committed: wakes the workers of a queue.
    fn ring(&self, queue: &str);
}

/// The messenger of a process, as a resource of its handlers.
#[derive(Clone)]
pub struct MessengerResource(pub Arc<dyn Messenger>);

impl std::fmt::Debug for MessengerResource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MessengerResource")
    }
}
