//! One arena: A is stopped at each of its steps, and meets every B.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::statement_pairs::operations::{Failure, Operation, OperationResult};
use crate::statement_pairs::verdict;
use crate::statement_pairs::world::{Hall, Side};

/// Whatever is waited for comes sooner, or never.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);

/// Rows of one statement that A is stopped before: the first, and one after another was changed.
const ROWS: usize = 2;

/// What came of one A with every B.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) runs: usize,
    /// Runs in which B was told to try later.
    pub(crate) contended: usize,
    pub(crate) broken: Vec<String>,
}

/// What becomes of A's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    /// It waits, and hears of the end late.
    Waits,
    /// It has gone when A goes on.
    GivesUp,
}

pub(crate) struct Arena {
    first: Operation,
    a: Side,
    pub(crate) b: Side,
    pub(crate) control: PgConnection,
    /// Holds the lock that A's stops look at.
    gate: PgConnection,
}

/// What A's client heard; nothing if it had gone. A panic of A is the test's.
fn heard(
    joined: Result<Result<OperationResult, Failure>, tokio::task::JoinError>,
) -> Option<Result<OperationResult, Failure>> {
    match joined {
        Ok(outcome) => Some(outcome),
        Err(error) if error.is_cancelled() => None,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Whether each pair meets twice.
#[allow(
    clippy::disallowed_methods,
    reason = "a switch of the suite, not a setting of the product"
)]
fn meets_both_clients() -> bool {
    std::env::var("HOLDFAST_TEST_PAIRS").is_ok_and(|pairs| pairs == "both")
}

pub(crate) async fn run_sql(on: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(on)
        .await
        .unwrap();
}

impl Arena {
    pub(crate) async fn open(hall: &Hall, first: &Operation) -> Self {
        let name = format!("{first:?}").to_lowercase();
        hall.arena(&name).await;
        let connect = || async { PgConnection::connect(&hall.url(&name, "postgres")).await.unwrap() };
        Self {
            first: *first,
            a: Side::open(hall.settings_as(&name, "victim"), true),
            b: Side::open(hall.settings_as(&name, "holdfast"), false),
            control: connect().await,
            gate: connect().await,
        }
    }

    pub(crate) async fn meet_all(mut self) -> Report {
        let mut report = Report::default();
        let both = meets_both_clients();
        let steps = self.steps().await;
        if steps.is_empty() {
            report.broken.push(format!("{:?} has nothing to do", self.first));
        }
        for (place, (step, what)) in steps.iter().enumerate() {
            for (number, second) in Operation::ALL.iter().enumerate() {
                let clients = [Client::Waits, Client::GivesUp];
                let clients = if both {
                    &clients[..]
                } else {
                    &clients[(place + number) % 2..][..1]
                };
                for client in clients {
                    let name = format!(
                        "{:?} stopped at {what}, {second:?}, client {client:?}",
                        self.first
                    );
                    let faults = self.meet(*step, *second, *client, &mut report).await;
                    report
                        .broken
                        .extend(faults.into_iter().map(|fault| format!("{name}: {fault}")));
                }
            }
        }
        report
    }

    /// A's steps by number: each kind of step once, rows [`ROWS`] times.
    async fn steps(&mut self) -> Vec<(i64, String)> {
        run_sql(&mut self.control, "call pairs_begin(0, true)").await;
        let done = self.first.run(&self.a).await;
        assert!(done.is_ok(), "{:?}: {done:?}", self.first);
        let all: Vec<(i64, String)> = sqlx::query_as("select n, what from pairs_steps order by n")
            .fetch_all(&mut self.control)
            .await
            .unwrap();
        if all.is_empty() {
            return self.steps_rolled_back().await;
        }
        let mut kept: Vec<(i64, String)> = Vec::new();
        for (n, what) in all {
            let most = if what.starts_with("BEFORE") && what.ends_with("ROW") {
                ROWS
            } else {
                1
            };
            if kept.iter().filter(|(_, known)| *known == what).count() < most {
                kept.push((n, what));
            }
        }
        kept
    }

    /// The steps of an operation that rolls back what it did, and the record of its steps with it: their number is left.
    async fn steps_rolled_back(&mut self) -> Vec<(i64, String)> {
        let last: i64 =
            sqlx::query_scalar("select case when is_called then last_value else 0 end from pairs_step")
                .fetch_one(&mut self.control)
                .await
                .unwrap();
        (1..=last).map(|n| (n, format!("step {n}"))).collect()
    }

    /// One pair; answers with what it broke.
    async fn meet(
        &mut self,
        step: i64,
        second: Operation,
        client: Client,
        report: &mut Report,
    ) -> Vec<String> {
        run_sql(&mut self.control, &format!("call pairs_begin({step}, false)")).await;
        run_sql(&mut self.gate, "select pg_advisory_lock(42)").await;
        let (first, side) = (self.first, self.a.clone());
        let mut a = tokio::spawn(async move { first.run(&side).await });
        let mut early = None;
        let began = Instant::now();
        while !self.a_is_stopped().await {
            if a.is_finished() {
                early = Some((&mut a).await.unwrap());
                break;
            }
            assert!(began.elapsed() < DEADLINE, "{first:?} neither stops nor ends");
            tokio::time::sleep(POLL).await;
        }
        let of_b = second.run(&self.b).await;
        if client == Client::GivesUp {
            a.abort();
        }
        run_sql(&mut self.gate, "select pg_advisory_unlock(42)").await;
        let of_a = match early {
            Some(done) => Some(done),
            None => heard(a.await),
        };
        self.wait_for_the_end_of_a().await;
        report.runs += 1;
        let mut faults = Vec::new();
        let mut accepted = Vec::new();
        for (who, outcome) in [("A", of_a), ("B", Some(of_b))] {
            match outcome {
                None => {}
                Some(Ok(OperationResult { accepted: more })) => accepted.extend(more),
                Some(Err(Failure::Later)) => report.contended += usize::from(who == "B"),
                Some(Err(Failure::Never(error))) => faults.push(format!("{who} failed for good: {error}")),
            }
        }
        faults.extend(verdict::of(self, &accepted).await);
        faults
    }

    async fn a_is_stopped(&mut self) -> bool {
        sqlx::query_scalar(
            "select exists (select from pg_stat_activity
                            where datname = current_database() and usename = 'victim' and wait_event = 'PgSleep')",
        )
        .fetch_one(&mut self.control)
        .await
        .unwrap()
    }

    /// Nothing of A is under way in the server, nor holds a transaction.
    async fn wait_for_the_end_of_a(&mut self) {
        let began = Instant::now();
        while self.something_is_busy().await {
            assert!(
                began.elapsed() < DEADLINE,
                "something of {:?} does not end",
                self.first
            );
            tokio::time::sleep(POLL).await;
        }
    }

    async fn something_is_busy(&mut self) -> bool {
        sqlx::query_scalar(
            "select exists (select from pg_stat_activity
                            where datname = current_database() and usename in ('victim', 'holdfast') and state <> 'idle')",
        )
        .fetch_one(&mut self.control)
        .await
        .unwrap()
    }
}
