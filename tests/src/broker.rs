//! What Redis holds, read past the system under test.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use anyhow::{Context, Result};
use holdfast_testkit::{RedisServer, RespConnection};

/// Keys of a queue that may stay for ever: who is alive, who was lost lately, and the one entry that wakes stock workers.
const LASTING: [&str; 3] = ["workers", "lost", "signal"];
const MOST_SIGNALS: i64 = 1;

/// Looks at a Redis server, or at every master of a cluster or of Sentinels.
#[derive(Debug, Clone)]
pub struct RedisTruth(pub(crate) Vec<Arc<RedisServer>>);

impl RedisTruth {
    /// The servers that hold data now. A lone one that does not answer is an error.
    async fn masters(&self) -> Result<Vec<&RedisServer>> {
        let mut masters = Vec::new();
        for server in &self.0 {
            let alone = self.0.len() == 1;
            if alone || (server.is_running().await? && server.info("replication", "role").await? == "master")
            {
                masters.push(&**server);
            }
        }
        Ok(masters)
    }

    /// Jobs that have not ended: what stands in `data` of all queues, or, where `data` is gone, in `active`.
    pub async fn unfinished(&self) -> Result<u64> {
        let mut sum = 0;
        for server in self.masters().await? {
            let mut connection = server.connect().await?;
            for key in server.keys("{*}:data").await? {
                sum += number(&mut connection, &["HLEN", &key]).await?;
            }
            for key in server.keys("{*}:active").await? {
                sum += number(&mut connection, &["LLEN", &key]).await?;
            }
        }
        Ok(sum as u64)
    }

    /// Member → ids of the jobs that it holds, over all queues.
    pub async fn held(&self) -> Result<BTreeMap<String, HashSet<String>>> {
        let mut held: BTreeMap<String, HashSet<String>> = BTreeMap::new();
        for server in self.masters().await? {
            let mut connection = server.connect().await?;
            for key in server.keys("{*}:inflight:*").await? {
                let (_, member) = key.rsplit_once(':').context("a member in the key")?;
                let reply = connection.command(&["SMEMBERS", &key]).await?.ok()?;
                let ids = reply
                    .array()
                    .unwrap_or_default()
                    .iter()
                    .filter_map(holdfast_testkit::RespValue::text);
                held.entry(member.to_owned()).or_default().extend(ids);
            }
        }
        Ok(held)
    }

    /// Members that hold a job of `queue` now.
    pub async fn holders(&self, queue: &str) -> Result<BTreeSet<String>> {
        let prefix = format!("{{{queue}}}:inflight:");
        let mut holders = BTreeSet::new();
        for server in self.masters().await? {
            let keys = server.keys(&format!("{prefix}*")).await?;
            let members = keys.iter().filter_map(|key| key.strip_prefix(&prefix));
            holders.extend(members.map(str::to_owned));
        }
        Ok(holders)
    }

    /// Members registered now, over all queues.
    pub async fn members(&self) -> Result<BTreeSet<String>> {
        let mut members = BTreeSet::new();
        for server in self.masters().await? {
            let mut connection = server.connect().await?;
            for key in server.keys("{*}:workers").await? {
                let reply = connection.command(&["ZRANGE", &key, "0", "-1"]).await?.ok()?;
                members.extend(
                    reply
                        .array()
                        .unwrap_or_default()
                        .iter()
                        .filter_map(holdfast_testkit::RespValue::text),
                );
            }
        }
        Ok(members)
    }

    /// Keys that would stay for ever although nothing is left to do, each with what it holds.
    pub async fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for server in self.masters().await? {
            let mut connection = server.connect().await?;
            for key in server.keys("{*}:*").await? {
                // -1: no expiry. -2: it has gone meanwhile.
                if number(&mut connection, &["TTL", &key]).await? != -1 {
                    continue;
                }
                let part = key.split_once("}:").map_or("", |(_, part)| part);
                if part == "signal" && number(&mut connection, &["LLEN", &key]).await? > MOST_SIGNALS {
                    left.push(format!("{key} (grows)"));
                } else if !LASTING.contains(&part) {
                    let kind = connection
                        .command(&["TYPE", &key])
                        .await?
                        .ok()?
                        .text()
                        .unwrap_or_default();
                    left.push(format!("{key} ({kind})"));
                }
            }
        }
        Ok(left)
    }
}

async fn number(connection: &mut RespConnection, command: &[&str]) -> Result<i64> {
    connection
        .command(command)
        .await?
        .ok()?
        .integer()
        .with_context(|| format!("{command:?} answers a number"))
}
