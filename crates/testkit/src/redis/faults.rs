//! What a Redis server does to its clients short of dying.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Eviction, RedisServer};
use crate::resp::{RespConnection, RespValue};

const FILL_VALUE: usize = 1024;
const FILL_PIPELINE: usize = 256;
/// Junk of [`RedisServer::fill`], so that a test can tell it from its own keys.
const FILL_PREFIX: &str = "testkit:junk:";

/// Keys that make loading take its time, in a database nobody else uses: 1,000 of 2 KiB, so that the server,
/// which serves clients once per KiB loaded, answers between any two of them.
const LOADING_DATABASE: &str = "15";
const LOADING_KEYS: usize = 1_000;
const LOADING_VALUE: usize = 2_048;

/// What came of [`RedisServer::fill`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillReport {
    /// Keys that were written.
    pub written: u64,
    /// Writes that were answered with OOM.
    pub refused: u64,
}

impl RedisServer {
    /// Demotes the server to a replica whose master cannot be reached: reads go on, writes are answered with
    /// READONLY.
    pub async fn make_replica_of_nobody_reachable(&self) -> Result<()> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket
            .bind("127.0.0.1:0".parse()?)
            .context("binding the port of the absent master")?;
        let port = socket.local_addr()?.port().to_string();
        self.unreachable.lock().unwrap().replace(socket);
        self.config_set("replica-read-only", "yes").await?;
        self.done(&["REPLICAOF", "127.0.0.1", &port]).await
    }

    /// Ends [`Self::make_replica_of_nobody_reachable`].
    pub async fn promote(&self) -> Result<()> {
        self.done(&["REPLICAOF", "NO", "ONE"]).await?;
        self.unreachable.lock().unwrap().take();
        Ok(())
    }

    /// Asks for `password` from now on and throws every client out: with the old credentials they get NOAUTH
    /// or WRONGPASS.
    pub async fn set_password(&self, password: &str) -> Result<()> {
        self.config_set("requirepass", password).await?;
        *self.password.lock().unwrap() = Some(password.to_owned());
        self.client_kill_all().await?;
        Ok(())
    }

    /// Asks for no password any more. Clients that send one are still refused by Redis (`ERR AUTH … without
    /// any password`).
    pub async fn clear_password(&self) -> Result<()> {
        self.config_set("requirepass", "").await?;
        *self.password.lock().unwrap() = None;
        Ok(())
    }

    /// Restarts the server with its data and a load that takes about `duration`; returns once it answers
    /// LOADING.
    ///
    /// The data set is kept even with [`super::Persistence::None`]. Follow with [`Self::finish_loading`].
    pub async fn loading(&self, duration: Duration) -> Result<()> {
        let keys = self.prepare_slow_load().await?;
        self.kill9().await?;
        let delay = (duration.as_micros() / u128::from(keys)).max(1).to_string();
        self.spawn(&[
            "--key-load-delay",
            &delay,
            "--loading-process-events-interval-bytes",
            "1024",
        ])
        .await?;
        self.wait_for("LOADING", |reply| reply.error_kind() == Some("LOADING"))
            .await
    }

    /// Lets the load of [`Self::loading`] run at full speed, waits for its end and removes what it added.
    pub async fn finish_loading(&self) -> Result<()> {
        self.config_set("key-load-delay", "0").await?;
        self.wait_for("PONG", |reply| *reply == RespValue::Simple("PONG".to_owned()))
            .await?;
        let mut connection = self.connect().await?;
        connection.command(&["SELECT", LOADING_DATABASE]).await?.ok()?;
        connection.command(&["FLUSHDB"]).await?.ok()?;
        if !self.options.persists() {
            let snapshot = self.data_dir().join("dump.rdb");
            std::fs::remove_file(&snapshot).with_context(|| format!("removing {}", snapshot.display()))?;
        }
        Ok(())
    }

    /// Writes about `bytes` of junk from another client, as fast as the server takes it. Where eviction makes
    /// room all of it is written; stops at the first OOM.
    pub async fn fill(&self, bytes: u64) -> Result<FillReport> {
        let mut connection = self.connect().await?;
        let mut report = FillReport {
            written: 0,
            refused: 0,
        };
        let mut left = bytes.div_ceil(FILL_VALUE as u64);
        let run: u64 = rand::random();
        while left > 0 && report.refused == 0 {
            let batch = left.min(FILL_PIPELINE as u64);
            let first = report.written;
            let keys = (first..first + batch).map(|number| format!("{FILL_PREFIX}{run:x}:{number}"));
            for reply in write_junk(&mut connection, keys, FILL_VALUE).await? {
                match reply.error_kind() {
                    None => report.written += 1,
                    Some("OOM") => report.refused += 1,
                    Some(_) => bail!("filling Redis: {reply:?}"),
                }
            }
            left -= batch;
        }
        Ok(report)
    }

    /// Puts the memory limit below what is used, under `noeviction`: every write that needs memory is
    /// answered with OOM. Ended by [`Self::set_maxmemory`].
    pub async fn run_out_of_memory(&self) -> Result<()> {
        let limit = (self.memory_used().await? / 2).max(1);
        self.set_maxmemory(limit, Eviction::NoEviction).await
    }

    /// Adds the slow keys, has everything written to what a restart loads, and returns how many keys that is.
    async fn prepare_slow_load(&self) -> Result<u32> {
        let mut connection = self.connect().await?.with_deadline(super::START_LIMIT);
        let own = connection
            .command(&["DBSIZE"])
            .await?
            .ok()?
            .integer()
            .context("DBSIZE answers a number")?;
        connection.command(&["SELECT", LOADING_DATABASE]).await?.ok()?;
        let keys = (0..LOADING_KEYS).map(|number| format!("{FILL_PREFIX}loading:{number}"));
        for reply in write_junk(&mut connection, keys, LOADING_VALUE).await? {
            reply.ok()?;
        }
        if self.options.has_aof() {
            // Loads slowly only from the base file, which is a snapshot; the commands after it are read in
            // one go.
            connection.command(&["BGREWRITEAOF"]).await?.ok()?;
            self.wait_for_rewrite().await?;
        } else {
            connection.command(&["SAVE"]).await?.ok()?;
        }
        Ok(u32::try_from(own)? + LOADING_KEYS as u32)
    }

    async fn wait_for_rewrite(&self) -> Result<()> {
        crate::eventually("the AOF rewrite", super::START_LIMIT, super::POLL, || async {
            let scheduled = self.info("persistence", "aof_rewrite_scheduled").await.ok()?;
            let running = self.info("persistence", "aof_rewrite_in_progress").await.ok()?;
            (scheduled == "0" && running == "0").then_some(())
        })
        .await?;
        let status = self.info("persistence", "aof_last_bgrewrite_status").await?;
        anyhow::ensure!(status == "ok", "the AOF rewrite ended with {status}");
        Ok(())
    }
}

/// Random values: they must not shrink when they are saved.
async fn write_junk(
    connection: &mut RespConnection,
    keys: impl Iterator<Item = String>,
    length: usize,
) -> Result<Vec<RespValue>> {
    let commands: Vec<Vec<Vec<u8>>> = keys
        .map(|key| {
            let mut value = vec![0; length];
            rand::fill(&mut value[..]);
            vec![b"SET".to_vec(), key.into_bytes(), value]
        })
        .collect();
    connection.pipeline(&commands).await
}
