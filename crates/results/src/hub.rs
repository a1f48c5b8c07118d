//! The waiters of a process, and the one poll that they share.
//!
//! While anyone waits, the poll reads the versions of everything that is waited for, [`POLL_KEYS`] of them in a statement: every
//! [`POLL`], or every [`HEARING_POLL`] while the process hears the announcements of others over Redis.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::redis::RedisGate;
use holdfast_core::waiters::{TooManyWaiters, Waiter, Waiters};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::bell::Bell;
use crate::documents::pairs;

/// Between two polls while nothing announces the writes of other processes.
const POLL: Duration = Duration::from_millis(50);

/// Between two polls while Redis does. An announcement may be lost.
const HEARING_POLL: Duration = Duration::from_secs(1);

/// Documents and channels in one statement.
const POLL_KEYS: usize = 1_000;

/// Most documents and channels that the requests of a process wait for, some 500 bytes each.
pub const MAX_WAITED_FOR: usize = 100_000;

/// What may be waited for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Document(String),
    Channel(String),
}

/// With each key the version or the number that its reader has.
pub(crate) type Board = Waiters<Key, i64>;

#[derive(Debug)]
pub(crate) struct Hub {
    board: Arc<Board>,
    bell: Bell,
    _stop: DropGuard,
}

impl Hub {
    /// Starts the tasks; they do nothing while no request waits. Call it inside tokio.
    pub(crate) fn new(sql: Sql, gate: &RedisGate) -> Self {
        let (board, stop) = (Arc::new(Board::default()), CancellationToken::new());
        let bell = Bell::start(gate, &board, &stop);
        let polling = poll_while_anyone_waits(Arc::clone(&board), sql, bell.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(polling));
        Self {
            board,
            bell,
            _stop: stop.drop_guard(),
        }
    }

    /// A waiter for news of any of these.
    pub(crate) fn join(&self, keys: impl IntoIterator<Item = (Key, i64)>) -> Result<Waiter, TooManyWaiters> {
        let waiter = self.board.join_within(MAX_WAITED_FOR, keys)?;
        self.bell.listen();
        Ok(waiter)
    }

    /// There is news of these: those who wait in this process are woken, and those of other processes soon.
    pub(crate) fn announce(&self, keys: Vec<Key>) {
        self.board.notify(&keys);
        self.bell.ring(keys);
    }
}

async fn poll_while_anyone_waits(board: Arc<Board>, sql: Sql, bell: Bell) {
    loop {
        let wanted = board.wanted();
        if wanted.is_empty() {
            board.joined().await;
            continue;
        }
        for some in wanted.chunks(POLL_KEYS) {
            match news(&sql, some).await {
                Ok(news) => board.notify(&news),
                Err(error) => tracing::debug!(error = ?error, "cannot poll for results and messages"),
            }
        }
        let pause = if bell.is_heard() { HEARING_POLL } else { POLL };
        // What was written before the announcements of others could be heard is looked for at once.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = bell.changed() => {}
        }
    }
}

const POSTGRES: &str = "
select false as is_channel, r.id as name
from unnest($1::text[], $2::bigint[]) as g(id, known) join holdfast_results as r on r.id = g.id
where r.expires_at > now() and r.version <> g.known
union all
select true, c.name
from unnest($3::text[], $4::bigint[]) as g(name, known) join holdfast_channels as c on c.name = g.name
where c.last_seq <> g.known";

const SQLITE: &str = "
select 0 as is_channel, r.id as name
from json_each(?1) as g join holdfast_results as r on r.id = g.value ->> 0
where r.expires_at > cast(unixepoch('subsec') * 1000 as integer) and r.version <> g.value ->> 1
union all
select 1, c.name
from json_each(?2) as g join holdfast_channels as c on c.name = g.value ->> 0
where c.last_seq <> g.value ->> 1";

/// Those of which something else is stored than is known.
async fn news(sql: &Sql, wanted: &[(Key, i64)]) -> Result<HashSet<Key>, LedgerError> {
    let (mut documents, mut channels) = (Vec::new(), Vec::new());
    for (key, known) in wanted {
        match key {
            Key::Document(id) => documents.push((id.as_str(), *known)),
            Key::Channel(name) => channels.push((name.as_str(), *known)),
        }
    }
    let found = sql.within("look for results and messages", async {
        let mut tx = sql.begin_read().await?;
        let rows: Vec<(bool, String)> = match tx.on() {
            LedgerTx::Postgres(on) => {
                let (ids, versions): (Vec<&str>, Vec<i64>) = documents.iter().copied().unzip();
                let (names, seqs): (Vec<&str>, Vec<i64>) = channels.iter().copied().unzip();
                sqlx::query_as(POSTGRES)
                    .bind(ids)
                    .bind(versions)
                    .bind(names)
                    .bind(seqs)
                    .persistent(sql.named())
                    .fetch_all(on)
                    .await?
            }
            LedgerTx::Sqlite(on) => {
                sqlx::query_as(SQLITE)
                    .bind(pairs(documents.iter().copied()))
                    .bind(pairs(channels.iter().copied()))
                    .fetch_all(on)
                    .await?
            }
        };
        tx.commit().await?;
        Ok(rows)
    });
    let key = |(is_channel, name)| {
        if is_channel {
            Key::Channel(name)
        } else {
            Key::Document(name)
        }
    };
    Ok(found.await?.into_iter().map(key).collect())
}
