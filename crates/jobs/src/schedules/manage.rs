//! [`Schedules`]: what a service holds to look at schedules and to change them. Every change is in the audit log.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::config::{DatabaseSettings, ScheduleSettings};
use holdfast_core::sql::Database;
use serde_json::json;
use serde_json::value::RawValue;

use super::check::check;
use super::model::{BeatRecord, Definition, Rhythm, Schedule, ScheduleRecord, Source};
use super::store::{Note, ScheduleStore, Summary};
use super::tick;
use crate::audit::{Actor, AuditContext, action};
use crate::client::Jobs;
use crate::enqueue::{EnqueueError, EnqueuedJob, Fault, FaultCode, JobRequest};
use crate::json_text;
use crate::ledger::LedgerError;
use crate::observer::MissedTick;

/// Most schedules that are kept.
pub const MAX_SCHEDULES: u64 = 10_000;

/// How many coming ticks are shown.
pub const NEXT_TICKS: usize = 5;

/// How often an edit is tried again that another edit has overtaken.
const EDITS: usize = 10;

/// Why a schedule was not changed or shown.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// Every fault of the definition, at least one.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Fault>),
    #[error("there is no schedule {0:?}")]
    Unknown(String),
    #[error("a schedule {0:?} already exists")]
    Exists(String),
    #[error("the schedule {0:?} belongs to the configuration: change [schedules.{0}] in holdfast.toml")]
    Configured(String),
    #[error("there are already {MAX_SCHEDULES} schedules, which is the limit")]
    TooMany,
    #[error("the schedule {0:?} is being changed by other requests; try again")]
    Contended(String),
    /// A field of its payload is encrypted and cannot be opened.
    #[error("{0}")]
    Sealed(String),
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What putting the configuration's schedules into the database did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncReport {
    pub stored: Vec<String>,
    pub deleted: Vec<String>,
}

/// What became of a schedule that was put.
#[derive(Debug)]
pub enum PutOutcome {
    New(ScheduleRecord),
    Replaced(ScheduleRecord),
}

impl PutOutcome {
    pub fn into_record(self) -> ScheduleRecord {
        match self {
            Self::New(record) | Self::Replaced(record) => record,
        }
    }
}

/// A handle on everything that can be done with schedules. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Schedules {
    jobs: Jobs,
    store: ScheduleStore,
}

impl Schedules {
    /// Over the process' database. It reaches nothing yet.
    pub fn new(jobs: Jobs, database: &Database, settings: &DatabaseSettings) -> Self {
        Self {
            jobs,
            store: ScheduleStore::new(database, settings),
        }
    }

    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    pub fn store(&self) -> &ScheduleStore {
        &self.store
    }

    /// Up to `limit` ticks that no beat has taken for longer than `missed_after`; one for each schedule.
    pub async fn missed(&self, missed_after: Duration, limit: usize) -> Result<Vec<MissedTick>, LedgerError> {
        let due = self.store.due(limit, &[]).await?;
        Ok(due
            .iter()
            .filter_map(|record| tick::missed(record, missed_after))
            .collect())
    }

    /// By name, from the one after `after`.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<ScheduleRecord>, LedgerError> {
        self.store.list(after, limit).await
    }

    pub async fn get(&self, name: &str) -> Result<ScheduleRecord, ScheduleError> {
        let found = self.store.get(name).await?;
        found.ok_or_else(|| ScheduleError::Unknown(name.to_owned()))
    }

    /// Makes a new schedule.
    pub async fn create(
        &self,
        by: &AuditContext,
        definition: Definition,
    ) -> Result<ScheduleRecord, ScheduleError> {
        let schedule = self.checked(definition).await?;
        self.insert(by, &schedule).await
    }

    /// Makes a schedule, or replaces the one of that name.
    pub async fn put(&self, by: &AuditContext, definition: Definition) -> Result<PutOutcome, ScheduleError> {
        let schedule = self.checked(definition).await?;
        let with = |standing: &ScheduleRecord| match standing.source {
            Source::Api => Ok(schedule.clone()),
            Source::Config => Err(ScheduleError::Configured(schedule.name.clone())),
        };
        match self.edit(by, &schedule.name, with).await {
            Ok(record) => Ok(PutOutcome::Replaced(record)),
            Err(ScheduleError::Unknown(_)) => self.insert(by, &schedule).await.map(PutOutcome::New),
            Err(error) => Err(error),
        }
    }

    /// A schedule of the configuration is paused, or goes on; one that the configuration disables stays disabled.
    pub async fn set_enabled(
        &self,
        by: &AuditContext,
        name: &str,
        enabled: bool,
    ) -> Result<ScheduleRecord, ScheduleError> {
        let with = |standing: &ScheduleRecord| {
            let schedule = standing.schedule.clone();
            match standing.source {
                Source::Api => Ok(Schedule { enabled, ..schedule }),
                Source::Config if schedule.enabled => Ok(Schedule {
                    paused: !enabled,
                    ..schedule
                }),
                Source::Config => Err(ScheduleError::Configured(name.to_owned())),
            }
        };
        self.edit(by, name, with).await
    }

    /// Jobs of its ticks continue.
    pub async fn delete(&self, by: &AuditContext, name: &str) -> Result<(), ScheduleError> {
        if self
            .store
            .delete(name, Source::Api, &self.note(by, action::SCHEDULE_DELETE))
            .await?
        {
            return Ok(());
        }
        match self.store.get(name).await? {
            Some(_) => Err(ScheduleError::Configured(name.to_owned())),
            None => Err(ScheduleError::Unknown(name.to_owned())),
        }
    }

    /// Makes its job now, beside its ticks, enabled or not.
    pub async fn run(&self, by: &AuditContext, name: &str) -> Result<EnqueuedJob, ScheduleError> {
        let schedule = self.get(name).await?.schedule;
        let payload = tick::payload(&schedule, &self.jobs).map_err(ScheduleError::Sealed)?;
        let request = JobRequest {
            queue: schedule.queue,
            ..JobRequest::new(schedule.kind, payload)
        };
        let enqueued = self.jobs.enqueue_request(request).await?;
        let note = Note {
            details: Some(json!({ "job": enqueued.id })),
            ..self.note(by, action::SCHEDULE_RUN)
        };
        self.store.note_run(name, enqueued.id, &note).await?;
        Ok(enqueued)
    }

    pub async fn summary(&self) -> Result<Summary, LedgerError> {
        self.store.summary().await
    }

    pub async fn beats(&self) -> Result<Vec<BeatRecord>, LedgerError> {
        self.store.beats().await
    }

    /// What is wrong with the configuration's schedules, each fault with its setting. Reaches nothing: whether a kind or a queue
    /// that the program does not know is declared is found out by [`Self::sync`].
    pub fn faults_of_config(&self, configured: &BTreeMap<String, ScheduleSettings>) -> Vec<Fault> {
        let now = holdfast_core::clock::now();
        let mut faults = Vec::new();
        for (name, settings) in configured {
            if let Err(found) = definition(name, settings).and_then(|one| check(one, &self.jobs, now)) {
                let may_be_declared =
                    |fault: &Fault| matches!(fault.code, FaultCode::UnknownKind | FaultCode::UnknownQueue);
                let found = found.into_iter().filter(|fault| !may_be_declared(fault));
                faults.extend(found.map(|fault| Fault {
                    field: format!("schedules.{name}.{}", fault.field),
                    ..fault
                }));
            }
        }
        faults
    }

    /// Puts the configuration's schedules into the database and takes away those that it no longer names. What is
    /// unchanged stays as it is, with its next tick.
    pub async fn sync(
        &self,
        configured: &BTreeMap<String, ScheduleSettings>,
    ) -> Result<SyncReport, ScheduleError> {
        let now = self.store.now().await?;
        let by = AuditContext::new(Actor::system());
        let mut report = SyncReport::default();
        for (name, settings) in configured {
            let definition = definition(name, settings).map_err(ScheduleError::Invalid)?;
            self.look_up(&definition).await?;
            let schedule = check(definition, &self.jobs, now).map_err(ScheduleError::Invalid)?;
            if self.put_configured(&by, &schedule).await? {
                report.stored.push(name.clone());
            }
        }
        let keep: Vec<String> = configured.keys().cloned().collect();
        let note = self.note(&by, action::SCHEDULE_DELETE);
        report.deleted = self.store.delete_unconfigured(&keep, &note).await?;
        Ok(report)
    }

    /// Whether there was anything to change. A schedule of that name that came over the API gives way.
    async fn put_configured(&self, by: &AuditContext, schedule: &Schedule) -> Result<bool, ScheduleError> {
        for _ in 0..EDITS {
            let Some(standing) = self.store.get(&schedule.name).await? else {
                let next = self.first_tick(schedule, self.store.now().await?);
                let note = self.note_of(by, action::SCHEDULE_CREATE, schedule);
                if self.store.insert(schedule, Source::Config, next, &note).await? {
                    return Ok(true);
                }
                continue;
            };
            let schedule = &Schedule {
                paused: standing.schedule.paused && schedule.enabled,
                ..schedule.clone()
            };
            if standing.source == Source::Config && self.same(&standing.schedule, schedule) {
                return Ok(false);
            }
            if standing.source == Source::Api {
                tracing::warn!(
                    schedule.name,
                    "a schedule of the configuration replaces one of the same name that was created over the API"
                );
            }
            let next = self.next_tick(&standing, schedule);
            let note = self.note_of(by, action::SCHEDULE_UPDATE, schedule);
            if self
                .store
                .replace(standing.revision, schedule, Source::Config, next, &note)
                .await?
            {
                return Ok(true);
            }
        }
        Err(ScheduleError::Contended(schedule.name.clone()))
    }

    fn same(&self, standing: &Schedule, new: &Schedule) -> bool {
        standing.rhythm == new.rhythm
            && standing.kind == new.kind
            && standing.queue == new.queue
            && standing.catch_up == new.catch_up
            && standing.jitter == new.jitter
            && (standing.enabled, standing.paused) == (new.enabled, new.paused)
            && self.says_the_same(standing, new)
    }

    /// A payload whose key is missing is replaced by the one of the configuration.
    fn says_the_same(&self, standing: &Schedule, new: &Schedule) -> bool {
        let said = |schedule: &Schedule| tick::payload(schedule, &self.jobs);
        let (Ok(standing), Ok(new)) = (said(standing), said(new)) else {
            return false;
        };
        json_text::same(standing.get(), new.get())
    }

    async fn checked(&self, definition: Definition) -> Result<Schedule, ScheduleError> {
        self.look_up(&definition).await?;
        // A jitter is held against the ticks from now on; the minute does not matter.
        check(definition, &self.jobs, holdfast_core::clock::now()).map_err(ScheduleError::Invalid)
    }

    /// Its kind and its queue may be declared ones.
    async fn look_up(&self, definition: &Definition) -> Result<(), ScheduleError> {
        let request = JobRequest {
            queue: definition.queue.clone(),
            ..JobRequest::new(definition.kind.clone(), RawValue::NULL.to_owned())
        };
        Ok(self.jobs.producer().look_up([&request]).await?)
    }

    async fn insert(&self, by: &AuditContext, schedule: &Schedule) -> Result<ScheduleRecord, ScheduleError> {
        if self.store.count().await? >= MAX_SCHEDULES {
            return Err(ScheduleError::TooMany);
        }
        let next = self.first_tick(schedule, self.store.now().await?);
        let note = self.note_of(by, action::SCHEDULE_CREATE, schedule);
        if !self.store.insert(schedule, Source::Api, next, &note).await? {
            return Err(ScheduleError::Exists(schedule.name.clone()));
        }
        self.get(&schedule.name).await
    }

    /// Changes a schedule at the revision that was read.
    async fn edit(
        &self,
        by: &AuditContext,
        name: &str,
        change: impl Fn(&ScheduleRecord) -> Result<Schedule, ScheduleError>,
    ) -> Result<ScheduleRecord, ScheduleError> {
        for _ in 0..EDITS {
            let standing = self.get(name).await?;
            let schedule = change(&standing)?;
            let next = self.next_tick(&standing, &schedule);
            let note = self.note_of(by, action::SCHEDULE_UPDATE, &schedule);
            if self
                .store
                .replace(standing.revision, &schedule, standing.source, next, &note)
                .await?
            {
                return self.get(name).await;
            }
        }
        Err(ScheduleError::Contended(name.to_owned()))
    }

    fn note<'a>(&'a self, by: &'a AuditContext, action: &'static str) -> Note<'a> {
        Note {
            log: self.jobs.audit(),
            by,
            action,
            details: None,
        }
    }

    /// With what it does from now on, but for the payload.
    fn note_of<'a>(&'a self, by: &'a AuditContext, action: &'static str, schedule: &Schedule) -> Note<'a> {
        let when = match &schedule.rhythm {
            Rhythm::Cron {
                expression,
                time_zone,
            } => format!("{expression} ({time_zone})"),
            Rhythm::Every { seconds } => format!("every {seconds} s"),
        };
        let details = json!({ "when": when, "kind": schedule.kind, "enabled": schedule.ticks() });
        Note {
            details: Some(details),
            ..self.note(by, action)
        }
    }

    /// An edit that leaves the rhythm alone takes no tick away, not even one that is due right now.
    fn next_tick(&self, standing: &ScheduleRecord, schedule: &Schedule) -> Option<DateTime<Utc>> {
        let goes_on = standing.schedule.ticks() && schedule.ticks();
        if goes_on && standing.schedule.rhythm == schedule.rhythm {
            return standing.next_tick;
        }
        self.first_tick(schedule, standing.read_at)
    }

    #[allow(
        clippy::unused_self,
        reason = "reads as what it is: the first tick of a schedule kept here"
    )]
    fn first_tick(&self, schedule: &Schedule, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if !schedule.ticks() {
            return None;
        }
        schedule.rhythm.timing().ok()?.next_after(now)
    }
}

fn definition(name: &str, settings: &ScheduleSettings) -> Result<Definition, Vec<Fault>> {
    let seconds = |field: &str, seconds: Option<f64>| match seconds.map(Duration::try_from_secs_f64) {
        None => Ok(None),
        Some(Ok(span)) => Ok(Some(span)),
        Some(Err(_)) => Err(vec![Fault::field(
            field,
            "must be 0 or more, and not absurdly long",
        )]),
    };
    let payload = serde_json::value::to_raw_value(&settings.payload)
        .map_err(|error| vec![Fault::field("payload", error.to_string())])?;
    Ok(Definition {
        name: name.to_owned(),
        cron: settings.cron.clone(),
        every: seconds("every_seconds", settings.every_seconds)?,
        time_zone: settings.time_zone.clone(),
        kind: settings.kind.clone(),
        payload,
        queue: settings.queue.clone(),
        catch_up: settings.catch_up.clone(),
        catch_up_max: settings.catch_up_max,
        jitter: seconds("jitter_seconds", settings.jitter_seconds)?,
        enabled: settings.enabled,
    })
}
