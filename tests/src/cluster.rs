//! The cluster: servers, proxies, processes, and what is done to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_testkit::http::Client;
use holdfast_testkit::{FaultProxy, PostgresServer, Receiver, RedisServer, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinHandle;

use crate::allowed_duplicates::Excuse;
use crate::broker::RedisTruth;
use crate::fault::Fault;
use crate::health::HealthWatch;
use crate::ledger::LedgerTruth;
use crate::load::{self, Load, Running};
use crate::process::{API_KEY, ManagedProcess, Role};
use crate::process_faults::Absence;
use crate::record::Record;
use crate::setup::{ClusterBuilder, ProxiedClient, Setup};

const POLL: Duration = Duration::from_millis(100);
/// A whole Holdfast. Everything in it ends with this value.
#[derive(Debug)]
pub struct Cluster {
    pub receiver: Arc<Receiver>,
    pub record: Arc<Record>,
    redis: Option<Arc<RedisServer>>,
    postgres: Option<Arc<PostgresServer>>,
    redis_proxies: Vec<(ProxiedClient, Arc<FaultProxy>)>,
    postgres_proxies: Vec<(ProxiedClient, Arc<FaultProxy>)>,
    processes: Vec<ManagedProcess>,
    pub(crate) builder: ClusterBuilder,
    pub(crate) ledger: Arc<LedgerTruth>,
    pub(crate) excuses: Vec<Excuse>,
    /// Excuses that are still being looked for.
    pub(crate) excusing: Vec<JoinHandle<Excuse>>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) health: Option<HealthWatch>,
    /// When which process was killed or stopped, and when there was one again: it could notice nothing meanwhile.
    pub(crate) absences: Vec<Absence>,
    /// What a process was expected to end as, by place; its end is no broken promise.
    pub(crate) ended_on_purpose: BTreeMap<(Role, usize), u32>,
    /// Working directory of every process.
    dir: TempDir,
    /// Held last of all.
    _alone: OwnedMutexGuard<()>,
}

/// One cluster at a time, also where the test runner is `cargo test`, which runs the tests of a binary side by side:
/// what is measured here means nothing on a machine that does something else. So no test may hold two.
static ALONE: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);

impl Cluster {
    pub fn builder(setup: Setup) -> ClusterBuilder {
        ClusterBuilder::new(setup)
    }

    /// Waits until no other cluster is there.
    pub(crate) async fn alone() -> OwnedMutexGuard<()> {
        Arc::clone(&ALONE).lock_owned().await
    }

    pub(crate) async fn assemble(
        builder: ClusterBuilder,
        redis: Option<Arc<RedisServer>>,
        postgres: Option<Arc<PostgresServer>>,
        alone: OwnedMutexGuard<()>,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("holdfast-tests-").tempdir()?;
        let mut redis_proxies = Vec::new();
        for scope in &builder.redis_proxies {
            let redis = redis.as_ref().context("a proxy before Redis needs Redis")?;
            redis_proxies.push((*scope, Arc::new(FaultProxy::for_redis(redis).await?)));
        }
        let mut postgres_proxies = Vec::new();
        for scope in &builder.postgres_proxies {
            let postgres = postgres
                .as_ref()
                .context("a proxy before PostgreSQL needs PostgreSQL")?;
            postgres_proxies.push((*scope, Arc::new(FaultProxy::for_postgres(postgres).await?)));
        }
        let ledger = match &postgres {
            Some(postgres) => LedgerTruth::Postgres(Arc::clone(postgres)),
            None => LedgerTruth::sqlite(&dir.path().join(".holdfast/holdfast.db")),
        };
        let mut cluster = Self {
            receiver: Arc::new(Receiver::start().await?),
            record: Arc::default(),
            redis,
            postgres,
            redis_proxies,
            postgres_proxies,
            processes: Vec::new(),
            ledger: Arc::new(ledger),
            excuses: Vec::new(),
            excusing: Vec::new(),
            faults: Vec::new(),
            health: None,
            absences: Vec::new(),
            ended_on_purpose: BTreeMap::new(),
            builder,
            dir,
            _alone: alone,
        };
        cluster.lay_out()?;
        Ok(cluster)
    }

    /// A place for every process.
    fn lay_out(&mut self) -> Result<()> {
        let places: Vec<(Role, usize)> = if self.builder.setup == Setup::Dev {
            vec![(Role::Dev, 0)]
        } else {
            let apis = (0..self.builder.apis).map(|index| (Role::Api, index));
            let workers = (0..self.builder.workers).map(|index| (Role::Worker, index));
            apis.chain(workers).collect()
        };
        for (role, index) in places {
            let env = self.environment(role, index);
            self.processes
                .push(ManagedProcess::new(role, index, env, self.dir.path().to_owned())?);
        }
        Ok(())
    }

    fn environment(&self, role: Role, index: usize) -> Vec<(String, String)> {
        let mut env: Vec<(String, String)> = [
            ("HOLDFAST_ENV", "development"),
            ("HOLDFAST_API_KEY", API_KEY),
            ("HOLDFAST__SERVER__HOST", "127.0.0.1"),
            ("HOLDFAST__HTTP_REQUEST__ALLOW_PRIVATE", "true"),
            ("HOLDFAST__LOG__FORMAT", "json"),
            ("HOLDFAST__JOBS__RETRY__BASE_SECONDS", "0.5"),
            ("HOLDFAST__JOBS__RETRY__CAP_SECONDS", "5"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        let mut set = |name: &str, value: String| env.push((name.to_owned(), value));
        if let Some(postgres) = &self.postgres {
            let proxy = proxy_for(&self.postgres_proxies, role, index);
            set(
                "DATABASE_URL",
                proxy.map_or(postgres.url(), |proxy| proxy.url_for(&postgres.url())),
            );
        }
        if let Some(redis) = &self.redis {
            let proxy = proxy_for(&self.redis_proxies, role, index);
            set(
                "REDIS_URL",
                proxy.map_or(redis.url(), |proxy| proxy.url_for(&redis.url())),
            );
        }
        for (queue, durability) in &self.builder.queues {
            set(
                &format!("HOLDFAST__QUEUES__{}__DURABILITY", queue.to_uppercase()),
                durability.as_str().to_owned(),
            );
        }
        env.extend(self.builder.env.iter().cloned());
        let own = self
            .builder
            .env_of
            .iter()
            .filter(|(of, at, ..)| (*of, *at) == (role, index));
        env.extend(own.map(|(_, _, name, value)| (name.clone(), value.clone())));
        env
    }

    /// Sets a variable for every process started from now on.
    pub fn env(&mut self, name: &str, value: &str) {
        for process in &mut self.processes {
            process.env.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Sets a variable for one process, from its next start on.
    pub fn env_of(&mut self, role: Role, index: usize, name: &str, value: &str) {
        self.process(role, index)
            .env
            .push((name.to_owned(), value.to_owned()));
    }

    /// Starts every process and waits until all are ready, then watches `/health` of each.
    pub async fn start_all(&mut self) -> Result<()> {
        self.launch_all()?;
        self.wait_ready().await
    }

    /// Starts every process without waiting.
    pub fn launch_all(&mut self) -> Result<()> {
        for process in &mut self.processes {
            process.start()?;
        }
        self.health = Some(HealthWatch::start(self.apis()));
        Ok(())
    }

    /// Waits until every process says that it is ready.
    pub async fn wait_ready(&mut self) -> Result<()> {
        for process in &mut self.processes {
            process.wait_ready().await?;
        }
        Ok(())
    }

    // --- who is there ---------------------------------------------------------------------------------------------

    pub fn redis(&self) -> &Arc<RedisServer> {
        self.redis.as_ref().expect("this set-up has Redis")
    }

    pub fn postgres(&self) -> &Arc<PostgresServer> {
        self.postgres.as_ref().expect("this set-up has PostgreSQL")
    }

    /// The proxy before Redis that all share.
    pub fn redis_proxy(&self) -> &Arc<FaultProxy> {
        exact_proxy(&self.redis_proxies, ProxiedClient::Everybody)
    }

    /// The proxy before Redis of this process alone.
    pub fn redis_proxy_of(&self, role: Role, index: usize) -> &Arc<FaultProxy> {
        exact_proxy(&self.redis_proxies, ProxiedClient::One(role, index))
    }

    /// The proxy before PostgreSQL that all share.
    pub fn postgres_proxy(&self) -> &Arc<FaultProxy> {
        exact_proxy(&self.postgres_proxies, ProxiedClient::Everybody)
    }

    /// The proxy before PostgreSQL of this process alone.
    pub fn postgres_proxy_of(&self, role: Role, index: usize) -> &Arc<FaultProxy> {
        exact_proxy(&self.postgres_proxies, ProxiedClient::One(role, index))
    }

    pub fn process(&mut self, role: Role, index: usize) -> &mut ManagedProcess {
        let place = self
            .processes
            .iter_mut()
            .find(|process| (process.role, process.index) == (role, index));
        place.unwrap_or_else(|| panic!("this cluster has no {role:?} {index}"))
    }

    pub fn processes(&mut self) -> &mut [ManagedProcess] {
        &mut self.processes
    }

    pub fn api(&mut self, index: usize) -> &mut ManagedProcess {
        self.process(Role::Api, index)
    }

    pub fn worker(&mut self, index: usize) -> &mut ManagedProcess {
        self.process(Role::Worker, index)
    }

    /// Addresses of all processes that take jobs.
    pub fn apis(&self) -> Vec<SocketAddr> {
        let apis = self.processes.iter().filter(|process| process.role.takes_jobs());
        apis.map(ManagedProcess::addr).collect()
    }

    /// A client of the n-th API, with its key.
    pub fn client(&self, api: usize) -> Client {
        load::client(self.apis()[api])
    }

    pub fn ledger(&self) -> &LedgerTruth {
        &self.ledger
    }

    pub fn redis_truth(&self) -> Option<RedisTruth> {
        match (&self.redis, &self.builder.redis_servers[..]) {
            (Some(redis), _) => Some(RedisTruth(vec![Arc::clone(redis)])),
            (None, []) => None,
            (None, servers) => Some(RedisTruth(servers.to_vec())),
        }
    }

    /// What `/health` of the APIs has said so far.
    pub fn health(&self) -> &HealthWatch {
        self.health.as_ref().expect("started")
    }

    // --- work -----------------------------------------------------------------------------------------------------

    /// Starts producers on all APIs.
    pub fn load(&self, load: Load) -> Running {
        load.start(self.apis(), &self.receiver, &self.record)
    }

    /// Runs a load with a count to its end.
    pub async fn enqueue(&self, load: Load) -> Result<()> {
        self.load(load).finish().await
    }

    /// Enqueues one job of any kind through the first API and returns the answer, which must be 202.
    pub async fn post(&self, job: &Value) -> Result<Value> {
        let response = self.client(0).post_json("/v1/jobs", job).await?;
        ensure!(response.status == 202, "{}: {}", response.status, response.text());
        response.json()
    }

    /// A job as the first API shows it.
    pub async fn job(&self, id: &str) -> Result<Value> {
        let response = self.client(0).get(&format!("/v1/jobs/{id}")).await?;
        ensure!(response.status == 200, "{}: {}", response.status, response.text());
        response.json()
    }

    /// One job on `queue` through the n-th API, executed at the receiver within `deadline`: it works. Returns the time
    /// from the request to the execution.
    pub async fn probe(&self, api: usize, queue: &str, deadline: Duration) -> Result<Duration> {
        let id = self.record.next_id().replace('j', "probe");
        let began = Instant::now();
        let job =
            json!({"kind": "http.request", "queue": queue, "payload": {"url": self.receiver.hit_url(&id)}});
        let response = self.client(api).post_json("/v1/jobs", &job).await?;
        ensure!(response.status == 202, "{}: {}", response.status, response.text());
        self.receiver.wait_for_hits(&id, 1, deadline).await?;
        Ok(self.receiver.hits(&id)[0].at - began)
    }

    // --- the end --------------------------------------------------------------------------------------------------

    /// Waits until every accepted job was executed (`Err` names those that were not) and nothing is left to do in SQL
    /// and Redis; returns how long that took.
    pub async fn settle(&self, deadline: Duration) -> Result<Duration> {
        let began = Instant::now();
        let waited = eventually(
            "all accepted jobs to be executed and final",
            deadline,
            POLL,
            async || {
                let missing = self.receiver.missing(&self.record.accepted_ids());
                (missing.is_empty() && self.is_idle().await).then_some(())
            },
        );
        waited.await.with_context(|| {
            let missing = self.receiver.missing(&self.record.accepted_ids());
            let first = &missing[..missing.len().min(10)];
            format!("{} accepted jobs were not executed: {first:?} …", missing.len())
        })?;
        Ok(began.elapsed())
    }

    /// The same where jobs may be lost with Redis' memory: waits until nothing is left to do.
    pub async fn settle_idle(&self, deadline: Duration) -> Result<Duration> {
        let began = Instant::now();
        eventually("nothing to be left to do", deadline, POLL, async || {
            self.is_idle().await.then_some(())
        })
        .await?;
        Ok(began.elapsed())
    }

    /// Nothing waits and nothing runs, in SQL and in Redis.
    pub async fn is_idle(&self) -> bool {
        let on_redis = match self.redis_truth() {
            Some(redis) => redis.unfinished().await.is_ok_and(|jobs| jobs == 0),
            None => true,
        };
        on_redis && self.ledger.unfinished().await.is_ok_and(|jobs| jobs == 0)
    }
}

fn exact_proxy(proxies: &[(ProxiedClient, Arc<FaultProxy>)], scope: ProxiedClient) -> &Arc<FaultProxy> {
    let found = proxies.iter().find(|(of, _)| *of == scope);
    &found
        .unwrap_or_else(|| panic!("this cluster has no proxy before {scope:?}"))
        .1
}

/// Its own, or the one that all share.
fn proxy_for(
    proxies: &[(ProxiedClient, Arc<FaultProxy>)],
    role: Role,
    index: usize,
) -> Option<&Arc<FaultProxy>> {
    let of = |scope: ProxiedClient| proxies.iter().find(move |(known, _)| *known == scope);
    of(ProxiedClient::One(role, index))
        .or_else(|| of(ProxiedClient::Everybody))
        .map(|(_, proxy)| proxy)
}
