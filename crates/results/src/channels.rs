//! Channels and their messages.
//!
//! # Invariants
//! - A message is numbered under the lock of its channel's row, which is held until the commit: numbers have no gaps, and become visible
//!   in their order.
//! - The first number of a channel is at least the clock of the database in microseconds, so that a channel which was swept and begins
//!   again has greater numbers than before. What a reader has from before then counts as nothing missed.
//! - A channel holds [`MAX_MESSAGES`] messages, and [`MAX_BYTES`] of them and of one call, at most: the oldest go.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_core::sql::dialect::{millis, on_either, rows};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use sqlx::{PgConnection, SqliteConnection};

/// Most messages of a channel.
pub(crate) const MAX_MESSAGES: i64 = 10_000;

/// Most bytes of the messages of a channel, beside those of the newest call.
pub(crate) const MAX_BYTES: i64 = 16 * 1_048_576;

/// Bytes of messages that one read answers at most, shared among its channels, but for the first message of each.
const READ_BYTES: usize = 8 * 1_048_576;

/// A message as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub seq: i64,
    pub body: String,
}

/// What a reader of a channel is answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelPage {
    pub messages: Vec<Message>,
    /// Where to go on from.
    pub last: i64,
    /// Some messages between where the reader was and `last` have expired.
    pub missed: bool,
    is_beginning: bool,
}

impl ChannelPage {
    /// Whether there is something to answer.
    pub(crate) fn is_news(&self) -> bool {
        self.is_beginning || self.missed || !self.messages.is_empty()
    }
}

const NUMBER: &str = "
insert into holdfast_channels (name, base_seq, last_seq, bytes, expires_at)
select $1, start, start + $2, $3, @ahead($4) from (select @ms(@now) * 1000 as start) as clock where true
on conflict (name) do update set last_seq = holdfast_channels.last_seq + $2, bytes = holdfast_channels.bytes + $3,
    expires_at = case when holdfast_channels.expires_at > excluded.expires_at then holdfast_channels.expires_at
                 else excluded.expires_at end
returning last_seq, bytes";

const POSTGRES_INSERT: &str = "
insert into holdfast_channel_messages (channel, seq, body, total_bytes, expires_at)
select $1, seq, body, total_bytes, now() + $5 * interval '1 millisecond'
from unnest($2::bigint[], $3::text[], $4::bigint[]) as g(seq, body, total_bytes)";

const SQLITE_INSERT: &str = "
insert into holdfast_channel_messages (channel, seq, body, total_bytes, expires_at)
values (?1, ?2, ?3, ?4, cast(unixepoch('subsec') * 1000 as integer) + ?5)";

const DELETE_OLDEST: &str = "delete from holdfast_channel_messages where channel = $1 and seq <= $2";

/// Looks at the oldest first: where that may stay, the others are not read.
const DELETE_BYTES: &str = "
delete from holdfast_channel_messages
where (select total_bytes from holdfast_channel_messages where channel = $1 order by seq limit 1) <= $2
  and channel = $1 and total_bytes <= $2";

/// One row for each message, and one for a channel without any.
const POSTGRES_READ: &str = "
select g.name, c.base_seq, c.last_seq, m.seq, case when m.running - m.bytes < $4 then m.body end
from unnest($1::text[], $2::bigint[]) as g(name, seen)
join holdfast_channels as c on c.name = g.name
left join lateral (
    select seq, body, octet_length(body)::bigint as bytes,
           (sum(octet_length(body)) over (order by seq))::bigint as running
    from (select seq, body from holdfast_channel_messages
          where channel = g.name and seq > g.seen and expires_at > now() order by seq limit $3) as picked) as m on true
order by g.name, m.seq";

const SQLITE_CHANNEL: &str = "select base_seq, last_seq from holdfast_channels where name = ?1";

const SQLITE_MESSAGES: &str = "
select seq, case when running - bytes < ?4 then body end
from (select seq, body, octet_length(body) as bytes, sum(octet_length(body)) over (order by seq) as running
      from (select seq, body from holdfast_channel_messages
            where channel = ?1 and seq > ?2 and expires_at > cast(unixepoch('subsec') * 1000 as integer)
            order by seq limit ?3))
order by seq";

pub(crate) async fn post(
    sql: &Sql,
    channel: &str,
    messages: &[String],
    ttl: Duration,
) -> Result<i64, LedgerError> {
    let bytes = rows(messages.iter().map(String::len).sum());
    let (count, ttl) = (rows(messages.len()), millis(ttl));
    sql.within("post messages", async {
        let mut tx = sql.begin().await?;
        let numbered = on_either!(
            tx.on(),
            sql.named(),
            query_as::<(i64, i64)>(NUMBER),
            [channel, count, bytes, ttl],
            fetch_optional
        )?;
        let (last, total) = numbered.ok_or(sqlx::Error::RowNotFound)?;
        let numbered = numbered_from(messages, last - count, total - bytes);
        match tx.on() {
            LedgerTx::Postgres(on) => insert_postgres(on, channel, &numbered, ttl, sql.named()).await?,
            LedgerTx::Sqlite(on) => insert_sqlite(on, channel, &numbered, ttl).await?,
        }
        let oldest = last - MAX_MESSAGES;
        on_either!(
            tx.on(),
            sql.named(),
            query(DELETE_OLDEST),
            [channel, oldest],
            execute
        )?;
        if total > MAX_BYTES {
            let too_old = total - MAX_BYTES;
            on_either!(
                tx.on(),
                sql.named(),
                query(DELETE_BYTES),
                [channel, too_old],
                execute
            )?;
        }
        tx.commit().await?;
        Ok(last)
    })
    .await
}

/// A message with its number, and the bytes of its channel up to and with it.
struct NumberedMessage<'m> {
    seq: i64,
    body: &'m str,
    total_bytes: i64,
}

fn numbered_from(messages: &[String], mut seq: i64, mut total_bytes: i64) -> Vec<NumberedMessage<'_>> {
    let number = |body: &'_ String| {
        seq += 1;
        total_bytes += rows(body.len());
        (seq, total_bytes)
    };
    let numbers: Vec<_> = messages.iter().map(number).collect();
    let numbered = messages
        .iter()
        .zip(numbers)
        .map(|(body, (seq, total_bytes))| NumberedMessage {
            seq,
            body,
            total_bytes,
        });
    numbered.collect()
}

async fn insert_postgres(
    on: &mut PgConnection,
    channel: &str,
    messages: &[NumberedMessage<'_>],
    ttl: i64,
    named: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query(POSTGRES_INSERT)
        .bind(channel)
        .bind(messages.iter().map(|message| message.seq).collect::<Vec<_>>())
        .bind(messages.iter().map(|message| message.body).collect::<Vec<_>>())
        .bind(
            messages
                .iter()
                .map(|message| message.total_bytes)
                .collect::<Vec<_>>(),
        )
        .bind(ttl)
        .persistent(named)
        .execute(on)
        .await
        .map(drop)
}

async fn insert_sqlite(
    on: &mut SqliteConnection,
    channel: &str,
    messages: &[NumberedMessage<'_>],
    ttl: i64,
) -> Result<(), sqlx::Error> {
    for message in messages {
        sqlx::query(SQLITE_INSERT)
            .bind(channel)
            .bind(message.seq)
            .bind(message.body)
            .bind(message.total_bytes)
            .bind(ttl)
            .execute(&mut *on)
            .await?;
    }
    Ok(())
}

/// A channel as one statement has seen it.
#[derive(Default)]
struct SeenChannel {
    base: i64,
    last: i64,
    /// Without a body: it did not fit.
    messages: Vec<(i64, Option<String>)>,
}

pub(crate) async fn read(
    sql: &Sql,
    after: &BTreeMap<String, Option<i64>>,
    limit: usize,
) -> Result<BTreeMap<String, ChannelPage>, LedgerError> {
    let bytes = rows(READ_BYTES / after.len().max(1));
    let mut seen = sql
        .within("read messages", async {
            let mut tx = sql.begin_read().await?;
            let seen = match tx.on() {
                LedgerTx::Postgres(on) => read_postgres(on, after, limit, bytes, sql.named()).await?,
                LedgerTx::Sqlite(on) => read_sqlite(on, after, limit, bytes).await?,
            };
            tx.commit().await?;
            Ok(seen)
        })
        .await?;
    let pages = after.iter().map(|(name, after)| {
        let page = match (seen.remove(name), *after) {
            (Some(channel), Some(after)) => channel.page_after(after, limit),
            (Some(channel), None) => ChannelPage::beginning(channel.last),
            (None, Some(after)) => ChannelPage {
                last: after,
                ..ChannelPage::default()
            },
            (None, None) => ChannelPage::beginning(0),
        };
        (name.clone(), page)
    });
    Ok(pages.collect())
}

impl ChannelPage {
    fn beginning(last: i64) -> Self {
        Self {
            last,
            is_beginning: true,
            ..Self::default()
        }
    }
}

impl SeenChannel {
    fn page_after(self, after: i64, limit: usize) -> ChannelPage {
        // What a reader has from before the channel began (again) it cannot have missed here.
        let from = after.max(self.base);
        let found = self.messages.len();
        let messages: Vec<Message> = self
            .messages
            .into_iter()
            .map_while(|(seq, body)| body.map(|body| Message { seq, body }))
            .collect();
        let is_cut = messages.len() < found || messages.len() == limit;
        let last = match messages.last() {
            Some(message) if is_cut => message.seq,
            _ => self.last,
        };
        let missed = last - from != rows(messages.len());
        ChannelPage {
            messages,
            last,
            missed,
            is_beginning: false,
        }
    }
}

async fn read_postgres(
    on: &mut PgConnection,
    after: &BTreeMap<String, Option<i64>>,
    limit: usize,
    bytes: i64,
    named: bool,
) -> Result<BTreeMap<String, SeenChannel>, sqlx::Error> {
    type Row = (String, i64, i64, Option<i64>, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(POSTGRES_READ)
        .bind(after.keys().map(String::as_str).collect::<Vec<_>>())
        .bind(after.values().copied().collect::<Vec<_>>())
        .bind(rows(limit))
        .bind(bytes)
        .persistent(named)
        .fetch_all(on)
        .await?;
    let mut seen = BTreeMap::<String, SeenChannel>::new();
    for (name, base, last, seq, body) in rows {
        let channel = seen.entry(name).or_default();
        (channel.base, channel.last) = (base, last);
        channel.messages.extend(seq.map(|seq| (seq, body)));
    }
    Ok(seen)
}

async fn read_sqlite(
    on: &mut SqliteConnection,
    after: &BTreeMap<String, Option<i64>>,
    limit: usize,
    bytes: i64,
) -> Result<BTreeMap<String, SeenChannel>, sqlx::Error> {
    let mut seen = BTreeMap::new();
    for (name, after) in after {
        let channel = sqlx::query_as(SQLITE_CHANNEL)
            .bind(name)
            .fetch_optional(&mut *on)
            .await?;
        let Some((base, last)) = channel else { continue };
        let messages = match after {
            Some(after) => {
                sqlx::query_as(SQLITE_MESSAGES)
                    .bind(name)
                    .bind(after)
                    .bind(rows(limit))
                    .bind(bytes)
                    .fetch_all(&mut *on)
                    .await?
            }
            None => Vec::new(),
        };
        seen.insert(name.clone(), SeenChannel { base, last, messages });
    }
    Ok(seen)
}
