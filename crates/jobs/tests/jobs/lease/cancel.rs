//! A running job that was asked to cancel does not run again.

use holdfast_jobs::State;
use holdfast_jobs::ledger::CancelReply;

use crate::lease::system::{Act, DEADLINE, System};

/// Nobody asks the running jobs: their failure must find the request by itself.
const UNHEARD: (&str, &str) = ("HOLDFAST__WORKER__CONTROL_POLL_SECONDS", "3600");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_jobs_that_are_cancelled_while_they_run_and_fail_run_once() {
    let system = System::start(&[UNHEARD, ("HOLDFAST__QUEUES__DEFAULT__CONCURRENCY", "40")]).await;
    let ids = system.enqueue(Act::Fail, 0..40).await;
    system.witness.wait_for(40).await;
    for id in &ids {
        assert_eq!(
            system.jobs.cancel(*id).await.unwrap(),
            Some(CancelReply::Requested)
        );
    }
    system.witness.release();
    for record in system.ends_of(&ids).await {
        assert_eq!(
            (record.state, record.attempt),
            (State::Cancelled, 1),
            "{record:?}"
        );
    }
    assert_eq!(system.witness.started().len(), 40);
    system.stop().await;
}

/// Short jobs are asked, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_asked_however_young_it_is() {
    let system = System::start(&[("HOLDFAST__WORKER__CANCEL_GRACE_SECONDS", "1")]).await;
    let ids = system.enqueue(Act::Hang, 0..1).await;
    system.witness.wait_for(1).await;
    assert_eq!(
        system.jobs.cancel(ids[0]).await.unwrap(),
        Some(CancelReply::Requested)
    );
    assert_eq!(system.ends_of(&ids).await[0].state, State::Cancelled);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_of_a_worker_that_stops_is_cancelled() {
    let system = System::start(&[UNHEARD, ("HOLDFAST__SERVER__GRACE_SECONDS", "4")]).await;
    let ids = system.enqueue(Act::Hang, 0..2).await;
    system.witness.wait_for(2).await;
    system.jobs.cancel(ids[0]).await.unwrap();
    let jobs = system.jobs.clone();
    system.stop.trigger();
    tokio::time::timeout(DEADLINE, system.running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let mut states = Vec::new();
    for id in ids {
        states.push(jobs.get(id).await.unwrap().unwrap().state);
    }
    assert_eq!(states, [State::Cancelled, State::Available]);
}
