//! The rounds of an autoscaler: whether this beat leads, what each service needs, and what is done about it.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use holdfast_core::telemetry::catalogue;
use holdfast_jobs::Jobs;
use holdfast_jobs::audit::{Actor, AuditContext, AuditEntry};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::statistics::DutyLease;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};

use crate::decision::{Bounds, Decision, History, Need};
use crate::driver::{Driver, DriverError, Replicas};
use crate::product::action;
use crate::settings::{AutoscaleSettings, ScaledService};

/// The name under which beats claim periods.
const DUTY: &str = "autoscale";

/// Sets the replicas of the services of the settings.
#[derive(Debug)]
pub struct Autoscaler {
    settings: AutoscaleSettings,
    lost_after: Duration,
    jobs: Jobs,
    driver: Driver,
    lease: DutyLease,
    known: BTreeMap<String, ServiceMemory>,
    /// The database could not be asked in the last round.
    is_blind: bool,
}

/// What is remembered of a service.
#[derive(Debug, Default)]
struct ServiceMemory {
    history: History,
    /// Failed rounds in a row.
    failures: u32,
}

/// What one round found and did.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    pub services: Vec<ServiceRound>,
}

/// One service in a round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServiceRound {
    pub service: String,
    /// `None`: they could not be read.
    pub current: Option<u32>,
    /// What the queues need, before the service's bounds.
    pub needed: u64,
    pub trusted: bool,
    /// `keep`, `wait`, `distrust`, `raise`, `lower`, `changing` or `failed`.
    pub decision: &'static str,
    /// `None`: nothing was to be changed.
    pub target: Option<u32>,
    /// Whether the change was made.
    pub done: bool,
    /// Why nothing could be decided or done.
    pub fault: Option<String>,
}

/// Why a service could not be scaled.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("the needs of its queues cannot be read")]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Driver(#[from] DriverError),
}

impl Autoscaler {
    /// `None`: autoscaling is off. It reaches nothing yet.
    ///
    /// # Errors
    /// See [`Driver::new`].
    pub fn new(
        settings: AutoscaleSettings,
        lost_after: Duration,
        jobs: &Jobs,
    ) -> Result<Option<Self>, DriverError> {
        let Some(driver) = Driver::new(&settings)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            lease: DutyLease::new(DUTY, settings.interval),
            settings,
            lost_after,
            jobs: jobs.clone(),
            driver,
            known: BTreeMap::new(),
            is_blind: false,
        }))
    }

    /// Goes round until it is dropped.
    pub async fn run(mut self) {
        // Depths are to be counted while no worker is there to count them.
        self.jobs.statistics().count_depths();
        // Twice a period: a claim that comes a little early finds the period taken by itself, and the next one is in time.
        let mut ticks = tokio::time::interval(self.settings.interval / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let round = AssertUnwindSafe(self.lead()).catch_unwind().await;
            if round.is_err() {
                catalogue::AUTOSCALE_ROUNDS.with(["failed"]).increment(1);
                tracing::error!("a round of autoscaling has panicked: this is a fault of Holdfast");
            }
        }
    }

    /// One round, if this process leads and the period is not decided yet.
    async fn lead(&mut self) {
        match self.lease.claim(&self.jobs).await {
            Ok(true) => {
                self.is_blind = false;
                self.round().await;
            }
            Ok(false) => {
                if !self.lease.is_held() {
                    // Another beat leads: what this one remembers is outdated when it leads again.
                    self.known.clear();
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_blind, true) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "autoscaling waits for the database"
                    );
                }
            }
        }
    }

    /// Decides and acts once, whether this process leads or not.
    pub async fn round(&mut self) -> Round {
        let mut services = Vec::new();
        for service in self.settings.services.clone() {
            let mut known = self.known.remove(&service.name).unwrap_or_default();
            let mut found = ServiceRound {
                service: service.name.clone(),
                ..ServiceRound::default()
            };
            match self.scale(&service, &mut known.history, &mut found).await {
                Ok(()) => {
                    if known.failures > 0 {
                        tracing::info!(
                            service = service.name,
                            failures = known.failures,
                            "the service can be scaled again"
                        );
                    }
                    known.failures = 0;
                }
                Err(error) => {
                    found.decision = "failed";
                    found.fault = Some(text_of(&error));
                    if known.failures == 0 {
                        tracing::warn!(
                            service = service.name,
                            error = &error as &dyn std::error::Error,
                            "the service cannot be scaled; trying again in each round"
                        );
                    }
                    known.failures = known.failures.saturating_add(1);
                }
            }
            catalogue::AUTOSCALE_ROUNDS.with([found.decision]).increment(1);
            self.known.insert(service.name, known);
            services.push(found);
        }
        Round { services }
    }

    async fn scale(
        &self,
        service: &ScaledService,
        history: &mut History,
        found: &mut ServiceRound,
    ) -> Result<(), RoundError> {
        let need = self.need(service).await?;
        (found.needed, found.trusted) = (need.replicas, need.is_trusted);
        let current = match self.driver.replicas(&service.name).await? {
            Replicas::Wanted(replicas) => replicas,
            Replicas::Changing(why) => {
                found.decision = "changing";
                found.fault = Some(why);
                return Ok(());
            }
        };
        found.current = Some(current);
        let decision = history.decide(&self.bounds(service), need, current, Instant::now());
        found.decision = decision.as_str();
        found.target = decision.target();
        if let Some(target) = found.target {
            self.change(service, decision, current, target, need).await?;
            found.done = !self.settings.dry_run;
        }
        Ok(())
    }

    async fn change(
        &self,
        service: &ScaledService,
        decision: Decision,
        current: u32,
        target: u32,
        need: Need,
    ) -> Result<(), RoundError> {
        let name = service.name.as_str();
        let word = decision.as_str();
        if self.settings.dry_run {
            tracing::info!(
                service = name,
                current,
                target,
                needed = need.replicas,
                "dry run: would {word} the replicas"
            );
            return Ok(());
        }
        self.driver.set(name, target).await?;
        tracing::info!(
            service = name,
            current,
            target,
            needed = need.replicas,
            "replicas: {word}"
        );
        let entry = AuditEntry::new(action::AUTOSCALE_SET)
            .target(name)
            .details(json!({ "from": current, "to": target, "needed": need.replicas }));
        // The change is made, and the log has it: an entry that cannot be written is no reason to repeat it.
        if let Err(error) = self
            .jobs
            .audit()
            .record(&AuditContext::new(Actor::system()), &entry)
            .await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a change of replicas is not in the audit log"
            );
        }
        Ok(())
    }

    async fn need(&self, service: &ScaledService) -> Result<Need, LedgerError> {
        let is_shown =
            |queue: &str| service.queues.is_empty() || service.queues.iter().any(|name| name == queue);
        let report = self
            .jobs
            .scaling(self.settings.drain, self.lost_after, is_shown)
            .await?;
        // Without queues it serves those of Rust workers; with queues, whichever fleet these belong to.
        let fleets = report
            .fleets
            .iter()
            .filter(|(name, _)| !service.queues.is_empty() || **name == "rust");
        Ok(Need {
            replicas: fleets.map(|(_, fleet)| fleet.desired_replicas).max().unwrap_or(0),
            is_trusted: report.distrust.is_empty(),
        })
    }

    fn bounds(&self, service: &ScaledService) -> Bounds {
        Bounds {
            min: service.min,
            max: service.max,
            max_step: self.settings.max_step,
            cooldown: self.settings.cooldown,
        }
    }
}

/// An error with its causes.
fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
