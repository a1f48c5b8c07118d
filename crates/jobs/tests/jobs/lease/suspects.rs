//! Jobs whose next crash would be their last wait apart from those that never crashed.

use std::time::Duration;

use holdfast_jobs::enqueue::JobRequest;
use holdfast_jobs::{Job as _, JobId, State};

use crate::lease::system::{Act, Probe, System};
use crate::support::raw;

/// Jobs that two workers have crashed with.
async fn crashed_twice(system: &System, act: &str, numbers: std::ops::Range<u32>) -> Vec<JobId> {
    let mut ids = Vec::new();
    for number in numbers {
        let text = format!(r#"{{"act":"{act}","number":{number}}}"#);
        let mut request = JobRequest::new(Probe::KIND, raw(&text));
        request.delay = Some(Duration::from_hours(1));
        ids.push(system.jobs.enqueue_request(request).await.unwrap().id);
    }
    system
        .ask("update holdfast_jobs set crashes = 2, run_at = now() where run_at > now()")
        .await;
    system.jobs.bell().ring("default", ids.len(), Duration::ZERO);
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_never_crashed_do_not_wait_for_those_on_their_last_chance() {
    let system = System::start(&[("HOLDFAST__QUEUES__DEFAULT__CONCURRENCY", "4")]).await;
    // More than are held at a time.
    let suspects = crashed_twice(&system, "hold", 0..50).await;
    system.witness.wait_for(1).await;
    let innocents = system.enqueue(Act::Echo, 100..200).await;
    for record in system.ends_of(&innocents).await {
        assert_eq!(record.state, State::Completed);
    }
    let begun: Vec<u32> = system
        .witness
        .started()
        .into_iter()
        .filter(|number| *number < 100)
        .collect();
    assert_eq!(begun, [0], "one at a time");
    system.witness.release();
    for record in system.ends_of(&suspects).await {
        assert_eq!((record.state, record.crashes), (State::Completed, 2));
    }
    let mut ran: Vec<u32> = system
        .witness
        .started()
        .into_iter()
        .filter(|number| *number < 100)
        .collect();
    // Those that were put off because too many were held may come back in another order.
    ran.sort_unstable();
    assert_eq!(ran, (0..50).collect::<Vec<_>>(), "each once");
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_worker_hands_back_those_that_wait_for_their_last_chance() {
    let system = System::start(&[("HOLDFAST__SERVER__GRACE_SECONDS", "4")]).await;
    let suspects = crashed_twice(&system, "hang", 0..5).await;
    system.witness.wait_for(1).await;
    system
        .until(
            "the claims",
            "select count(*) from holdfast_jobs where state = 'running'",
            "5",
        )
        .await;
    let jobs = system.jobs.clone();
    system.stop.trigger();
    tokio::time::timeout(crate::lease::system::DEADLINE, system.running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    for id in suspects {
        let record = jobs.get(id).await.unwrap().unwrap();
        assert_eq!(
            (record.state, record.crashes),
            (State::Available, 2),
            "{record:?}"
        );
    }
}
