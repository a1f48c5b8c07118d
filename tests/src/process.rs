//! One place in the cluster: a process, its port and environment, and the ends it has come to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::ports::PortLease;
use holdfast_testkit::{Child, eventually, http};

use crate::logs::LogLine;

/// The admin key of every cluster.
pub const API_KEY: &str = "harness-0123456789abcdef0123456789abcdef";

const READY_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// What a process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Api,
    Worker,
    /// `holdfast dev`: both.
    Dev,
}

impl Role {
    fn binary(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Dev => "holdfast",
        }
    }

    pub(crate) fn takes_jobs(self) -> bool {
        self != Self::Worker
    }

    pub(crate) fn runs_jobs(self) -> bool {
        self != Self::Api
    }
}

/// A process that can be killed and started again in its place: same port, same environment.
#[derive(Debug)]
pub struct ManagedProcess {
    pub role: Role,
    pub index: usize,
    pub(crate) env: Vec<(String, String)>,
    /// Where its program is, if not among those of this build.
    programs: Option<PathBuf>,
    dir: PathBuf,
    lease: PortLease,
    child: Option<Child>,
    /// Logs of the processes that were here before.
    past: Vec<LogLine>,
    starts: u32,
}

impl ManagedProcess {
    pub(crate) fn new(role: Role, index: usize, env: Vec<(String, String)>, dir: PathBuf) -> Result<Self> {
        Ok(Self {
            role,
            index,
            env,
            programs: None,
            dir,
            lease: PortLease::acquire()?,
            child: None,
            past: Vec::new(),
            starts: 0,
        })
    }

    /// `worker-1`
    pub fn name(&self) -> String {
        format!("{}-{}", self.role.binary(), self.index)
    }

    /// Where its HTTP is, whether it runs or not.
    pub fn addr(&self) -> SocketAddr {
        self.lease.addr()
    }

    /// The process that runs here.
    pub fn child(&mut self) -> &mut Child {
        let name = self.name();
        self.child
            .as_mut()
            .unwrap_or_else(|| panic!("{name} is not started"))
    }

    /// None before the first start and after a kill.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::pid)
    }

    /// Processes started here so far.
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// From its next start on, runs the program in this folder; `None`: that of this build.
    pub fn set_programs(&mut self, folder: Option<&Path>) {
        self.programs = folder.map(Path::to_owned);
    }

    /// Starts a process; does not wait until it is ready.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name());
        let program = self.role.binary();
        let child = match &self.programs {
            Some(folder) => Child::program(folder.join(program)),
            None => Child::binary(program),
        };
        let mut builder = child
            .named(self.name())
            .current_dir(&self.dir)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("PORT", self.lease.port().to_string());
        if self.role == Role::Dev {
            builder = builder.arg("dev");
        }
        self.child = Some(builder.start()?);
        self.starts += 1;
        Ok(())
    }

    /// Waits until `/health/ready` says 200; fails early if the process ends.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let (name, addr) = (self.name(), self.addr());
        let child = self.child();
        let what = format!("{name} to be ready");
        let ready = eventually(&what, READY_LIMIT, POLL, async || {
            is_ready(addr).await.then_some(())
        });
        tokio::select! {
            biased;
            ready = ready => ready.with_context(|| printed(child)),
            ended = child.wait_exit(READY_LIMIT * 2) => {
                anyhow::bail!("{name} ended before it was ready: {:?}\n{}", ended?, printed(child))
            }
        }
    }

    /// Whether a process is here and has not ended.
    pub fn is_running(&mut self) -> Result<bool> {
        self.child.as_mut().map_or(Ok(false), Child::is_running)
    }

    /// SIGKILL.
    pub(crate) async fn sigkill(&mut self) -> Result<ExitStatus> {
        let status = self.child().sigkill().await?;
        self.bury();
        Ok(status)
    }

    /// SIGTERM, and waits for the end.
    pub async fn sigterm(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.child().sigterm()?;
        self.wait_exit(deadline).await
    }

    /// Waits for the end of a process that was signalled before, or ends by itself.
    pub async fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let status = self.child().wait_exit(deadline).await?;
        self.bury();
        Ok(status)
    }

    /// What all processes of this place have logged, oldest first (of each the last 20,000 lines).
    pub fn logs(&self) -> Vec<LogLine> {
        let now = self.child.iter().flat_map(Child::lines);
        let now = now.filter_map(|line| LogLine::parse(&line));
        self.past.iter().cloned().chain(now).collect()
    }

    fn bury(&mut self) {
        if let Some(child) = self.child.take() {
            self.past
                .extend(child.lines().iter().filter_map(|line| LogLine::parse(line)));
        }
    }
}

async fn is_ready(addr: SocketAddr) -> bool {
    let mut client = http::Client::new(addr).with_deadline(Duration::from_secs(2));
    client
        .get("/health/ready")
        .await
        .is_ok_and(|response| response.status == 200)
}

fn printed(child: &Child) -> String {
    let lines = child.lines();
    let last = lines.len().saturating_sub(40);
    format!("{} printed last:\n{}", child.name(), lines[last..].join("\n"))
}
