//! What SQLite is asked. The file has no other sessions to see; what shows there is the size of its log, which grows while a reader
//! of any process keeps it from being folded in.

use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use super::figures::{FileFigures, LeaseFigures, LostWork, Overdue, QueueLook, WorkerLook};
use crate::sql::{millis, sqlite_now};

const LOST: &str = concat!(
    "with recursive ids(worker) as (
         select min(worker) from holdfast_jobs where state = 'running'
         union all
         select (select min(j.worker) from holdfast_jobs as j where j.state = 'running' and j.worker > ids.worker)
         from ids where ids.worker is not null),
     lost as (
         select s.worker, w.id is null as gone, (", sqlite_now!(), " - w.seen_at) / 1000.0 as silent
         from (select worker from ids where worker is not null limit 10000) as s
         left join holdfast_workers as w on w.id = s.worker
         where w.id is null or w.seen_at < ", sqlite_now!(), " - ?1 limit 100)
     select l.gone, l.silent,
            (select count(*) from (select 1 from holdfast_jobs where state = 'running' and worker = l.worker limit 1000)),
            (select (", sqlite_now!(), " - min(started_at)) / 1000.0
             from (select started_at from holdfast_jobs where state = 'running' and worker = l.worker limit 1000))
     from lost as l"
);

const OVERDUE: &str = concat!(
    "select count(*), (", sqlite_now!(), " - min(started_at)) / 1000.0, min(lower(hex(id)))
     from (select id, started_at, timeout_ms from holdfast_jobs where state = 'running' order by worker, queue limit 5000)
     where started_at < ", sqlite_now!(), " - timeout_ms - ?1"
);

/// A queue with a paused key counts as paused: its oldest job may be of that key. One with another override is limited.
const QUEUES: &str = concat!(
    "select q.value,
            coalesce(h.paused, 0) or exists (
                select 1 from holdfast_key_overrides as o where o.queue = q.value and o.paused and o.expires_at > ",
    sqlite_now!(),
    "       ),
            coalesce(h.limited, 0) or exists (
                select 1 from holdfast_key_overrides as o where o.queue = q.value and o.expires_at > ",
    sqlite_now!(),
    "       ),
            coalesce(h.overridden, h.configured),
            (select (",
    sqlite_now!(),
    " - min(x.run_at)) / 1000.0
             from (select (select j.run_at from holdfast_jobs as j
                           where j.state = 'available' and j.queue = q.value and j.priority = p.value
                             and j.run_at <= ",
    sqlite_now!(),
    " order by j.run_at, j.id limit 1) as run_at
                   from json_each('[0, 1, 2]') as p) as x)
     from json_each(?1) as q left join holdfast_queues as h on h.name = q.value"
);

const WORKERS: &str = concat!(
    "select queues, stats from holdfast_workers where seen_at >= ",
    sqlite_now!(),
    " - ?1 limit 1000"
);

pub(super) async fn file(on: &mut SqliteConnection) -> Result<FileFigures, sqlx::Error> {
    let path: Option<String> =
        sqlx::query_scalar("select file from pragma_database_list where name = 'main'")
            .fetch_optional(on)
            .await?;
    let log = path
        .filter(|path| !path.is_empty())
        .map(|path| format!("{path}-wal"));
    let log_bytes = log
        .and_then(|log| std::fs::metadata(log).ok())
        .map_or(0, |file| file.len());
    Ok(FileFigures { log_bytes })
}

pub(super) async fn leases(
    on: &mut SqliteConnection,
    lost_after: Duration,
    grace: Duration,
) -> Result<LeaseFigures, sqlx::Error> {
    let lost: Vec<(bool, Option<f64>, i64, Option<f64>)> = sqlx::query_as(LOST)
        .bind(millis(lost_after + grace))
        .fetch_all(&mut *on)
        .await?;
    let (jobs, oldest, example): (i64, Option<f64>, Option<String>) = sqlx::query_as(OVERDUE)
        .bind(millis(lost_after + grace))
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
    on: &mut SqliteConnection,
    names: &[String],
    lost_after: Duration,
) -> Result<(Vec<QueueLook>, Vec<WorkerLook>), sqlx::Error> {
    let names = serde_json::to_string(names).unwrap_or_default();
    let queues: Vec<QueueLook> = sqlx::query_as(QUEUES).bind(names).fetch_all(&mut *on).await?;
    let workers: Vec<(String, String)> = sqlx::query_as(WORKERS)
        .bind(millis(lost_after))
        .fetch_all(&mut *on)
        .await?;
    Ok((
        queues,
        workers.into_iter().filter_map(WorkerLook::parse).collect(),
    ))
}
