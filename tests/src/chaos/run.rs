//! A cluster in the storm.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_testkit::{Mode, Persistence, PostgresOptions, RedisOptions, bytes_contain};

use super::foreign::Foreign;
use super::{Disaster, Event, Schedule, Step};
use crate::cluster::Cluster;
use crate::fault::Dependency;
use crate::load::{Load, Repeat, Target};
use crate::preload::StallingDisk;
use crate::process::Role;
use crate::report::{Expect, Report};
use crate::setup::{Durability, Setup};

const QUEUES: [&str; 2] = ["default", "bulk"];
const PRODUCERS: usize = 8;
/// What two cores with everything on them carry beside debug builds.
const PER_SECOND: f64 = 250.0;
/// Producers that repeat, beside those that do not.
const CAREFUL_PRODUCERS: usize = 4;
const CAREFUL_PER_SECOND: f64 = 50.0;
const PATIENCE: Duration = Duration::from_secs(15);
/// Some jobs are running whenever something happens.
const TARGET: Target = Target::Mixed {
    every: 15,
    slow: Duration::from_millis(300),
};

/// The promise is 2 s; the rest is for a machine whose cores are all busy.
const NORMAL_AGAIN: Duration = Duration::from_secs(3);
/// A worker that was told to stop ends within its grace period (25 s).
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// Lives through the schedule under load, and reports.
pub async fn run(schedule: &Schedule) -> Result<Report> {
    let disk = schedule
        .has(Disaster::DiskStalled)
        .then(StallingDisk::new)
        .transpose()?;
    let mut cluster = start(schedule, disk.as_ref()).await?;
    let queues = Load::new().queues(&QUEUES).target(TARGET);
    let careless = cluster.load(queues.producers(PRODUCERS).per_second(PER_SECOND));
    let careful = Load::new()
        .producers(CAREFUL_PRODUCERS)
        .per_second(CAREFUL_PER_SECOND)
        .target(TARGET);
    let careful = cluster.load(careful.repeat(Repeat::SameKey(PATIENCE)));
    let began = Instant::now();
    let mut storm = Storm {
        stopping: Vec::new(),
        skipped: None,
        foreign: Foreign::new(disk),
    };
    for step in &schedule.steps {
        tokio::time::sleep_until((began + step.at).into()).await;
        let done = storm.apply(&mut cluster, *step).await;
        done.with_context(|| format!("{:?} {:?}", step.disaster, step.event))?;
    }
    storm.replace_the_last(&mut cluster).await?;
    tokio::time::sleep_until((began + schedule.pace.load).into()).await;
    careless.stop().await?;
    careful.stop().await?;
    cluster.wait_ready().await?;
    let scenario = format!("seed {}: {} faults", schedule.seed, schedule.len());
    let mut report = cluster.conclude(&scenario, &expectations(schedule)).await?;
    if report.twice_retried > 0 {
        let failed = report.twice_retried;
        report.broken.push(format!(
            "{failed} attempts failed although the receiver never fails"
        ));
    }
    if let Some(back) = report.redis_back.filter(|back| *back > NORMAL_AGAIN) {
        report
            .broken
            .push(format!("normal mode only {back:?} after Redis was back"));
    }
    Ok(report)
}

async fn start(schedule: &Schedule, disk: Option<&StallingDisk>) -> Result<Cluster> {
    let seconds = |duration: Duration| duration.as_secs_f64().to_string();
    Cluster::builder(Setup::PostgresRedis)
        .apis(2)
        .workers(2)
        .queue("bulk", Durability::Redis)
        .env(
            "HOLDFAST__WORKER__HEARTBEAT_SECONDS",
            &seconds(schedule.pace.heartbeat),
        )
        .env(
            "HOLDFAST__WORKER__LOST_AFTER_SECONDS",
            &seconds(schedule.pace.lost_after),
        )
        .env("HOLDFAST__WORKER__MAINTENANCE_SECONDS", "0.5")
        .postgres_options(disk.map_or_else(PostgresOptions::fast, StallingDisk::server))
        .redis_options(RedisOptions::default().persistence(Persistence::AofEverysec))
        .redis_proxy()
        .postgres_proxy()
        .start()
        .await
}

/// A killed worker's jobs are rescued one lease after its death, or after the last outage of SQL.
fn expectations(schedule: &Schedule) -> Expect {
    let expect = Expect::new().settle(schedule.pace.lost_after * 3 + Duration::from_secs(15));
    if schedule.redis_data_loss {
        expect.redis_data_loss()
    } else {
        expect
    }
}

/// Where the storm stands.
#[derive(Debug)]
struct Storm {
    /// Workers that were told to stop and have not ended yet: they may be waiting for a dependency to come back.
    stopping: Vec<usize>,
    /// What should have happened to one of them.
    skipped: Option<Disaster>,
    /// What somebody else does to the database.
    foreign: Foreign,
}

impl Storm {
    async fn apply(&mut self, cluster: &mut Cluster, step: Step) -> Result<()> {
        let Step { disaster, event, .. } = step;
        self.replace_the_stopped(cluster).await?;
        let dependency = if disaster.is_of_redis() {
            Dependency::Redis
        } else {
            Dependency::Sql
        };
        match (disaster, event) {
            // What befalls a worker that is still stopping befalls nobody.
            (
                Disaster::WorkerKilled(index)
                | Disaster::WorkerFrozen(index)
                | Disaster::WorkerStopped(index),
                Event::Begins,
            ) if self.stopping.contains(&index) => {
                self.skipped = Some(disaster);
                Ok(())
            }
            (_, Event::Ends) if self.skipped == Some(disaster) => {
                self.skipped = None;
                Ok(())
            }
            (Disaster::WorkerStopped(index), Event::Begins) => {
                self.stopping.push(index);
                cluster.begin_sigterm(Role::Worker, index)
            }
            // It was replaced when it had ended.
            (Disaster::WorkerStopped(_), Event::Ends) => Ok(()),
            (_, Event::Begins) if disaster.is_of_a_dependency() => {
                cluster.fault_begins(&format!("{disaster:?}"), dependency);
                begin(cluster, &mut self.foreign, disaster).await
            }
            (_, Event::Ends) if disaster.is_of_a_dependency() => {
                let ended = end(cluster, &mut self.foreign, disaster).await;
                cluster.fault_ends();
                ended
            }
            (_, Event::Begins) => begin(cluster, &mut self.foreign, disaster).await,
            (_, Event::Ends) => end(cluster, &mut self.foreign, disaster).await,
        }
    }

    /// Starts those again that have ended by now.
    async fn replace_the_stopped(&mut self, cluster: &mut Cluster) -> Result<()> {
        for index in std::mem::take(&mut self.stopping) {
            match cluster.has_ended(Role::Worker, index).await? {
                None => self.stopping.push(index),
                Some(status) => {
                    ensure!(
                        status.success(),
                        "a worker that was told to stop ended with {status}"
                    );
                    cluster.launch_again(Role::Worker, index)?;
                }
            }
        }
        Ok(())
    }

    /// The same, waiting for each.
    async fn replace_the_last(&mut self, cluster: &mut Cluster) -> Result<()> {
        for index in std::mem::take(&mut self.stopping) {
            let status = cluster.worker(index).wait_exit(STOP_LIMIT).await?;
            ensure!(
                status.success(),
                "a worker that was told to stop ended with {status}"
            );
            cluster.launch_again(Role::Worker, index)?;
        }
        Ok(())
    }
}

async fn begin(cluster: &mut Cluster, foreign: &mut Foreign, disaster: Disaster) -> Result<()> {
    match disaster {
        Disaster::RedisKilled | Disaster::RedisEmptied => cluster.redis().kill9().await,
        Disaster::RedisFrozen => cluster.redis().sigstop().await,
        Disaster::RedisFlushed => cluster.redis().flush_all().await,
        Disaster::RedisBlackHole => cluster.redis_proxy().set_mode(Mode::BlackHole).await,
        Disaster::RedisHalfOpen => cluster.redis_proxy().set_mode(Mode::HalfOpen).await,
        Disaster::RedisReset => cluster.redis_proxy().set_mode(Mode::Reset).await,
        Disaster::RedisRefused => cluster.redis_proxy().set_mode(Mode::Refuse).await,
        Disaster::RedisRepliesCut(times) => {
            cluster
                .redis_proxy()
                .cut_reply_when(|request| bytes_contain(request, b"EVALSHA"), times);
            Ok(())
        }
        Disaster::PostgresRestarted => cluster.postgres().stop().await,
        Disaster::PostgresKilled => cluster.postgres().kill9().await,
        Disaster::PostgresFrozen => cluster.postgres().sigstop().await,
        Disaster::PostgresTerminated => cluster.postgres().terminate_connections().await.map(drop),
        Disaster::PostgresReset => cluster.postgres_proxy().set_mode(Mode::Reset).await,
        Disaster::PostgresRepliesCut(times) => {
            cluster.postgres_proxy().cut_reply_when(|_| true, times);
            Ok(())
        }
        Disaster::RowsLocked
        | Disaster::ClaimsDelayed
        | Disaster::ConnectionsTaken
        | Disaster::OldTransaction
        | Disaster::DiskStalled => foreign.begin(cluster.postgres(), disaster).await,
        Disaster::WorkerStopped(index) => cluster.begin_sigterm(Role::Worker, index),
        Disaster::WorkerKilled(index) => cluster.sigkill(Role::Worker, index).await,
        Disaster::WorkerFrozen(index) => cluster.sigstop(Role::Worker, index).await,
        Disaster::ApiKilled(index) => cluster.sigkill(Role::Api, index).await,
        Disaster::ApiFrozen(index) => cluster.sigstop(Role::Api, index).await,
    }
}

async fn end(cluster: &mut Cluster, foreign: &mut Foreign, disaster: Disaster) -> Result<()> {
    match disaster {
        Disaster::RedisKilled => cluster.redis().restart().await,
        Disaster::RedisEmptied => cluster.redis().restart_empty().await,
        Disaster::RedisFrozen => cluster.redis().sigcont().await,
        Disaster::RedisFlushed | Disaster::PostgresTerminated => Ok(()),
        Disaster::RedisBlackHole
        | Disaster::RedisHalfOpen
        | Disaster::RedisReset
        | Disaster::RedisRefused => cluster.redis_proxy().set_mode(Mode::Forward).await,
        Disaster::RedisRepliesCut(_) => {
            cluster.redis_proxy().cut_no_more();
            Ok(())
        }
        Disaster::PostgresRestarted | Disaster::PostgresKilled => cluster.postgres().start_again().await,
        Disaster::PostgresFrozen => cluster.postgres().sigcont().await,
        Disaster::PostgresReset => cluster.postgres_proxy().set_mode(Mode::Forward).await,
        Disaster::PostgresRepliesCut(_) => {
            cluster.postgres_proxy().cut_no_more();
            Ok(())
        }
        Disaster::RowsLocked
        | Disaster::ClaimsDelayed
        | Disaster::ConnectionsTaken
        | Disaster::OldTransaction
        | Disaster::DiskStalled => foreign.end(cluster.postgres(), disaster).await,
        Disaster::WorkerKilled(index) | Disaster::WorkerStopped(index) => {
            cluster.launch_again(Role::Worker, index)
        }
        Disaster::WorkerFrozen(index) => cluster.sigcont(Role::Worker, index),
        Disaster::ApiKilled(index) => cluster.launch_again(Role::Api, index),
        Disaster::ApiFrozen(index) => cluster.sigcont(Role::Api, index),
    }
}
