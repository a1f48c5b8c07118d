//! A worker in this process over a real PostgreSQL, and a witness outside of the ledger that counts how often each job ran.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_core::config::Settings;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::ledger::JobRecord;
use holdfast_jobs::worker::{Watchdog, Worker, WorkerError, WorkerParts};
use holdfast_jobs::{
    Backoff, Jitter, Job, JobContext, JobError, JobId, Jobs, Registry, Resources, RetryPolicy,
};
use holdfast_testkit::{PostgresOptions, PostgresServer, eventually};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::Connection as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::settings;

/// Longest wait for what must happen; a busy machine needs its time.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// A lock that claims wait for once [`System::slow_claims`] was called.
const GATE: i64 = 42;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    /// Ends at once.
    Echo,
    /// Runs until [`Witness::release`], then ends well.
    Hold,
    /// Runs until [`Witness::release`], then fails.
    Fail,
    /// Never ends, and hears nothing.
    Hang,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Probe {
    pub(crate) act: Act,
    pub(crate) number: u32,
}

#[derive(Debug)]
pub(crate) struct Witness {
    /// Numbers of jobs in the order in which they started.
    started: Mutex<Vec<u32>>,
    released: watch::Sender<bool>,
}

impl Default for Witness {
    fn default() -> Self {
        Self {
            started: Mutex::default(),
            released: watch::Sender::new(false),
        }
    }
}

impl Witness {
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    pub(crate) fn started(&self) -> Vec<u32> {
        self.started.lock().unwrap().clone()
    }

    /// How often each job ran.
    pub(crate) fn runs(&self) -> BTreeMap<u32, usize> {
        let mut runs = BTreeMap::new();
        for number in self.started() {
            *runs.entry(number).or_default() += 1;
        }
        runs
    }

    /// Waits until so many executions have begun.
    pub(crate) async fn wait_for(&self, executions: usize) {
        let begun = async || (self.started().len() >= executions).then_some(());
        eventually(&format!("{executions} executions"), DEADLINE, POLL, begun)
            .await
            .unwrap();
    }
}

impl Job for Probe {
    const KIND: &'static str = "test.probe";
    type Output = u32;

    fn retry() -> Option<RetryPolicy> {
        let backoff = Backoff {
            base: Duration::from_millis(20),
            cap: Duration::from_millis(50),
            jitter: Jitter::Off,
        };
        Some(RetryPolicy {
            max_attempts: 4,
            backoff,
        })
    }

    async fn run(self, ctx: JobContext) -> Result<u32, JobError> {
        let witness = ctx.resource::<Arc<Witness>>()?;
        witness.started.lock().unwrap().push(self.number);
        let mut released = witness.released.subscribe();
        match self.act {
            Act::Echo => {}
            Act::Hold => drop(released.wait_for(|released| *released).await),
            Act::Fail => {
                drop(released.wait_for(|released| *released).await);
                return Err(JobError::transient("on purpose"));
            }
            Act::Hang => std::future::pending().await,
        }
        Ok(self.number)
    }
}

pub(crate) struct System {
    pub(crate) jobs: Jobs,
    pub(crate) witness: Arc<Witness>,
    pub(crate) stop: Shutdown,
    pub(crate) watchdog: Watchdog,
    pub(crate) running: JoinHandle<Result<(), WorkerError>>,
    pub(crate) postgres: PostgresServer,
}

impl System {
    /// With short periods: a lost worker is noticed after two seconds.
    pub(crate) async fn start(extra: &[(&str, &str)]) -> Self {
        Self::start_with(extra, |worker| worker).await
    }

    pub(crate) async fn start_with(extra: &[(&str, &str)], change: impl FnOnce(Worker) -> Worker) -> Self {
        let postgres = PostgresServer::start_with(PostgresOptions::fast()).await.unwrap();
        let url = postgres.url();
        let mut env = vec![
            ("DATABASE_URL", url.as_str()),
            ("HOLDFAST__WORKER__HEARTBEAT_SECONDS", "0.5"),
            ("HOLDFAST__WORKER__LOST_AFTER_SECONDS", "3"),
            ("HOLDFAST__WORKER__MAINTENANCE_SECONDS", "0.2"),
            ("HOLDFAST__WORKER__CONTROL_POLL_SECONDS", "0.1"),
            ("HOLDFAST__WORKER__SAFETY_POLL_SECONDS", "1"),
        ];
        env.extend(extra);
        let settings: Settings = settings(&env);
        migrate(&settings.database).await.unwrap();
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Queue, None, &settings.redis).unwrap();
        let jobs = Jobs::new(&settings, Registry::new().register::<Probe>(), &database, &gate);
        let witness = Arc::new(Witness::default());
        let stop = Shutdown::new();
        let parts = WorkerParts {
            settings,
            jobs: jobs.clone(),
            gate,
            resources: Resources::default().with(Arc::clone(&witness)),
        };
        let worker = change(Worker::new(parts, stop.clone()).unwrap());
        let watchdog = worker.watchdog();
        Self {
            jobs,
            witness,
            stop,
            watchdog,
            running: tokio::spawn(worker.run()),
            postgres,
        }
    }

    pub(crate) async fn enqueue(&self, act: Act, numbers: std::ops::Range<u32>) -> Vec<JobId> {
        let probes: Vec<Probe> = numbers.map(|number| Probe { act, number }).collect();
        let enqueued = self.jobs.enqueue_all(&probes).await.unwrap();
        enqueued.into_iter().map(|one| one.id).collect()
    }

    pub(crate) async fn ends_of(&self, ids: &[JobId]) -> Vec<JobRecord> {
        let mut records = Vec::new();
        for id in ids {
            let record = self.jobs.wait(*id, DEADLINE).await.unwrap().expect("a job");
            assert!(record.state.is_final(), "{record:?}");
            records.push(record);
        }
        records
    }

    /// The first column of the first row, as text.
    pub(crate) async fn ask(&self, sql: &str) -> String {
        self.postgres.psql(sql).await.unwrap().trim().to_owned()
    }

    pub(crate) async fn until(&self, what: &str, sql: &str, answer: &str) {
        let asked = async || {
            let said = self.postgres.psql(sql).await.ok()?;
            (said.trim() == answer).then_some(())
        };
        eventually(what, DEADLINE, POLL, asked).await.unwrap();
    }

    pub(crate) async fn connect(&self) -> sqlx::PgConnection {
        sqlx::PgConnection::connect(&self.postgres.url()).await.unwrap()
    }

    /// From now on a claim waits, once for each job, for a lock that the returned connection holds.
    pub(crate) async fn slow_claims(&self) -> sqlx::PgConnection {
        let mut holder = self.connect().await;
        let sql = format!(
            "create function wait_at_gate() returns trigger language plpgsql as $$
             begin perform pg_advisory_xact_lock_shared({GATE}); return new; end $$;
             create trigger wait_at_gate before update on holdfast_jobs for each row
             when (old.state = 'available' and new.state = 'running') execute function wait_at_gate();
             select pg_advisory_lock({GATE})"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut holder)
            .await
            .unwrap();
        holder
    }

    /// Nothing runs that has no worker's row. ClaimRequest again and again while a test goes on.
    pub(crate) async fn assert_no_orphans(&self) {
        let orphans = "select count(*) from holdfast_jobs as j where state = 'running'
                       and not exists (select from holdfast_workers as w where w.id = j.worker)";
        assert_eq!(self.ask(orphans).await, "0", "a job runs without a living lease");
    }

    pub(crate) async fn stop(self) {
        self.stop.trigger();
        tokio::time::timeout(DEADLINE, self.running)
            .await
            .expect("a stop in time")
            .unwrap()
            .unwrap();
    }
}
