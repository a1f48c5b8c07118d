//! What the ledger calls running and no process runs.

use std::time::{Duration, Instant};

use holdfast_jobs::State;
use holdfast_jobs::enqueue::JobRequest;
use holdfast_jobs::{Job as _, JobId};
use holdfast_testkit::eventually;

use crate::lease::system::{Act, DEADLINE, POLL, Probe, System};
use crate::support::raw;

async fn run(on: &mut sqlx::PgConnection, sql: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(on).await.unwrap();
}

/// As after the promotion of a standby that lacks the outcomes of the last seconds: a completed job runs again under the
/// worker's current id, beside others that it claims all the time. It goes back, runs, and its key comes free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stray_of_the_current_id_goes_back_while_others_are_claimed() {
    let system = System::start(&[]).await;
    let request = |number: u32| {
        let mut request = JobRequest::new(
            Probe::KIND,
            raw(&format!(r#"{{"act":"echo","number":{number}}}"#)),
        );
        request.unique_key = Some("key".to_owned());
        request
    };
    let lost = system.jobs.enqueue_request(request(1_000_000)).await.unwrap().id;
    assert_eq!(system.ends_of(&[lost]).await[0].state, State::Completed);
    system
        .ask(&format!(
            "update holdfast_jobs set state = 'running', finished_at = null, result = null, attempt = 0,
                    worker = (select id from holdfast_workers) where id = '{}'",
            lost.as_uuid()
        ))
        .await;
    assert!(system.jobs.enqueue_request(request(1)).await.unwrap().duplicate);
    let mut innocents: Vec<JobId> = Vec::new();
    let began = Instant::now();
    while system.jobs.get(lost).await.unwrap().unwrap().state == State::Running {
        assert!(began.elapsed() < DEADLINE, "the stray stays");
        let next = u32::try_from(innocents.len()).unwrap();
        innocents.extend(system.enqueue(Act::Echo, next..next + 20).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let again = system.ends_of(&[lost]).await.remove(0);
    assert_eq!(
        (again.state, again.attempt, again.crashes),
        (State::Completed, 1, 0)
    );
    assert!(
        !system
            .jobs
            .enqueue_request(request(1_000_001))
            .await
            .unwrap()
            .duplicate
    );
    assert!(
        system
            .ends_of(&innocents)
            .await
            .iter()
            .all(|job| job.state == State::Completed)
    );
    let mut runs = system.witness.runs();
    assert_eq!(runs.remove(&1_000_000), Some(2));
    assert!(runs.values().all(|runs| *runs == 1), "an innocent ran twice");
    system.stop().await;
}

/// A retired id has a row that another transaction holds: the jobs of the worker, old id and new, are none of that row's business.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_stray_of_a_retired_id_costs_nobody_its_lease() {
    let system = System::start_with(&[], |worker| worker.renewing_its_id_after(3)).await;
    let of_the_first = system.enqueue(Act::Hold, 0..3).await;
    system.witness.wait_for(3).await;
    system
        .until("another id", "select count(*) from holdfast_workers", "2")
        .await;
    let of_the_next = system.enqueue(Act::Hold, 3..5).await;
    system.witness.wait_for(5).await;
    // A stray of the retired id, and somebody who holds it.
    system.jobs.pause("default").await.unwrap();
    let stray = system.enqueue(Act::Echo, 5..6).await;
    system
        .ask(&format!(
            "update holdfast_jobs set state = 'running', started_at = now(),
                    worker = (select worker from holdfast_jobs where id = '{}') where id = '{}'",
            of_the_first[0].as_uuid(),
            stray[0].as_uuid()
        ))
        .await;
    let mut other = system.connect().await;
    run(
        &mut other,
        format!(
            "begin; select from holdfast_jobs where id = '{}' for update",
            stray[0].as_uuid()
        ),
    )
    .await;
    system.jobs.resume("default").await.unwrap();
    // Twice as long as a worker may be silent.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(system.witness.started().len(), 5, "a job ran twice");
    run(&mut other, "commit".to_owned()).await;
    system.witness.release();
    for record in system.ends_of(&[of_the_first, of_the_next, stray].concat()).await {
        assert_eq!(
            (record.state, record.crashes),
            (State::Completed, 0),
            "{record:?}"
        );
    }
    assert!(system.witness.runs().values().all(|runs| *runs == 1));
    system
        .until("one id", "select count(*) from holdfast_workers", "1")
        .await;
    system.stop().await;
}

/// A worker's row is deleted by hand while its jobs run: they are somebody's again, and end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_whose_workers_row_was_deleted_are_rescued() {
    let system = System::start(&[]).await;
    let ids = system.enqueue(Act::Hold, 0..3).await;
    system.witness.wait_for(3).await;
    system.ask("delete from holdfast_workers").await;
    // Each runs again while its first run goes on.
    system.witness.wait_for(6).await;
    system.assert_no_orphans().await;
    system.witness.release();
    for record in system.ends_of(&ids).await {
        assert_eq!(
            (record.state, record.crashes),
            (State::Completed, 1),
            "{record:?}"
        );
    }
    assert_eq!(system.jobs.workers().await.unwrap().len(), 1);
    assert!(system.witness.runs().values().all(|runs| *runs == 2));
    system.stop().await;
}

/// A start that cannot be recorded means that the lease is lost. If it is not, the job is a stray and goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_not_run_for_a_lost_lease_is_not_held() {
    let system = System::start(&[]).await;
    system
        .ask(
            "create function ignore() returns trigger language plpgsql as $$ begin return null; end $$;
             create trigger ignore before update on holdfast_jobs for each row
             when (old.state = 'running' and new.state = 'running') execute function ignore();
             create table returns (id uuid);
             create function note_return() returns trigger language plpgsql security definer as $$ begin
                 insert into returns values (new.id);
                 return null;
             end $$;
             create trigger note_return after update on holdfast_jobs for each row
             when (old.state = 'running' and new.state = 'available') execute function note_return()",
        )
        .await;
    let mut request = JobRequest::new(Probe::KIND, raw(r#"{"act":"echo","number":0}"#));
    request.delay = Some(Duration::from_hours(1));
    let id = system.jobs.enqueue_request(request).await.unwrap().id;
    system
        .ask(&format!(
            "update holdfast_jobs set crashes = 1, run_at = now() where id = '{}'",
            id.as_uuid()
        ))
        .await;
    system.jobs.bell().ring("default", 1, Duration::ZERO);
    let claimed = "select count(*) from holdfast_jobs where state = 'running'";
    system.until("the claim", claimed, "1").await;
    // It is put back, and claimed again, until its start can be recorded.
    let returned = "select count(*) > 0 from returns";
    system.until("the return", returned, "t").await;
    system.ask("drop trigger ignore on holdfast_jobs").await;
    let record = system.ends_of(&[id]).await.remove(0);
    assert_eq!((record.state, record.crashes), (State::Completed, 1));
    assert_eq!(system.witness.started(), [0]);
    let gone = async || {
        system
            .jobs
            .workers()
            .await
            .ok()
            .filter(|workers| workers.len() == 1)
    };
    eventually("one worker", DEADLINE, POLL, gone).await.unwrap();
    system.stop().await;
}
