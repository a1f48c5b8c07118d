//! What SQL says, read past the system under test.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use holdfast_testkit::PostgresServer;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

/// One row of the table of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// The producer's id, out of the URL that the job calls; empty for other jobs.
    pub own: String,
    pub queue: String,
    pub kind: String,
    /// As stored: available, running, completed, discarded, cancelled.
    pub state: String,
    pub attempt: u32,
    pub crashes: u32,
}

/// Where the ledger is, and how to read it.
#[derive(Debug)]
pub enum LedgerTruth {
    /// Over `psql` as the superuser, whose connections no pool can use up.
    Postgres(Arc<PostgresServer>),
    Sqlite(SqliteTruth),
}

/// A file that may not be there yet.
#[derive(Debug)]
pub struct SqliteTruth {
    path: PathBuf,
}

const ROWS: &str = "queue, kind, state, attempt, crashes";

impl LedgerTruth {
    pub(crate) fn sqlite(path: &Path) -> Self {
        Self::Sqlite(SqliteTruth {
            path: path.to_owned(),
        })
    }

    /// Every job.
    pub async fn rows(&self) -> Result<Vec<JobRow>> {
        let lines = match self {
            Self::Postgres(postgres) => {
                postgres
                    .psql(&format!(
                        "select coalesce(payload->>'url', ''), {ROWS} from holdfast_jobs"
                    ))
                    .await?
            }
            Self::Sqlite(sqlite) => {
                let url = "coalesce(json_extract(payload, '$.url'), '')";
                sqlite
                    .lines(&format!(
                        "select {url} || '|' || {} from holdfast_jobs",
                        ROWS.replace(", ", " || '|' || ")
                    ))
                    .await?
            }
        };
        lines.lines().map(parse_row).collect()
    }

    /// State → jobs in it.
    pub async fn states(&self) -> Result<BTreeMap<String, u64>> {
        let mut states = BTreeMap::new();
        for line in self
            .query("select state || '|' || count(*) from holdfast_jobs group by state")
            .await?
            .lines()
        {
            let (state, count) = line.split_once('|').context("a state and a count")?;
            states.insert(state.to_owned(), count.parse()?);
        }
        Ok(states)
    }

    /// Jobs that have not ended.
    pub async fn unfinished(&self) -> Result<u64> {
        let sql = "select count(*) || '' from holdfast_jobs where state in ('available', 'running')";
        Ok(self.query(sql).await?.trim().parse()?)
    }

    /// Own ids of the jobs that the worker process `pid` holds, whether it has begun with them or not.
    pub async fn held_by(&self, pid: u32) -> Result<HashSet<String>> {
        let url = match self {
            Self::Postgres(_) => "payload->>'url'",
            Self::Sqlite(_) => "json_extract(payload, '$.url')",
        };
        let sql = format!(
            "select coalesce({url}, '') from holdfast_jobs where state = 'running' and worker in \
             (select id from holdfast_workers where name like '%-{pid}-%')"
        );
        Ok(self.query(&sql).await?.lines().filter_map(own_id).collect())
    }

    /// Workers that hold a job of `queue` now.
    pub async fn holders(&self, queue: &str) -> Result<BTreeSet<String>> {
        let worker = match self {
            Self::Postgres(_) => "worker::text",
            Self::Sqlite(_) => "hex(worker)",
        };
        let sql = format!(
            "select distinct {worker} from holdfast_jobs where state = 'running' and queue = '{queue}'"
        );
        Ok(self.query(&sql).await?.lines().map(str::to_owned).collect())
    }

    /// Rows as lines.
    pub async fn query(&self, sql: &str) -> Result<String> {
        match self {
            Self::Postgres(postgres) => postgres.psql(sql).await,
            Self::Sqlite(sqlite) => sqlite.lines(sql).await,
        }
    }
}

impl SqliteTruth {
    /// The first column of each row, as text. A connection for each question: the file may be replaced in between.
    async fn lines(&self, sql: &str) -> Result<String> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .read_only(true)
            .busy_timeout(std::time::Duration::from_secs(10));
        let pool: SqlitePool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()))
            .fetch_all(&pool)
            .await;
        pool.close().await;
        let lines: Vec<String> = rows?.iter().map(|row| row.get::<String, _>(0)).collect();
        Ok(lines.join("\n"))
    }
}

fn parse_row(line: &str) -> Result<JobRow> {
    let fields: Vec<&str> = line.split('|').collect();
    let [url, queue, kind, state, attempt, crashes] = fields[..] else {
        anyhow::bail!("not a row of the ledger: {line:?}")
    };
    Ok(JobRow {
        own: own_id(url).unwrap_or_default(),
        queue: queue.to_owned(),
        kind: kind.to_owned(),
        state: state.to_owned(),
        attempt: attempt.parse()?,
        crashes: crashes.parse()?,
    })
}

/// The producer's id in a URL of the receiver: `…/hit/<id>` or `…?id=<id>`.
pub(crate) fn own_id(url: &str) -> Option<String> {
    let id = url
        .split_once("?id=")
        .map(|(_, id)| id)
        .or_else(|| url.rsplit_once("/hit/").map(|(_, id)| id))?;
    Some(id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_id_is_found_in_every_target() {
        assert_eq!(own_id("http://127.0.0.1:1/hit/j1").as_deref(), Some("j1"));
        assert_eq!(own_id("http://127.0.0.1:1/slow/50?id=j2").as_deref(), Some("j2"));
        assert_eq!(own_id(""), None);
    }
}
