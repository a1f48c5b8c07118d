//! A queue's limits hold over pull workers of several processes, as over Rust's.

use std::collections::BTreeMap;

use holdfast_jobs::limits::{LimitStore, QueueLimits};

use super::*;

contract!(limits_hold_over_pull_workers_of_two_processes);

/// Two workers ask at the same time, again and again, and each finishes one job of those that it has: no more than the limits allow
/// ever run, and each job runs once.
async fn limits_hold_over_pull_workers_of_two_processes(f: Fixture) {
    let processes = [process(&f), process(&f)];
    let jobs = &processes[0].0;
    declare(jobs, "thumbnail.make", KindDefinition::default()).await;
    let limits = QueueLimits {
        max_running: Some(3),
        key_max_running: Some(2),
        ..QueueLimits::default()
    };
    let store = LimitStore::new(&f.database, &f.settings.database);
    store.set_override("media", Some(&limits)).await.unwrap();
    let keys = ["a", "a", "a", "a", "a", "a", "b", "b", "b", "c", "c", "c"];
    let requests = keys.map(|key| JobRequest {
        limit_key: Some(key.to_owned()),
        ..request("thumbnail.make", "{}")
    });
    let stored = jobs.enqueue_requests(requests.into()).await.unwrap();
    let key_of: BTreeMap<JobId, &str> = stored.iter().map(|job| job.id).zip(keys).collect();

    let ids_of_workers = [register(&processes[0].1).await, register(&processes[1].1).await];
    let mut held: [Vec<PulledJob>; 2] = [Vec::new(), Vec::new()];
    let mut ran = Vec::new();
    while ran.len() < keys.len() {
        let asked = [0, 1].map(|n| {
            let (workers, worker, have) = (processes[n].1.clone(), ids_of_workers[n], ids(&held[n]));
            tokio::spawn(async move { pull(&workers, worker, 4, &have).await })
        });
        for (n, given) in asked.into_iter().enumerate() {
            held[n].extend(given.await.unwrap());
        }
        let running: Vec<&str> = held.iter().flatten().map(|job| key_of[&job.job.id]).collect();
        assert!(running.len() <= 3, "{running:?}");
        for key in ["a", "b", "c"] {
            assert!(
                running.iter().filter(|one| **one == key).count() <= 2,
                "{running:?}"
            );
        }
        for n in [0, 1] {
            if let Some(done) = held[n].pop() {
                let outcomes = vec![outcome(&done, Verb::Completed)];
                let status = finish(&processes[n].1, ids_of_workers[n], outcomes).await;
                assert_eq!(status, [OutcomeStatus::Stored]);
                ran.push(done.job.id);
            }
        }
    }
    ran.sort_unstable();
    assert_eq!(ran, key_of.into_keys().collect::<Vec<_>>(), "each once");
}
