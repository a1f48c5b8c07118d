//! What PostgreSQL is asked. Views of the server and bounded walks of the ledger's indexes; nothing is locked or written.
//!
//! A normal role sees the statements and times of its own sessions. Of others it sees the process id, the locks and how far back
//! their snapshot reaches; [`shown`] says where the rest is hidden.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::figures::{
    Connections, Holder, HolderKey, LeaseFigures, LostWork, OldTransaction, Overdue, QueueLook,
    ServerFigures, SlowStatement, TableFigures, Wait, WorkerLook,
};
use super::statement::shown;
use crate::sql::millis;

/// Tables whose locks and dead rows concern jobs.
const TABLES: [&str; 4] = [
    "holdfast_jobs",
    "holdfast_batches",
    "holdfast_workers",
    "holdfast_queues",
];

/// A transaction that locks rows of the ledger for this long is none of Holdfast's own: those are ended sooner.
pub(super) const HOLDER_AFTER: Duration = Duration::from_secs(10);

const SESSIONS: &str = "
select count(*) filter (where datname is not null),
       count(*) filter (where datname is not null and query = '<insufficient privilege>'),
       current_setting('max_connections')::int
from pg_stat_activity";

/// Without vacuums, whose own snapshots keep nothing.
const OPEN: &str = "
select pid, coalesce(usename::text, ''), application_name, coalesce(state, ''), coalesce(backend_type, ''),
       extract(epoch from clock_timestamp() - xact_start)::float8, age(backend_xmin), left(query, 1000)
from pg_stat_activity
where pid <> pg_backend_pid() and (datname = current_database() or backend_type = 'walsender')
  and (xact_start is not null or backend_xmin is not null)
  and backend_type is distinct from 'autovacuum worker' and query !~* '^\\s*vacuum'
order by xact_start nulls last, age(backend_xmin) desc limit 10";

const PREPARED: &str = "
select count(*), max(extract(epoch from now() - prepared))::float8, max(age(transaction))
from pg_prepared_xacts where database = current_database()";

const SLOTS: &str = "
select slot_name::text, active, age(xmin) from pg_replication_slots where xmin is not null
order by age(xmin) desc limit 1";

/// What waits for the longest, and for whom. `pg_blocking_pids` stops the lock manager for a moment, hence the limit.
const WAITS: &str = "
with waiting as materialized (
    select pid, query, query_start from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock' order by query_start limit 5)
select w.pid, extract(epoch from clock_timestamp() - w.query_start)::float8, left(w.query, 1000),
       h.pid, coalesce(b.usename::text, ''), coalesce(b.application_name, ''), coalesce(b.state, ''),
       extract(epoch from clock_timestamp() - b.xact_start)::float8, coalesce(left(b.query, 1000), '')
from waiting as w cross join lateral unnest(pg_blocking_pids(w.pid)) as h(pid)
left join pg_stat_activity as b on b.pid = h.pid limit 20";

/// Modes that block claims and outcomes; an index build and a vacuum take none of them.
const HOLDERS: &str = "
select l.pid, l.virtualtransaction, string_agg(distinct t.name, ', '), coalesce(min(a.usename::text), ''),
       coalesce(min(a.application_name), ''), coalesce(min(a.state), ''),
       extract(epoch from clock_timestamp() - min(a.xact_start))::float8, coalesce(left(min(a.query), 1000), '')
from unnest($1::text[]) as t(name)
join pg_locks as l on l.relation = to_regclass(t.name)
left join pg_stat_activity as a on a.pid = l.pid
where l.locktype = 'relation' and l.granted and l.pid <> pg_backend_pid()
  and l.database = (select oid from pg_database where datname = current_database())
  and l.mode in ('RowShareLock', 'RowExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                 'AccessExclusiveLock')
  and (a.xact_start is null or a.xact_start < clock_timestamp() - $2 * interval '1 millisecond')
group by l.pid, l.virtualtransaction order by min(a.xact_start) nulls last limit 10";

const SLOW: &str = "
select pid, extract(epoch from clock_timestamp() - query_start)::float8, left(query, 1000)
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and state = 'active'
  and application_name = current_setting('application_name')
  and query_start < clock_timestamp() - $1 * interval '1 millisecond' and query !~* '^\\s*(vacuum|create index)'
order by query_start limit 3";

const DEAD: &str = "
select s.relname::text, s.n_live_tup, s.n_dead_tup,
       extract(epoch from now() - greatest(s.last_vacuum, s.last_autovacuum))::float8
from pg_stat_all_tables as s
where s.relid = any (array (select to_regclass(name)::oid from unnest($1::text[]) as t(name)))";

/// The distinct workers of running jobs, one step of the index for each; then those without a living worker.
const LOST: &str = "
with recursive ids as (
    (select worker from holdfast_jobs where state = 'running' and worker is not null order by worker limit 1)
    union all
    select (select j.worker from holdfast_jobs as j where j.state = 'running' and j.worker > ids.worker
            order by j.worker limit 1)
    from ids where ids.worker is not null),
lost as (
    select s.worker, w.id is null as gone, extract(epoch from now() - w.seen_at)::float8 as silent
    from (select worker from ids where worker is not null limit 10000) as s
    left join holdfast_workers as w on w.id = s.worker
    where w.id is null or w.seen_at < now() - $1 * interval '1 millisecond' limit 100)
select l.gone, l.silent, j.jobs, j.oldest
from lost as l cross join lateral (
    select count(*) as jobs, extract(epoch from now() - min(started_at))::float8 as oldest
    from (select started_at from holdfast_jobs where state = 'running' and worker = l.worker limit 1000) as x) as j";

const OVERDUE: &str = "
select count(*), max(extract(epoch from now() - started_at))::float8, min(id::text)
from (select id, started_at, timeout_ms from holdfast_jobs where state = 'running'
      order by worker, queue limit 5000) as s
where started_at < now() - (timeout_ms + $1) * interval '1 millisecond'";

/// A queue with a paused key counts as paused: its oldest job may be of that key. One with another override is limited.
const QUEUES: &str = "
select q.name,
       coalesce(h.paused, false)
           or exists (select from holdfast_key_overrides as o where o.queue = q.name and o.paused and o.expires_at > now()),
       coalesce(h.limited, false)
           or exists (select from holdfast_key_overrides as o where o.queue = q.name and o.expires_at > now()),
       coalesce(h.overridden, h.configured)::text,
       (select extract(epoch from now() - min(x.run_at))::float8
        from (select (select j.run_at from holdfast_jobs as j
                      where j.state = 'available' and j.queue = q.name and j.priority = p::smallint
                        and j.run_at <= now() order by j.run_at, j.id limit 1) as run_at
              from generate_series(0, 2) as p) as x)
from unnest($1::text[]) as q(name) left join holdfast_queues as h on h.name = q.name";

const WORKERS: &str = "
select queues::text, stats::text from holdfast_workers where seen_at >= now() - $1 * interval '1 millisecond' limit 1000";

/// For the rest of the transaction only indexes are walked: a table may be large. What has no index costs so much by this setting
/// that the server would compile the statement (`jit`), which takes longer than the statement may.
pub(super) async fn walk_indexes(on: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("set local enable_seqscan = off; set local enable_bitmapscan = off; set local jit = off")
        .execute(on)
        .await?;
    Ok(())
}

type Open = (
    i32,
    String,
    String,
    String,
    String,
    Option<f64>,
    Option<i32>,
    String,
);
type WaiterRow = (
    i32,
    Option<f64>,
    String,
    i32,
    String,
    String,
    String,
    Option<f64>,
    String,
);
type HolderRow = (i32, String, String, String, String, String, Option<f64>, String);

pub(super) async fn server(
    on: &mut PgConnection,
    named: bool,
    deadline: Duration,
) -> Result<ServerFigures, sqlx::Error> {
    let (used, hidden, max): (i64, i64, i32) = sqlx::query_as(SESSIONS)
        .persistent(named)
        .fetch_one(&mut *on)
        .await?;
    let open: Vec<Open> = sqlx::query_as(OPEN).persistent(named).fetch_all(&mut *on).await?;
    let prepared: (i64, Option<f64>, Option<i32>) = sqlx::query_as(PREPARED)
        .persistent(named)
        .fetch_one(&mut *on)
        .await?;
    let slot: Option<(String, bool, i32)> = sqlx::query_as(SLOTS)
        .persistent(named)
        .fetch_optional(&mut *on)
        .await?;
    let waits: Vec<WaiterRow> = sqlx::query_as(WAITS)
        .persistent(named)
        .fetch_all(&mut *on)
        .await?;
    let holders: Vec<HolderRow> = sqlx::query_as(HOLDERS)
        .bind(&TABLES[..])
        .bind(millis(HOLDER_AFTER))
        .persistent(named)
        .fetch_all(&mut *on)
        .await?;
    let slow: Vec<(i32, f64, String)> = sqlx::query_as(SLOW)
        .bind(millis(deadline))
        .persistent(named)
        .fetch_all(&mut *on)
        .await?;
    let tables: Vec<(String, i64, i64, Option<f64>)> = sqlx::query_as(DEAD)
        .bind(&TABLES[..])
        .persistent(named)
        .fetch_all(&mut *on)
        .await?;
    Ok(ServerFigures {
        connections: Connections {
            used,
            max: i64::from(max),
            hidden,
        },
        transactions: transactions(open, prepared, slot),
        waits: waits.into_iter().map(wait).collect(),
        holders: holders.into_iter().map(holder).collect(),
        slow: slow
            .into_iter()
            .map(|(pid, seconds, query)| SlowStatement {
                pid,
                seconds,
                statement: shown(&query),
            })
            .collect(),
        tables: tables
            .into_iter()
            .map(|(table, live, dead, vacuumed_seconds_ago)| TableFigures {
                table,
                live,
                dead,
                vacuumed_seconds_ago,
            })
            .collect(),
    })
}

/// What keeps old rows, whatever it is.
fn transactions(
    open: Vec<Open>,
    (prepared, prepared_seconds, prepared_age): (i64, Option<f64>, Option<i32>),
    slot: Option<(String, bool, i32)>,
) -> Vec<OldTransaction> {
    let sessions = open.into_iter().map(
        |(pid, user, application, state, kind, seconds, xmin_age, query)| {
            let what = if kind == "walsender" {
                "the standby"
            } else {
                "the session"
            };
            OldTransaction {
                what: format!("{what} with pid {pid} ({})", who(&user, &application, &state)),
                seconds,
                xmin_age,
                statement: shown(&query),
            }
        },
    );
    let prepared = (prepared > 0).then(|| OldTransaction {
        what: format!("{prepared} prepared transactions (pg_prepared_xacts)"),
        seconds: prepared_seconds,
        xmin_age: prepared_age,
        statement: None,
    });
    let slot = slot.map(|(name, active, xmin_age)| OldTransaction {
        what: format!(
            "the replication slot {name} ({})",
            if active { "in use" } else { "not in use" }
        ),
        seconds: None,
        xmin_age: Some(xmin_age),
        statement: None,
    });
    sessions.chain(prepared).chain(slot).collect()
}

/// User, program and state of a session, as far as they are seen.
fn who(user: &str, application: &str, state: &str) -> String {
    let state = if state.is_empty() {
        "no permission to see its state: grant pg_read_all_stats"
    } else {
        state
    };
    let parts = [user, application, state];
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

fn wait((pid, seconds, query, blocker, user, application, state, open, held): WaiterRow) -> Wait {
    let blocked_by = if blocker == 0 {
        "a prepared transaction".to_owned()
    } else {
        format!("pid {blocker} ({})", who(&user, &application, &state))
    };
    Wait {
        pid,
        seconds: seconds.unwrap_or_default(),
        statement: shown(&query),
        blocked_by,
        blocker_open_seconds: open,
        blocker_statement: shown(&held),
    }
}

fn holder((pid, transaction, tables, user, application, state, seconds, query): HolderRow) -> Holder {
    Holder {
        key: HolderKey(pid, transaction),
        pid,
        who: who(&user, &application, &state),
        tables,
        seconds,
        statement: shown(&query),
    }
}

pub(super) async fn leases(
    on: &mut PgConnection,
    named: bool,
    lost_after: Duration,
    grace: Duration,
) -> Result<LeaseFigures, sqlx::Error> {
    let lost: Vec<(bool, Option<f64>, i64, Option<f64>)> = sqlx::query_as(LOST)
        .bind(millis(lost_after + grace))
        .persistent(named)
        .fetch_all(&mut *on)
        .await?;
    let (jobs, oldest, example): (i64, Option<f64>, Option<String>) = sqlx::query_as(OVERDUE)
        .bind(millis(lost_after + grace))
        .persistent(named)
        .fetch_one(&mut *on)
        .await?;
    Ok(LeaseFigures {
        lost: LostWork::sum(lost),
        overdue: Overdue {
            jobs,
            oldest,
            example,
        },
    })
}

pub(super) async fn queues(
    on: &mut PgConnection,
    named: bool,
    names: &[String],
    lost_after: Duration,
) -> Result<(Vec<QueueLook>, Vec<WorkerLook>), sqlx::Error> {
    let queues: Vec<QueueLook> = sqlx::query_as(QUEUES)
        .bind(names)
        .persistent(named)
        .fetch_all(&mut *on)
        .await?;
    let workers: Vec<(String, String)> = sqlx::query_as(WORKERS)
        .bind(millis(lost_after))
        .persistent(named)
        .fetch_all(&mut *on)
        .await?;
    Ok((
        queues,
        workers.into_iter().filter_map(WorkerLook::parse).collect(),
    ))
}

/// Settings of the server that decide whether accepted jobs survive and queues stay fast.
pub(super) async fn settings(
    on: &mut PgConnection,
    named: bool,
) -> Result<BTreeMap<String, String>, sqlx::Error> {
    let rows: Vec<(String, Option<String>)> = sqlx::query_as(
        "select name, setting from pg_settings where name in ('synchronous_commit', 'synchronous_standby_names', 'fsync',
             'full_page_writes', 'autovacuum', 'track_counts', 'idle_in_transaction_session_timeout', 'max_connections')
         union all
         select 'standbys', (select count(*)::text from pg_stat_replication)
         union all
         select 'standbys_sync', (select count(*)::text from pg_stat_replication where sync_state in ('sync', 'quorum'))
         union all
         select 'standbys_hidden', (select count(*)::text from pg_stat_replication where sync_state is null)
         union all
         select 'table_options', (select array_to_string(reloptions, ', ') from pg_class
                                  where oid = to_regclass('holdfast_jobs'))",
    )
    .persistent(named)
    .fetch_all(on)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(name, value)| (name, value.unwrap_or_default()))
        .collect())
}
