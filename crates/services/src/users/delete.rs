//! Deleting a user: all of it, in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_jobs::audit::{Actor, AuditContext, AuditEntry, action};
use holdfast_jobs::sql::OwnTx;
use holdfast_product::{DeletionCounts, Person, UserName};
use serde::Serialize;
use serde_json::json;

use super::account::LockedAccount;
use super::{UserData, UserDataError};

/// What a deletion removed or anonymised.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeletionReport {
    /// There was an account, which is gone with its preferences, its digest and its sessions.
    pub account: bool,
    pub interactions: u64,
    pub subscriptions: u64,
    /// Rows about mail: what was sent, suppressions, links.
    pub mail: u64,
    /// Webhook attempts that named the user, now anonymised.
    pub deliveries: u64,
    /// Jobs that no longer name the user. Those that have not run will do nothing.
    pub jobs: u64,
    /// Entries that say now that somebody did it: those of a viewer. Whoever may do more stays named by the id.
    pub audit: u64,
    /// API keys that the user had made, and that were revoked with the user.
    pub keys: u64,
    /// What a product counts under another name.
    #[serde(flatten)]
    pub others: BTreeMap<&'static str, u64>,
}

/// How a user is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// The API keys that the user made end too.
    pub revoke_keys: bool,
}

impl DeletionReport {
    fn count(&mut self, mut counts: DeletionCounts) {
        self.interactions = counts.take("interactions");
        self.subscriptions = counts.take("subscriptions");
        self.mail = counts.take("mail");
        self.deliveries = counts.take("deliveries");
        self.jobs = counts.take("jobs");
        self.others = counts.into_rest();
    }
}

impl UserData {
    /// Deletes all that is about a user, who may be an account or a name of the application's own.
    ///
    /// Sessions end with the account, within ten seconds; a caller that has them ends them immediately.
    ///
    /// # Errors
    /// Nothing was deleted, unless the commit's answer was lost: ask again. `Unknown`: nothing is known of such a user.
    pub async fn delete(
        &self,
        by: &AuditContext,
        user: &UserName,
        options: DeleteOptions,
    ) -> Result<DeletionReport, UserDataError> {
        for product in &self.0.products {
            product.prepare().await?;
        }
        let sql = &self.0.sql;
        let done = sql.within("delete a user", async {
            let mut tx = sql.begin().await?;
            let (done, is_privileged) = Box::pin(self.delete_in(&mut tx, user, options)).await?;
            if done == DeletionReport::default() {
                return Ok(None);
            }
            let (by, entry) = audited(by, user, &done, is_privileged);
            self.0.jobs.audit().record_in(tx.on(), &by, &entry).await?;
            tx.commit().await?;
            Ok(Some(done))
        });
        let done = done
            .await?
            .ok_or_else(|| UserDataError::Unknown(user.to_string()))?;
        for product in &self.0.products {
            product.deleted(user).await;
        }
        Ok(done)
    }

    /// What was deleted, and whether the user could do more than read.
    async fn delete_in(
        &self,
        tx: &mut OwnTx,
        user: &UserName,
        options: DeleteOptions,
    ) -> Result<(DeletionReport, bool), sqlx::Error> {
        let mut done = DeletionReport::default();
        let account = match user.as_str().parse().ok() {
            Some(id) => self.lock_account(tx.on(), id).await?,
            None => None,
        };
        let mut person = Person {
            name: user.clone(),
            // A user whose account is gone is still named by its id, wherever that is.
            account: user.as_str().parse().ok(),
            addresses: BTreeSet::default(),
        };
        let account_name = account.as_ref().map(|account| account.name.as_str());
        person.addresses = self.addresses(tx, &person, account_name).await?;
        if let Some(account) = &account {
            self.end_account(tx, account, options, &mut done).await?;
        }
        let mut counts = DeletionCounts::default();
        for product in &self.0.products {
            counts.add(&product.delete(tx.on(), &person).await?);
        }
        for address in &person.addresses {
            if !self.is_used(tx, address).await? {
                self.delete_address(tx, address, &mut counts).await?;
            }
        }
        done.count(counts);
        Ok((done, account.is_some_and(|account| account.is_privileged)))
    }

    async fn end_account(
        &self,
        tx: &mut OwnTx,
        account: &LockedAccount,
        options: DeleteOptions,
        done: &mut DeletionReport,
    ) -> Result<(), sqlx::Error> {
        done.account = true;
        done.audit = self.rename_in_audit(tx.on(), account).await?;
        self.0.jobs.forget_enqueuer(tx.on(), account.id).await?;
        if options.revoke_keys {
            done.keys = self.revoke_made_keys(tx.on(), account.id).await?;
        }
        self.delete_account(tx.on(), account.id).await
    }

    /// Whether another user gets mail at an address, so that what is known of it stays.
    async fn is_used(&self, tx: &mut OwnTx, address: &str) -> Result<bool, sqlx::Error> {
        if self.is_account_name(tx.on(), address).await? {
            return Ok(true);
        }
        for product in &self.0.products {
            if product.uses_address(tx.on(), address).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn delete_address(
        &self,
        tx: &mut OwnTx,
        address: &str,
        counts: &mut DeletionCounts,
    ) -> Result<(), sqlx::Error> {
        for product in &self.0.products {
            counts.add(&product.delete_address(tx.on(), address).await?);
        }
        Ok(())
    }
}

/// The entry says that somebody was deleted and not who: also where one has deleted oneself. Of a user who could do more than
/// read it names the id.
fn audited(
    by: &AuditContext,
    user: &UserName,
    done: &DeletionReport,
    is_privileged: bool,
) -> (AuditContext, AuditEntry) {
    let entry = AuditEntry::new(action::USER_DELETE).details(json!(done));
    let mut by = by.clone();
    if is_privileged {
        return (by, entry.target(user));
    }
    if by.actor == Actor::user(user) {
        by.actor = Actor::user("deleted");
    }
    (by, entry.target("deleted"))
}
