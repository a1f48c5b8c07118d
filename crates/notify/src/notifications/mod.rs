//! Notices: what happened is published once, and reaches everybody who wants to hear of it.
//!
//! # Invariants
//! - A notice and everything that tells of it are one transaction: accepted means that every delivery exists as a job.
//! - Under the same key a notice is published once, as long as it is remembered
//!   (`notifications.retain_deliveries_seconds`): a repetition is answered with the first one, and another notice under the
//!   key is refused.
//! - Another product's announcement is one transaction with what it announces ([`holdfast_product::Messenger`], `messenger.rs`).
//!
//! # When things fail
//! *SQL is away*: nothing is published, and the publisher is told to come back. What becomes of a delivery is the business of
//! [`crate::webhooks`].

mod messenger;
mod publish;

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::{JobsSettings, Settings};
use holdfast_core::sql::Database;
use holdfast_jobs::Jobs;
use holdfast_jobs::enqueue::EnqueueError;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;

pub use self::publish::{Notice, NoticeId, PublishedNotice};
use crate::mail::Mail;
use crate::webhooks::{EventType, Webhooks};

/// How often a worker looks for what is past its retention.
const WATCH_PERIOD: Duration = Duration::from_secs(5);

/// Why a notice was not published.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    #[error("data: {0}")]
    InvalidData(String),
    #[error("{0} is published by the engine alone")]
    Reserved(EventType),
    #[error("{bytes} bytes are more than the {most} allowed")]
    TooLarge { bytes: usize, most: usize },
    #[error("another notice was published under this key, as {0}")]
    KeyReused(NoticeId),
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    #[error(transparent)]
    Sql(#[from] LedgerError),
}

/// The notices of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notices(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sql: Sql,
    limits: JobsSettings,
    jobs: Jobs,
    webhooks: Webhooks,
    mail: Mail,
}

impl Notices {
    /// Call it inside tokio; it reaches nothing yet.
    pub fn new(settings: &Settings, database: &Database, jobs: Jobs) -> Self {
        Self(Arc::new(Inner {
            sql: Sql::new(database, &settings.database),
            limits: settings.jobs.clone(),
            webhooks: Webhooks::new(settings, database, jobs.clone()),
            mail: Mail::new(settings, database, jobs.clone()),
            jobs,
        }))
    }

    pub fn webhooks(&self) -> &Webhooks {
        &self.0.webhooks
    }

    pub fn mail(&self) -> &Mail {
        &self.0.mail
    }

    /// Deletes what is past its retention, for as long as it is polled: a worker's duty.
    pub async fn watch(&self) {
        loop {
            tokio::time::sleep(WATCH_PERIOD).await;
            if let Err(error) = self.0.webhooks.prune().await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "cannot prune deliveries of webhooks"
                );
            }
            if let Err(error) = self.0.mail.prune().await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "cannot forget mails that were sent"
                );
            }
        }
    }
}
