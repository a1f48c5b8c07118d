//! Finished jobs that are deleted, with nothing and with dead letters before them.

use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use holdfast_core::sql::Database;

use super::failed;
use super::report::{Figure, Report};
use super::scenario::scaled;
use super::system::{Setup, System};

const PART: &str = "prune";

/// Jobs whose retention is over.
const FINISHED: usize = 200_000;
/// Jobs that are kept for longer, and are older.
const LETTERS: usize = 1_000_000;
const AIM: f64 = 12_000.0;

const PATIENCE: Duration = Duration::from_mins(10);

/// Rows a second that one worker with nothing else to do deletes. With dead letters before the finished jobs, its walk must come past
/// them first: that is in the figure.
pub(super) async fn measure(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let mut setup = setup.clone();
    let (finished, letters) = (scaled(FINISHED, scale), scaled(LETTERS, scale));
    setup.env.insert(
        "HOLDFAST__JOBS__RETAIN_COMPLETED_SECONDS".to_owned(),
        "60".to_owned(),
    );
    for before in [0, letters] {
        // A new one, whose walk begins at the oldest job.
        let mut system = System::open(&setup).await?;
        // From 1: the walk begins after the nil id, which no job has.
        fill(&system, 1, before, "discarded").await?;
        let rate = prune(&mut system, 1 + before, finished).await?;
        let what = format!("{finished} finished jobs, {before} dead letters before them");
        report.figure(PART, &what, Figure::Rate(rate), Some(Figure::Rate(AIM)));
        system.close().await?;
    }
    Ok(())
}

/// Makes the jobs with numbers from `first`, and lets a worker delete them; rows a second.
async fn prune(system: &mut System, first: usize, count: usize) -> Result<f64, Failure> {
    fill(system, first, count, "completed").await?;
    system.sql("analyze holdfast_jobs").await?;
    let began = Instant::now();
    system.work()?;
    // The walk goes by id, so the newest is deleted last.
    while counted(system, &format!("id = {}", id_of(first + count - 1))).await? > 0 {
        if began.elapsed() > PATIENCE {
            return Err(Failure::msg("the finished jobs are not deleted"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    system.stop_working().await?;
    let left = counted(system, "queue = 'bench' and state = 'completed'").await?;
    if left > 0 {
        return Err(Failure::msg(format!("{left} finished jobs were passed over")));
    }
    Ok(rate)
}

fn id_of(number: usize) -> String {
    format!("lpad(to_hex({number}), 32, '0')::uuid")
}

/// Jobs that ended an hour ago; their ids are in the order of their numbers.
async fn fill(system: &System, first: usize, count: usize, state: &str) -> Result<(), Failure> {
    const STEP: usize = 100_000;
    for from in (first..first + count).step_by(STEP) {
        let to = (from + STEP).min(first + count) - 1;
        let statement = format!(
            "insert into holdfast_jobs (id, queue, kind, payload, run_at, max_attempts, timeout_ms, state, attempt, finished_at)
             select lpad(to_hex(i), 32, '0')::uuid, 'bench', 'bench.noop', '{{}}', now(), 1, 1000, '{state}', 1,
                    now() - interval '1 hour'
             from generate_series({from}, {to}) as i"
        );
        system.sql(&statement).await?;
    }
    Ok(())
}

async fn counted(system: &System, condition: &str) -> Result<i64, Failure> {
    let Database::Postgres(pool) = &system.database else {
        return Err(Failure::msg("this part needs PostgreSQL"));
    };
    let count = format!("select count(*) from holdfast_jobs where {condition}");
    let count = sqlx::query_scalar(sqlx::AssertSqlSafe(count));
    count.fetch_one(pool).await.map_err(failed)
}
