//! Storing what users want to be sent, and which addresses are proven to be theirs.
//!
//! A user is an account, or an id of the application, which is stored when an admin sets its preferences.
//!
//! # Invariants
//! - An address is a user's when it is *proven* ([`addresses`]): an admin has set it (as the user's name, in the preferences or in
//!   a subscription), or its owner has confirmed it. What anybody may write down as an address owns nothing.
//! - Preferences hold for mail that names a list. Mail of no list (a receipt, a new password) is sent whatever they say and
//!   at any hour, as nobody unsubscribes from it either.
//!
//! # When things fail
//! *SQL is away*: nothing is read or changed, and a mail that would have to know waits.

mod addresses;
mod store;

use std::sync::Arc;

use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_jobs::Jobs;
use holdfast_jobs::enqueue::EnqueueError;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use holdfast_product::{AccountId, UserName};
use url::Url;

pub use self::addresses::{AddressState, ConfirmedAddress};
pub use self::store::UserPreferences;
use crate::NotificationsSettings;
use crate::preferences::PreferenceFault;
use crate::secrets::Secret;

/// Why preferences were not read or set, or an address not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum PreferenceError {
    #[error("there is no user {0}")]
    Unknown(UserName),
    #[error("{name} is the name of an account, whose preferences are at its id {id}")]
    NameOfAccount { name: UserName, id: AccountId },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<PreferenceFault>),
    /// The confirmation mail cannot be enqueued.
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    #[error(transparent)]
    Sql(#[from] LedgerError),
}

/// The preferences of the users of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PreferenceStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sql: Sql,
    jobs: Jobs,
    /// Where the links of confirmation mails lead.
    public_url: Option<Url>,
    /// Signs those links.
    confirmations_key: Secret,
}

impl PreferenceStore {
    /// It reaches nothing yet.
    pub fn new(settings: &Settings, database: &Database, jobs: Jobs) -> Self {
        Self(Arc::new(Inner {
            sql: Sql::new(database, &settings.database),
            jobs,
            public_url: settings.section::<NotificationsSettings>().public_url,
            confirmations_key: Secret::default(),
        }))
    }
}
