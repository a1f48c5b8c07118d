//! What of an account a sender has to know: the tables `holdfast_users` and `holdfast_preferences`, read.

use std::collections::{BTreeSet, HashMap};

use holdfast_core::sql::dialect::{on_either, rows};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use holdfast_product::AccountId;
use holdfast_product::mail_address::{normalised, spellings};
use lettre::Address;
use uuid::Uuid;

use super::Preferences;

/// Most proven addresses of one account that are read.
const MAX_PROVEN: usize = 20;

/// Where mail may go: by the user, newest proof first.
const DELIVERABLE: &str = "select address from holdfast_addresses
    where user_id = $1 and proof is not null order by proven_at desc, address limit $2";

/// An account as one who sends it something sees it.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    /// Where mail goes; `None`: nowhere, because no address is confirmed and the name is none.
    pub(crate) address: Option<Address>,
    pub(crate) preferences: Preferences,
}

/// The account's name and, where there are any, its preferences.
type Row = (String, Option<String>);

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

pub(crate) async fn row(on: LedgerTx<'_>, named: bool, id: AccountId) -> Result<Option<Row>, sqlx::Error> {
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

pub(crate) fn parsed(document: &str) -> Result<Preferences, LedgerError> {
    let corrupt = |error: String| LedgerError::Corrupt(format!("a user's preferences: {error}"));
    let text = serde_json::from_str(document).map_err(|error| corrupt(error.to_string()))?;
    Preferences::parse(text).map_err(|faults| {
        corrupt(
            faults
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; "),
        )
    })
}
