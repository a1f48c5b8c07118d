//! A live but deaf worker is the field's commonest outage: the process is there, and takes no work.
//!
//! The watchdog runs on a thread and a runtime of its own, so that a blocked worker cannot block it. When for
//! `worker.watchdog` no heartbeat was stored, or no claim and no poll came to an end, it asks the dependencies over
//! connections of its own. If they do not answer, the worker is not to blame. If they do, at least twice and for [`RECOVERY`]
//! without a break, the process ends with [`DEAF_EXIT_CODE`], and the platform starts a new one.
//!
//! A claim that the database ends because it takes too long is an end too: the worker asks, the database is slow, and another
//! process would wait as long. What matters is that the fetchers go on, and that the database takes heartbeats.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_core::config::Durability;

use super::WorkerState;

/// EX_SOFTWARE of sysexits.h.
pub const DEAF_EXIT_CODE: i32 = 70;

/// A worker takes work again this long after its dependency does, at the latest: one claim may still have to time out, and the
/// next poll follows. Until then it is not deaf.
const RECOVERY: Duration = Duration::from_secs(5);

/// Asks one dependency, over a connection that nothing else uses, whether it answers.
pub trait DependencyProbe: Send + 'static {
    fn name(&self) -> &'static str;
    /// Blocks for a few seconds at most.
    fn answers(&mut self) -> bool;
}

/// What the watchdog watches.
#[derive(Debug, Clone)]
pub struct Watchdog {
    shared: Arc<WorkerState>,
}

impl Watchdog {
    pub(crate) fn new(shared: Arc<WorkerState>) -> Self {
        Self { shared }
    }

    /// How long no heartbeat was stored, or no claim and no poll came to an end, whichever is worse. An idle worker polls
    /// only every `safety_poll`; that time is no silence.
    pub fn silence(&self) -> Duration {
        let rest = self.shared.settings.worker.safety_poll;
        let idle = self.shared.vitals.since_looked().saturating_sub(rest);
        idle.max(self.shared.vitals.since_heartbeat())
    }

    /// How long since the broker last answered a fetch; `None` where no queue is on the broker or a lane is full.
    pub fn broker_silence(&self) -> Option<Duration> {
        let idle_lane = |lane: &&Arc<super::lane::Lane>| {
            lane.durability == Durability::Redis && lane.room() > 0 && !self.shared.is_paused(&lane.name)
        };
        let broker = self.shared.jobs.broker()?;
        let lanes = self.shared.lanes.values().filter(idle_lane).count();
        (lanes > 0 && broker.gate().is_configured()).then(|| self.shared.vitals.since_broker())
    }

    /// Jobs that run in this process now.
    pub fn running(&self) -> usize {
        self.shared.running.count()
    }

    /// Outcomes that the ledger did not take at the first try and that are held for another one, and for how long there has
    /// been any without a break.
    pub fn held_outcomes(&self) -> (usize, Duration) {
        self.shared.held_outcomes.sum()
    }

    /// The worker's name, as `GET /v1/workers` shows it.
    pub fn worker_name(&self) -> String {
        self.shared.identity.name()
    }

    pub fn queues(&self) -> Vec<String> {
        self.shared.lanes.keys().map(ToString::to_string).collect()
    }

    /// Starts the watch. `probe_sql` and `probe_redis` tell whether a dependency answers; `on_deaf` ends the process.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn watch(
        self,
        mut probe_sql: impl DependencyProbe,
        mut probe_redis: Option<Box<dyn DependencyProbe>>,
        on_deaf: impl FnOnce(String) + Send + 'static,
    ) -> std::io::Result<()> {
        let limit = self.shared.settings.worker.watchdog;
        let step = (limit / 12).max(Duration::from_millis(100));
        std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                let (mut sql, mut redis) = (Answers::default(), Answers::default());
                while !self.shared.stop.is_triggered() {
                    std::thread::sleep(step);
                    let deaf_to_sql_for = sql.note(self.silence() > limit && probe_sql.answers());
                    let broker_silent = self.broker_silence().is_some_and(|silence| silence > limit);
                    let answers = broker_silent && probe_redis.as_mut().is_some_and(|probe| probe.answers());
                    let deaf_to_redis_for = redis.note(answers);
                    let deaf_to = if deaf_to_sql_for >= RECOVERY {
                        probe_sql.name()
                    } else if deaf_to_redis_for >= RECOVERY {
                        probe_redis.as_ref().map_or("redis", |probe| probe.name())
                    } else {
                        continue;
                    };
                    return on_deaf(format!(
                        "deaf: no work taken for {} s although {deaf_to} answers",
                        limit.as_secs()
                    ));
                }
            })?;
        Ok(())
    }
}

/// Since when a dependency has answered, time after time, while the worker was silent.
#[derive(Debug, Default)]
struct Answers {
    since: Option<Instant>,
}

impl Answers {
    /// Notes the latest answer, and tells for how long there have been answers; zero at the first one.
    fn note(&mut self, answers: bool) -> Duration {
        if !answers {
            self.since = None;
            return Duration::ZERO;
        }
        self.since.get_or_insert_with(Instant::now).elapsed()
    }
}
