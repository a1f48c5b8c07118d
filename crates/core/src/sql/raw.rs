//! A PostgreSQL database as sqlx' own executor: one statement on a connection of the pool, outside of any unit of work.
//!
//! For checks, benchmarks and tests, which want to see the database even while its gate is open. Services go through
//! units of work.

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Error, Execute, Executor, Postgres, SqlStr};

use super::PostgresDatabase;

impl<'p> Executor<'p> for &'_ PostgresDatabase {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let database = self.clone();
        let answered = async move {
            let mut session = database.acquire().await?;
            let answers: Vec<_> = session.fetch_many(query).try_collect().await?;
            session.ended(None);
            Ok::<_, Error>(stream::iter(answers.into_iter().map(Ok)))
        };
        stream::once(answered).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let database = self.clone();
        Box::pin(async move { database.acquire().await?.fetch_optional(query).await })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'p: 'e,
    {
        let database = self.clone();
        Box::pin(async move { database.acquire().await?.prepare_with(sql, parameters).await })
    }
}
