//! What happens, and when.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// One thing that goes wrong, and is put right again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disaster {
    RedisKilled,
    RedisFrozen,
    /// Restarted without its data.
    RedisEmptied,
    /// FLUSHALL, and it goes on.
    RedisFlushed,
    RedisBlackHole,
    RedisHalfOpen,
    RedisReset,
    RedisRefused,
    /// So many replies to scripts are cut after the server has applied the command.
    RedisRepliesCut(u64),
    PostgresRestarted,
    PostgresKilled,
    PostgresFrozen,
    /// Every session ended by the administrator.
    PostgresTerminated,
    PostgresReset,
    /// So many replies are cut after the server has applied the statements.
    PostgresRepliesCut(u64),
    /// Somebody's open transaction holds some of the running jobs, and every batch.
    RowsLocked,
    /// A trigger makes every claim slow.
    ClaimsDelayed,
    /// Somebody takes every connection that is free.
    ConnectionsTaken,
    /// Somebody's open transaction keeps what a vacuum would remove.
    OldTransaction,
    /// What is written does not become durable; no bound of the server ends the wait.
    DiskStalled,
    WorkerKilled(usize),
    WorkerStopped(usize),
    /// SIGSTOP past the lease, and back.
    WorkerFrozen(usize),
    ApiKilled(usize),
    /// SIGSTOP, and back.
    ApiFrozen(usize),
}

impl Disaster {
    /// Loses what Redis holds.
    pub fn destroys_redis_data(self) -> bool {
        matches!(self, Self::RedisEmptied | Self::RedisFlushed)
    }

    /// Takes a dependency away from everybody, rather than a process.
    pub fn is_of_a_dependency(self) -> bool {
        !matches!(
            self,
            Self::WorkerKilled(_)
                | Self::WorkerStopped(_)
                | Self::WorkerFrozen(_)
                | Self::ApiKilled(_)
                | Self::ApiFrozen(_)
        )
    }

    pub fn is_of_redis(self) -> bool {
        matches!(
            self,
            Self::RedisKilled
                | Self::RedisFrozen
                | Self::RedisEmptied
                | Self::RedisFlushed
                | Self::RedisBlackHole
                | Self::RedisHalfOpen
                | Self::RedisReset
                | Self::RedisRefused
                | Self::RedisRepliesCut(_)
        )
    }
}

/// When a disaster begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Begins,
    Ends,
}

/// One line of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Since the load began.
    pub at: Duration,
    pub event: Event,
    pub disaster: Disaster,
}

/// How long things take. Leases are longer than the longest outage with the heartbeats around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    pub load: Duration,
    pub heartbeat: Duration,
    pub lost_after: Duration,
    /// Shortest and longest outage.
    pub outage: (f64, f64),
    /// Shortest and longest pause between outages.
    pub pause: (f64, f64),
}

impl Pace {
    /// For every run of the suite.
    pub const SHORT: Self = Self {
        load: Duration::from_secs(12),
        heartbeat: Duration::from_millis(500),
        lost_after: Duration::from_secs(5),
        outage: (0.3, 2.0),
        pause: (1.0, 2.5),
    };
    /// With the leases of production.
    pub const LONG: Self = Self {
        load: Duration::from_mins(1),
        heartbeat: Duration::from_secs(5),
        lost_after: Duration::from_secs(15),
        outage: (0.5, 5.0),
        pause: (6.0, 10.0),
    };
}

/// Faults in the order of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub seed: u64,
    pub pace: Pace,
    /// Whether Redis may lose its data: then it may lose the jobs that were accepted on it, and no others.
    pub redis_data_loss: bool,
    pub steps: Vec<Step>,
}

/// One seed in so many has a Redis that forgets.
const FORGETFUL: f64 = 1.0 / 3.0;
const WORKERS: usize = 2;
const APIS: usize = 2;

impl Schedule {
    pub fn draw(seed: u64, pace: Pace) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let redis_data_loss = rng.random_bool(FORGETFUL);
        let mut steps = Vec::new();
        let outage = |rng: &mut StdRng, _: Disaster| seconds(rng, pace.outage);
        Self::draw_track(
            &mut rng,
            pace,
            &mut steps,
            |rng| dependency(rng, redis_data_loss),
            outage,
        );
        let absence = |rng: &mut StdRng, disaster: Disaster| match disaster {
            Disaster::WorkerFrozen(_) => pace.lost_after + seconds(rng, (1.5, 2.5)),
            _ => seconds(rng, (0.2, 1.5)),
        };
        Self::draw_track(&mut rng, pace, &mut steps, process, absence);
        steps.sort_by_key(|step| step.at);
        Self {
            seed,
            pace,
            redis_data_loss,
            steps,
        }
    }

    /// One disaster after the other, as long as the load lasts.
    fn draw_track(
        rng: &mut StdRng,
        pace: Pace,
        steps: &mut Vec<Step>,
        choose: impl Fn(&mut StdRng) -> Disaster,
        lasts: impl Fn(&mut StdRng, Disaster) -> Duration,
    ) {
        let mut at = seconds(rng, pace.pause);
        while at < pace.load {
            let disaster = choose(rng);
            let end = at + lasts(rng, disaster);
            steps.push(Step {
                at,
                event: Event::Begins,
                disaster,
            });
            steps.push(Step {
                at: end,
                event: Event::Ends,
                disaster,
            });
            at = end + seconds(rng, pace.pause);
        }
    }

    /// Whether it happens at all.
    pub fn has(&self, disaster: Disaster) -> bool {
        self.steps.iter().any(|step| step.disaster == disaster)
    }

    /// How many disasters there are.
    pub fn len(&self) -> usize {
        self.steps.len() / 2
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}, redis may lose its data: {}",
            self.seed, self.redis_data_loss
        )?;
        for Step { at, event, disaster } in &self.steps {
            writeln!(
                f,
                "  {:6.2} s  {disaster:?} {}",
                at.as_secs_f64(),
                format!("{event:?}").to_lowercase()
            )?;
        }
        Ok(())
    }
}

fn dependency(rng: &mut StdRng, redis_data_loss: bool) -> Disaster {
    let cuts = rng.random_range(1..=8);
    let mut choices = vec![
        Disaster::RedisKilled,
        Disaster::RedisFrozen,
        Disaster::RedisBlackHole,
        Disaster::RedisHalfOpen,
        Disaster::RedisReset,
        Disaster::RedisRefused,
        Disaster::RedisRepliesCut(cuts),
        Disaster::RedisRepliesCut(cuts),
        Disaster::PostgresRestarted,
        Disaster::PostgresKilled,
        Disaster::PostgresFrozen,
        Disaster::PostgresTerminated,
        Disaster::PostgresReset,
        Disaster::PostgresRepliesCut(cuts),
        Disaster::RowsLocked,
        Disaster::RowsLocked,
        Disaster::ClaimsDelayed,
        Disaster::ConnectionsTaken,
        Disaster::OldTransaction,
        Disaster::DiskStalled,
        Disaster::DiskStalled,
    ];
    if redis_data_loss {
        choices.extend([
            Disaster::RedisEmptied,
            Disaster::RedisFlushed,
            Disaster::RedisEmptied,
            Disaster::RedisFlushed,
        ]);
    }
    *choices.choose(rng).expect("there are choices")
}

fn process(rng: &mut StdRng) -> Disaster {
    let (worker, api) = (rng.random_range(0..WORKERS), rng.random_range(0..APIS));
    let choices = [
        Disaster::WorkerKilled(worker),
        Disaster::WorkerKilled(worker),
        Disaster::WorkerStopped(worker),
        Disaster::WorkerStopped(worker),
        Disaster::WorkerFrozen(worker),
        Disaster::ApiKilled(api),
        Disaster::ApiKilled(api),
        Disaster::ApiFrozen(api),
    ];
    *choices.choose(rng).expect("there are choices")
}

/// To the millisecond, so that a schedule reads as it is.
fn seconds(rng: &mut StdRng, (from, to): (f64, f64)) -> Duration {
    Duration::from_millis((rng.random_range(from..to) * 1_000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_schedule_and_another_one_another() {
        let schedule = Schedule::draw(7, Pace::SHORT);
        assert_eq!(schedule, Schedule::draw(7, Pace::SHORT));
        assert_ne!(schedule.steps, Schedule::draw(8, Pace::SHORT).steps);
    }

    #[test]
    fn whatever_begins_ends_and_dependencies_fail_one_at_a_time() {
        for seed in 0..200 {
            let schedule = Schedule::draw(seed, Pace::LONG);
            let (mut away, mut gone) = (None, None);
            for Step { event, disaster, .. } in schedule.steps {
                let slot = if disaster.is_of_a_dependency() {
                    &mut away
                } else {
                    &mut gone
                };
                match event {
                    Event::Begins => assert_eq!(slot.replace(disaster), None, "seed {seed}"),
                    Event::Ends => assert_eq!(slot.take(), Some(disaster), "seed {seed}"),
                }
            }
            assert_eq!((away, gone), (None, None), "seed {seed}");
        }
    }

    #[test]
    fn only_a_forgetful_seed_loses_what_redis_holds() {
        for seed in 0..200 {
            let schedule = Schedule::draw(seed, Pace::SHORT);
            let destroys = schedule
                .steps
                .iter()
                .any(|step| step.disaster.destroys_redis_data());
            assert!(schedule.redis_data_loss || !destroys, "seed {seed}");
        }
    }
}
