//! Points under SIGKILL: real `worker` processes flush, and what is stored is counted in SQL.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

use std::time::Duration;

use chrono::DateTime;
use holdfast_core::config::{Sources, load_from};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::Jobs;
use holdfast_services::points::{Point, Points, TrackId, TrackMade};
use holdfast_testkit::{Child, PostgresServer, RedisOptions, RedisServer, eventually, free_port};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(20);
const COUNT: i64 = 60_000;

fn points_of(track: TrackId) -> Vec<Point> {
    (0..COUNT)
        .map(|n| Point {
            track_id: track,
            recorded_at: DateTime::from_timestamp_millis(1_700_000_000_000 + n).unwrap(),
            lat: 47.0,
            lon: 11.0,
            altitude: None,
            speed: None,
        })
        .collect()
}

#[tokio::test]
async fn no_point_is_lost_when_the_flusher_is_killed() {
    let postgres = PostgresServer::start().await.unwrap();
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let directory = TempDir::new().unwrap();
    let env = [
        ("DATABASE_URL".to_owned(), postgres.url()),
        ("REDIS_URL".to_owned(), redis.url()),
        ("HOLDFAST__WORKER__HEARTBEAT_SECONDS".to_owned(), "0.5".to_owned()),
        ("HOLDFAST__WORKER__LOST_AFTER_SECONDS".to_owned(), "3".to_owned()),
    ];
    let settings = load_from(Sources {
        env: env.iter().cloned().collect(),
        file: None,
    })
    .unwrap();
    migrate(&settings.database).await.unwrap();
    let database = Database::open(&settings.database).unwrap();
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
    assert!(
        gate.watch()
            .wait_for(holdfast_core::mode::Mode::is_normal)
            .await
            .is_ok()
    );
    let jobs = Jobs::new(&settings, holdfast_services::registry(), &database, &gate);
    let points = Points::new(&settings, &database, &gate, jobs);
    let TrackMade::New(track) = points.make_track(None, "test").await.unwrap() else {
        panic!("a fresh track was there already")
    };
    let sent = points_of(track.id);
    for batch in sent.chunks(5_000) {
        points.accept(batch).await.unwrap();
    }
    let start = || {
        let env = env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Child::binary("worker")
            .envs(env)
            .env("PORT", free_port().unwrap().to_string())
            .current_dir(directory.path())
            .start()
            .unwrap()
    };
    let stored = async || -> i64 {
        let count = postgres
            .psql("select count(*) from holdfast_points")
            .await
            .unwrap();
        count.trim().parse().unwrap()
    };

    // Killed in the middle, twice: each leaves holds behind.
    for _ in 0..2 {
        let mut worker = start();
        let before = stored().await;
        let more = async || (stored().await > before).then_some(());
        eventually("a worker to flush", DEADLINE, POLL, more)
            .await
            .unwrap();
        worker.sigkill().await.unwrap();
        // A hold ages for half a minute; here it has.
        for hold in redis.keys("{holdfast:points}:hold:*").await.unwrap() {
            let holds = "{holdfast:points}:holds";
            redis.command(&["ZADD", holds, "1", hold.as_str()]).await.unwrap();
        }
        if stored().await == COUNT {
            break;
        }
    }
    let mut last = start();
    let all = async || (stored().await == COUNT).then_some(());
    eventually("every point to be stored", DEADLINE, POLL, all)
        .await
        .unwrap();
    let empty = async || {
        redis
            .keys("{holdfast:points}*")
            .await
            .unwrap()
            .is_empty()
            .then_some(())
    };
    eventually("the buffer and the holds to be empty", DEADLINE, POLL, empty)
        .await
        .unwrap();
    assert_eq!(stored().await, COUNT);
    last.sigterm().unwrap();
    assert_eq!(last.wait_exit(DEADLINE).await.unwrap().code(), Some(0));
}
