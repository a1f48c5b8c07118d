//! Accounts: what a user of Holdfast wants to be sent, all that is kept about one, and how it goes.
//!
//! An account is a row of `holdfast_users`; its id is what `/v1/users/{id}` names. An application may use names of its own for
//! interactions and subscriptions: such a name has no account, and can be exported and deleted all the same.
//!
//! # Invariants
//! - What is deleted is gone in one transaction, with its entry in the audit log: all of it, or nothing. What must stay (a
//!   job that ran, who did what) stays under a name that was drawn at random.
//! - An address is a user's when it is *proven* ([`addresses`]): an admin has set it (as the user's name, in the preferences or in
//!   a subscription), or its owner has confirmed it. Export and deletion go by proven addresses and by `payload.user`, never by
//!   whom a mail went to: what anybody may write down as an address owns nothing.
//! - A suppression outlasts its user ([`crate::mail`]).
//! - Who did what with more than a viewer's rights stays in the audit log under the user's id, which nobody else ever has.
//! - A mail to an account whose row is gone is not sent: its job completes, and says so.
//! - Preferences hold for mail that names a list. Mail of no list (a receipt, a new password) is sent whatever they say and
//!   at any hour, as nobody unsubscribes from it either.
//!
//! # When things fail
//! *SQL is away*: nothing is read, changed or deleted, and a mail that would have to know waits. *Redis is away*: a deletion
//! is done in SQL; a cached list of recommendations then lives as long as its class lets it (an hour), and the user's sessions
//! end within ten seconds, because every process looks whether the user is still there.
//!
//! # What deletion does not reach
//! Mail to an address that is not proven, and what is known of that address; it ages out by itself
//! (`notifications.retain_deliveries_seconds`). Payloads of an application's own kinds, the jobs that follow on others (`then`), and data of notifications beyond their
//! `user` mean nothing to Holdfast. Jobs of a queue that lives on Redis are not looked through: mail to a deleted account is not
//! sent by them either, and they go with their results. A delivery that is under way while its user is deleted may still write its row, which ages
//! out with the others. What is known of an address stays where somebody else gets mail there too.

mod addresses;
mod delete;
mod export;
mod naming;
mod preferences;
mod quiet;
mod store;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_jobs::Jobs;
use holdfast_jobs::enqueue::EnqueueError;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;
use uuid::Uuid;

use url::Url;

use crate::mail::Mail;
use crate::recommend::{RecommendError, Recommender};
use crate::secrets::Secret;

pub use self::addresses::{AddressAuthority, AddressState, ConfirmedAddress};
pub use self::delete::{DeleteOptions, Deleted, MadeKey};
pub use self::export::Export;
pub use self::preferences::{
    Channels, MAX_TOPICS, Mode, PreferenceFault, Preferences, PreferencesText, Quiet, Switch,
};
pub use self::quiet::{QuietHours, TimeOfDay};
pub use self::store::AccountPreferences;
pub(crate) use self::store::{Wants, hold, reader, wants};

/// Why something about an account was not done.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("there is no user {0}")]
    Unknown(String),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<PreferenceFault>),
    /// The confirmation mail cannot be enqueued.
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    #[error(transparent)]
    Sql(#[from] LedgerError),
    #[error(transparent)]
    Recommend(#[from] RecommendError),
}

/// Names an account: a ULID in its one spelling, 26 large letters and digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(Ulid);

/// The text names no account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no user's id: expected a ULID, 26 large letters and digits")]
pub struct InvalidAccount;

impl AccountId {
    pub(crate) fn as_uuid(self) -> Uuid {
        Uuid::from_u128(self.0.0)
    }

    pub(crate) fn from_uuid(uuid: Uuid) -> Self {
        Self(Ulid(uuid.as_u128()))
    }
}

impl FromStr for AccountId {
    type Err = InvalidAccount;

    fn from_str(text: &str) -> Result<Self, InvalidAccount> {
        let id = Ulid::from_string(text).map_err(|_| InvalidAccount)?;
        // Statements find a user's jobs by this text: a second spelling would hide some.
        (id.to_string() == text).then_some(Self(id)).ok_or(InvalidAccount)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for AccountId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AccountId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The accounts of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Accounts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sql: Sql,
    jobs: Jobs,
    recommender: Recommender,
    /// Its suppressions, and the hash under which they outlast their user.
    mail: Mail,
    /// Where the links of confirmation mails lead.
    public_url: Option<Url>,
    /// Signs those links.
    confirmations_key: Secret,
}

impl Accounts {
    /// It reaches nothing yet.
    pub fn new(settings: &Settings, database: &Database, jobs: Jobs, recommender: Recommender) -> Self {
        Self(Arc::new(Inner {
            sql: Sql::new(database, &settings.database),
            mail: Mail::new(settings, database, jobs.clone()),
            jobs,
            recommender,
            public_url: settings.notifications.public_url.clone(),
            confirmations_key: Secret::default(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_one_spelling() {
        let text = "01JD3V0S7W8Q4M2XKZC5T9R6BH";
        assert_eq!(text.parse::<AccountId>().unwrap().to_string(), text);
        for other in [&*text.to_lowercase(), "01JD3V0S7W8Q4M2XKZC5T9R6B", "", "ada"] {
            assert_eq!(other.parse::<AccountId>(), Err(InvalidAccount), "{other}");
        }
    }
}
