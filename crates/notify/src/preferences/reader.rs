//! What a sender has to know of a user: whether it is stored, where mail goes, and the preferences, read.

use std::collections::{BTreeSet, HashMap};

use holdfast_core::sql::dialect::{on_either, rows};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use holdfast_product::UserName;
use holdfast_product::mail_address::{normalised, spellings};
use lettre::Address;
use uuid::Uuid;

use super::Preferences;
use super::users::key_of;

/// Most proven addresses of one account that are read.
const MAX_PROVEN: usize = 20;

/// Where mail may go: by the user, newest proof first.
const DELIVERABLE: &str = "select address from holdfast_addresses
    where user_id = $1 and proof is not null order by proven_at desc, address limit $2";

/// A user as one who sends it something sees it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reader {
    /// Where mail goes; `None`: nowhere, because no address is confirmed and the name is none.
    pub(crate) address: Option<Address>,
    pub(crate) preferences: Preferences,
    /// There is an account, or a user of the application with preferences.
    pub(crate) is_stored: bool,
}

/// The account's name, if it is an account, and the preferences, if there are any.
type Row = (Option<String>, Option<String>);

const ROW: &str = "select u.name, p.document from holdfast_users as u
    left join holdfast_preferences as p on p.user_id = u.id where u.id = $1
    union all
    select cast(null as text), p.document from holdfast_application_users as a
    left join holdfast_preferences as p on p.user_id = a.id where a.id = $1";

/// `None`: there is no such account, or no longer. An id of the application that is not stored has the default preferences.
pub(crate) async fn reader(sql: &Sql, user: &UserName) -> Result<Option<Reader>, LedgerError> {
    let key = key_of(user);
    let row = sql.within("read a user's preferences", async {
        let mut tx = sql.begin_read().await?;
        let row = on_either!(tx.on(), sql.named(), query_as::<Row>(ROW), [key], fetch_optional)?;
        let proven = on_either!(
            tx.on(),
            sql.named(),
            query_as::<(String,)>(DELIVERABLE),
            [key, rows(MAX_PROVEN)],
            fetch_all
        )?;
        tx.commit().await?;
        Ok(row.map(|row| (row, proven)))
    });
    match row.await? {
        Some((row, proven)) => {
            let proven: Vec<_> = proven.into_iter().map(|(address,)| address).collect();
            read(row, &proven).map(Some)
        }
        None => Ok(user.account().is_none().then(Reader::default)),
    }
}

/// The name of an account; `None`: there is no such account.
pub(crate) async fn account_name(
    on: LedgerTx<'_>,
    named: bool,
    user: &UserName,
) -> Result<Option<String>, sqlx::Error> {
    let text = "select name from holdfast_users where id = $1";
    let found = on_either!(
        on,
        named,
        query_as::<(String,)>(text),
        [key_of(user)],
        fetch_optional
    )?;
    Ok(found.map(|(name,)| name))
}

/// What users want; those that are not stored are left out.
pub(crate) type Wants = HashMap<UserName, Preferences>;

const POSTGRES_WANTS: &str = "
select u.id, p.document from holdfast_users as u left join holdfast_preferences as p on p.user_id = u.id
where u.id = any($1)
union all
select a.id, p.document from holdfast_application_users as a left join holdfast_preferences as p on p.user_id = a.id
where a.id = any($1)";

const SQLITE_WANTS: &str = "
select u.id, p.document from holdfast_users as u left join holdfast_preferences as p on p.user_id = u.id
where u.id in (select unhex(value) from json_each($1))
union all
select a.id, p.document from holdfast_application_users as a left join holdfast_preferences as p on p.user_id = a.id
where a.id in (select unhex(value) from json_each($1))";

/// What those of these users want that are stored.
pub(crate) async fn wants(
    on: LedgerTx<'_>,
    named: bool,
    users: &BTreeSet<UserName>,
) -> Result<Wants, LedgerError> {
    let failed = |source| LedgerError::Sql {
        doing: "read users' preferences",
        source,
    };
    let by_key: HashMap<Uuid, &UserName> = users.iter().map(|user| (key_of(user), user)).collect();
    let rows: Vec<(Uuid, Option<String>)> = match on {
        LedgerTx::Postgres(on) => {
            let keys: Vec<_> = by_key.keys().copied().collect();
            let query = sqlx::query_as(POSTGRES_WANTS).bind(keys);
            query.persistent(named).fetch_all(on).await.map_err(failed)?
        }
        LedgerTx::Sqlite(on) => {
            let keys: Vec<_> = by_key.keys().map(|key| key.simple().to_string()).collect();
            let text = serde_json::json!(keys).to_string();
            let query = sqlx::query_as(SQLITE_WANTS).bind(text);
            query.fetch_all(on).await.map_err(failed)?
        }
    };
    let mut wants = Wants::with_capacity(rows.len());
    for (key, document) in rows {
        let preferences = document.map_or(Ok(Preferences::default()), |document| parsed(&document))?;
        if let Some(user) = by_key.get(&key) {
            wants.insert((*user).clone(), preferences);
        }
    }
    Ok(wants)
}

/// Mail goes to the address of the preferences if it is proven, else to the one that was proven last, else to the user name. Without
/// an address in the preferences it goes to the user name.
fn read((name, document): Row, proven: &[String]) -> Result<Reader, LedgerError> {
    let preferences = document.map_or(Ok(Preferences::default()), |document| parsed(&document))?;
    let named = name.and_then(|name| name.parse::<Address>().ok());
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
    Ok(Reader {
        address,
        preferences,
        is_stored: true,
    })
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
