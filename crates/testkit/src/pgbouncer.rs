//! PgBouncer in transaction mode, in front of a [`PostgresServer`].
//!
//! Every statement outside a transaction may meet another server connection, as behind any managed pooler.
//! Versions before 1.21 know nothing of named prepared statements; newer ones are told to carry them, as Neon
//! does.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::ports::PortLease;
use crate::postgres::{Account, OWNER, PostgresServer, SUPERUSER};
use crate::process::{self, Slot};
use crate::scratch;

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// Debian's place, which is not on every user's PATH.
const DEBIAN_PATH: &str = "/usr/sbin/pgbouncer";
/// The first version with `max_prepared_statements`.
const CARRIES_STATEMENTS: (u32, u32) = (1, 21);

/// One pooler process. Killed and removed on drop; does not keep its database alive.
#[derive(Debug)]
pub struct PgBouncer {
    process: Slot,
    account: Account,
    lease: PortLease,
    dir: TempDir,
    carries_statements: bool,
}

impl PgBouncer {
    /// Starts the pooler with 20 server connections and waits until it accepts clients.
    pub async fn start(postgres: &PostgresServer) -> Result<Self> {
        Self::start_with(postgres, 20).await
    }

    /// Starts the pooler with `pool_size` server connections per database and role.
    pub async fn start_with(postgres: &PostgresServer, pool_size: u32) -> Result<Self> {
        let version = installed_version().await?;
        let bouncer = Self {
            process: Slot::empty("pgbouncer"),
            account: Account::choose()?,
            lease: PortLease::acquire()?,
            dir: scratch::private_dir()?,
            carries_statements: version >= CARRIES_STATEMENTS,
        };
        bouncer.write_config(postgres.addr(), pool_size)?;
        bouncer.launch().await?;
        Ok(bouncer)
    }

    pub fn port(&self) -> u16 {
        self.lease.port()
    }

    pub fn addr(&self) -> SocketAddr {
        self.lease.addr()
    }

    /// `postgres://holdfast@127.0.0.1:port/holdfast`
    pub fn url(&self) -> String {
        self.database_url("holdfast")
    }

    /// The URL of another database of the server behind.
    pub fn database_url(&self, name: &str) -> String {
        format!("postgres://{OWNER}@{}/{name}", self.addr())
    }

    /// Whether named prepared statements survive a change of the server connection (version 1.21 and later).
    pub fn carries_prepared_statements(&self) -> bool {
        self.carries_statements
    }

    /// Ends the pooler at once, with all connections through it.
    pub async fn kill9(&self) -> Result<()> {
        self.process.kill().await
    }

    /// Ends it (gracefully, if it still runs) and starts it again on the same port.
    pub async fn restart(&self) -> Result<()> {
        self.process.stop(Signal::SIGTERM, STOP_LIMIT).await?;
        self.launch().await
    }

    fn write_config(&self, postgres: SocketAddr, pool_size: u32) -> Result<()> {
        let users = self.dir.path().join("users.txt");
        fs::write(&users, format!("\"{OWNER}\" \"\"\n\"{SUPERUSER}\" \"\"\n"))
            .context("writing users.txt")?;
        let statements = if self.carries_statements {
            "max_prepared_statements = 200\n"
        } else {
            ""
        };
        // sqlx asks for extra_float_digits when it connects; a pooler cannot pass that on, and by default
        // refuses it.
        let config = format!(
            "[databases]\n* = host={} port={}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             pool_mode = transaction\ndefault_pool_size = {pool_size}\nmax_client_conn = 1000\n\
             auth_type = trust\nauth_file = {}\nignore_startup_parameters = extra_float_digits\n{statements}",
            postgres.ip(),
            postgres.port(),
            self.port(),
            users.display()
        );
        fs::write(self.config_path(), config).context("writing pgbouncer.ini")?;
        for path in [self.dir.path(), &users, &self.config_path()] {
            self.account.own(path)?;
        }
        Ok(())
    }

    async fn launch(&self) -> Result<()> {
        let log_path = self.dir.path().join("pgbouncer.log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .context("opening the log")?;
        let mut command = Command::new(program());
        command
            .arg(self.config_path())
            .current_dir(self.dir.path())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.account.apply(&mut command);
        self.process.start(command).await?;
        let started = Instant::now();
        while tokio::net::TcpStream::connect(self.addr()).await.is_err() {
            if let Some(status) = self.process.exited().await? {
                bail!(
                    "pgbouncer ended ({status}); its log ends:\n{}",
                    process::log_tail(&log_path)
                );
            }
            ensure!(started.elapsed() < START_LIMIT, "pgbouncer was not ready in time");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join("pgbouncer.ini")
    }
}

fn program() -> &'static str {
    if Path::new(DEBIAN_PATH).is_file() {
        DEBIAN_PATH
    } else {
        "pgbouncer"
    }
}

async fn installed_version() -> Result<(u32, u32)> {
    let mut ask = Command::new(program());
    ask.arg("--version");
    let output = process::run(ask, START_LIMIT)
        .await
        .context("asking PgBouncer for its version")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("PgBouncer "));
    let mut parts = numbers.unwrap_or_default().split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("no version in {text:?}"),
    }
}
