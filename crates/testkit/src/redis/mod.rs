//! A real `redis-server` that a test can kill, freeze, empty and restart.
//!
//! The port stays the same for the server's lifetime, also across restarts and while it is down. What the
//! server is asked to do to its clients (READONLY, NOAUTH, LOADING, OOM) is in `faults.rs`. A restart returns
//! to the settings of [`RedisOptions`]: what was set at run time is gone, as on any server.

mod cluster;
mod faults;
mod options;
mod sentinel;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

pub use cluster::RedisCluster;
pub use faults::FillReport;
pub use options::{Eviction, Persistence, RedisOptions};
pub use sentinel::RedisSentinels;

use crate::environment;
use crate::ports::PortLease;
use crate::process::{self, Slot};
use crate::resp::{RespConnection, RespValue};
use crate::scratch;

/// A data set has to be loaded in this time.
const START_LIMIT: Duration = Duration::from_mins(1);
/// A snapshot has to be written in this time.
const STOP_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(2);
/// Another program may take a port between our look at it and the server's bind.
const PORT_ATTEMPTS: u32 = 5;
const SCAN_COUNT: &str = "1000";

/// One server process at a time, on one port. Killed and removed on drop.
#[derive(Debug)]
pub struct RedisServer {
    process: Slot,
    options: RedisOptions,
    lease: PortLease,
    dir: TempDir,
    /// What the server asks for now.
    password: Mutex<Option<String>>,
    /// Bound but never listening: the master that nobody reaches.
    unreachable: Mutex<Option<tokio::net::TcpSocket>>,
    /// The port of a lone cluster's bus.
    _bus: Option<PortLease>,
}

impl RedisServer {
    /// Starts `redis-server` (from PATH) and waits until it answers.
    pub async fn start(options: RedisOptions) -> Result<Self> {
        for _ in 1..PORT_ATTEMPTS {
            let server = Self::prepare(options.clone())?;
            match server.launch(&[]).await {
                Err(_) if server.lost_its_port() => {}
                outcome => return outcome.map(|()| server),
            }
        }
        let server = Self::prepare(options)?;
        server.launch(&[]).await?;
        Ok(server)
    }

    fn prepare(options: RedisOptions) -> Result<Self> {
        let mut options = options;
        let bus = if environment::lone_redis_is_a_cluster() {
            options = options.with_every_slot();
            Some(PortLease::acquire()?)
        } else {
            None
        };
        if let Some(bus) = bus.as_ref().filter(|_| options.lone_cluster) {
            options = options.config("cluster-port", bus.port().to_string());
        }
        let server = Self {
            process: Slot::empty("redis-server"),
            lease: PortLease::acquire()?,
            dir: scratch::private_dir()?,
            password: Mutex::new(None),
            unreachable: Mutex::new(None),
            _bus: bus,
            options,
        };
        let data_dir = server.data_dir();
        fs::create_dir(&data_dir).with_context(|| format!("creating {}", data_dir.display()))?;
        let conf = server.options.render(server.port(), &data_dir.to_string_lossy());
        fs::write(server.conf_path(), conf).context("writing redis.conf")?;
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.lease.port()
    }

    pub fn addr(&self) -> SocketAddr {
        self.lease.addr()
    }

    /// `redis://[:password@]127.0.0.1:port/0`, with the password the server asks for now.
    pub fn url(&self) -> String {
        let scheme = if self.options.lone_cluster {
            "redis+cluster"
        } else {
            "redis"
        };
        match &*self.password.lock().unwrap() {
            Some(password) => format!("{scheme}://:{password}@{}/0", self.addr()),
            None => format!("{scheme}://{}/0", self.addr()),
        }
    }

    /// The pid of the process that runs now, or ran last.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub async fn is_running(&self) -> Result<bool> {
        self.process.is_running().await
    }

    /// SIGKILL: no farewell, no snapshot. The data directory stays as it is.
    pub async fn kill9(&self) -> Result<()> {
        self.process.kill().await
    }

    /// SIGTERM, and waits for the end; with [`Persistence::Rdb`] the server writes a snapshot first.
    pub async fn terminate(&self) -> Result<()> {
        self.process.stop(Signal::SIGTERM, STOP_LIMIT).await
    }

    /// Freezes the server: the kernel goes on accepting connections and bytes, and nothing answers.
    pub async fn sigstop(&self) -> Result<()> {
        self.process.signal_group(Signal::SIGSTOP).await
    }

    /// Ends [`Self::sigstop`].
    pub async fn sigcont(&self) -> Result<()> {
        self.process.signal_group(Signal::SIGCONT).await
    }

    /// Starts again with the data directory as it is, after a graceful end if the server still runs.
    pub async fn restart(&self) -> Result<()> {
        self.terminate().await?;
        self.launch(&[]).await
    }

    /// Starts again with an empty data directory, after SIGKILL if the server still runs.
    pub async fn restart_empty(&self) -> Result<()> {
        self.kill9().await?;
        let data_dir = self.data_dir();
        fs::remove_dir_all(&data_dir).with_context(|| format!("removing {}", data_dir.display()))?;
        fs::create_dir(&data_dir).with_context(|| format!("creating {}", data_dir.display()))?;
        self.launch(&[]).await
    }

    /// Sends one command over a new connection (logged in, if the server has a password). An error reply is a
    /// value.
    pub async fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<RespValue> {
        self.connect().await?.command(args).await
    }

    /// A new connection, logged in if the server has a password.
    pub async fn connect(&self) -> Result<RespConnection> {
        let password = self.password.lock().unwrap().clone();
        let mut connection = RespConnection::connect(self.addr()).await?;
        if let Some(password) = password {
            connection.command(&["AUTH", &password]).await?.ok()?;
        }
        Ok(connection)
    }

    pub async fn flush_all(&self) -> Result<()> {
        self.done(&["FLUSHALL"]).await
    }

    /// `CONFIG SET`, until the next restart.
    pub async fn config_set(&self, name: &str, value: &str) -> Result<()> {
        self.done(&["CONFIG", "SET", name, value]).await
    }

    /// `maxmemory` (0: no limit) and its policy, until the next restart.
    pub async fn set_maxmemory(&self, bytes: u64, policy: Eviction) -> Result<()> {
        self.config_set("maxmemory-policy", policy.as_str()).await?;
        self.config_set("maxmemory", &bytes.to_string()).await
    }

    /// `used_memory` in bytes.
    pub async fn memory_used(&self) -> Result<u64> {
        let used = self.info("memory", "used_memory").await?;
        used.parse().with_context(|| format!("used_memory {used:?}"))
    }

    /// One field of `INFO section`.
    pub async fn info(&self, section: &str, field: &str) -> Result<String> {
        let reply = self.command(&["INFO", section]).await?.ok()?;
        let text = reply.text().context("INFO answers text")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.map(str::to_owned)
            .with_context(|| format!("INFO {section} has no {field}"))
    }

    /// All keys of database 0 that match the glob `pattern`, sorted.
    pub async fn keys(&self, pattern: &str) -> Result<Vec<String>> {
        let mut connection = self.connect().await?;
        let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
        loop {
            let scan = ["SCAN", &cursor, "MATCH", pattern, "COUNT", SCAN_COUNT];
            let reply = connection.command(&scan).await?.ok()?;
            let Some([next, found]) = reply.array() else {
                bail!("SCAN answered {reply:?}")
            };
            keys.extend(
                found
                    .array()
                    .unwrap_or_default()
                    .iter()
                    .filter_map(RespValue::text),
            );
            cursor = next.text().context("SCAN's cursor")?;
            if cursor == "0" {
                keys.sort();
                keys.dedup();
                return Ok(keys);
            }
        }
    }

    /// Closes every client's connection, blocked and subscribed ones included; returns how many.
    pub async fn client_kill_all(&self) -> Result<u64> {
        let mut connection = self.connect().await?;
        let mut killed = 0;
        for kind in ["normal", "pubsub"] {
            let reply = connection
                .command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
                .await?
                .ok()?;
            killed += reply.integer().context("CLIENT KILL answers a number")? as u64;
        }
        Ok(killed)
    }

    /// Starts the process and waits until it serves commands.
    async fn launch(&self, arguments: &[&str]) -> Result<()> {
        self.spawn(arguments).await?;
        self.wait_for("PONG", |reply| *reply == RespValue::Simple("PONG".to_owned()))
            .await?;
        if self.options.lone_cluster {
            self.own_every_slot().await?;
        }
        Ok(())
    }

    async fn spawn(&self, arguments: &[&str]) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .context("opening the log")?;
        let mut command = Command::new(environment::redis_server());
        command.arg(self.conf_path());
        if self.options.sentinel {
            command.arg("--sentinel");
        }
        command.args(arguments).current_dir(self.dir.path());
        command.stdout(log.try_clone()?).stderr(log);
        (*self.password.lock().unwrap()).clone_from(&self.options.password);
        self.unreachable.lock().unwrap().take();
        self.process.start(command).await
    }

    /// Polls PING until its reply is the wanted one; ends early if the process does.
    async fn wait_for(&self, what: &str, wanted: impl Fn(&RespValue) -> bool) -> Result<()> {
        let started = Instant::now();
        loop {
            let last = self.command(&["PING"]).await;
            if last.as_ref().is_ok_and(&wanted) {
                return Ok(());
            }
            if let Some(status) = self.process.exited().await? {
                bail!(
                    "redis-server ended ({status}); its log ends:\n{}",
                    process::log_tail(&self.log_path())
                );
            }
            ensure!(
                started.elapsed() < START_LIMIT,
                "redis-server did not answer {what} but {last:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    fn lost_its_port(&self) -> bool {
        process::log_tail(&self.log_path()).contains("Address already in use")
    }

    /// A command whose reply says no more than that it was done.
    async fn done(&self, args: &[&str]) -> Result<()> {
        self.command(args)
            .await?
            .ok()
            .with_context(|| format!("{} {}", args[0], args.get(1).unwrap_or(&"")))?;
        Ok(())
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn conf_path(&self) -> PathBuf {
        self.dir.path().join("redis.conf")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("redis.log")
    }
}
