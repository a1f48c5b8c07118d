//! The account itself: the row of `holdfast_users`, the API keys that its user made, and its name in the audit log.

use chrono::{DateTime, Utc};
use holdfast_core::sql::dialect::{moment, on_either, read_either};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::audit::Actor;
use holdfast_jobs::ledger::LedgerError;
use holdfast_product::{AccountId, UserName};
use serde::Serialize;
use ulid::Ulid;
use uuid::Uuid;

use super::UserData;

/// The role that can only read.
const VIEWER: &str = "viewer";

/// By the actor who made them.
const MADE_KEYS: &str =
    "select id, name, scopes from holdfast_api_keys where created_by = $1 and revoked_at is null order by id";
const REVOKE_KEYS: &str =
    "update holdfast_api_keys set revoked_at = @now where created_by = $1 and revoked_at is null";

/// Raises the version, and so locks the row.
const LOCK: &str =
    "update holdfast_users set token_version = token_version + 1 where id = $1 returning name, role";
const DELETE: &str = "delete from holdfast_users where id = $1";

/// By the address, in its normal form.
const NAMED: &str = "select name from holdfast_users where name = $1";

const READ: &str = "select name, role, @ms(disabled_at), @ms(created_at), @ms(updated_at)
    from holdfast_users where id = $1";

/// An API key in force that a user made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MadeKey {
    pub id: Ulid,
    pub name: String,
    pub scopes: String,
}

/// An account without its password's hash.
#[derive(Debug, Serialize)]
pub(super) struct AccountView {
    id: AccountId,
    pub(super) name: String,
    role: String,
    disabled_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// An account that is being deleted; its row is locked.
#[derive(Debug)]
pub(super) struct LockedAccount {
    pub(super) id: AccountId,
    pub(super) name: String,
    /// The user could do more than read: the audit log goes on to name the id.
    pub(super) is_privileged: bool,
}

type AccountRow = (String, String, Option<i64>, i64, i64);

impl UserData {
    /// The API keys in force that a user made, oldest first.
    ///
    /// # Errors
    /// SQL is away.
    pub async fn made_keys(&self, user: &UserName) -> Result<Vec<MadeKey>, LedgerError> {
        let found = read_either!(
            self.0.sql,
            "read the keys that a user made",
            query_as::<(Uuid, String, String)>(MADE_KEYS),
            [format!("user/{user}")],
            fetch_all
        )?;
        let key = |(id, name, scopes): (Uuid, String, String)| MadeKey {
            id: Ulid(id.as_u128()),
            name,
            scopes,
        };
        Ok(found.into_iter().map(key).collect())
    }

    pub(super) async fn read_account(&self, id: AccountId) -> Result<Option<AccountView>, LedgerError> {
        let found = read_either!(
            self.0.sql,
            "read an account",
            query_as::<AccountRow>(READ),
            [id.as_uuid()],
            fetch_optional
        )?;
        let view = |(name, role, disabled, created, updated): AccountRow| AccountView {
            id,
            name,
            role,
            disabled_at: disabled.map(moment),
            created_at: moment(created),
            updated_at: moment(updated),
        };
        Ok(found.map(view))
    }

    /// `None`: there is no such account.
    pub(super) async fn lock_account(
        &self,
        on: LedgerTx<'_>,
        id: AccountId,
    ) -> Result<Option<LockedAccount>, sqlx::Error> {
        let named = self.0.sql.named();
        let found = on_either!(
            on,
            named,
            query_as::<(String, String)>(LOCK),
            [id.as_uuid()],
            fetch_optional
        )?;
        Ok(found.map(|(name, role)| LockedAccount {
            id,
            name,
            is_privileged: role != VIEWER,
        }))
    }

    pub(super) async fn delete_account(&self, on: LedgerTx<'_>, id: AccountId) -> Result<(), sqlx::Error> {
        on_either!(on, self.0.sql.named(), query(DELETE), [id.as_uuid()], execute)?;
        Ok(())
    }

    /// How many were revoked.
    pub(super) async fn revoke_made_keys(&self, on: LedgerTx<'_>, id: AccountId) -> Result<u64, sqlx::Error> {
        let actor = format!("user/{id}");
        on_either!(on, self.0.sql.named(), query(REVOKE_KEYS), [actor], execute)
    }

    /// Whether an account has this address as its name.
    pub(super) async fn is_account_name(&self, on: LedgerTx<'_>, address: &str) -> Result<bool, sqlx::Error> {
        let named = self.0.sql.named();
        let found = on_either!(on, named, query_as::<(String,)>(NAMED), [address], fetch_optional)?;
        Ok(found.is_some())
    }

    /// Takes the name out of the audit log; and the id, where the user could only read. Returns how many entries changed.
    pub(super) async fn rename_in_audit(
        &self,
        mut on: LedgerTx<'_>,
        account: &LockedAccount,
    ) -> Result<u64, sqlx::Error> {
        let id = account.id.to_string();
        let replacement = if account.is_privileged {
            id.clone()
        } else {
            format!("deleted-{}", Ulid(rand::random()))
        };
        let (audit, mut changed) = (self.0.jobs.audit(), 0);
        for name in [&id, &account.name] {
            if *name == replacement {
                continue;
            }
            let (actor, new) = (Actor::user(name), Actor::user(&replacement));
            changed += audit.rename_actor(on.reborrow(), &actor, &new).await?;
            changed += audit.rename_user(on.reborrow(), name, &replacement).await?;
        }
        Ok(changed)
    }
}
