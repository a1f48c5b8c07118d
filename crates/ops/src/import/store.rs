//! The Redis of another system: where its jobs wait, and how they are taken out.
//!
//! # Invariants
//! - An entry is in its place, or in the import's list of that place, and leaves that list only after a job was accepted for it, or back
//!   to its place. So an import may be interrupted anywhere: the next one begins with these lists.
//! - Nothing is read whole: pages of [`PAGE`] entries.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, Script};
use secrecy::{ExposeSecret, SecretString};

/// Entries of one step.
pub(super) const PAGE: usize = 200;

/// Keys of one step of a scan, and steps of a scan at most.
const SCAN: usize = 1_000;
const SCAN_STEPS: usize = 100_000;

/// For each answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The import's list of a place is named after it.
const TAKEN: &str = "holdfast-import:";

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));
static GIVE_BACK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("give_back.lua")));

/// How entries are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The oldest entry is the rightmost.
    List,
    /// The score is a time.
    Sorted,
    /// A sorted set of tags, and a hash of the messages with these tags.
    Unacked,
}

impl Shape {
    const fn word(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Sorted => "sorted",
            Self::Unacked => "unacked",
        }
    }
}

/// Where jobs wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) shape: Shape,
    /// The name of the queue in the other system; empty where the entries say it.
    pub(super) queue: String,
}

/// What waits.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) score: f64,
    pub(super) text: String,
    /// As it is in the import's list.
    taken: Vec<u8>,
}

impl Entry {
    /// What is no text is read as an empty one, which is no job.
    fn of(taken: Vec<u8>, shape: Shape) -> Self {
        let text = std::str::from_utf8(&taken).unwrap_or_default();
        let (score, entry) = text.split_once(' ').unwrap_or(("0", ""));
        let entry = match shape {
            Shape::Unacked => entry.split_once('\n').map_or("", |(_, message)| message),
            Shape::List | Shape::Sorted => entry,
        };
        Self {
            score: score.parse().unwrap_or(0.0),
            text: entry.to_owned(),
            taken,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Store {
    connection: MultiplexedConnection,
}

impl Store {
    pub(super) async fn open(url: &SecretString) -> Result<Self, RedisError> {
        let client = redis::Client::open(url.expose_secret())?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok(Self { connection })
    }

    /// Moves some entries of a place into the import's list. False: there was none.
    pub(super) async fn take(&mut self, place: &Place) -> Result<bool, RedisError> {
        let moved: usize = TAKE
            .key(&place.key)
            .key(taken(place))
            .key("unacked")
            .arg(place.shape.word())
            .arg(PAGE)
            .invoke_async(&mut self.connection)
            .await?;
        Ok(moved > 0)
    }

    /// The oldest entries of the import's list, beyond those that stay there.
    pub(super) async fn taken(&mut self, place: &Place, staying: usize) -> Result<Vec<Entry>, RedisError> {
        let (from, to) = tail(staying);
        let entries: Vec<Vec<u8>> = redis::cmd("LRANGE")
            .arg(taken(place))
            .arg(from)
            .arg(to)
            .query_async(&mut self.connection)
            .await?;
        Ok(entries
            .into_iter()
            .rev()
            .map(|entry| Entry::of(entry, place.shape))
            .collect())
    }

    /// How many entries an interrupted import holds of a place.
    pub(super) async fn held(&mut self, place: &Place) -> Result<usize, RedisError> {
        redis::cmd("LLEN")
            .arg(taken(place))
            .query_async(&mut self.connection)
            .await
    }

    /// A job was accepted for it. `keys` belong to the entry alone.
    pub(super) async fn remove(
        &mut self,
        place: &Place,
        entry: &Entry,
        keys: &[String],
    ) -> Result<(), RedisError> {
        let mut pipe = redis::pipe();
        pipe.atomic()
            .cmd("LREM")
            .arg(taken(place))
            .arg(-1)
            .arg(&entry.taken)
            .ignore();
        for key in keys {
            pipe.cmd("DEL").arg(key).ignore();
        }
        pipe.query_async(&mut self.connection).await
    }

    /// It was not imported.
    pub(super) async fn give_back(&mut self, place: &Place, entry: &Entry) -> Result<(), RedisError> {
        GIVE_BACK
            .key(&place.key)
            .key(taken(place))
            .key("unacked")
            .arg(place.shape.word())
            .arg(&entry.taken)
            .invoke_async::<i64>(&mut self.connection)
            .await
            .map(drop)
    }

    /// A page of a place as it is, oldest first, without taking anything.
    pub(super) async fn peek(&mut self, place: &Place, skip: usize) -> Result<Vec<Entry>, RedisError> {
        if place.shape == Shape::List {
            let (from, to) = tail(skip);
            let entries: Vec<Vec<u8>> = redis::cmd("LRANGE")
                .arg(&place.key)
                .arg(from)
                .arg(to)
                .query_async(&mut self.connection)
                .await?;
            let entry = |entry: Vec<u8>| Entry::of([b"0 ", entry.as_slice()].concat(), Shape::List);
            return Ok(entries.into_iter().rev().map(entry).collect());
        }
        let found: Vec<(Vec<u8>, f64)> = redis::cmd("ZRANGE")
            .arg(&place.key)
            .arg(skip)
            .arg(skip + PAGE - 1)
            .arg("WITHSCORES")
            .query_async(&mut self.connection)
            .await?;
        let mut entries = Vec::with_capacity(found.len());
        for (entry, score) in found {
            let mut text = format!("{score} ").into_bytes();
            text.extend_from_slice(&entry);
            if place.shape == Shape::Unacked {
                let message: Option<Vec<u8>> = redis::cmd("HGET")
                    .arg("unacked")
                    .arg(&entry)
                    .query_async(&mut self.connection)
                    .await?;
                text.push(b'\n');
                text.extend(message.unwrap_or_default());
            }
            entries.push(Entry::of(text, place.shape));
        }
        Ok(entries)
    }

    /// The keys of this type whose names match.
    pub(super) async fn keys(&mut self, pattern: &str, kind: &str) -> Result<Vec<String>, RedisError> {
        let (mut cursor, mut keys) = (0_u64, Vec::new());
        for _ in 0..SCAN_STEPS {
            let (next, found): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(pattern)
                .arg("COUNT")
                .arg(SCAN)
                .arg("TYPE")
                .arg(kind)
                .query_async(&mut self.connection)
                .await?;
            keys.extend(found);
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// The places of which an interrupted import holds entries.
    pub(super) async fn interrupted(&mut self) -> Result<Vec<String>, RedisError> {
        let keys = self.keys(&format!("{TAKEN}*"), "list").await?;
        Ok(keys
            .iter()
            .filter_map(|key| key.strip_prefix(TAKEN))
            .map(ToOwned::to_owned)
            .collect())
    }

    pub(super) async fn members(&mut self, set: &str) -> Result<Vec<String>, RedisError> {
        redis::cmd("SMEMBERS")
            .arg(set)
            .query_async(&mut self.connection)
            .await
    }

    /// The oldest entry of a list.
    pub(super) async fn oldest(&mut self, list: &str) -> Result<Option<Vec<u8>>, RedisError> {
        redis::cmd("LINDEX")
            .arg(list)
            .arg(-1)
            .query_async(&mut self.connection)
            .await
    }

    pub(super) async fn hash(&mut self, key: &str) -> Result<HashMap<String, String>, RedisError> {
        let fields: HashMap<String, Vec<u8>> = redis::cmd("HGETALL")
            .arg(key)
            .query_async(&mut self.connection)
            .await?;
        let text = |(name, value): (String, Vec<u8>)| (name, String::from_utf8_lossy(&value).into_owned());
        Ok(fields.into_iter().map(text).collect())
    }

    /// Clients that wait for a list at this moment: workers do.
    pub(super) async fn blocked_clients(&mut self) -> Result<usize, RedisError> {
        let list: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query_async(&mut self.connection)
            .await?;
        let waits = |line: &&str| {
            ["cmd=brpop", "cmd=blpop", "cmd=blmove"]
                .iter()
                .any(|cmd| line.contains(cmd))
        };
        Ok(list.lines().filter(waits).count())
    }
}

fn taken(place: &Place) -> String {
    format!("{TAKEN}{}", place.key)
}

/// A page from the right end of a list, beyond `skip` entries.
fn tail(skip: usize) -> (i64, i64) {
    let skip = i64::try_from(skip).unwrap_or(i64::MAX / 2);
    (-(skip + PAGE as i64), -(skip + 1))
}
