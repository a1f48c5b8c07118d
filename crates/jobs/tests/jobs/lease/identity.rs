//! A worker takes another id now and then; nobody is to notice.

use holdfast_jobs::State;

use crate::lease::system::{Act, System};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_jobs_run_once_while_the_id_of_their_worker_changes() {
    let system = System::start_with(&[], |worker| worker.renewing_its_id_after(100)).await;
    let long = system.enqueue(Act::Hold, 10_000..10_001).await;
    system.witness.wait_for(1).await;
    let mut ids = Vec::new();
    for hundred in 0..10 {
        let before = ids.len();
        ids.extend(
            system
                .enqueue(Act::Echo, hundred * 100..(hundred + 1) * 100)
                .await,
        );
        // Two hundred wait at most: on a busy machine one id would claim them all.
        system.ends_of(&ids[before.saturating_sub(100)..before]).await;
        assert_eq!(
            system.jobs.workers().await.unwrap().len(),
            1,
            "one process is one worker"
        );
    }
    for record in system.ends_of(&ids).await {
        assert_eq!(
            (record.state, record.attempt, record.crashes),
            (State::Completed, 1, 0)
        );
    }
    let runs = system.witness.runs();
    assert_eq!(runs.len(), 1_001);
    assert!(runs.values().all(|runs| *runs == 1), "a job ran twice");
    let used: u32 = system
        .ask("select count(distinct worker) from holdfast_jobs")
        .await
        .parse()
        .unwrap();
    assert!(used >= 3, "{used} ids were used");
    // Those that hold nothing go; the one that the long job runs under stays until it ends.
    system
        .until(
            "the rows of two ids",
            "select count(*) from holdfast_workers",
            "2",
        )
        .await;
    system.witness.release();
    let record = system.ends_of(&long).await.remove(0);
    assert_eq!((record.state, record.crashes), (State::Completed, 0));
    system
        .until("the row of one id", "select count(*) from holdfast_workers", "1")
        .await;
    system.stop().await;
}
