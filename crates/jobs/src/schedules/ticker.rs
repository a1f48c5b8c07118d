//! The loop of a beat: look for what is due, take the ticks, sleep until the next one.
//!
//! It sleeps exactly until the next tick that the database names, and at most `beat.poll_seconds`: within that time it
//! notices a schedule that was made or changed meanwhile. The whole loop is one task and one statement at a time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::backoff::Backoff;
use holdfast_core::config::BeatSettings;
use holdfast_core::shutdown::Shutdown;
use tokio::time::{Instant, sleep, timeout};

use super::manage::Schedules;
use super::model::ScheduleRecord;
use super::store::{Step, TakenStep};
use super::tick;
use crate::id::WorkerId;
use crate::ledger::LedgerError;

/// How long a beat leaves a schedule to others whose tick it cannot make into a job.
pub(super) const REFUSED_REST: Duration = Duration::from_secs(5);

/// Refused schedules that are remembered; the rest are simply tried again.
const MAX_REFUSED: usize = 1_000;

/// Most jobs of one transaction. A schedule may ask for a thousand, so few of them catch up at a time.
const MAX_STEP_JOBS: usize = 2_000;

/// Another beat is at what is due: look again when it is through.
const OVERTAKEN_REST: Duration = Duration::from_millis(25);

/// Between rounds that fail.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// Longest last word.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);

/// Longest error that a schedule keeps, in characters.
const MAX_ERROR: usize = 500;

/// How a beat does: told by its ticker, read by its health.
#[derive(Debug, Clone)]
pub struct Vitals(Arc<Mutex<Pulse>>);

#[derive(Debug)]
struct Pulse {
    name: String,
    last_round: Instant,
    jobs: u64,
    refused: usize,
}

impl Vitals {
    fn change(&self, change: impl FnOnce(&mut Pulse)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn read<T>(&self, read: impl FnOnce(&Pulse) -> T) -> T {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Host, process and boot.
    pub fn name(&self) -> String {
        self.read(|pulse| pulse.name.clone())
    }

    /// Since the database last answered a whole round.
    pub fn silence(&self) -> Duration {
        self.read(|pulse| pulse.last_round.elapsed())
    }

    /// Jobs made so far.
    pub fn jobs(&self) -> u64 {
        self.read(|pulse| pulse.jobs)
    }

    /// Schedules whose tick this beat cannot make into a job.
    pub fn refused(&self) -> usize {
        self.read(|pulse| pulse.refused)
    }
}

/// Makes jobs of ticks until it is stopped.
#[derive(Debug)]
pub struct Ticker {
    schedules: Schedules,
    settings: BeatSettings,
    stop: Shutdown,
    id: WorkerId,
    vitals: Vitals,
    /// When each is tried again.
    refused: HashMap<String, Instant>,
}

impl Ticker {
    pub fn new(schedules: Schedules, settings: BeatSettings, stop: Shutdown) -> Self {
        let id = WorkerId::generate();
        let pulse = Pulse {
            name: crate::worker::process_name(id),
            last_round: Instant::now(),
            jobs: 0,
            refused: 0,
        };
        Self {
            schedules,
            settings,
            stop,
            id,
            vitals: Vitals(Arc::new(Mutex::new(pulse))),
            refused: HashMap::new(),
        }
    }

    pub fn vitals(&self) -> Vitals {
        self.vitals.clone()
    }

    /// Returns once the stop is asked for and the round under way has ended.
    pub async fn run(mut self) {
        let (store, id) = (self.schedules.store().clone(), self.id);
        let beating = heartbeats(
            self.schedules.clone(),
            self.settings.clone(),
            id,
            self.vitals.name(),
        );
        let beating = self.stop.token().clone().run_until_cancelled_owned(beating);
        tracing::info!(beat.name = self.vitals.name(), "ticking");
        tokio::join!(self.tick(), beating);
        // Without it, the row is simply silent, and forgotten later.
        timeout(FAREWELL_DEADLINE, store.farewell(id)).await.ok();
    }

    async fn tick(&mut self) {
        let mut failures = 0;
        while !self.stop.is_triggered() {
            let rest = match self.round().await {
                Ok(rest) => {
                    if failures > 0 {
                        tracing::info!(failures, "the database has recovered: schedules tick again");
                    }
                    failures = 0;
                    self.vitals.change(|pulse| pulse.last_round = Instant::now());
                    rest
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(error = ?error, "schedules wait for the database");
                    }
                    BACKOFF.delay(failures)
                }
            };
            self.stop.token().run_until_cancelled(sleep(rest)).await;
        }
    }

    /// One look and, if anything is due, one transaction; how long to sleep then.
    async fn round(&mut self) -> Result<Duration, LedgerError> {
        self.forget_refusals();
        let except: Vec<String> = self.refused.keys().cloned().collect();
        let store = self.schedules.store().clone();
        let due = store.due(self.settings.batch_size, &except).await?;
        if due.is_empty() {
            let until = store.until_next(&except).await?;
            return Ok(until.unwrap_or(self.settings.poll).min(self.settings.poll));
        }
        let steps = self.steps(&due).await?;
        if steps.is_empty() {
            return Ok(Duration::ZERO);
        }
        let taken = store.advance(&steps).await?;
        self.report(&steps, &taken, due[0].read_at);
        Ok(if taken.is_empty() {
            OVERTAKEN_REST
        } else {
            Duration::ZERO
        })
    }

    /// As many as one transaction should hold; the rest stay due.
    async fn steps(&mut self, due: &[ScheduleRecord]) -> Result<Vec<Step>, LedgerError> {
        let mut steps: Vec<Step> = Vec::with_capacity(due.len());
        let mut jobs = 0;
        let kinds: Vec<&str> = due.iter().map(|record| record.schedule.kind.as_str()).collect();
        let queues: Vec<&str> = due
            .iter()
            .filter_map(|record| record.schedule.queue.as_deref())
            .collect();
        self.schedules.jobs().look_up(&kinds, &queues).await?;
        if due
            .iter()
            .any(|record| tick::missed(record, self.settings.missed_after).is_some())
        {
            self.schedules.jobs().observers().ready().await?;
        }
        for record in due {
            match tick::step(record, self.schedules.jobs(), self.settings.missed_after) {
                Ok(Some(step)) => {
                    jobs += step.jobs.len();
                    steps.push(step);
                }
                Ok(None) => {}
                Err(error) => self.refuse(record, &error).await?,
            }
            if jobs >= MAX_STEP_JOBS {
                break;
            }
        }
        Ok(steps)
    }

    async fn refuse(&mut self, record: &ScheduleRecord, error: &str) -> Result<(), LedgerError> {
        let name = &record.schedule.name;
        let error: String = error.replace('\0', "").chars().take(MAX_ERROR).collect();
        if record.last_error.as_deref() != Some(error.as_str()) {
            tracing::error!(
                schedule.name = name,
                error,
                "a tick cannot be made into a job: correct the schedule"
            );
            self.schedules
                .store()
                .note_error(name, record.revision, &error)
                .await?;
        }
        if self.refused.len() < MAX_REFUSED {
            self.refused.insert(name.clone(), Instant::now() + REFUSED_REST);
        }
        let refused = self.refused.len();
        self.vitals.change(|pulse| pulse.refused = refused);
        Ok(())
    }

    fn forget_refusals(&mut self) {
        if self.refused.is_empty() {
            return;
        }
        let now = Instant::now();
        self.refused.retain(|_, until| *until > now);
    }

    /// Wakes the workers, and says what was done.
    fn report(&self, steps: &[Step], taken: &[TakenStep], now: chrono::DateTime<chrono::Utc>) {
        let by_name: HashMap<&str, &Step> = steps.iter().map(|step| (step.name.as_str(), step)).collect();
        let mut due: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
        let mut made = 0;
        for one in taken {
            let Some(step) = by_name.get(one.name.as_str()) else {
                continue;
            };
            made += one.jobs.len();
            tracing::debug!(
                schedule.name = one.name,
                jobs = one.jobs.len(),
                tick = %step.from,
                late_ms = (now - step.from).num_milliseconds(),
                "a tick was taken"
            );
            for job in &step.observed {
                self.schedules.jobs().ring(&job.queue);
            }
            let statistics = self.schedules.jobs().statistics();
            for job in step.jobs.iter().filter(|job| one.jobs.contains(&job.id)) {
                statistics.enqueued(&job.queue, &job.kind);
            }
            for job in &step.jobs {
                let crate::ledger::RunAt::Tick(at) = job.run_at else {
                    continue;
                };
                // By the server's clock: this host's may be wrong.
                let delay = (at - now).to_std().unwrap_or_default();
                let (count, earliest) = due.entry(&job.queue).or_insert((0, delay));
                *count += 1;
                *earliest = delay.min(*earliest);
            }
        }
        for (queue, (count, delay)) in due {
            self.schedules.jobs().bell().ring(queue, count, delay);
        }
        self.vitals.change(|pulse| pulse.jobs += made as u64);
    }
}

/// For `/health` alone: a heartbeat that fails is no reason to stop ticking.
async fn heartbeats(schedules: Schedules, settings: BeatSettings, id: WorkerId, name: String) {
    loop {
        let said = schedules.store().heartbeat(id, &name, settings.lost_after).await;
        if let Err(error) = said {
            tracing::debug!(error = ?error, "a beat's heartbeat was not recorded");
        }
        sleep(settings.heartbeat).await;
    }
}
