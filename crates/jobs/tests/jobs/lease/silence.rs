//! Silence that proves nothing: the ledger answers, and stores no heartbeat.

use std::time::Duration;

use holdfast_jobs::ledger::{Heartbeat, NewJob};
use holdfast_jobs::{State, WorkerId};

use crate::lease::system::System;
use crate::support::{LOST_AFTER, new_job, report};

/// As with a disk that stalls: reads go on, and so does the deletion of a worker's row.
const REFUSE_HEARTBEATS: &str = "
    create function refuse() returns trigger language plpgsql as $$
    begin raise exception using errcode = 'lock_not_available'; end $$;
    create trigger refuse before insert or update on holdfast_workers for each row execute function refuse()";

/// A worker of another process, which is alive and has a job, beside one whose rescuer has been sure of the ledger for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_not_lost_while_no_heartbeat_can_be_stored() {
    let system = System::start(&[]).await;
    let ledger = system.jobs.ledger();
    let other = WorkerId::generate();
    ledger.register(&report(other)).await.unwrap();
    let beat = async || ledger.heartbeat(&report(other)).await;
    for _ in 0..10 {
        assert_eq!(beat().await.unwrap(), Heartbeat::Renewed);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let job = NewJob {
        queue: "elsewhere".into(),
        ..new_job()
    };
    let id = job.id;
    ledger.insert(&[job]).await.unwrap();
    let claimed = ledger.claim("elsewhere", other, 1, LOST_AFTER).await.unwrap();
    assert_eq!(claimed.len(), 1);
    beat().await.unwrap();
    system.ask(REFUSE_HEARTBEATS).await;
    // Twice as long as a worker may be silent.
    tokio::time::sleep(Duration::from_secs(6)).await;
    beat().await.unwrap_err();
    system.ask("drop trigger refuse on holdfast_workers").await;
    assert_eq!(beat().await.unwrap(), Heartbeat::Renewed);
    let held = system.jobs.get(id).await.unwrap().unwrap();
    assert_eq!((held.state, held.crashes), (State::Running, 0));
    // From now on its silence is its own.
    let rescued = format!(
        "select state || crashes from holdfast_jobs where id = '{}'",
        id.as_uuid()
    );
    system.until("the job is rescued", &rescued, "available1").await;
    system.stop().await;
}
