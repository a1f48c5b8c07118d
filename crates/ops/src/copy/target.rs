//! The target: a PostgreSQL database. Each statement is a transaction of its own, so a transaction pooler will do.

use std::time::Duration;

use holdfast_core::backoff::{Backoff, Jitter};
use holdfast_core::failure::{FailureClass, SqlFailureKind, classify_sql};
use holdfast_core::sql::{Bounds, PostgresDatabase, UnitError};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres, Row as _};
use tokio::time::sleep;

use super::CopyError;
use super::catalogue::{Catalogue, CatalogueColumn, Row, Table};

/// How often a statement is tried while its failures are transient.
const ATTEMPTS: u32 = 8;

/// Without jitter: at least half a minute in all, which a restart of the server takes.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(8),
    jitter: Jitter::Off,
};

const COLUMNS: &str = r"
select c.relname::text, a.attname::text, format_type(a.atttypid, null),
    (array_position(i.indkey::int2[], a.attnum) is not null)::int::bigint
from pg_class as c
join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_index as i on i.indrelid = c.oid and i.indisprimary
where c.relnamespace = (select relnamespace from pg_class where oid = to_regclass('holdfast_migrations'))
  and c.relkind in ('r', 'p') and c.relname like 'holdfast\_%'
order by c.relname, a.attnum";

const SEQUENCES: &str = "
select a.attname::text, pg_get_serial_sequence(quote_ident($1), a.attname)
from pg_attribute as a
where a.attrelid = to_regclass(quote_ident($1)) and a.attnum > 0 and not a.attisdropped
  and pg_get_serial_sequence(quote_ident($1), a.attname) is not null";

pub(super) struct Target<'a> {
    database: &'a PostgresDatabase,
}

type Statement = Query<'static, Postgres, PgArguments>;

impl<'a> Target<'a> {
    pub(super) fn new(database: &'a PostgresDatabase) -> Self {
        Self { database }
    }

    pub(super) async fn migrations(&self) -> Result<Vec<i64>, CopyError> {
        let rows = self
            .fetch("read the migrations", || {
                sqlx::query("select version from holdfast_migrations order by version")
            })
            .await?;
        rows.iter().map(|row| get(row, 0)).collect()
    }

    pub(super) async fn catalogue(&self) -> Result<Catalogue, CopyError> {
        let mut catalogue = Catalogue::default();
        for row in self.fetch("read the catalogue", || sqlx::query(COLUMNS)).await? {
            let column = CatalogueColumn {
                name: get(&row, 1)?,
                type_name: get(&row, 2)?,
                key: get(&row, 3)?,
            };
            catalogue.tables.entry(get(&row, 0)?).or_default().push(column);
        }
        Ok(catalogue)
    }

    pub(super) async fn count(&self, table: &Table) -> Result<u64, CopyError> {
        let sql = format!("select count(*) from \"{}\"", table.name);
        let rows = self
            .fetch("count rows", || sqlx::query(AssertSqlSafe(sql.clone())))
            .await?;
        let count: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
        Ok(count.unsigned_abs())
    }

    /// The rows with the keys of these, each in its place.
    pub(super) async fn look_up(&self, table: &Table, rows: &[Row]) -> Result<Vec<Option<Row>>, CopyError> {
        let sql = look_up(table);
        let answered = self
            .fetch("look rows up", || {
                bind(sqlx::query(AssertSqlSafe(sql.clone())), &table.key, rows)
            })
            .await?;
        let mut found = vec![None; rows.len()];
        for row in &answered {
            let place: i64 = get(row, 0)?;
            let values = (1..=table.columns.len()).map(|index| get(row, index));
            if let Some(slot) = usize::try_from(place - 1).ok().and_then(|at| found.get_mut(at)) {
                *slot = Some(values.collect::<Result<Row, CopyError>>()?);
            }
        }
        Ok(found)
    }

    /// Writes the rows that are not there yet. Where the target refuses one, names it.
    pub(super) async fn insert(&self, table: &Table, rows: &[Row]) -> Result<(), CopyError> {
        let Err(refused) = self.insert_batch(table, rows).await else {
            return Ok(());
        };
        if !is_about_a_row(&refused) {
            return Err(failed("write rows", refused));
        }
        for row in rows {
            match self.insert_batch(table, std::slice::from_ref(row)).await {
                Ok(()) => {}
                Err(error) if is_about_a_row(&error) => return Err(refusal(table, row, &error)),
                Err(error) => return Err(failed("write rows", error)),
            }
        }
        Ok(())
    }

    async fn insert_batch(&self, table: &Table, rows: &[Row]) -> Result<(), UnitError> {
        if rows.is_empty() {
            return Ok(());
        }
        let sql = insert(table);
        let all: Vec<usize> = (0..table.columns.len()).collect();
        self.try_fetch("write rows", || {
            bind(sqlx::query(AssertSqlSafe(sql.clone())), &all, rows)
        })
        .await
        .map(drop)
    }

    /// For the services that start next: a table without statistics gets poor plans. The server does it later in any case.
    pub(super) async fn analyze(&self, table: &Table) {
        let sql = format!("analyze \"{}\"", table.name);
        let analyzed = self
            .try_fetch("analyze", || sqlx::query(AssertSqlSafe(sql.clone())))
            .await;
        if let Err(error) = analyzed {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                table = table.name,
                "the table could not be analyzed"
            );
        }
    }

    /// Sets each sequence of an identity or serial column behind the highest value that was copied.
    pub(super) async fn advance_sequences(&self, tables: &[Table]) -> Result<(), CopyError> {
        for table in tables {
            let name = table.name.clone();
            let found = self
                .fetch("read the sequences", || sqlx::query(SEQUENCES).bind(name.clone()))
                .await?;
            for row in found {
                let (column, sequence): (String, String) = (get(&row, 0)?, get(&row, 1)?);
                let sql = format!(
                    "select setval($1::regclass, max(\"{column}\")) from \"{}\" having max(\"{column}\") is not null",
                    table.name
                );
                self.fetch("advance a sequence", || {
                    sqlx::query(AssertSqlSafe(sql.clone())).bind(sequence.clone())
                })
                .await?;
            }
        }
        Ok(())
    }

    async fn fetch(
        &self,
        doing: &'static str,
        statement: impl Fn() -> Statement,
    ) -> Result<Vec<PgRow>, CopyError> {
        self.try_fetch(doing, statement)
            .await
            .map_err(|source| failed(doing, source))
    }

    /// One statement in a transaction of its own, tried again while its failures are transient. Whether a try was applied may
    /// be unknown: every statement here may be repeated.
    async fn try_fetch(
        &self,
        doing: &'static str,
        statement: impl Fn() -> Statement,
    ) -> Result<Vec<PgRow>, UnitError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let work = async {
                let mut tx = self.database.begin().await?;
                let rows = statement().persistent(false).fetch_all(&mut *tx).await?;
                tx.commit().await?;
                Ok(rows)
            };
            match self.database.run_any(doing, Bounds::SETTINGS, work).await {
                Err(error) if error.class() == FailureClass::Transient && attempt < ATTEMPTS => {
                    let pause = BACKOFF.delay(attempt);
                    tracing::warn!(
                        attempt,
                        retry_ms = pause.as_millis() as u64,
                        doing,
                        "the target failed; trying again"
                    );
                    sleep(pause).await;
                }
                ended => return ended,
            }
        }
    }
}

fn failed(doing: &'static str, source: UnitError) -> CopyError {
    CopyError::Target { doing, source }
}

fn get<'r, T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>>(
    row: &'r PgRow,
    index: usize,
) -> Result<T, CopyError> {
    row.try_get(index)
        .map_err(|error| failed("read an answer", error.into()))
}

/// Whether the server refused what a row holds. Its text, which may hold the value, is not shown.
fn is_about_a_row(error: &UnitError) -> bool {
    let UnitError::Sql(error) = error else {
        return false;
    };
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    matches!(
        classify_sql(error).kind,
        SqlFailureKind::Unique
            | SqlFailureKind::ForeignKey
            | SqlFailureKind::Constraint
            | SqlFailureKind::Data
    ) || code.is_some_and(|code| code.starts_with("54") || code == "P0001")
}

fn refusal(table: &Table, row: &Row, error: &UnitError) -> CopyError {
    let UnitError::Sql(sqlx::Error::Database(error)) = error else {
        return CopyError::Differs(table.missing(row));
    };
    let constraint = error.constraint().map(|name| format!(", constraint {name}"));
    CopyError::Refused {
        table: table.name.clone(),
        key: table.key_of(row),
        code: error
            .code()
            .map_or_else(|| "no code".to_owned(), |code| format!("SQLSTATE {code}")),
        detail: constraint.unwrap_or_default(),
    }
}

/// One array of texts for each of these columns.
fn bind(statement: Statement, columns: &[usize], rows: &[Row]) -> Statement {
    columns.iter().fold(statement, |statement, column| {
        let texts: Vec<Option<String>> = rows.iter().map(|row| row[*column].clone()).collect();
        statement.bind(texts)
    })
}

/// `unnest($1::text[], …)` and the names of its columns.
fn given(columns: usize) -> (String, String) {
    let arrays = (1..=columns).map(|number| format!("${number}::text[]"));
    let names = (0..columns).map(|number| format!("c{number}"));
    let list = |texts: &mut dyn Iterator<Item = String>| texts.collect::<Vec<_>>().join(", ");
    (list(&mut arrays.into_iter()), list(&mut names.into_iter()))
}

fn insert(table: &Table) -> String {
    let (arrays, names) = given(table.columns.len());
    let columns = table.columns.iter().map(|column| format!("\"{}\"", column.name));
    let values = table
        .columns
        .iter()
        .enumerate()
        .map(|(number, column)| column.kind.cast(&format!("given.c{number}"), &column.postgres));
    let key = table
        .key
        .iter()
        .map(|index| format!("\"{}\"", table.columns[*index].name));
    format!(
        "insert into \"{}\" ({}) overriding system value select {} from unnest({arrays}) as given ({names}) \
         on conflict ({}) do nothing",
        table.name,
        columns.collect::<Vec<_>>().join(", "),
        values.collect::<Vec<_>>().join(", "),
        key.collect::<Vec<_>>().join(", "),
    )
}

/// Each key by itself, through the index of the primary key: a join may read the whole table for each batch, as long as the
/// table has no statistics.
fn look_up(table: &Table) -> String {
    let (arrays, names) = given(table.key.len());
    let answers = table
        .columns
        .iter()
        .map(|column| column.kind.answer(&format!("t.\"{}\"", column.name)));
    let names_found: Vec<String> = (0..table.columns.len())
        .map(|number| format!("a{number}"))
        .collect();
    let matches = table.key.iter().enumerate().map(|(number, index)| {
        let column = &table.columns[*index];
        let value = column.kind.cast(&format!("given.c{number}"), &column.postgres);
        format!("t.\"{}\" = {value}", column.name)
    });
    format!(
        "select given.place, {} from unnest({arrays}) with ordinality as given ({names}, place) \
         cross join lateral (select {} from \"{}\" as t where {} limit 1) as found ({})",
        names_found.join(", "),
        answers.collect::<Vec<_>>().join(", "),
        table.name,
        matches.collect::<Vec<_>>().join(" and "),
        names_found.join(", "),
    )
}
