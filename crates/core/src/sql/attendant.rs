//! The attendant of a database: one task with one connection of its own, which asks whether the database serves and
//! ends what was given up.
//!
//! It works in rounds, and only when there is a reason: a call that waits, an outage, an open gate, a session left behind. A
//! round asks the server (on PostgreSQL for the sessions to end as well, in the same statement) and tells the gate
//! what came of it. In between it has no connection, so that a database that scales to zero may sleep.
//!
//! On SQLite it asks for the write lock, and only while the gate is open or this process itself waits for that lock. A
//! lock that moves (another process commits meanwhile) is contention, not an outage.

use std::sync::Weak;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::time::{sleep, timeout};

use super::gate::{PROBE_DEADLINE, PROBE_PERIOD};
use super::pool::{Backend, Pool};
use super::sqlite::PoolState;
use crate::failure::sql_outage;
use crate::mode::DegradedReason;

/// How long it keeps its connection when there is nothing to ask.
const KEEP: Duration = Duration::from_secs(5);

/// However much there is to ask, it pauses for this long between rounds.
const LEAST_GAP: Duration = Duration::from_millis(50);

/// Between looks at sessions that are being ended: at first, and when they take long.
const SOON: Duration = Duration::from_millis(100);
const LATER: Duration = Duration::from_secs(1);

/// Rounds until an end takes long.
const QUICK_ROUNDS: u32 = 10;

/// Attends a PostgreSQL database until its pool is gone.
pub(super) async fn attend_postgres(pool: Weak<Pool>) {
    let Some(gate) = pool.upgrade().map(|pool| pool.gate.clone()) else {
        return;
    };
    let mut connection = None;
    loop {
        tokio::select! {
            () = gate.suspected() => {}
            () = sleep(KEEP), if connection.is_some() => {
                close(connection.take()).await;
                continue;
            }
        }
        let mut rounds = 0;
        loop {
            let Some(pool) = pool.upgrade() else { return };
            ask_postgres(&pool, &mut connection).await;
            rounds += 1;
            let pause = match (pool.gate.is_open(), pool.has_left_behind()) {
                (true, _) => PROBE_PERIOD,
                (false, true) if rounds < QUICK_ROUNDS => SOON,
                (false, true) => LATER,
                (false, false) => break,
            };
            drop(pool);
            sleep(pause).await;
        }
        sleep(LEAST_GAP).await;
    }
}

async fn close(connection: Option<PgConnection>) {
    if let Some(connection) = connection {
        let _closed_or_not = timeout(PROBE_DEADLINE, connection.close()).await;
    }
}

/// One round.
async fn ask_postgres(pool: &Pool, connection: &mut Option<PgConnection>) {
    let probe = pool.gate.probe_started();
    let asked = pool.to_be_ended();
    let asking = timeout(PROBE_DEADLINE, end_sessions(pool, connection, &asked));
    let reason = match asking.await {
        Ok(Ok(remaining)) => {
            pool.were_ended(&asked, &remaining);
            if pool.gate.is_open() {
                // What rested through the outage is tested before it is used: else its end would look like the next outage.
                pool.doubt_wires();
            }
            pool.gate.probe_succeeded(probe);
            return;
        }
        Ok(Err(error)) => sql_outage(&error).unwrap_or(DegradedReason::Unexpected),
        Err(_elapsed) => DegradedReason::TimedOut,
    };
    *connection = None;
    let only_full = reason == DegradedReason::TooManyConnections && !pool.gate.is_open();
    if only_full && pool.stats_of_open() > 0 {
        // The server serves those who are connected, and so it serves us.
        return;
    }
    pool.gate.probe_failed(probe, reason);
}

/// Cancels or terminates what is asked for, and answers with the sessions that are there still.
async fn end_sessions(
    pool: &Pool,
    connection: &mut Option<PgConnection>,
    asked: &[(Backend, bool)],
) -> Result<Vec<Backend>, sqlx::Error> {
    if let Some(known) = connection {
        match end_sessions_on(known, asked).await {
            Ok(remaining) => return Ok(remaining),
            // The server may have restarted, or closed one idle connection: that alone is no outage.
            Err(_) => *connection = None,
        }
    }
    let opened = match PgConnection::connect_with(pool.attendant_options()).await {
        Err(error) if pool.attendant_was_refused(&error) => {
            PgConnection::connect_with(pool.attendant_options()).await?
        }
        opened => opened?,
    };
    end_sessions_on(connection.insert(opened), asked).await
}

async fn end_sessions_on(
    connection: &mut PgConnection,
    asked: &[(Backend, bool)],
) -> Result<Vec<Backend>, sqlx::Error> {
    if asked.is_empty() {
        sqlx::raw_sql("select 1").execute(connection).await?;
        return Ok(Vec::new());
    }
    let wanted: Vec<String> = asked
        .iter()
        .map(|(Backend { pid, started }, only_cancel)| format!("({pid}, {started}::bigint, {only_cancel})"))
        .collect();
    // Unnamed and without parameters, so that any pooler could carry it. The start tells a session from a later one that
    // was given the same process id.
    let text = format!(
        "select pid, started, case when only_cancel then pg_cancel_backend(pid) else pg_terminate_backend(pid) end \
         from (values {}) as wanted (pid, started, only_cancel) \
         join (select pid, (extract(epoch from backend_start) * 1000000)::bigint as started \
               from pg_stat_get_activity(null)) as there using (pid, started)",
        wanted.join(", ")
    );
    let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Backend {
                pid: row.try_get(0)?,
                started: row.try_get(1)?,
            })
        })
        .collect()
}

/// Attends an embedded database until its pools are gone.
pub(super) async fn attend_sqlite(embedded: Weak<PoolState>, options: SqliteConnectOptions) {
    let Some(gate) = embedded.upgrade().map(|embedded| embedded.gate.clone()) else {
        return;
    };
    loop {
        gate.suspected().await;
        loop {
            let Some(embedded) = embedded.upgrade() else {
                return;
            };
            if !gate.is_open() && !embedded.waits_for_lock() {
                break;
            }
            let probe = gate.probe_started();
            match lock_is_free(&options).await {
                Some(true) => gate.probe_succeeded(probe),
                Some(false) => gate.probe_failed(probe, DegradedReason::Locked),
                None => {}
            }
            drop(embedded);
            if !gate.is_open() {
                break;
            }
            sleep(PROBE_PERIOD).await;
        }
        sleep(LEAST_GAP).await;
    }
}

/// Whether the write lock can be had; `None` if that cannot be told: the lock moved, or the file could not be asked.
async fn lock_is_free(options: &SqliteConnectOptions) -> Option<bool> {
    let options = options
        .clone()
        .create_if_missing(false)
        .busy_timeout(PROBE_DEADLINE);
    let mut connection = SqliteConnection::connect_with(&options).await.ok()?;
    let before = data_version(&mut connection).await;
    let locked = sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK")
        .execute(&mut connection)
        .await;
    let answer = match locked {
        Ok(_) => Some(true),
        Err(error) if sql_outage(&error) == Some(DegradedReason::Locked) => {
            let after = data_version(&mut connection).await;
            (before.is_none() || before == after).then_some(false)
        }
        Err(_) => None,
    };
    let _closed_or_not = connection.close().await;
    answer
}

/// Changes with every commit of another connection.
async fn data_version(connection: &mut SqliteConnection) -> Option<i64> {
    sqlx::query_scalar("PRAGMA data_version")
        .fetch_one(connection)
        .await
        .ok()
}
