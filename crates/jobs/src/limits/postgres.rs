//! How limits are set, read and forgotten on PostgreSQL. The claim is in `postgres_claim`.

use sqlx::postgres::PgConnection;

use crate::sql::limit;

pub(super) async fn is_limited(on: &mut PgConnection, named: bool, queue: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from holdfast_queues where name = $1 and limited)
             or exists (select from holdfast_key_overrides where queue = $1 and expires_at > clock_timestamp())",
    )
        .bind(queue)
        .persistent(named)
        .fetch_one(on)
        .await
}

/// For the rest of the transaction only indexes are walked, in their order: the table of jobs may be large.
pub(super) async fn walk_indexes(on: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off; set local jit = off",
    )
    .execute(on)
    .await?;
    Ok(())
}

pub(super) async fn configure(
    on: &mut PgConnection,
    named: bool,
    queue: &str,
    limits: &str,
    limited: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into holdfast_queues as q (name, configured, limited) values ($1, $2::jsonb, $3)
         on conflict (name) do update
         set configured = excluded.configured,
             limited = case when q.overridden is null then excluded.limited else q.limited end,
             updated_at = now()",
    )
    .bind(queue)
    .bind(limits)
    .bind(limited)
    .persistent(named)
    .execute(on)
    .await?;
    Ok(())
}

/// `limited` is what the override says; without one, the configured limits say it: an empty one is `{}` but for nulls.
pub(super) async fn set_override(
    on: &mut PgConnection,
    named: bool,
    queue: &str,
    limits: Option<&str>,
    limited: Option<bool>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into holdfast_queues as q (name, overridden, limited) values ($1, $2::jsonb, coalesce($3, false))
         on conflict (name) do update
         set overridden = excluded.overridden,
             limited = coalesce($3, jsonb_strip_nulls(coalesce(q.configured, '{}')) <> '{}'),
             rate_full_at = null,
             updated_at = now()",
    )
    .bind(queue)
    .bind(limits)
    .bind(limited)
    .persistent(named)
    .execute(on)
    .await?;
    Ok(())
}

pub(super) async fn all(
    on: &mut PgConnection,
    named: bool,
) -> Result<Vec<(String, Option<String>, Option<String>)>, sqlx::Error> {
    sqlx::query_as(
        "select name, configured::text, overridden::text from holdfast_queues
         where configured is not null or overridden is not null",
    )
    .persistent(named)
    .fetch_all(on)
    .await
}

pub(super) async fn prune(on: &mut PgConnection, named: bool, most: usize) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "delete from holdfast_limit_buckets where (queue, key) in (
             select queue, key from holdfast_limit_buckets where full_at < clock_timestamp()
             order by full_at limit $1 for update skip locked)",
    )
    .bind(limit(most))
    .persistent(named)
    .execute(on)
    .await?;
    Ok(done.rows_affected())
}
