//! The source: a SQLite file, opened for reading only, and read in one transaction.

use std::str::FromStr;
use std::time::Duration;

use futures::TryStreamExt as _;
use secrecy::{ExposeSecret, SecretString};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::CopyError;
use super::catalogue::{Catalogue, CatalogueColumn, Row, Table};
use super::value::StoredValue;

/// Most rows of a batch. At 500 rows the round trip is a small part of the time that the target takes to write them.
pub(super) const BATCH_ROWS: usize = 500;

/// A batch ends with the row that brings it to this size. Payloads are at most 256 KiB each by default.
pub(super) const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Rows that SQLite's thread reads ahead; they add to the memory of a batch.
const READ_AHEAD: usize = 4;

/// How long to wait for a lock of another process, such as a checkpoint.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const NOW: &str = "cast(unixepoch('subsec') * 1000 as integer)";

/// An open source. Its transaction shows one moment for as long as it lives.
#[derive(Debug)]
pub(super) struct Source {
    connection: SqliteConnection,
    /// `data_version` before the transaction began: it changes when another connection commits.
    version: i64,
}

/// Rows in the order of the primary key.
pub(super) struct Batch {
    pub(super) rows: Vec<Row>,
    /// The key of the last row, as SQLite stores it.
    pub(super) last_key: Vec<StoredValue>,
}

impl Source {
    pub(super) async fn open(url: &SecretString) -> Result<Self, CopyError> {
        let options = SqliteConnectOptions::from_str(url.expose_secret()).map_err(CopyError::Source)?;
        let file = options.get_filename().to_owned();
        if !file.is_file() {
            return Err(CopyError::NoSource(file.display().to_string()));
        }
        let options = options
            .read_only(true)
            .create_if_missing(false)
            .busy_timeout(BUSY_TIMEOUT)
            .row_buffer_size(READ_AHEAD);
        let opened = async {
            let mut connection = SqliteConnection::connect_with(&options).await?;
            let version = data_version(&mut connection).await?;
            sqlx::raw_sql("BEGIN").execute(&mut connection).await?;
            // The transaction shows the moment of its first read.
            let holdfast: i64 = sqlx::query_scalar(
                "select count(*) from sqlite_schema where type = 'table' and name = 'holdfast_migrations'",
            )
            .fetch_one(&mut connection)
            .await?;
            Ok((Self { connection, version }, holdfast > 0))
        };
        match opened.await.map_err(CopyError::Source)? {
            (source, true) => Ok(source),
            _ => Err(CopyError::NotHoldfast),
        }
    }

    /// Errors where a worker or a beat was seen within `lost_after`: after that time others count it as lost too.
    pub(super) async fn refuse_running(&mut self, lost_after: Duration) -> Result<(), CopyError> {
        let millis = i64::try_from(lost_after.as_millis()).unwrap_or(i64::MAX);
        for (who, table) in [("worker", "holdfast_workers"), ("beat", "holdfast_beats")] {
            let fresh =
                format!("select name from {table} where seen_at > {NOW} - ?1 order by seen_at desc limit 1");
            let name: Option<String> = sqlx::query_scalar(AssertSqlSafe(fresh))
                .bind(millis)
                .fetch_optional(&mut self.connection)
                .await
                .map_err(CopyError::Source)?;
            if let Some(name) = name {
                return Err(CopyError::Running {
                    who: format!("{who} {name}"),
                    seconds: lost_after.as_secs().max(1),
                });
            }
        }
        Ok(())
    }

    pub(super) async fn migrations(&mut self) -> Result<Vec<i64>, CopyError> {
        sqlx::query_scalar("select version from holdfast_migrations order by version")
            .fetch_all(&mut self.connection)
            .await
            .map_err(CopyError::Source)
    }

    pub(super) async fn catalogue(&mut self) -> Result<Catalogue, CopyError> {
        self.read_catalogue().await.map_err(CopyError::Source)
    }

    async fn read_catalogue(&mut self) -> Result<Catalogue, sqlx::Error> {
        let mut catalogue = Catalogue::default();
        let columns: Vec<(String, String, String, i64)> = sqlx::query_as(
            r"select m.name, c.name, c.type, c.pk from sqlite_schema as m, pragma_table_xinfo(m.name) as c
              where m.type = 'table' and m.name like 'holdfast\_%' escape '\' order by m.name, c.cid",
        )
        .fetch_all(&mut self.connection)
        .await?;
        for (table, name, type_name, key) in columns {
            catalogue
                .tables
                .entry(table)
                .or_default()
                .push(CatalogueColumn { name, type_name, key });
        }
        catalogue.references = sqlx::query_as(
            r#"select distinct m.name, f."table" from sqlite_schema as m, pragma_foreign_key_list(m.name) as f
               where m.type = 'table' and m.name like 'holdfast\_%' escape '\'"#,
        )
        .fetch_all(&mut self.connection)
        .await?;
        Ok(catalogue)
    }

    /// The rows after a key; `None` when there are no more.
    pub(super) async fn batch(
        &mut self,
        table: &Table,
        after: Option<&[StoredValue]>,
    ) -> Result<Option<Batch>, CopyError> {
        let mut query = sqlx::query(AssertSqlSafe(select(table, after.is_some())));
        for part in after.into_iter().flatten() {
            query = match part {
                StoredValue::Null => query.bind(None::<i64>),
                StoredValue::Integer(number) => query.bind(*number),
                StoredValue::Real(number) => query.bind(*number),
                StoredValue::Text(text) => query.bind(text.clone()),
                StoredValue::Blob(bytes) => query.bind(bytes.clone()),
            };
        }
        let mut batch = Batch {
            rows: Vec::new(),
            last_key: Vec::new(),
        };
        let mut bytes = 0;
        let mut rows = query.fetch(&mut self.connection);
        while let Some(row) = rows.try_next().await.map_err(CopyError::Source)? {
            let stored = stored(table, &row).map_err(CopyError::Source)?;
            bytes += stored.iter().map(StoredValue::bytes).sum::<usize>();
            batch.last_key = table.key.iter().map(|index| stored[*index].clone()).collect();
            batch.rows.push(texts(table, stored)?);
            if batch.rows.len() >= BATCH_ROWS || bytes >= BATCH_BYTES {
                break;
            }
        }
        drop(rows);
        Ok((!batch.rows.is_empty()).then_some(batch))
    }

    /// Ends the transaction, and errors where anything was committed to the file since it began.
    pub(super) async fn refuse_changed(&mut self) -> Result<(), CopyError> {
        let ended = async {
            sqlx::raw_sql("COMMIT").execute(&mut self.connection).await?;
            data_version(&mut self.connection).await
        };
        if ended.await.map_err(CopyError::Source)? == self.version {
            Ok(())
        } else {
            Err(CopyError::SourceChanged)
        }
    }
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::raw_sql("pragma data_version")
        .fetch_one(connection)
        .await?
        .try_get(0)
}

fn select(table: &Table, is_continued: bool) -> String {
    let names = |indexes: &mut dyn Iterator<Item = usize>| {
        let quoted = indexes.map(|index| format!("\"{}\"", table.columns[index].name));
        quoted.collect::<Vec<_>>().join(", ")
    };
    let columns = names(&mut (0..table.columns.len()));
    let key = names(&mut table.key.iter().copied());
    let after = if is_continued {
        let marks = vec!["?"; table.key.len()].join(", ");
        format!(" where ({key}) > ({marks})")
    } else {
        String::new()
    };
    format!(
        "select {columns} from \"{}\"{after} order by {key} limit {BATCH_ROWS}",
        table.name
    )
}

fn stored(table: &Table, row: &SqliteRow) -> Result<Vec<StoredValue>, sqlx::Error> {
    (0..table.columns.len())
        .map(|index| StoredValue::read(row, index))
        .collect()
}

/// The texts of a row. A fault names the row by those parts of its key that can be read.
fn texts(table: &Table, stored: Vec<StoredValue>) -> Result<Row, CopyError> {
    let mut row: Row = Vec::with_capacity(stored.len());
    let mut fault = None;
    for (column, stored) in table.columns.iter().zip(stored) {
        match column.kind.text_of(stored) {
            Ok(text) => row.push(text),
            Err(problem) => {
                row.push(Some("(unreadable)".to_owned()));
                fault = fault.or(Some((column, problem)));
            }
        }
    }
    match fault {
        None => Ok(row),
        Some((column, problem)) => Err(CopyError::Value {
            table: table.name.clone(),
            key: table.key_of(&row),
            column: column.name.clone(),
            problem,
        }),
    }
}
