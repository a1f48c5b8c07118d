//! The table `holdfast_preferences`, and what of an account a sender has to know.

use std::collections::{BTreeSet, HashMap};

use holdfast_jobs::LedgerTx;
use holdfast_jobs::audit::{AuditEntry, By, action};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use lettre::Address;
use uuid::Uuid;

use super::{AccountError, AccountId, Accounts, Preferences};
use crate::dialect::on_either;

/// An account as one who sends it something sees it.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    /// Where mail goes; `None`: nowhere, because neither the preferences nor the name say where.
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
        tx.commit().await?;
        Ok(row)
    });
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

fn read((name, document): Row) -> Result<Reader, LedgerError> {
    let preferences = document.map_or(Ok(Preferences::default()), |document| parsed(&document))?;
    let address = preferences.address.clone().or_else(|| name.parse().ok());
    Ok(Reader { address, preferences })
}

pub(super) fn parsed(document: &str) -> Result<Preferences, LedgerError> {
    let corrupt = |error: String| LedgerError::Corrupt(format!("a user's preferences: {error}"));
    let text = serde_json::from_str(document).map_err(|error| corrupt(error.to_string()))?;
    Preferences::parse(text).map_err(|faults| corrupt(AccountError::Invalid(faults).to_string()))
}

impl Accounts {
    /// What a user wants; the default for one who has not said.
    pub async fn preferences(&self, id: AccountId) -> Result<Preferences, AccountError> {
        let found = reader(&self.0.sql, id).await?;
        let found = found.ok_or_else(|| AccountError::Unknown(id.to_string()))?;
        Ok(found.preferences)
    }

    /// Replaces all that a user wants.
    pub async fn set_preferences(
        &self,
        by: &By,
        id: AccountId,
        preferences: &Preferences,
    ) -> Result<(), AccountError> {
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
                return Ok(false);
            }
            on_either!(
                tx.on(),
                sql.named(),
                query(put),
                [id.as_uuid(), &document],
                execute
            )?;
            self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
            tx.commit().await?;
            Ok(true)
        });
        if written.await? {
            Ok(())
        } else {
            Err(AccountError::Unknown(id.to_string()))
        }
    }
}
