//! The rows of declared kinds and queues, on either database.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_core::sql::dialect::{moment, on_either, rows};

use super::{DeclaredKind, KindDefinition, MAX_KINDS, MAX_QUEUES, Snapshot};
use crate::LedgerTx;
use crate::ledger::LedgerError;
use crate::sql::Sql;

const VERSION: &str = "select version from holdfast_declarations where id = 1";

const RAISE: &str = "insert into holdfast_declarations (id, version) values (1, 1)
    on conflict (id) do update set version = holdfast_declarations.version + 1";

const KINDS: &str = "select name, queue, @text(definition), @ms(created_at), @ms(updated_at)
    from holdfast_kinds order by name limit $1";

const QUEUES: &str = "select name from holdfast_queues where served_by is not null order by name limit $1";

const OTHERS: &str = "select count(*), cast(coalesce(sum(length(@text(definition))), 0) as bigint)
    from holdfast_kinds where name <> $1";

const PUT_KIND: &str = "insert into holdfast_kinds (name, queue, definition, created_at, updated_at)
    values ($1, $2, cast($3 as @json), @now, @now)
    on conflict (name) do update set queue = excluded.queue, definition = excluded.definition, updated_at = excluded.updated_at";

const DELETE_KIND: &str = "delete from holdfast_kinds where name = $1";

const PUT_QUEUE: &str = "insert into holdfast_queues (name, served_by, updated_at) values ($1, 'pull', @now)
    on conflict (name) do update set served_by = excluded.served_by, updated_at = excluded.updated_at";

/// The row stays: it may be paused, or have limits.
const DELETE_QUEUE: &str = "update holdfast_queues set served_by = null, updated_at = @now where name = $1 and served_by is not null";

const KIND_OF_QUEUE: &str = "select name from holdfast_kinds where queue = $1 order by name limit 1";

const JOB_OF_QUEUE: &str =
    "select id from holdfast_jobs where queue = $1 and state in ('available', 'running') limit 1";

type KindRow = (String, String, String, i64, i64);

/// What is declared, unless that is still what this version was.
pub(super) async fn read_unless(sql: &Sql, known: Option<i64>) -> Result<Option<Snapshot>, LedgerError> {
    sql.within("read the declared kinds", async {
        let mut tx = sql.begin_read().await?;
        let version: Option<(i64,)> = on_either!(
            tx.on(),
            sql.named,
            query_as::<(i64,)>(VERSION),
            [],
            fetch_optional
        )?;
        let version = version.map_or(0, |(version,)| version);
        if known == Some(version) {
            tx.commit().await?;
            return Ok(None);
        }
        // A change that is committed between these statements is read again at its version.
        let kinds: Vec<KindRow> = on_either!(
            tx.on(),
            sql.named,
            query_as::<KindRow>(KINDS),
            [rows(MAX_KINDS)],
            fetch_all
        )?;
        let queues: Vec<(String,)> = on_either!(
            tx.on(),
            sql.named,
            query_as::<(String,)>(QUEUES),
            [rows(MAX_QUEUES)],
            fetch_all
        )?;
        tx.commit().await?;
        Ok(Some(Snapshot {
            version: Some(version),
            kinds: kinds.into_iter().filter_map(kind_of).collect::<BTreeMap<_, _>>(),
            queues: queues.into_iter().map(|(name,)| Arc::from(name)).collect(),
        }))
    })
    .await
}

fn kind_of((name, queue, definition, created, updated): KindRow) -> Option<(Arc<str>, Arc<DeclaredKind>)> {
    let read = serde_json::from_str::<KindDefinition>(&definition)
        .map_err(|error| error.to_string())
        .and_then(|definition| {
            let definition = KindDefinition { queue, ..definition };
            DeclaredKind::new(&name, definition, moment(created), moment(updated))
                .map_err(|(_, reason)| reason)
        });
    match read {
        Ok(kind) => Some((Arc::clone(&kind.name), Arc::new(kind))),
        Err(error) => {
            tracing::error!(job.kind = %name, error, "a declared kind cannot be read and is left out");
            None
        }
    }
}

/// Begins a change: the others wait.
pub(super) async fn raise(on: LedgerTx<'_>, named: bool) -> Result<(), sqlx::Error> {
    on_either!(on, named, query(RAISE), [], execute).map(|_: u64| ())
}

/// How many other kinds there are, and the length of their definitions.
pub(super) async fn others(on: LedgerTx<'_>, named: bool, name: &str) -> Result<(i64, i64), sqlx::Error> {
    let found: Option<(i64, i64)> =
        on_either!(on, named, query_as::<(i64, i64)>(OTHERS), [name], fetch_optional)?;
    Ok(found.unwrap_or_default())
}

pub(super) async fn put_kind(
    on: LedgerTx<'_>,
    named: bool,
    name: &str,
    queue: &str,
    definition: &str,
) -> Result<(), sqlx::Error> {
    on_either!(on, named, query(PUT_KIND), [name, queue, definition], execute).map(|_: u64| ())
}

pub(super) async fn delete_kind(on: LedgerTx<'_>, named: bool, name: &str) -> Result<bool, sqlx::Error> {
    on_either!(on, named, query(DELETE_KIND), [name], execute).map(|rows: u64| rows > 0)
}

/// The declared kinds' and queues' names, as the transaction sees them.
pub(super) async fn queues(mut on: LedgerTx<'_>, named: bool) -> Result<Vec<String>, sqlx::Error> {
    let found: Vec<(String,)> = on_either!(
        on.reborrow(),
        named,
        query_as::<(String,)>(QUEUES),
        [rows(MAX_QUEUES)],
        fetch_all
    )?;
    Ok(found.into_iter().map(|(name,)| name).collect())
}

pub(super) async fn put_queue(on: LedgerTx<'_>, named: bool, name: &str) -> Result<(), sqlx::Error> {
    on_either!(on, named, query(PUT_QUEUE), [name], execute).map(|_: u64| ())
}

pub(super) async fn delete_queue(on: LedgerTx<'_>, named: bool, name: &str) -> Result<bool, sqlx::Error> {
    on_either!(on, named, query(DELETE_QUEUE), [name], execute).map(|rows: u64| rows > 0)
}

/// What stands in the way of a queue's end: a kind, or a job that has not ended.
pub(super) async fn user_of(
    mut on: LedgerTx<'_>,
    named: bool,
    queue: &str,
) -> Result<Option<String>, sqlx::Error> {
    let kind: Option<(String,)> = on_either!(
        on.reborrow(),
        named,
        query_as::<(String,)>(KIND_OF_QUEUE),
        [queue],
        fetch_optional
    )?;
    if let Some((kind,)) = kind {
        return Ok(Some(format!("the kind {kind} names it")));
    }
    let job: Option<(uuid::Uuid,)> = on_either!(
        on,
        named,
        query_as::<(uuid::Uuid,)>(JOB_OF_QUEUE),
        [queue],
        fetch_optional
    )?;
    Ok(job.map(|_| "it has jobs that have not ended".to_owned()))
}
