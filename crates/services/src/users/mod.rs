//! All that is stored about a user, over all products: its export and its deletion.
//!
//! An account is a row of `holdfast_users`; its id is what `/v1/users/{id}` names. An application may use names of its own for
//! interactions, subscriptions, preferences and mail: such a name has no account, and can be exported and deleted all the same. What a product
//! stores about a user it exports and deletes by itself ([`PersonalData`]); the account, its API keys and its name in the
//! audit log are handled here (`account.rs`).
//!
//! # Invariants
//! - What is deleted is gone in one transaction, with its entry in the audit log: all of it, or nothing. What must stay (a
//!   job that ran, who did what) stays under a name that was drawn at random.
//! - Export and deletion go by proven addresses and by the user that a payload names, never by whom a mail went to.
//! - Who did what with more than a viewer's rights stays in the audit log under the user's id, which nobody else ever has.
//!
//! # When things fail
//! *SQL is away*: nothing is read or deleted. *Redis is away*: a deletion is done in SQL; a cached list of recommendations then
//! lives as long as its class lets it (an hour), and the user's sessions end within ten seconds, because every process checks
//! whether the user still exists.
//!
//! # What deletion does not reach
//! Mail to an address that is not proven, and what is known of that address; it ages out by itself
//! (`notifications.retain_deliveries_seconds`). Payloads of an application's own kinds, the jobs that follow on others (`then`),
//! and data of notifications beyond their `user` mean nothing to Holdfast. Jobs of a queue that lives on Redis are not read:
//! they end with their results. What is known of an address stays where another user gets mail there too.

mod account;
mod delete;
mod export;
mod invite;
mod routes;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use holdfast_cache::Cache;
use holdfast_jobs::Jobs;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::{OwnTx, Sql};
use holdfast_product::mail_address::{composed, normalised};
use holdfast_product::{Person, PersonalData, Process};
use lettre::message::Mailbox;

pub use self::account::MadeKey;
pub use self::delete::{DeleteOptions, DeletionReport};
pub use self::export::Export;
pub use self::invite::InvitationView;
pub use self::routes::{DeletedUser, DeletedUsersKey, ROUTES, UsersState};

/// Why a user was not exported or deleted.
#[derive(Debug, thiserror::Error)]
pub enum UserDataError {
    #[error("there is no user {0}")]
    Unknown(String),
    #[error(transparent)]
    Sql(#[from] LedgerError),
}

/// What one database stores about users. Cheap to clone.
#[derive(Clone)]
pub struct UserData(Arc<Inner>);

struct Inner {
    sql: Sql,
    jobs: Jobs,
    products: Vec<Arc<dyn PersonalData>>,
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserData").finish_non_exhaustive()
    }
}

impl UserData {
    /// It reaches nothing yet.
    pub fn new(process: Process<'_>, cache: &Cache) -> Self {
        Self(Arc::new(Inner {
            sql: Sql::new(process.database, &process.settings.database),
            jobs: process.jobs.clone(),
            products: crate::personal_data(process, cache),
        }))
    }

    /// The addresses that are proven to be the user's, in their normal form; `account_name` is one if it is an address,
    /// because an admin gave it.
    async fn addresses(
        &self,
        tx: &mut OwnTx,
        person: &Person,
        account_name: Option<&str>,
    ) -> Result<BTreeSet<String>, sqlx::Error> {
        let mut found: Vec<String> = account_name.map(str::to_owned).into_iter().collect();
        for product in &self.0.products {
            found.extend(product.addresses(tx.on(), person).await?);
        }
        Ok(found.iter().filter_map(|text| normal_form(text)).collect())
    }
}

/// `None`: it is no address.
fn normal_form(text: &str) -> Option<String> {
    let mailbox: Mailbox = composed(text).ok()?;
    Some(normalised(&mailbox.email))
}
