//! Users as preferences, addresses and digests know them: accounts, and users of the application without one.
//!
//! # States
//! An *account* is a row of `holdfast_users`. A *user of the application* is stored in `holdfast_application_users` from the moment
//! an admin sets preferences for its id, until it is deleted. Every other id is *not stored*: it has the default preferences.
//!
//! # Invariants
//! - The rows of a user have one key ([`key_of`]): the account's id, or 128 bits of a hash of the application's id.
//! - An id in the form of an account's may belong to a deleted account: unless it is stored, it is treated as deleted.
//! - Rows that are written for a user are written while the user is held ([`hold`]), so that no deletion misses them.

use holdfast_core::sql::dialect::on_either;
use holdfast_jobs::LedgerTx;
use holdfast_product::{AccountId, UserName};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Where users are stored, by their key. Until the transaction ends nobody deletes the row.
const STORED: [&str; 2] = [
    "select name from holdfast_users where id = $1 @share",
    "select name from holdfast_application_users where id = $1 @share",
];

const STORE: &str = "insert into holdfast_application_users (id, name, created_at) values ($1, $2, @now)
    on conflict (id) do update set name = excluded.name";

/// The `user_id` of a user's rows.
pub(crate) fn key_of(user: &UserName) -> Uuid {
    if let Some(account) = user.account() {
        return account.as_uuid();
    }
    let digest = Sha256::digest(user.as_str().as_bytes());
    Uuid::from_bytes(digest.first_chunk().copied().unwrap_or_default())
}

/// Whether the user is stored; until the transaction ends nobody deletes it.
pub(crate) async fn hold(mut on: LedgerTx<'_>, named: bool, user: &UserName) -> Result<bool, sqlx::Error> {
    let key = key_of(user);
    for text in STORED {
        let found = on_either!(
            on.reborrow(),
            named,
            query_as::<(String,)>(text),
            [key],
            fetch_optional
        )?;
        if found.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Stores a user of the application, and holds it.
pub(crate) async fn store(on: LedgerTx<'_>, named: bool, user: &UserName) -> Result<(), sqlx::Error> {
    on_either!(on, named, query(STORE), [key_of(user), user.as_str()], execute)?;
    Ok(())
}

/// The account whose name this is.
pub(crate) async fn account_named(
    on: LedgerTx<'_>,
    named: bool,
    user: &UserName,
) -> Result<Option<AccountId>, sqlx::Error> {
    let text = "select id from holdfast_users where name = $1";
    let found = on_either!(
        on,
        named,
        query_as::<(Uuid,)>(text),
        [user.as_str()],
        fetch_optional
    )?;
    Ok(found.map(|(id,)| AccountId::from_uuid(id)))
}

/// How the audit log names a user whose preferences are set: no id of the application looks like the name of an account.
pub(crate) fn audit_target(user: &UserName) -> String {
    match user.account() {
        Some(id) => id.to_string(),
        None => format!("application/{user}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_without_an_account_have_a_key_of_their_own() {
        let key = |user: &str| key_of(&user.parse().unwrap());
        let account = "01JD3V0S7W8Q4M2XKZC5T9R6BH";
        assert_eq!(
            key(account).as_u128(),
            ulid::Ulid::from_string(account).unwrap().0
        );
        assert_ne!(key("user 17"), key("user 18"));
        assert_ne!(key(&account.to_lowercase()), key(account));
    }
}
