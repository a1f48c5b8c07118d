//! The table `holdfast_preferences`, written.

use holdfast_core::sql::dialect::on_either;
use holdfast_jobs::audit::{AuditEntry, By, action};
use holdfast_jobs::ledger::LedgerError;
use holdfast_product::{AccountId, AddressAuthority};

use super::{AddressState, PreferenceError, PreferenceStore};
use crate::preferences::{Preferences, hold, reader, row};

/// A user's preferences, and whether their address is confirmed.
#[derive(Debug, Clone)]
pub struct AccountPreferences {
    pub preferences: Preferences,
    /// `None`: they have no address.
    pub address_state: Option<AddressState>,
}

impl PreferenceStore {
    /// What a user wants; the default for one who has not said.
    pub async fn preferences(&self, id: AccountId) -> Result<AccountPreferences, PreferenceError> {
        let found = reader(&self.0.sql, id).await?;
        let preferences = found
            .ok_or_else(|| PreferenceError::Unknown(id.to_string()))?
            .preferences;
        Ok(AccountPreferences {
            address_state: self.address_state(id, preferences.address.as_ref()).await?,
            preferences,
        })
    }

    /// Replaces a user's preferences; returns whether their address is confirmed.
    ///
    /// # Errors
    /// Nothing was written. `Invalid`: too many confirmation mails were sent for this user or to this address.
    pub async fn set_preferences(
        &self,
        by: &By,
        id: AccountId,
        preferences: &Preferences,
        authority: AddressAuthority,
    ) -> Result<Option<AddressState>, PreferenceError> {
        let link = match (&preferences.address, authority) {
            (Some(address), AddressAuthority::User) => self.link(id, address).await?,
            _ => None,
        };
        let document = serde_json::to_string(&preferences.text())
            .map_err(|error| LedgerError::Corrupt(error.to_string()))?;
        let put = "insert into holdfast_preferences (user_id, document, updated_at) values ($1, $2, @now)
            on conflict (user_id) do update set document = excluded.document, updated_at = excluded.updated_at";
        let entry = AuditEntry::new(action::USER_UPDATE)
            .target(id)
            .details(serde_json::json!({ "changed": "preferences" }));
        let sql = &self.0.sql;
        let written = sql.within("set a user's preferences", async {
            let mut tx = sql.begin().await?;
            if !hold(tx.on(), sql.named(), id).await? {
                return Ok(Err(PreferenceError::Unknown(id.to_string())));
            }
            let name = row(tx.on(), sql.named(), id).await?.map(|(name, _)| name);
            let name = name.unwrap_or_default();
            on_either!(
                tx.on(),
                sql.named(),
                query(put),
                [id.as_uuid(), &document],
                execute
            )?;
            let state = match &preferences.address {
                None => Ok(None),
                Some(address) => {
                    let claimed = self.claim_address(&mut tx, id, &name, address, link.as_deref(), authority);
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
}
