//! The table `holdfast_preferences`, written.

use holdfast_core::sql::dialect::on_either;
use holdfast_jobs::audit::{AuditContext, AuditEntry, action};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::OwnTx;
use holdfast_product::{AccountId, AddressAuthority, UserName};

use super::{AddressState, PreferenceError, PreferenceStore};
use crate::preferences::{Preferences, account_named, audit_target, hold, key_of, reader, store};

/// A user's preferences, and whether their address is confirmed.
#[derive(Debug, Clone)]
pub struct UserPreferences {
    pub preferences: Preferences,
    /// `None`: they have no address.
    pub address_state: Option<AddressState>,
}

impl PreferenceStore {
    /// What a user wants; the default for one who has not said.
    ///
    /// # Errors
    /// `Unknown`: the id has the form of an account's, and is not stored. `NameOfAccount`.
    pub async fn preferences(&self, user: &UserName) -> Result<UserPreferences, PreferenceError> {
        let found = reader(&self.0.sql, user).await?;
        let found = found.ok_or_else(|| PreferenceError::Unknown(user.clone()))?;
        if !found.is_stored {
            self.check_is_no_account_name(user).await?;
        }
        let address = found.preferences.address.as_ref();
        Ok(UserPreferences {
            address_state: self.address_state(key_of(user), address).await?,
            preferences: found.preferences,
        })
    }

    /// Preferences under the name of an account would be read by nobody who means the account.
    async fn check_is_no_account_name(&self, user: &UserName) -> Result<(), PreferenceError> {
        let sql = &self.0.sql;
        let found = sql.within("find an account's name", async {
            let mut tx = sql.begin_read().await?;
            let found = account_named(tx.on(), sql.named(), user).await?;
            tx.commit().await?;
            Ok(found)
        });
        found.await?.map_or(Ok(()), |id| Err(name_of_account(user, id)))
    }

    /// Replaces a user's preferences; returns whether their address is confirmed. An admin stores a user of the application by it.
    ///
    /// # Errors
    /// Nothing was written. `Invalid`: too many confirmation mails were sent for this user or to this address. `Unknown`: no such
    /// account. `NameOfAccount`.
    pub async fn set_preferences(
        &self,
        by: &AuditContext,
        user: &UserName,
        preferences: &Preferences,
        authority: AddressAuthority,
    ) -> Result<Option<AddressState>, PreferenceError> {
        let link = match (&preferences.address, authority) {
            (Some(address), AddressAuthority::User) => self.link(key_of(user), address).await?,
            _ => None,
        };
        let document = serde_json::to_string(&preferences.text())
            .map_err(|error| LedgerError::Corrupt(error.to_string()))?;
        let put = "insert into holdfast_preferences (user_id, document, updated_at) values ($1, $2, @now)
            on conflict (user_id) do update set document = excluded.document, updated_at = excluded.updated_at";
        let entry = AuditEntry::new(action::USER_UPDATE)
            .target(audit_target(user))
            .details(serde_json::json!({ "changed": "preferences" }));
        let sql = &self.0.sql;
        let written = sql.within("set a user's preferences", async {
            let mut tx = sql.begin().await?;
            if let Some(refused) = self.hold_or_store(&mut tx, user, authority).await? {
                return Ok(Err(refused));
            }
            on_either!(
                tx.on(),
                sql.named(),
                query(put),
                [key_of(user), &document],
                execute
            )?;
            let state = match &preferences.address {
                None => Ok(None),
                Some(address) => {
                    let claimed = self.claim_address(&mut tx, user, address, link.as_deref(), authority);
                    claimed.await.map(Some)
                }
            };
            let state = match state {
                Ok(state) => state,
                Err(PreferenceError::Sql(LedgerError::Sql { source, .. })) => return Err(source),
                Err(refused) => return Ok(Err(refused)),
            };
            self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
            tx.commit().await?;
            Ok(Ok(state))
        });
        written.await?
    }

    /// Holds the user, whom an admin stores by it; returns why not.
    async fn hold_or_store(
        &self,
        tx: &mut OwnTx,
        user: &UserName,
        authority: AddressAuthority,
    ) -> Result<Option<PreferenceError>, sqlx::Error> {
        let named = self.0.sql.named();
        if hold(tx.on(), named, user).await? {
            return Ok(None);
        }
        if authority == AddressAuthority::User {
            return Ok(Some(PreferenceError::Unknown(user.clone())));
        }
        if let Some(id) = account_named(tx.on(), named, user).await? {
            return Ok(Some(name_of_account(user, id)));
        }
        store(tx.on(), named, user).await?;
        Ok(None)
    }
}

fn name_of_account(user: &UserName, id: AccountId) -> PreferenceError {
    PreferenceError::NameOfAccount {
        name: user.clone(),
        id,
    }
}
