//! The claim: the partial index, walked once for each priority from the [frontier](super::frontier) on; rows are taken with
//! `FOR UPDATE SKIP LOCKED`, so that workers never wait for one another.
//!
//! The statement locks the worker's row too, `FOR KEY SHARE`, once it has found a job (so that a claim that finds none writes
//! nothing): whoever is to delete that row waits until the jobs are running for all to see, and a claim that comes to a row that is
//! deleted takes nothing (`docs/adr/0008-the-lease-is-a-lock.md`).
//!
//! A claim first makes the look that is due, if one is. What it finds there is its answer; otherwise it goes on from the
//! frontier. Looks, and claims in slices, have the server's statement timeout at [`super::frontier::LOOK_BOUND`].

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::failure::{SqlFailureKind, classify_sql};
use holdfast_core::sql::Bounds;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::PostgresLedger;
use super::frontier::{Look, LookResult, Onward, SpanResult};
use super::position::{From, Levels, Position, Span, bind_since};
use super::rows::millis;
use crate::ledger::{ClaimedJob, LedgerError, MAX_STATEMENT_ROWS, Priority};
use crate::limits::ClaimRequest;
use crate::sql::limit;

/// The lock of the worker's row, once something was picked.
macro_rules! lease {
    () => {
        "lease as materialized (
    select id from holdfast_workers
    where id = $2 and seen_at > now() - $4 * interval '1 millisecond' and exists (select from picked)
    for key share)"
    };
}

/// What a claim does with the rows that it picked, and what it answers.
macro_rules! take_picked {
    () => {
        "update holdfast_jobs
set state = 'running', worker = $2, started_at = case when crashes = 0 then now() end
where id = any (array (select id from picked)) and exists (select from lease)
returning id, kind, payload::text as payload, attempt, crashes, max_attempts, timeout_ms, options::text as options,
          priority, run_at, snoozes, doubtful, batch_id"
    };
}

/// From a place on, up to what is due. The second `least` is the frontier's margin, whatever the frontier says.
const CLAIM: &str = concat!(
    "
with picked as materialized (
    select due.id
    from (values (0::smallint, coalesce($5::timestamptz, '-infinity'), $6::uuid),
                 (1::smallint, coalesce($7::timestamptz, '-infinity'), $8::uuid),
                 (2::smallint, coalesce($9::timestamptz, '-infinity'), $10::uuid)) as level(priority, since, since_id)
    cross join lateral (
        select id from holdfast_jobs
        where state = 'available' and queue = $1 and priority = level.priority
          and (run_at, id) >= (least(level.since, now() - interval '1 second'),
                               coalesce(level.since_id, '00000000-0000-0000-0000-000000000000'))
          and run_at <= now()
        order by run_at, id
        limit $3
        for update skip locked) as due
    where exists (select from holdfast_workers
                  where id = $2 and seen_at > now() - $4 * interval '1 millisecond')
      and (select holdfast_queue_is_open_2($1))
    limit $3),
",
    lease!(),
    "
",
    take_picked!(),
    ", now() as claimed_at"
);

/// Within spans. Answers one row at least: an empty answer of a claim that was let in means that nothing is due there.
const LOOK: &str = concat!(
    "
with allowed as materialized (
    select exists (select from holdfast_workers
                   where id = $2 and seen_at > now() - $4 * interval '1 millisecond')
       and (select holdfast_queue_is_open_2($1)) as ok),
picked as materialized (
    select due.id
    from unnest('{0,1,2}'::smallint[], $5::timestamptz[], $6::uuid[], $7::timestamptz[], $8::uuid[])
      as level(priority, since, since_id, until, until_id)
    cross join lateral (
        select id from holdfast_jobs
        where state = 'available' and queue = $1 and priority = level.priority
          and (run_at, id) >= (coalesce(level.since, '-infinity'),
                               coalesce(level.since_id, '00000000-0000-0000-0000-000000000000'))
          and (run_at, id) < (coalesce(level.until, 'infinity'),
                              coalesce(level.until_id, '00000000-0000-0000-0000-000000000000'))
          and run_at <= now()
        order by run_at, id
        limit $3
        for update skip locked) as due
    where (select ok from allowed)
    limit $3),
",
    lease!(),
    ",
taken as (
",
    take_picked!(),
    ")
select (select ok from allowed) and (exists (select from lease) or not exists (select from picked)) as allowed,
       now() as claimed_at, taken.*
from (values (true)) as answer left join taken on true"
);

/// Nested-loop by construction: a few probes of the partial index for each queue, whatever the backlog.
const PEEK: &str = "
select queue, (extract(epoch from min(run_at) - now()) * 1000)::float8 as due_ms
from unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::timestamptz[], $5::uuid[], $6::timestamptz[], $7::uuid[])
  as q(queue, high, high_id, normal, normal_id, low, low_id)
cross join lateral (values (0::smallint, coalesce(q.high, '-infinity'), q.high_id),
                           (1::smallint, coalesce(q.normal, '-infinity'), q.normal_id),
                           (2::smallint, coalesce(q.low, '-infinity'), q.low_id)) as level(priority, since, since_id)
cross join lateral (
    select run_at from holdfast_jobs
    where state = 'available' and queue = q.queue and priority = level.priority
      and (run_at, id) >= (least(level.since, now() - interval '1 second'),
                           coalesce(level.since_id, '00000000-0000-0000-0000-000000000000'))
    order by run_at, id
    limit 1) as first
where not exists (select from holdfast_queues where name = q.queue and (paused or limited))
  and not exists (select from holdfast_key_overrides as o where o.queue = q.queue and o.expires_at > now())
group by queue";

/// A row is written when the frontier has moved far enough, by any process: beside an old transaction each write leaves a
/// version that every reader walks past.
const PUBLISH: &str = "
insert into holdfast_frontiers as f (queue, priority, run_at, job)
select $1, * from unnest($2::smallint[], $3::timestamptz[], $4::uuid[])
on conflict (queue, priority) do update set run_at = excluded.run_at, job = excluded.job
where f.run_at < excluded.run_at - interval '10 seconds' or f.run_at > now()";

const PUBLISHED: &str =
    "select priority, run_at, job from holdfast_frontiers where queue = $1 and run_at <= now()";

/// How long a claim goes on in slices that find nothing, before it answers.
const SLICES: Duration = Duration::from_secs(1);

impl PostgresLedger {
    /// See [`crate::ledger::Ledger::claim`].
    pub(super) async fn claim_jobs(&self, asked: ClaimRequest<'_>) -> Result<Vec<ClaimedJob>, LedgerError> {
        if self.frontiers.is_new(asked.queue) {
            self.frontiers
                .load(asked.queue, self.published(asked.queue).await);
        }
        let looked = match self.frontiers.next_look(asked.queue) {
            None => None,
            Some(Look::Whole) => self.look_at_whole(asked).await?,
            // An empty slice says nothing of what is due beyond the frontier.
            Some(Look::Slice(spans)) => {
                Some(self.look_behind(asked, spans).await?).filter(|jobs| !jobs.is_empty())
            }
        };
        let mut jobs = match looked {
            Some(jobs) => jobs,
            None => self.claim_onward(asked).await?,
        };
        self.publish(asked.queue);
        // UPDATE … RETURNING has no order of its own.
        jobs.sort_by_key(|job| (job.priority, job.run_at, job.id));
        Ok(jobs)
    }

    /// `None`: it did not end in time.
    async fn look_at_whole(&self, asked: ClaimRequest<'_>) -> Result<Option<Vec<ClaimedJob>>, LedgerError> {
        let (jobs, end) = self
            .claim_within(asked, [Span::WHOLE; Priority::ALL.len()])
            .await?;
        let at = match &end {
            End::Ended { at, .. } => *at,
            End::Refused => DateTime::UNIX_EPOCH,
            End::TimedOut { .. } => {
                tracing::debug!(
                    queue = asked.queue,
                    "scanning the whole queue takes too long: scanning it in slices"
                );
                self.server_now().await?
            }
        };
        let looked = end.looked(&jobs);
        self.frontiers.looked_at_whole(asked.queue, looked, at);
        Ok((!matches!(looked, LookResult::TimedOut { .. })).then_some(jobs))
    }

    async fn look_behind(
        &self,
        asked: ClaimRequest<'_>,
        spans: Levels<Span>,
    ) -> Result<Vec<ClaimedJob>, LedgerError> {
        let (jobs, end) = self.claim_within(asked, spans).await?;
        self.frontiers
            .looked_behind(asked.queue, spans, end.looked(&jobs));
        Ok(jobs)
    }

    async fn claim_onward(&self, asked: ClaimRequest<'_>) -> Result<Vec<ClaimedJob>, LedgerError> {
        let began = Instant::now();
        loop {
            let spans = match self.frontiers.onward(asked.queue) {
                Onward::Slice(spans) => spans,
                Onward::Plain(from) => {
                    if let Some(jobs) = self.claim_from(asked, from).await? {
                        return Ok(jobs);
                    }
                    let (published, at) = (self.published(asked.queue).await, self.server_now().await?);
                    self.frontiers.stalled(asked.queue, published, at);
                    continue;
                }
            };
            let (jobs, end) = self.claim_within(asked, spans).await?;
            let looked = end.looked(&jobs);
            self.frontiers.went_on(asked.queue, spans, looked);
            let is_over = matches!(looked, LookResult::Refused) || began.elapsed() > SLICES;
            if !jobs.is_empty() || is_over || matches!(self.frontiers.onward(asked.queue), Onward::Plain(_)) {
                return Ok(jobs);
            }
        }
    }

    /// One plain claim. `None`: the server has ended it for taking too long.
    async fn claim_from(
        &self,
        asked: ClaimRequest<'_>,
        from: From,
    ) -> Result<Option<Vec<ClaimedJob>>, LedgerError> {
        let began = Instant::now();
        let claimed = self
            .within("claim jobs", async |on| {
                let query = self
                    .query(CLAIM)
                    .bind(asked.queue)
                    .bind(asked.worker.as_uuid())
                    .bind(limit(room(asked)))
                    .bind(millis(asked.lost_after));
                ended_in_time(bind_since(query, from).fetch_all(on).await)
            })
            .await?;
        let Some(rows) = claimed else { return Ok(None) };
        let jobs = read_all(asked.queue, &rows)?;
        let at = claimed_at(asked.queue, rows.first())?;
        let is_full = rows.len() >= room(asked);
        self.frontiers
            .claimed(asked.queue, &jobs, is_full, at, began.elapsed());
        Ok(Some(jobs))
    }

    /// A claim within spans, with the bound of a look.
    async fn claim_within(
        &self,
        asked: ClaimRequest<'_>,
        spans: Levels<Span>,
    ) -> Result<(Vec<ClaimedJob>, End), LedgerError> {
        let began = Instant::now();
        let since = spans.map(|span| span.since);
        let until = spans.map(|span| span.until);
        let rows = self
            .bounded("look at a queue", self.frontiers.bound, async |on| {
                self.query(LOOK)
                    .bind(asked.queue)
                    .bind(asked.worker.as_uuid())
                    .bind(limit(room(asked)))
                    .bind(millis(asked.lost_after))
                    .bind(since.map(|at| at.map(Position::time)).to_vec())
                    .bind(since.map(|at| at.map(Position::id)).to_vec())
                    .bind(until.map(|at| at.map(Position::time)).to_vec())
                    .bind(until.map(|at| at.map(Position::id)).to_vec())
                    .fetch_all(on)
                    .await
            })
            .await?;
        let took = began.elapsed();
        let Some(rows) = rows else {
            return Ok((Vec::new(), End::TimedOut { took }));
        };
        let read = |error| unreadable(asked.queue, &error);
        let allowed = rows
            .first()
            .map(|row| row.try_get("allowed"))
            .transpose()
            .map_err(read)?;
        let at = claimed_at(asked.queue, rows.first())?;
        let (true, Some(at)) = (allowed.unwrap_or(false), at) else {
            return Ok((Vec::new(), End::Refused));
        };
        let mut taken = &rows[..];
        if let [only] = taken
            && only.try_get::<Option<Uuid>, _>("id").map_err(read)?.is_none()
        {
            taken = &[];
        }
        let jobs = read_all(asked.queue, taken)?;
        let is_full = taken.len() >= room(asked);
        Ok((jobs, End::Ended { is_full, at, took }))
    }

    /// Does `work` in a transaction whose statements the server ends at the bound. `None`: it has.
    pub(super) async fn bounded<T>(
        &self,
        doing: &'static str,
        bound: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<Option<T>, LedgerError> {
        let bounds = Bounds::SETTINGS.statement(bound);
        match self.within_bounds(doing, bounds, work).await {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.is_statement_timeout() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn server_now(&self) -> Result<DateTime<Utc>, LedgerError> {
        self.within("read the clock", async |on| {
            self.query_scalar("select now()").fetch_one(on).await
        })
        .await
    }

    /// What other processes have published of a queue. A frontier only saves work, so a failure is none.
    async fn published(&self, queue: &str) -> From {
        let read = self
            .bounded("read a frontier", self.frontiers.bound, async |on| {
                let rows: Vec<(i16, DateTime<Utc>, Uuid)> =
                    self.query_as(PUBLISHED).bind(queue).fetch_all(on).await?;
                Ok(rows)
            })
            .await;
        let mut from = From::default();
        match read {
            Ok(rows) => {
                for (priority, run_at, job) in rows.into_iter().flatten() {
                    let place = usize::try_from(priority)
                        .ok()
                        .and_then(|priority| from.get_mut(priority));
                    if let Some(place) = place {
                        *place = Some(Position::of(run_at, crate::id::JobId::from_uuid(job)));
                    }
                }
            }
            Err(error) => tracing::debug!(queue, error = ?error, "cannot read a frontier"),
        }
        from
    }

    /// Publishes the frontier of a queue if it is time to, beside the claim, which does not wait for it.
    fn publish(&self, queue: &str) {
        let Some(from) = self.frontiers.to_publish(queue) else {
            return;
        };
        let (ledger, queue) = (self.clone(), queue.to_owned());
        tokio::spawn(async move {
            let known: Vec<_> = Priority::ALL.into_iter().zip(from).collect();
            let known = || {
                known
                    .iter()
                    .filter_map(|(priority, at)| Some((*priority, (*at)?)))
            };
            let written = ledger
                .bounded("publish a frontier", ledger.frontiers.bound, async |on| {
                    ledger
                        .query(PUBLISH)
                        .bind(&queue)
                        .bind(known().map(|(priority, _)| priority.rank()).collect::<Vec<_>>())
                        .bind(known().map(|(_, at)| at.time()).collect::<Vec<_>>())
                        .bind(known().map(|(_, at)| at.id()).collect::<Vec<_>>())
                        .execute(on)
                        .await
                })
                .await;
            if let Err(error) = written {
                tracing::debug!(queue, error = ?error, "cannot publish a frontier");
            }
        });
    }

    /// See [`crate::ledger::Ledger::peek`]. A peek that takes too long reports every queue as due: their claims are bounded
    /// one by one, and find out.
    pub(super) async fn peek_queues(
        &self,
        queues: &[String],
    ) -> Result<BTreeMap<String, Duration>, LedgerError> {
        let began = Instant::now();
        let from: Vec<From> = queues
            .iter()
            .map(|queue| self.frontiers.peek_from(queue))
            .collect();
        let peeked = self
            .bounded("look for due jobs", self.frontiers.bound, async |on| {
                let mut query = self.query_as(PEEK).bind(queues);
                for level in 0..Priority::ALL.len() {
                    let places = from.iter().map(|from| from[level]);
                    query = query
                        .bind(
                            places
                                .clone()
                                .map(|at| at.map(Position::time))
                                .collect::<Vec<_>>(),
                        )
                        .bind(places.map(|at| at.map(Position::id)).collect::<Vec<_>>());
                }
                let rows: Vec<(String, f64)> = query.fetch_all(on).await?;
                Ok(rows)
            })
            .await?;
        let Some(rows) = peeked else {
            return Ok(queues
                .iter()
                .map(|queue| (queue.clone(), Duration::ZERO))
                .collect());
        };
        let took = began.elapsed();
        let due_in =
            |due_ms: f64| Duration::try_from_secs_f64(due_ms.max(0.0) / 1_000.0).unwrap_or(Duration::MAX);
        let mut due: BTreeMap<String, Duration> = rows
            .into_iter()
            .map(|(queue, due_ms)| (queue, due_in(due_ms)))
            .collect();
        for (queue, from) in queues.iter().zip(from) {
            let is_due = due.get(queue).is_some_and(Duration::is_zero);
            self.frontiers.peeked(queue, from, is_due, took);
            if self.frontiers.is_look_due(queue) {
                due.insert(queue.clone(), Duration::ZERO);
            }
        }
        Ok(due)
    }
}

/// How a claim within spans ended.
enum End {
    Ended {
        is_full: bool,
        at: DateTime<Utc>,
        took: Duration,
    },
    Refused,
    TimedOut {
        took: Duration,
    },
}

impl End {
    fn looked(self, jobs: &[ClaimedJob]) -> LookResult<'_> {
        match self {
            Self::Ended { is_full, at, took } => LookResult::Ended(SpanResult {
                jobs,
                is_full,
                at,
                took,
            }),
            Self::Refused => LookResult::Refused,
            Self::TimedOut { took } => LookResult::TimedOut { took },
        }
    }
}

fn room(asked: ClaimRequest<'_>) -> usize {
    asked.room.min(MAX_STATEMENT_ROWS)
}

/// `None`: the server has ended the statement for taking too long. That is an answer, not a failure: nothing was applied.
fn ended_in_time<T>(result: Result<T, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if classify_sql(&error).kind == SqlFailureKind::Timeout => Ok(None),
        Err(error) => Err(error),
    }
}

fn unreadable(queue: &str, error: &sqlx::Error) -> LedgerError {
    LedgerError::Corrupt(format!("a claim of queue {queue:?}: {error}"))
}

fn claimed_at(queue: &str, row: Option<&PgRow>) -> Result<Option<DateTime<Utc>>, LedgerError> {
    row.map(|row| row.try_get("claimed_at"))
        .transpose()
        .map_err(|error| unreadable(queue, &error))
}

fn read_all(queue: &str, rows: &[PgRow]) -> Result<Vec<ClaimedJob>, LedgerError> {
    rows.iter()
        .map(ClaimedJob::from_row)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(queue, &error))
}
