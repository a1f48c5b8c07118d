//! Transactions on either database.

use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Sqlite, Transaction};

use super::{PgTx, SqliteWriteTx};

/// A transaction that is under way, on either database: a caller's own, or an [`OwnTx`].
#[derive(Debug)]
pub enum Tx<'t> {
    Postgres(&'t mut PgConnection),
    Sqlite(&'t mut SqliteConnection),
}

impl Tx<'_> {
    /// The same transaction, for a while.
    pub fn reborrow(&mut self) -> Tx<'_> {
        match self {
            Self::Postgres(connection) => Tx::Postgres(connection),
            Self::Sqlite(connection) => Tx::Sqlite(connection),
        }
    }
}

impl<'t> From<&'t mut PgConnection> for Tx<'t> {
    fn from(connection: &'t mut PgConnection) -> Self {
        Self::Postgres(connection)
    }
}

impl<'t> From<&'t mut SqliteConnection> for Tx<'t> {
    fn from(connection: &'t mut SqliteConnection) -> Self {
        Self::Sqlite(connection)
    }
}

impl<'t> From<&'t mut PgTx> for Tx<'t> {
    fn from(tx: &'t mut PgTx) -> Self {
        Self::Postgres(tx)
    }
}

impl<'t> From<&'t mut SqliteWriteTx> for Tx<'t> {
    fn from(tx: &'t mut SqliteWriteTx) -> Self {
        Self::Sqlite(tx)
    }
}

impl<'t> From<&'t mut sqlx::Transaction<'_, sqlx::Postgres>> for Tx<'t> {
    fn from(tx: &'t mut sqlx::Transaction<'_, sqlx::Postgres>) -> Self {
        Self::Postgres(tx)
    }
}

impl<'t> From<&'t mut sqlx::Transaction<'_, sqlx::Sqlite>> for Tx<'t> {
    fn from(tx: &'t mut sqlx::Transaction<'_, sqlx::Sqlite>) -> Self {
        Self::Sqlite(tx)
    }
}

/// A transaction of our own on either database; rolled back when it is dropped.
#[derive(Debug)]
pub enum OwnTx {
    Postgres(PgTx),
    Sqlite(SqliteWriteTx),
    /// A transaction that only reads.
    SqliteRead(Transaction<'static, Sqlite>),
}

impl OwnTx {
    pub fn on(&mut self) -> Tx<'_> {
        match self {
            Self::Postgres(tx) => Tx::Postgres(tx),
            Self::Sqlite(tx) => Tx::Sqlite(tx),
            Self::SqliteRead(tx) => Tx::Sqlite(tx),
        }
    }

    pub async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Postgres(tx) => tx.commit().await,
            Self::Sqlite(tx) => tx.commit().await,
            Self::SqliteRead(tx) => tx.commit().await,
        }
    }
}
