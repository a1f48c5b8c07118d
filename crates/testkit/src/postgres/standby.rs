//! An asynchronous standby, and its promotion in the place of its primary.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::PostgresServer;
use crate::{eventually, process};

/// A base backup of a small database takes about a second.
const BACKUP_LIMIT: Duration = Duration::from_mins(1);
/// What has been committed arrives within milliseconds.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

impl PostgresServer {
    /// Starts an asynchronous standby of this server, with data and a port of its own.
    pub async fn standby(&self) -> Result<Self> {
        let standby = Self::prepare_without_data(self.options.clone(), self.installation.clone()).await?;
        let mut backup = self.installation.command("pg_basebackup");
        backup
            .args(["-h", "127.0.0.1", "-U", super::SUPERUSER, "-R", "-c", "fast"])
            .args(["-X", "stream", "-p", &self.port().to_string(), "-D"])
            .arg(standby.data_dir());
        process::run(backup, BACKUP_LIMIT)
            .await
            .context("copying the primary")?;
        standby.launch().await?;
        Ok(standby)
    }

    /// Waits until the standby has all that this server has committed.
    pub async fn wait_for_standby(&self, standby: &Self) -> Result<()> {
        let written = self.psql("select pg_current_wal_flush_lsn()").await?;
        let has_it = format!("select pg_last_wal_replay_lsn() >= '{written}'");
        eventually("the standby to catch up", CATCH_UP_LIMIT, POLL, async || {
            let answer = standby.psql(&has_it).await.ok()?;
            (answer == "t").then_some(())
        })
        .await
    }

    /// The standby receives nothing any more: what is committed from now on is lost when it is promoted.
    pub async fn detach(&self) -> Result<()> {
        self.psql("alter system set primary_conninfo = ''").await?;
        self.psql("select pg_reload_conf()").await?;
        eventually("the standby to be detached", CATCH_UP_LIMIT, POLL, async || {
            let receivers = self
                .psql("select count(*) from pg_stat_wal_receiver")
                .await
                .ok()?;
            (receivers == "0").then_some(())
        })
        .await
    }

    /// The machine of this server is lost, and the standby takes over its address.
    pub async fn fail_over_to(&self, standby: Self) -> Result<()> {
        self.kill9().await?;
        standby.psql("select pg_promote()").await?;
        standby.stop().await?;
        fs::rename(self.data_dir(), self.dir.path().join("lost")).context("putting the lost data aside")?;
        let mut take_over = self.installation.command_at("cp");
        take_over.arg("-R").arg(standby.data_dir()).arg(self.data_dir());
        process::run(take_over, BACKUP_LIMIT)
            .await
            .context("taking over the standby's data")?;
        self.start_again().await
    }
}
