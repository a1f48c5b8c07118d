//! The rules of the limited claim stand in Rust for SQLite and in SQL for PostgreSQL. The same queues, claimed from in the same
//! way, give the same jobs in both.

use std::time::Duration;

use holdfast_core::clock;
use holdfast_jobs::ledger::{ClaimedJob, NewJob, Priority, RunAt};
use holdfast_jobs::limits::{KeyRule, QueueLimits};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{LimitFixture, ids};
use crate::support::{self, new_job};

#[tokio::test]
async fn both_databases_choose_the_same_jobs_from_random_queues() {
    let both = [
        LimitFixture::over(support::postgres().await),
        LimitFixture::over(support::sqlite().await),
    ];
    for seed in 0..40_u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let limits = random_limits(&mut random);
        let jobs = random_jobs(&mut random);
        let rules = random_rules(&mut random);
        let mut workers = [Vec::new(), Vec::new()];
        for (l, workers) in both.iter().zip(&mut workers) {
            l.f.sql(
                "delete from holdfast_jobs; delete from holdfast_limit_buckets; delete from holdfast_queues;
                 delete from holdfast_key_overrides",
                "delete from holdfast_jobs; delete from holdfast_limit_buckets; delete from holdfast_queues;
                 delete from holdfast_key_overrides",
            )
            .await;
            l.set(limits).await;
            for (key, rule) in &rules {
                l.key_for(key, *rule, OVERRIDDEN_FOR).await;
            }
            l.f.ledger.insert(&jobs).await.unwrap();
            *workers = vec![l.f.worker().await, l.f.worker().await];
        }
        let mut held: [Vec<(usize, ClaimedJob)>; 2] = [Vec::new(), Vec::new()];
        for step in 0..12 {
            let context = format!("seed {seed}, step {step}, {limits:?}, {rules:?}");
            let worker = random.random_range(0..2);
            match random.random_range(0..5) {
                0 => {
                    let most = random.random_range(1..6);
                    for (at, l) in both.iter().enumerate() {
                        // The same jobs in both: by id.
                        held[at].sort_by_key(|(_, job)| job.id);
                        let done = held[at].len().min(most);
                        for (worker, job) in held[at].drain(..done) {
                            l.complete(workers[at][worker], &[job]).await;
                        }
                    }
                }
                1 => {
                    for l in &both {
                        l.let_an_hour_pass().await;
                    }
                }
                _ => {
                    let room = random.random_range(1..30);
                    let pg = both[0].claim_all(workers[0][worker], room).await;
                    let lite = both[1].claim_all(workers[1][worker], room).await;
                    assert_eq!(ids(&pg.jobs), ids(&lite.jobs), "{context}");
                    let again = [&pg, &lite].map(|claimed| claimed.again_in.map(|wait| wait.as_secs() / 600));
                    assert_eq!(
                        again[0], again[1],
                        "{context}: {:?} {:?}",
                        pg.again_in, lite.again_in
                    );
                    for (held, claimed) in held.iter_mut().zip([pg, lite]) {
                        held.extend(claimed.jobs.into_iter().map(|job| (worker, job)));
                    }
                }
            }
        }
    }
}

/// Not a whole number of the units in which the waits are compared.
const OVERRIDDEN_FOR: Duration = Duration::from_secs(5 * 86_400 + 300);

/// What holds for some of the keys, in half of the queues.
fn random_rules(random: &mut StdRng) -> Vec<(String, KeyRule)> {
    let overrides = random.random_bool(0.5);
    (0..12)
        .filter_map(|number| {
            let rule = if random.random_bool(0.5) {
                KeyRule::Paused
            } else {
                KeyRule::MaxRunning(random.random_range(1..7))
            };
            (overrides && random.random_bool(0.4)).then(|| (format!("key-{number}"), rule))
        })
        .collect()
}

fn random_limits(random: &mut StdRng) -> QueueLimits {
    loop {
        let limits = QueueLimits {
            max_running: random.random_bool(0.5).then(|| random.random_range(1..25)),
            rate: random
                .random_bool(0.4)
                .then(|| format!("{0}/{0}h", random.random_range(1..20)).parse().unwrap()),
            key_max_running: random.random_bool(0.5).then(|| random.random_range(1..5)),
            key_rate: random
                .random_bool(0.4)
                .then(|| format!("{0}/{0}h", random.random_range(1..5)).parse().unwrap()),
        };
        if !limits.is_empty() {
            return limits;
        }
    }
}

fn random_jobs(random: &mut StdRng) -> Vec<NewJob> {
    let keys = random.random_range(1..12);
    let first = clock::now() - chrono::Duration::hours(1);
    (0..random.random_range(1..120_i64))
        .map(|number| NewJob {
            priority: [Priority::High, Priority::Normal, Priority::Low][random.random_range(0..3)],
            // Some are due at the same time, and some not yet.
            run_at: RunAt::Tick(if random.random_bool(0.05) {
                first + chrono::Duration::hours(50)
            } else {
                first + chrono::Duration::milliseconds(number / 2)
            }),
            limit_key: random
                .random_bool(0.8)
                .then(|| format!("key-{}", random.random_range(0..keys))),
            ..new_job()
        })
        .collect()
}
