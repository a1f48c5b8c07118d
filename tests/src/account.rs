//! The accounts held against each other: what producers, receiver, SQL, Redis and processes say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use holdfast_testkit::eventually;

use crate::cluster::Cluster;
use crate::fault::Dependency;
use crate::ledger::JobRow;
use crate::load::{Load, Target};
use crate::logs::LogLine;
use crate::process::Role;
use crate::record::{AcceptedJob, Answer, Record, quantile_of};
use crate::report::{Expect, Report};
use crate::setup::Durability;

/// The janitor of the broker works in rounds; what nobody owns is gone after a few of them.
const TIDY_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);
/// Jobs for each worker that are to be run at once: more than one worker has room for by default, and long enough for
/// every worker to be seen with one.
const BURST_EACH: usize = 60;
const BURST_TIME: Duration = Duration::from_millis(400);
/// What the driver's pool says of each connection that an outage has broken.
const POOL_NOISE: &str = "after_release";

/// What PostgreSQL says of a `BEGIN` inside a transaction: a connection went back to its pool in the middle of one, and what was written
/// on it meanwhile is not committed.
const LEFT_OPEN: &str = "already a transaction in progress";
/// Named in a sentence at most.
const NAMED: usize = 10;

impl Cluster {
    /// Ends a scenario whose load has ended: waits until all is final, sees whether everything still works, and holds
    /// the accounts against each other. Never fails for a broken promise: that is [`Report::assert`]'s.
    pub async fn conclude(&mut self, scenario: &str, expect: &Expect) -> Result<Report> {
        let mut report = Report {
            scenario: scenario.to_owned(),
            setup: self.builder.setup.name(),
            ..Report::default()
        };
        let settled = if expect.redis_data_loss {
            self.settle_idle(expect.settle).await
        } else {
            self.settle(expect.settle).await
        };
        match settled {
            Ok(took) => report.settled = took,
            Err(error) => report.broken.push(format!("{error:#}")),
        }
        self.excuses().await?;
        self.account_for_requests(&mut report, expect);
        self.account_for_jobs(&mut report, expect).await?;
        self.account_for_processes(&mut report)?;
        self.account_for_faults(&mut report);
        self.probe_everything(&mut report, expect).await;
        self.look_for_the_deaf(&mut report, expect).await;
        self.account_for_redis(&mut report).await;
        self.collect_warnings(&mut report);
        Ok(report)
    }

    fn account_for_requests(&self, report: &mut Report, expect: &Expect) {
        let requests = self.record.requests();
        for asked in &requests {
            match &asked.answer {
                Answer::Accepted { .. } => {}
                Answer::Refused { status, detail, .. } => {
                    report.refused += 1;
                    if *status != 503 {
                        report
                            .broken
                            .push(format!("{} was answered with {status}: {detail}", asked.id));
                    }
                }
                Answer::Failed { .. } => report.unanswered += 1,
            }
        }
        report.longest_request = self.record.longest();
        let took = |quantile| {
            let accepting = requests
                .iter()
                .filter(|asked| matches!(asked.answer, Answer::Accepted { .. }));
            quantile_of(accepting.map(|asked| asked.took).collect(), quantile)
        };
        (report.p50, report.p99) = (took(0.5), took(0.99));
        if report.longest_request > expect.longest_request {
            report
                .broken
                .push(format!("a request took {:?}", report.longest_request));
        }
    }

    async fn account_for_jobs(&self, report: &mut Report, expect: &Expect) -> Result<()> {
        let accepted = self.record.accepted();
        let mut rows: HashMap<String, Vec<JobRow>> = HashMap::new();
        for row in self.ledger.rows().await? {
            rows.entry(row.own.clone()).or_default().push(row);
        }
        report.accepted = accepted.len();
        report.states = self.ledger.states().await?;
        self.account_for_losses(report, expect, &accepted);
        self.account_for_repetitions(report, expect, &accepted, &rows)
            .await;
        self.account_for_rows(report, expect, &accepted, &rows);
        let executed = self.receiver.ids();
        let refused: BTreeSet<String> = self.record.refused_ids().into_iter().collect();
        report.half_accepted = executed.into_iter().filter(|id| refused.contains(id)).collect();
        complain(
            &mut report.broken,
            "were refused and executed nevertheless",
            &report.half_accepted,
        );
        Ok(())
    }

    fn account_for_losses(
        &self,
        report: &mut Report,
        expect: &Expect,
        accepted: &BTreeMap<String, AcceptedJob>,
    ) {
        let ids: Vec<&String> = accepted.keys().collect();
        let missing = self.receiver.missing(&ids);
        let (with_redis, lost): (Vec<_>, Vec<_>) = missing
            .into_iter()
            .partition(|id| expect.redis_data_loss && is_on_redis(accepted.get(id)));
        (report.lost_with_redis, report.lost) = (with_redis.len(), lost);
        complain(&mut report.broken, "were accepted and lost", &report.lost);
    }

    async fn account_for_repetitions(
        &self,
        report: &mut Report,
        expect: &Expect,
        accepted: &BTreeMap<String, AcceptedJob>,
        rows: &HashMap<String, Vec<JobRow>>,
    ) {
        let alive = match self.redis_truth() {
            Some(redis) => redis.members().await.unwrap_or_default(),
            None => BTreeSet::new(),
        };
        // The ledger says that their lease was lost, and nobody was stopped or killed.
        let mut by_lease = Vec::new();
        for (own, times) in self.receiver.duplicates() {
            let job = accepted.get(&own).map_or("", |accepted| &accepted.job);
            let row = rows.get(&own).and_then(|rows| rows.first());
            let excuse = self
                .excuses
                .iter()
                .find(|excuse| excuse.covers(&own, job, &alive));
            let lost_with_redis = expect.redis_data_loss && self.was_known_to_redis(accepted.get(&own));
            if lost_with_redis || excuse.is_some_and(|excuse| excuse.what.ends_with("stopped")) {
                report.twice_lease += 1;
            } else if excuse.is_some() {
                report.twice_killed += 1;
            } else if row.is_some_and(|row| times <= 1 + row.crashes) {
                by_lease.push(own);
            } else if row.is_some_and(|row| times <= row.attempt + row.crashes) {
                report.twice_retried += 1;
            } else {
                report
                    .twice_unexplained
                    .push(format!("{own} ({times} times, {row:?})"));
            }
        }
        report.twice_lease += by_lease.len();
        // A killed process whose jobs could not be looked at is excused by the crashes that the ledger counted.
        let unseen = self.excuses.iter().any(|excuse| excuse.on_ledger.is_none());
        if !expect.lease_loss && !unseen {
            complain(
                &mut report.broken,
                "ran again because their lease was lost, for no reason",
                &by_lease,
            );
        }
        complain(
            &mut report.broken,
            "ran more than once for no reason",
            &report.twice_unexplained,
        );
    }

    /// Whether Redis may have held the job before it lost its data: as it was answered, or because its push got no answer and the ledger
    /// therefore has it, too. Then Redis has also lost the knowledge that it had it.
    fn was_known_to_redis(&self, accepted: Option<&AcceptedJob>) -> bool {
        let faults = self
            .faults
            .iter()
            .filter(|fault| fault.dependency == Dependency::Redis);
        let last_loss = faults.filter_map(|fault| fault.ended).max();
        let is_before = |accepted: &AcceptedJob| last_loss.is_none_or(|loss| accepted.at < loss);
        is_on_redis(accepted)
            || accepted.is_some_and(|accepted| self.is_redis_queue(&accepted.queue) && is_before(accepted))
    }

    fn is_redis_queue(&self, queue: &str) -> bool {
        let mut queues = self.builder.queues.iter();
        queues.any(|(name, durability)| name == queue && *durability == Durability::Redis)
    }

    /// Each accepted ledger job is one completed row; one of Redis is none, unless it was moved.
    fn account_for_rows(
        &self,
        report: &mut Report,
        expect: &Expect,
        accepted: &BTreeMap<String, AcceptedJob>,
        rows: &HashMap<String, Vec<JobRow>>,
    ) {
        for (own, job) in accepted {
            let rows = rows.get(own).map(Vec::as_slice).unwrap_or_default();
            let right = match rows {
                // A push in doubt is answered as the ledger's; its row goes when the broker turns out to have it.
                [] => self.is_redis_queue(&job.queue),
                [row] => row.state == "completed" || (expect.may_be_discarded && row.state == "discarded"),
                _ => false,
            };
            if !right {
                let executed = self.receiver.count(own);
                report
                    .wrong_rows
                    .push(format!("{own} (executed {executed} times, {rows:?})"));
            }
        }
        complain(
            &mut report.broken,
            "are not one completed row of the ledger",
            &report.wrong_rows,
        );
    }

    /// Every process that was not ended on purpose is the first of its place.
    fn account_for_processes(&mut self, report: &mut Report) -> Result<()> {
        let ended = self.ended_on_purpose.clone();
        for process in self.processes() {
            let on_purpose = ended
                .get(&(process.role, process.index))
                .copied()
                .unwrap_or_default();
            if !process.is_running()? || process.starts() != on_purpose + 1 {
                report.dead.push(process.name());
            }
        }
        complain(&mut report.broken, "ended by themselves", &report.dead);
        Ok(())
    }

    fn account_for_faults(&mut self, report: &mut Report) {
        let faults = self.faults.clone();
        let samples = self
            .health
            .as_ref()
            .map(crate::health::HealthWatch::samples)
            .unwrap_or_default();
        let mut logs = Vec::new();
        for process in self.processes() {
            logs.push(((process.role, process.index), process.logs()));
        }
        for fault in &faults {
            let was_there = |place: (Role, usize)| {
                let mut absences = self.absences.iter().filter(|absence| absence.place == place);
                !absences.any(|absence| fault.overlaps(absence.from, absence.to))
            };
            let present = logs
                .iter()
                .filter(|(place, _)| was_there(*place))
                .map(|(_, log)| log);
            let (noticed, back) = match fault.dependency {
                Dependency::Redis => (
                    present.clone().filter_map(|log| fault.noticed_by(log)).max(),
                    present.filter_map(|log| fault.recovered_by(log)).max(),
                ),
                Dependency::Sql => (fault.seen_in(&samples), fault.healed_in(&samples)),
            };
            report.detection = report.detection.max(noticed);
            report.back = report.back.max(back);
            if fault.dependency == Dependency::Redis {
                report.redis_back = report.redis_back.max(back);
            }
        }
    }

    fn collect_warnings(&mut self, report: &mut Report) {
        let mut lines = Vec::new();
        for process in self.processes() {
            let name = process.name();
            let tells = |line: &LogLine| {
                matches!(&*line.level, "warn" | "error") && !line.message.contains(POOL_NOISE)
            };
            let warnings = process.logs().into_iter().filter(tells);
            lines.extend(warnings.map(|line| {
                (
                    line.at,
                    format!("{} {name} {}", line.at.format("%T%.3f"), line.told()),
                )
            }));
        }
        lines.sort();
        report.warnings = lines.into_iter().map(|(_, line)| line).collect();
        let is_left_open = |line: &&String| line.contains(LEFT_OPEN);
        let left_open: Vec<String> = report.warnings.iter().filter(is_left_open).cloned().collect();
        complain(&mut report.broken, "transactions were left open", &left_open);
    }

    async fn probe_everything(&self, report: &mut Report, expect: &Expect) {
        for api in 0..self.apis().len() {
            for (queue, _) in &self.builder.queues {
                if let Err(error) = self.probe(api, queue, expect.probe).await {
                    report.broken.push(format!(
                        "at the end, {queue} through api-{api} does not work: {error:#}"
                    ));
                }
            }
        }
    }

    /// Every worker takes jobs from every queue: one that is alive but deaf is the outage that nobody sees.
    async fn look_for_the_deaf(&self, report: &mut Report, expect: &Expect) {
        let workers = self.builder.workers;
        for (queue, _) in &self.builder.queues {
            let heard = self.workers_that_take(queue, expect.probe).await;
            match heard {
                Ok(heard) if heard >= workers => {}
                Ok(heard) => report.deaf.push(format!("{} on {queue}", workers - heard)),
                Err(error) => report
                    .deaf
                    .push(format!("nobody knows who on {queue}: {error:#}")),
            }
        }
        complain(
            &mut report.broken,
            "queues have workers that take no jobs",
            &report.deaf,
        );
    }

    /// Gives all workers enough to do at once, and counts those that are seen with a job before `deadline`.
    async fn workers_that_take(&self, queue: &str, deadline: Duration) -> Result<usize> {
        let workers = self.builder.workers;
        let record = Arc::new(Record::named(&format!("burst-{}-", self.record.next_id())));
        let until = Instant::now() + deadline;
        let (mut on_ledger, mut on_redis) = (BTreeSet::new(), BTreeSet::new());
        while on_ledger.len().max(on_redis.len()) < workers && Instant::now() < until {
            if self.receiver.missing(&record.accepted_ids()).is_empty() {
                let jobs = BURST_EACH * workers;
                let burst = Load::new().count(jobs).batch(jobs).producers(1).queues(&[queue]);
                let burst = burst.target(Target::Slow(BURST_TIME));
                burst.start(self.apis(), &self.receiver, &record).finish().await?;
            }
            on_ledger.extend(self.ledger.holders(queue).await?);
            if let Some(redis) = self.redis_truth() {
                on_redis.extend(redis.holders(queue).await?);
            }
        }
        Ok(on_ledger.len().max(on_redis.len()))
    }

    async fn account_for_redis(&self, report: &mut Report) {
        let Some(redis) = self.redis_truth() else { return };
        let tidy = eventually("Redis to be tidy", TIDY_LIMIT, POLL, async || {
            redis.leftovers().await.ok().filter(Vec::is_empty)
        });
        if tidy.await.is_err() {
            report.leftovers = redis
                .leftovers()
                .await
                .unwrap_or_else(|error| vec![format!("{error:#}")]);
            complain(
                &mut report.broken,
                "are left in Redis for ever",
                &report.leftovers,
            );
        }
    }

    /// Waits until every process that has a breaker is back in normal mode after the last fault, by its log.
    pub async fn wait_until_back(&mut self, deadline: Duration) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let fault = self.faults.last().expect("a fault has begun").clone();
            let logs: Vec<_> = self
                .processes()
                .iter()
                .map(|process| (process.role, process.logs()))
                .collect();
            let waiting: Vec<Role> = logs
                .iter()
                .filter(|(_, log)| fault.recovered_by(log).is_none())
                .map(|(role, _)| *role)
                .collect();
            if waiting.is_empty() {
                return Ok(logs
                    .iter()
                    .filter_map(|(_, log)| fault.recovered_by(log))
                    .max()
                    .unwrap_or_default());
            }
            anyhow::ensure!(
                began.elapsed() < deadline,
                "not back after {deadline:?}: {waiting:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Whether it was accepted into Redis' memory.
fn is_on_redis(accepted: Option<&AcceptedJob>) -> bool {
    accepted.is_some_and(|accepted| accepted.durability.as_deref() == Some("redis"))
}

fn complain(broken: &mut Vec<String>, what: &str, who: &[String]) {
    if !who.is_empty() {
        let more = if who.len() > NAMED { ", …" } else { "" };
        broken.push(format!(
            "{} {what}: {}{more}",
            who.len(),
            who[..who.len().min(NAMED)].join(", ")
        ));
    }
}
