//! How fast the scripts are. Ignored: a measurement, not a test.
//!
//! `cargo nextest run -p holdfast-jobs --release --run-ignored only --no-capture speed`

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use holdfast_jobs::broker::{FinishedExecution, OutgoingJob};

use crate::broker::support::*;

const JOBS: usize = 400_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed_of_push_fetch_and_acknowledge() {
    for (payload, batch) in [(200, 500), (200, 200)] {
        let ground = Ground::new().await;
        let jobs: Vec<OutgoingJob> = (0..JOBS)
            .map(|_| outgoing(&format!("\"{}\"", "x".repeat(payload))))
            .collect();
        let stage = Stage::begin(&ground, "push", 500).await;
        let push = async |jobs: &[OutgoingJob]| {
            for jobs in jobs.chunks(5_000) {
                push_all(&ground.broker, jobs).await;
            }
        };
        let halves = jobs.split_at(JOBS / 2);
        tokio::join!(push(halves.0), push(halves.1));
        stage.end(&ground).await;

        let stage = Stage::begin(&ground, "fetch and acknowledge", batch).await;
        work(&ground, batch).await;
        stage.end(&ground).await;
    }
}

/// Two workers, each with fetch and acknowledge as stages of their own.
async fn work(ground: &Ground, batch: usize) {
    let done = AtomicUsize::new(0);
    let worker = async || {
        let worker = ground.worker().await;
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<Vec<FinishedExecution>>(4);
        let fetching = async {
            loop {
                let jobs = ground.fetch(worker, batch).await.jobs;
                if jobs.is_empty() {
                    break drop(sender);
                }
                let finished = jobs.iter().map(|job| completed(job.id)).collect();
                sender.send(finished).await.unwrap();
            }
        };
        let ending = async {
            while let Some(finished) = receiver.recv().await {
                let held = ground.broker.acknowledge(QUEUE, worker, &finished).await.unwrap();
                done.fetch_add(held.len(), Ordering::Relaxed);
            }
        };
        tokio::join!(fetching, ending);
    };
    tokio::join!(worker(), worker());
    assert_eq!(done.into_inner(), JOBS);
}

struct Stage {
    what: &'static str,
    batch: usize,
    started: Instant,
    /// CPU seconds of the server before.
    cpu: f64,
}

impl Stage {
    async fn begin(ground: &Ground, what: &'static str, batch: usize) -> Self {
        Self {
            what,
            batch,
            started: Instant::now(),
            cpu: cpu(ground).await,
        }
    }

    async fn end(self, ground: &Ground) {
        let rate = JOBS as f64 / self.started.elapsed().as_secs_f64();
        let cpu = (cpu(ground).await - self.cpu) * 1e6 / JOBS as f64;
        println!(
            "{}, {} a script: {rate:.0}/s, {cpu:.2} µs of the server's CPU a job",
            self.what, self.batch
        );
    }
}

async fn cpu(ground: &Ground) -> f64 {
    let mut seconds = 0.0;
    for field in ["used_cpu_user", "used_cpu_sys"] {
        seconds += ground
            .server
            .info("cpu", field)
            .await
            .unwrap()
            .parse::<f64>()
            .unwrap();
    }
    seconds
}
