//! A real PostgreSQL server that a test can kill, freeze, stop and start again.
//!
//! Clients connect as role `holdfast` (no superuser, owner of database `holdfast`, may create databases), so
//! the three connections that PostgreSQL keeps for superusers stay free for [`PostgresServer::psql`] whatever
//! the pools under test hold. There is no database `postgres`. Port and data stay the same for the server's
//! lifetime. `synchronous_commit` is always on.
//!
//! The server's backends lead sessions of their own: freezing and killing therefore goes by parent pid, not
//! by group.

mod family;
mod install;
mod standby;
mod template;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

pub(crate) use install::Account;

use self::install::Installation;
use crate::ports::PortLease;
use crate::process::{self, Slot};
use crate::scratch;

pub(crate) const SUPERUSER: &str = "postgres";
pub(crate) const OWNER: &str = "holdfast";
const DATABASE: &str = "holdfast";

/// Includes crash recovery.
const START_LIMIT: Duration = Duration::from_mins(1);
const STOP_LIMIT: Duration = Duration::from_mins(1);
/// PostgreSQL itself kills what has not followed an immediate shutdown after 5 s.
const DROP_LIMIT: Duration = Duration::from_secs(6);
const PSQL_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(2);
/// Another program may take a port between our look at it and the server's bind.
const PORT_ATTEMPTS: u32 = 5;

/// How a test's PostgreSQL is set up.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    fsync: bool,
    max_connections: u32,
    settings: Vec<(String, String)>,
    env: Vec<(String, String)>,
}

impl Default for PostgresOptions {
    /// As in production: `fsync = on`, 100 connections.
    fn default() -> Self {
        Self {
            fsync: true,
            max_connections: 100,
            settings: Vec::new(),
            env: Vec::new(),
        }
    }
}

impl PostgresOptions {
    /// `fsync = off`, and the data in memory where there is enough: much faster. Loses nothing to SIGKILL
    /// (what was written stays with the kernel), only to a power cut.
    pub fn fast() -> Self {
        Self::default().fsync(false)
    }

    pub fn fsync(mut self, on: bool) -> Self {
        self.fsync = on;
        self
    }

    /// `max_connections`; three of them are the superuser's.
    pub fn max_connections(mut self, count: u32) -> Self {
        self.max_connections = count;
        self
    }

    /// Any other setting of postgresql.conf.
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// A variable of the server's environment, such as `LD_PRELOAD`.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// `name=value` for each `-c` argument.
    fn arguments(&self) -> Vec<String> {
        let fsync = if self.fsync { "on" } else { "off" };
        let own = [
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            // Elsewhere than in the data directory, it would outlive a server that is killed.
            "dynamic_shared_memory_type=mmap".to_owned(),
            "synchronous_commit=on".to_owned(),
            format!("fsync={fsync}"),
            format!("max_connections={}", self.max_connections),
        ];
        own.into_iter()
            .chain(
                self.settings
                    .iter()
                    .map(|(name, value)| format!("{name}={value}")),
            )
            .collect()
    }
}

/// One server process with its backends. Killed and removed on drop.
#[derive(Debug)]
pub struct PostgresServer {
    process: Slot,
    options: PostgresOptions,
    installation: Installation,
    lease: PortLease,
    dir: TempDir,
}

impl PostgresServer {
    /// Starts a server with the default options and waits until it accepts connections.
    pub async fn start() -> Result<Self> {
        Self::start_with(PostgresOptions::default()).await
    }

    /// Starts a server and waits until it accepts connections.
    pub async fn start_with(options: PostgresOptions) -> Result<Self> {
        let installation = Installation::find().await?;
        for _ in 1..PORT_ATTEMPTS {
            let server = Self::prepare(options.clone(), installation.clone()).await?;
            match server.launch().await {
                Err(_) if server.lost_its_port() => {}
                outcome => return outcome.map(|()| server),
            }
        }
        let server = Self::prepare(options, installation).await?;
        server.launch().await?;
        Ok(server)
    }

    async fn prepare(options: PostgresOptions, installation: Installation) -> Result<Self> {
        let server = Self::prepare_without_data(options, installation).await?;
        template::copy_to(&server.data_dir(), &server.installation).await?;
        Ok(server)
    }

    async fn prepare_without_data(options: PostgresOptions, installation: Installation) -> Result<Self> {
        let dir = if options.fsync {
            scratch::private_dir()?
        } else {
            scratch::private_dir_in_memory().await?
        };
        installation.account.own(dir.path())?;
        let lease = PortLease::acquire()?;
        Ok(Self {
            process: Slot::empty("postgres"),
            options,
            installation,
            lease,
            dir,
        })
    }

    pub fn port(&self) -> u16 {
        self.lease.port()
    }

    pub fn addr(&self) -> SocketAddr {
        self.lease.addr()
    }

    /// `postgres://holdfast@127.0.0.1:port/holdfast`: an empty database.
    pub fn url(&self) -> String {
        self.database_url(DATABASE)
    }

    /// The URL of another database of this server.
    pub fn database_url(&self, name: &str) -> String {
        format!("postgres://{OWNER}@{}/{name}", self.addr())
    }

    /// The pid of the postmaster that runs now, or ran last.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub async fn is_running(&self) -> Result<bool> {
        self.process.is_running().await
    }

    /// Creates an empty database and returns its URL. `name` is one lower-case word.
    pub async fn create_database(&self, name: &str) -> Result<String> {
        ensure!(
            name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
            "not a plain database name: {name:?}"
        );
        self.psql(&format!("CREATE DATABASE {name} OWNER {OWNER}"))
            .await?;
        Ok(self.database_url(name))
    }

    /// Runs SQL in database `holdfast` as superuser; rows as lines, columns separated by `|`, no header.
    pub async fn psql(&self, sql: &str) -> Result<String> {
        self.psql_in(DATABASE, sql).await
    }

    /// Runs SQL in the named database as superuser.
    pub async fn psql_in(&self, database: &str, sql: &str) -> Result<String> {
        let url = format!("postgres://{SUPERUSER}@{}/{database}", self.addr());
        self.psql_at(&url, sql).await
    }

    /// Runs SQL over any URL (as any role, through a proxy or a pooler).
    pub async fn psql_at(&self, url: &str, sql: &str) -> Result<String> {
        let mut psql = self.installation.command("psql");
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            "VERBOSITY=verbose",
            "-d",
            url,
            "-c",
            sql,
        ]);
        psql.env("PGCONNECT_TIMEOUT", "10");
        let output = process::run(psql, PSQL_LIMIT).await?;
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// All that the server has logged so far.
    pub fn log(&self) -> Result<String> {
        let log = fs::read(self.log_path()).context("reading the server's log")?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// Ends every client's session as an administrator would (SQLSTATE 57P01); returns how many.
    pub async fn terminate_connections(&self) -> Result<u64> {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let count = self.psql(sql).await?;
        count
            .parse()
            .with_context(|| format!("a count of sessions: {count:?}"))
    }

    /// Fast shutdown: sessions are ended with 57P01, nothing committed is lost.
    pub async fn stop(&self) -> Result<()> {
        if self.is_running().await? {
            self.sigcont().await?;
        }
        self.process.stop(Signal::SIGINT, STOP_LIMIT).await
    }

    /// SIGKILLs the server and all its backends at once, as a crash of the machine would.
    pub async fn kill9(&self) -> Result<()> {
        if self.is_running().await? {
            self.process.signal(Signal::SIGSTOP).await?;
            family::signal_children(self.pid(), Signal::SIGKILL)?;
        }
        self.process.kill().await?;
        self.clear_away_remains().await
    }

    /// Starts the server after [`Self::stop`] or [`Self::kill9`], on the same port and data.
    pub async fn start_again(&self) -> Result<()> {
        self.launch().await
    }

    /// [`Self::stop`] and [`Self::start_again`].
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.launch().await
    }

    /// Freezes the server and all its backends: connections are accepted by the kernel, and nothing answers.
    pub async fn sigstop(&self) -> Result<()> {
        // The postmaster first: it must not fork while its children are being counted.
        self.process.signal(Signal::SIGSTOP).await?;
        family::signal_children(self.pid(), Signal::SIGSTOP)
    }

    /// Ends [`Self::sigstop`].
    pub async fn sigcont(&self) -> Result<()> {
        family::signal_children(self.pid(), Signal::SIGCONT)?;
        self.process.signal(Signal::SIGCONT).await
    }

    /// After a kill nobody uses the data any more, but the lock file stays, whose pid may be a stranger's by
    /// the next start; and so does the System V shared memory that its seventh line names (key and id).
    async fn clear_away_remains(&self) -> Result<()> {
        let path = self.data_dir().join("postmaster.pid");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            outcome => outcome.context("reading postmaster.pid")?,
        };
        if let Some(id) = text
            .lines()
            .nth(6)
            .and_then(|line| line.split_whitespace().nth(1))
        {
            let mut remove = self.installation.command_at("ipcrm");
            remove.args(["-m", id]);
            process::run(remove, STOP_LIMIT)
                .await
                .context("removing the server's shared memory")?;
        }
        fs::remove_file(&path).context("removing postmaster.pid")
    }

    async fn launch(&self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .context("opening the log")?;
        let mut command = self.installation.command("postgres");
        command
            .arg("-D")
            .arg(self.data_dir())
            .args(["-p", &self.port().to_string()]);
        for argument in self.options.arguments() {
            command.args(["-c", &argument]);
        }
        command.envs(self.options.env.iter().map(|(name, value)| (name, value)));
        command.stdout(log.try_clone()?).stderr(log);
        self.process.start(command).await?;
        self.wait_until_ready().await
    }

    /// The postmaster writes `ready` into its pid file when it accepts connections, `standby` if they may only read.
    async fn wait_until_ready(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            if self.pid_file_says_ready() {
                return Ok(());
            }
            if let Some(status) = self.process.exited().await? {
                bail!(
                    "postgres ended ({status}); its log ends:\n{}",
                    process::log_tail(&self.log_path())
                );
            }
            ensure!(
                started.elapsed() < START_LIMIT,
                "postgres was not ready in time; its log ends:\n{}",
                process::log_tail(&self.log_path())
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// First line: pid, so that the file of a process before this one is not believed. Eighth: status.
    fn pid_file_says_ready(&self) -> bool {
        let Ok(text) = fs::read_to_string(self.data_dir().join("postmaster.pid")) else {
            return false;
        };
        let mut lines = text.lines().map(str::trim);
        lines.next() == Some(&self.pid().to_string()) && matches!(lines.nth(6), Some("ready" | "standby"))
    }

    fn lost_its_port(&self) -> bool {
        process::log_tail(&self.log_path()).contains("Address already in use")
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("postgres.log")
    }
}

impl Drop for PostgresServer {
    /// An immediate shutdown, so that the server removes its shared memory; if that does not come about,
    /// SIGKILL for all of it, since backends that are frozen would never notice that their postmaster has
    /// gone. Errors mean that there is nobody left to signal, and Drop has nobody to tell.
    fn drop(&mut self) {
        let Some(postmaster) = self.process.get_mut() else {
            return;
        };
        let _ = family::signal_children(postmaster.pid(), Signal::SIGCONT);
        let _ = postmaster.signal(Signal::SIGCONT);
        let _ = postmaster.signal(Signal::SIGQUIT);
        if !postmaster.reap_blocking(DROP_LIMIT) {
            let _ = postmaster.signal(Signal::SIGSTOP);
            let _ = family::signal_children(postmaster.pid(), Signal::SIGKILL);
        }
    }
}
