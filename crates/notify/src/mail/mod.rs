//! Mail: from a template to the receiver's server, once.
//!
//! # Invariants
//! - One mail has one recipient. Under one key an address gets one mail: another job that would send it finds it sent. Only a
//!   worker that dies after the server has taken the mail, and before it is noted, sends it twice; the `Message-ID` is made
//!   of key and address, so the receiver's side can tell.
//! - A recipient who unsubscribed from a list, or whose address does not exist, gets nothing: the job completes, and says so.
//! - What the account of its reader wants is kept ([`crate::preferences`]): mail of a list may be off, wait until quiet hours
//!   are over (which spends no attempt), or be put aside for a digest (`notify.digest`). A mail to an account that is gone is
//!   not sent.
//! - A template says what is in it or fails: an undefined variable is an error that names it, never an empty place.
//! - Nothing that a payload says becomes a header of its own: addresses are parsed, and a subject with a control character
//!   is refused.
//!
//! # When things fail
//! | what | the job |
//! | --- | --- |
//! | no connection, TLS refused, silence, a connection that ends in the middle, 4xx | is tried again |
//! | 5xx | is discarded; 5.1.1 (no such mailbox) also puts the address among the suppressed |
//! | the template is missing, broken, or lacks a variable | is discarded, and says what |
//! | more is put aside for one reader than a digest holds | completes, and says so: it is left out |
//! | SQL is away | is tried again; nothing is sent without its note |

mod bounds;
mod built_in;
mod compose;
mod digest;
mod digest_queue;
mod render;
mod send;
mod sent;
mod suppress;
mod templates;
mod transport;

use std::sync::Arc;

use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_jobs::Jobs;
use holdfast_jobs::enqueue::EnqueueError;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;

pub use self::built_in::{CONFIRM_TEMPLATE, DIGEST_TEMPLATE, INVITATION_TEMPLATE, NEWS_TEMPLATE};
pub use self::digest::{DigestReport, NotifyDigest};
pub use self::digest_queue::{DigestItem, MAX_DIGEST_ITEMS};
pub(crate) use self::digest_queue::{ITEM, ItemRow, SEALED as SEALED_DIGESTS, item};
pub use self::send::{MailReport, NotifyEmail};
pub use self::suppress::{Suppression, UnsubscribeResult};
pub use self::templates::{MailTemplate, MailTemplateRecord};
use self::transport::Transport;
use crate::NotificationsSettings;
use crate::secrets::Secret;

/// Most templates that are kept.
pub const MAX_TEMPLATES: usize = 1_000;

/// Why a template or a suppression was not kept or shown.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error("there is no mail template {0:?}")]
    UnknownTemplate(String),
    #[error("{MAX_TEMPLATES} mail templates already exist, which is the limit")]
    TooManyTemplates,
    #[error("{0:?} is not suppressed")]
    NotSuppressed(String),
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    #[error(transparent)]
    Sql(#[from] LedgerError),
}

/// The mail of one database and one server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mail(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sql: Sql,
    jobs: Jobs,
    settings: NotificationsSettings,
    /// Under which the addresses of deleted users are hashed.
    suppressions_key: Secret,
    transport: Transport,
}

impl Mail {
    /// It reaches nothing yet.
    pub fn new(settings: &Settings, database: &Database, jobs: Jobs) -> Self {
        Self(Arc::new(Inner {
            sql: Sql::new(database, &settings.database),
            jobs,
            settings: settings.section(),
            suppressions_key: Secret::default(),
            transport: Transport::new(&settings.section()),
        }))
    }
}
