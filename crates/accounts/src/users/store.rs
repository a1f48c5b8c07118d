//! The table `holdfast_users`, on either database. Every call has a deadline.

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_core::sql::Database;
use holdfast_jobs::audit::{AuditContext, AuditEntry, action};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;

use super::Role;
use crate::sql::{AuditedAction, StoreError, Write, bounded, fetch_all, unreadable};

holdfast_core::ids! {
    /// Names a user in tokens and logs.
    UserId;
}

/// A user as one is listed: everything but the password's hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = UserInfo)]
pub struct User {
    #[schema(value_type = String)]
    pub id: UserId,
    pub name: String,
    /// viewer, operator or admin.
    #[schema(value_type = String, example = "operator")]
    pub role: Role,
    /// Raised by every change; a session of another version has ended.
    #[serde(skip)]
    pub token_version: i64,
    pub disabled_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// What is changed of a user.
pub(super) enum Change {
    /// To this hash.
    Password(String),
    /// To this hash, if the user still has this version.
    InvitedPassword {
        hash: String,
        version: i64,
    },
    Enabled(bool),
    Role(Role),
}

impl Change {
    /// For the audit log.
    fn told(&self) -> Value {
        match self {
            Self::Password(_) => json!({ "changed": "password" }),
            Self::InvitedPassword { .. } => json!({ "changed": "password", "invited": true }),
            Self::Enabled(enabled) => json!({ "enabled": enabled }),
            Self::Role(role) => json!({ "role": role }),
        }
    }
}

type UserRow = (Uuid, String, String, i64, Option<i64>, i64, i64, String);

/// With the hash last, on both databases; times in milliseconds.
const SELECT_POSTGRES: &str = "select id, name, role, token_version, \
     (extract(epoch from disabled_at) * 1000)::bigint, (extract(epoch from created_at) * 1000)::bigint, \
     (extract(epoch from updated_at) * 1000)::bigint, password_hash from holdfast_users";
const SELECT_SQLITE: &str = "select id, name, role, token_version, disabled_at, created_at, updated_at, \
     password_hash from holdfast_users";

/// Which users are meant.
#[derive(Clone, Copy)]
enum UserSelection<'a> {
    Id(UserId),
    Name(&'a str),
    All(usize),
}

#[derive(Debug, Clone)]
pub(super) struct UserStore {
    database: Database,
}

impl UserStore {
    pub(super) fn new(database: Database) -> Self {
        Self { database }
    }

    pub(super) async fn insert(
        &self,
        id: UserId,
        name: &str,
        hash: &str,
        role: Role,
        by: &AuditContext,
    ) -> Result<(), StoreError> {
        let insert = match &self.database {
            Database::Postgres(pool) => Write::Postgres(
                pool,
                sqlx::query(
                    "insert into holdfast_users (id, name, password_hash, role) values ($1, $2, $3, $4)",
                )
                .bind(id.as_uuid())
                .bind(name)
                .bind(hash)
                .bind(role.as_str()),
            ),
            Database::Sqlite(database) => Write::Sqlite(
                database,
                sqlx::query(
                    "insert into holdfast_users (id, name, password_hash, role, created_at, updated_at) \
                     values ($1, $2, $3, $4, $5, $5)",
                )
                .bind(id.as_uuid())
                .bind(name)
                .bind(hash)
                .bind(role.as_str())
                .bind(clock::now().timestamp_millis()),
            ),
        };
        let details = json!({ "role": role });
        let deed = AuditedAction {
            by,
            entry: AuditEntry::new(action::USER_CREATE).target(name).details(details),
        };
        bounded(&self.database, "make a user", insert.recorded(&deed))
            .await
            .map(drop)
    }

    pub(super) async fn get(&self, id: UserId) -> Result<Option<User>, StoreError> {
        Ok(self.get_with_hash(id).await?.map(|(user, _)| user))
    }

    /// The user with this id, with the password's hash.
    pub(super) async fn get_with_hash(&self, id: UserId) -> Result<Option<(User, String)>, StoreError> {
        Ok(self.select(UserSelection::Id(id)).await?.pop())
    }

    /// The user of this name, with the password's hash.
    pub(super) async fn with_hash(&self, name: &str) -> Result<Option<(User, String)>, StoreError> {
        Ok(self.select(UserSelection::Name(name)).await?.pop())
    }

    /// By name.
    pub(super) async fn list(&self, limit: usize) -> Result<Vec<User>, StoreError> {
        let rows = self.select(UserSelection::All(limit)).await?;
        Ok(rows.into_iter().map(|(user, _)| user).collect())
    }

    async fn select(&self, which: UserSelection<'_>) -> Result<Vec<(User, String)>, StoreError> {
        let end = match which {
            UserSelection::Id(_) => "where id = $1",
            UserSelection::Name(_) => "where name = $1",
            UserSelection::All(_) => "order by name limit $1",
        };
        let rows: Vec<UserRow> = bounded(&self.database, "read users", async {
            macro_rules! select {
                ($columns:expr) => {{
                    // Only constants of this file are put together here.
                    let select = sqlx::query_as(sqlx::AssertSqlSafe(format!("{} {end}", $columns)));
                    match which {
                        UserSelection::Id(id) => select.bind(id.as_uuid()),
                        UserSelection::Name(name) => select.bind(name.to_owned()),
                        UserSelection::All(limit) => select.bind(limit as i64),
                    }
                }};
            }
            match &self.database {
                Database::Postgres(pool) => fetch_all(pool, select!(SELECT_POSTGRES)).await,
                Database::Sqlite(database) => select!(SELECT_SQLITE).fetch_all(&database.reader).await,
            }
        })
        .await?;
        rows.into_iter().map(user).collect()
    }

    /// Makes the change and raises the version. `None`: there is no such user, or not of the version that the change requires.
    pub(super) async fn change(
        &self,
        name: &str,
        change: &Change,
        by: &AuditContext,
    ) -> Result<Option<User>, StoreError> {
        let (hash, role, enabled, version) = match change {
            Change::Password(hash) => (Some(hash.as_str()), None, None, None),
            Change::InvitedPassword { hash, version } => (Some(hash.as_str()), None, None, Some(*version)),
            Change::Role(role) => (None, Some(role.as_str()), None, None),
            Change::Enabled(enabled) => (None, None, Some(*enabled), None),
        };
        macro_rules! update {
            ($now:literal) => {
                sqlx::query(concat!(
                    "update holdfast_users set password_hash = coalesce($2, password_hash), \
                     role = coalesce($3, role), \
                     disabled_at = case $4 when true then null when false then coalesce(disabled_at, ",
                    $now,
                    ") else disabled_at end, token_version = token_version + 1, updated_at = ",
                    $now,
                    " where name = $1 and token_version = coalesce($5, token_version)"
                ))
                .bind(name)
                .bind(hash)
                .bind(role)
                .bind(enabled)
                .bind(version)
            };
        }
        let update = match &self.database {
            Database::Postgres(pool) => Write::Postgres(pool, update!("now()")),
            Database::Sqlite(database) => {
                Write::Sqlite(database, update!("$6").bind(clock::now().timestamp_millis()))
            }
        };
        let deed = AuditedAction {
            by,
            entry: AuditEntry::new(action::USER_UPDATE)
                .target(name)
                .details(change.told()),
        };
        if bounded(&self.database, "change a user", update.recorded(&deed)).await? == 0 {
            return Ok(None);
        }
        Ok(self
            .select(UserSelection::Name(name))
            .await?
            .pop()
            .map(|(user, _)| user))
    }

    pub(super) async fn count(&self) -> Result<usize, StoreError> {
        const SQL: &str = "select count(*) from holdfast_users";
        let count: i64 = bounded(&self.database, "count users", async {
            match &self.database {
                Database::Postgres(pool) => {
                    let rows: Vec<(i64,)> = fetch_all(pool, sqlx::query_as(SQL)).await?;
                    Ok(rows.first().map_or(0, |row| row.0))
                }
                Database::Sqlite(database) => sqlx::query(SQL).fetch_one(&database.reader).await?.try_get(0),
            }
        })
        .await?;
        Ok(usize::try_from(count).unwrap_or(0))
    }
}

fn user(row: UserRow) -> Result<(User, String), StoreError> {
    let (id, name, role, token_version, disabled, created, updated, hash) = row;
    let moment = |millis: i64| DateTime::from_timestamp_millis(millis);
    let user = User {
        id: UserId::from_uuid(id),
        name,
        role: role.parse().map_err(|_| unreadable("role"))?,
        token_version,
        disabled_at: disabled.and_then(moment),
        created_at: moment(created).unwrap_or_default(),
        updated_at: moment(updated).unwrap_or_default(),
    };
    Ok((user, hash))
}
