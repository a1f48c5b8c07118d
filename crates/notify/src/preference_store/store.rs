//! The table `holdfast_preferences`, and what of an account a sender has to know.

use std::collections::{BTreeSet, HashMap};

use holdfast_jobs::LedgerTx;
use holdfast_jobs::audit::{AuditEntry, By, action};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use lettre::Address;
use uuid::Uuid;

use super::addresses::DELIVERABLE;
use super::{AccountError, AccountId, Accounts, AddressAuthority, AddressState, Preferences};
use crate::dialect::{on_either, rows};
use crate::mail::{normalised, spellings};

/// Most proven addresses of one account that are read.
const MAX_PROVEN: usize = 20;

/// An account as one who sends it something sees it.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    /// Where mail goes; `None`: nowhere, because no address is confirmed and the name is none.
    pub(crate) address: Option<Address>,
    pub(crate) preferences: Preferences,
}

/// The account's name and, where there are any, its preferences.
type Row = (String, Option<String>);

/// A user's preferences, and whether their address is confirmed.
#[derive(Debug, Clone)]
pub struct AccountPreferences {
    pub preferences: Preferences,
    /// `None`: they have no address.
    pub address_state: Option<AddressState>,
}

/// `None`: there is no such account, or no longer.
pub(crate) async fn reader(sql: &Sql, id: AccountId) -> Result<Option<Reader>, LedgerError> {
    let row = sql.within("read a user's preferences", async {
        let mut tx = sql.begin_read().await?;
        let row = row(tx.on(), sql.named(), id).await?;
        let proven = on_either!(
            tx.on(),
            sql.named(),
            query_as::<(String,)>(DELIVERABLE),
            [id.as_uuid(), rows(MAX_PROVEN)],
            fetch_all
        )?;
        tx.commit().await?;
        Ok(row.map(|row| (row, proven)))
    });
    let read = |(row, proven): (Row, Vec<(String,)>)| {
        let proven: Vec<_> = proven.into_iter().map(|(address,)| address).collect();
        read(row, &proven)
    };
    row.await?.map(read).transpose()
}

/// What accounts want; names that are no account's are left out.
pub(crate) type Wants = HashMap<AccountId, Preferences>;

const POSTGRES_WANTS: &str = "
select u.id, p.document from holdfast_users as u left join holdfast_preferences as p on p.user_id = u.id
where u.id = any($1)";

const SQLITE_WANTS: &str = "
select u.id, p.document from holdfast_users as u left join holdfast_preferences as p on p.user_id = u.id
where u.id in (select unhex(value) from json_each($1))";

/// What those of these accounts want that are there.
pub(crate) async fn wants(
    on: LedgerTx<'_>,
    named: bool,
    ids: &BTreeSet<AccountId>,
) -> Result<Wants, LedgerError> {
    let failed = |source| LedgerError::Sql {
        doing: "read users' preferences",
        source,
    };
    let rows: Vec<(Uuid, Option<String>)> = match on {
        LedgerTx::Postgres(on) => {
            let ids: Vec<_> = ids.iter().map(|id| id.as_uuid()).collect();
            let query = sqlx::query_as(POSTGRES_WANTS).bind(ids);
            query.persistent(named).fetch_all(on).await.map_err(failed)?
        }
        LedgerTx::Sqlite(on) => {
            let ids: Vec<_> = ids.iter().map(|id| id.as_uuid().simple().to_string()).collect();
            let text = serde_json::json!(ids).to_string();
            let query = sqlx::query_as(SQLITE_WANTS).bind(text);
            query.fetch_all(on).await.map_err(failed)?
        }
    };
    let read = |(id, document): (Uuid, Option<String>)| {
        let preferences = document.map_or(Ok(Preferences::default()), |document| parsed(&document));
        Ok((AccountId::from_uuid(id), preferences?))
    };
    rows.into_iter().map(read).collect()
}

/// Whether there is such an account; until the transaction ends nobody deletes it.
pub(crate) async fn hold(on: LedgerTx<'_>, named: bool, id: AccountId) -> Result<bool, sqlx::Error> {
    let text = "select name from holdfast_users where id = $1 @share";
    let found = on_either!(
        on,
        named,
        query_as::<(String,)>(text),
        [id.as_uuid()],
        fetch_optional
    )?;
    Ok(found.is_some())
}

async fn row(on: LedgerTx<'_>, named: bool, id: AccountId) -> Result<Option<Row>, sqlx::Error> {
    let text = "select u.name, p.document from holdfast_users as u
        left join holdfast_preferences as p on p.user_id = u.id where u.id = $1";
    on_either!(on, named, query_as::<Row>(text), [id.as_uuid()], fetch_optional)
}

/// Mail goes to the address of the preferences if it is proven, else to the one that was proven last, else to the user name. Without
/// an address in the preferences it goes to the user name.
fn read((name, document): Row, proven: &[String]) -> Result<Reader, LedgerError> {
    let preferences = document.map_or(Ok(Preferences::default()), |document| parsed(&document))?;
    let named = name.parse::<Address>().ok();
    let address = match &preferences.address {
        None => named,
        Some(wanted) => {
            let known_as = spellings(wanted);
            let is_named = named
                .as_ref()
                .is_some_and(|named| normalised(named) == known_as[0]);
            let is_proven = is_named || proven.iter().any(|one| known_as.contains(one));
            let before = || proven.first().and_then(|one| one.parse().ok());
            is_proven.then(|| wanted.clone()).or_else(before).or(named)
        }
    };
    Ok(Reader { address, preferences })
}

pub(super) fn parsed(document: &str) -> Result<Preferences, LedgerError> {
    let corrupt = |error: String| LedgerError::Corrupt(format!("a user's preferences: {error}"));
    let text = serde_json::from_str(document).map_err(|error| corrupt(error.to_string()))?;
    Preferences::parse(text).map_err(|faults| corrupt(AccountError::Invalid(faults).to_string()))
}

impl Accounts {
    /// What a user wants; the default for one who has not said.
    pub async fn preferences(&self, id: AccountId) -> Result<AccountPreferences, AccountError> {
        let found = reader(&self.0.sql, id).await?;
        let preferences = found
            .ok_or_else(|| AccountError::Unknown(id.to_string()))?
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
    ) -> Result<Option<AddressState>, AccountError> {
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
                return Ok(Err(AccountError::Unknown(id.to_string())));
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
                Err(AccountError::Sql(LedgerError::Sql { source, .. })) => return Err(source),
                Err(refused) => return Ok(Err(refused)),
            };
            self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
            tx.commit().await?;
            Ok(Ok(state))
        });
        written.await?
    }
}
