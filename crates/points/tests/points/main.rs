//! Points, from the buffer to SQL, on real servers; what is stored is counted in SQL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::config::{Settings, Sources, load_from};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::Registry;
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::{Job, JobContext, JobId, Jobs, Resources};
use holdfast_points::{
    FlushReport, LetterFilter, Point, Points, PointsFlush, PointsProduct, TrackId, TrackMade,
};
use holdfast_product::Product as _;
use holdfast_testkit::{Persistence, PostgresServer, RedisOptions, RedisServer};
use tempfile::TempDir;

struct Fixture {
    points: Points,
    gate: RedisGate,
    database: Database,
    jobs: Jobs,
    _directory: TempDir,
}

impl Fixture {
    async fn start(postgres: Option<&PostgresServer>, redis: Option<&RedisServer>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = match postgres {
            Some(server) => server.url(),
            None => format!("sqlite://{}", directory.path().join("points.db").display()),
        };
        let mut env = vec![("DATABASE_URL".to_owned(), url)];
        env.extend(redis.map(|server| ("REDIS_URL".to_owned(), server.url())));
        let settings: Settings = load_from(Sources {
            env: env.into_iter().collect(),
            file: None,
        })
        .unwrap();
        migrate(&settings.database).await.unwrap();
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
        if redis.is_some() {
            let normal = gate
                .watch()
                .wait_for(holdfast_core::mode::Mode::is_normal)
                .await
                .is_ok();
            assert!(normal);
        }
        let jobs = Jobs::new(&settings, PointsProduct.kinds(Registry::new()), &database, &gate);
        Self {
            points: Points::new(&settings, &database, &gate, jobs.clone()),
            gate,
            database,
            jobs,
            _directory: directory,
        }
    }

    async fn flush(&self) -> Result<FlushReport, holdfast_jobs::JobError> {
        let resources = Resources::default().with(self.points.clone());
        let context = JobContext::detached(JobId::generate(), 1, 1, resources);
        PointsFlush {}.run(context).await
    }

    async fn track(&self) -> TrackId {
        match self.points.make_track(None, "test").await.unwrap() {
            TrackMade::New(track) => track.id,
            other => panic!("{other:?}"),
        }
    }

    async fn stored(&self) -> i64 {
        let count = "select count(*) from holdfast_points";
        match &self.database {
            Database::Postgres(pool) => sqlx::query_scalar(count).fetch_one(pool).await.unwrap(),
            Database::Sqlite(database) => sqlx::query_scalar(count)
                .fetch_one(&database.reader)
                .await
                .unwrap(),
        }
    }
}

fn at(n: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_700_000_000_000_000 + n * 250_000).unwrap()
}

fn points_of(track: TrackId, range: std::ops::Range<i64>) -> Vec<Point> {
    range
        .map(|n| Point {
            track_id: track,
            recorded_at: at(n),
            lat: 47.0 + n as f64 / 1e6,
            lon: 11.0,
            altitude: Some(1_800.0),
            speed: None,
        })
        .collect()
}

async fn redis() -> RedisServer {
    RedisServer::start(RedisOptions::default()).await.unwrap()
}

async fn buffered_points_are_flushed_once_and_kept_as_they_were(f: Fixture) {
    let track = f.track().await;
    let sent = points_of(track, 0..2_500);
    f.points.accept(&sent).await.unwrap();
    f.points.accept(&sent).await.unwrap();
    assert_eq!(
        f.points.buffered().await.unwrap(),
        2_500,
        "the same point twice is one"
    );
    let flushed = f.flush().await.unwrap();
    assert_eq!((flushed.flushed, flushed.stored, flushed.dead), (2_500, 2_500, 0));
    assert_eq!(f.points.buffered().await.unwrap(), 0);
    assert_eq!(f.stored().await, 2_500);
    f.points.accept(&sent[..10]).await.unwrap();
    assert_eq!(f.flush().await.unwrap().stored, 0, "what is stored stands");
    let listed = f.points.list(track, None, None, None, 5_000).await.unwrap();
    assert_eq!(listed, sent);
    let some = f
        .points
        .list(track, Some(at(10)), Some(at(20)), Some(at(12)), 5)
        .await
        .unwrap();
    assert_eq!(some, sent[13..18]);
}

async fn points_without_a_track_are_kept_and_redriven_once_it_exists(f: Fixture) {
    let (known, unknown) = (f.track().await, TrackId::from_ulid(ulid::Ulid(42)));
    let by = AuditContext::new(Actor::system());
    let mut sent = points_of(known, 0..5);
    sent.extend(points_of(unknown, 0..7));
    f.points.accept(&sent).await.unwrap();
    if f.gate.is_configured() {
        let flushed = f.flush().await.unwrap();
        assert_eq!((flushed.stored, flushed.dead), (5, 7));
    }
    let filter = LetterFilter { track: Some(unknown) };
    let letters = f.points.letters(filter, None, 5).await.unwrap();
    assert_eq!(letters.len(), 5);
    assert_eq!(
        (&*letters[0].reason, letters[0].point),
        ("unknown track", sent[5])
    );
    let last = letters[4].point;
    let rest = f
        .points
        .letters(filter, Some((unknown, last.recorded_at)), 5)
        .await
        .unwrap();
    assert_eq!(rest.len(), 2);
    assert_eq!(
        f.points.redrive_letters(filter, &by).await.unwrap(),
        0,
        "there is no track yet"
    );
    let made = f.points.make_track(Some(unknown), "late").await.unwrap();
    assert!(matches!(made, TrackMade::New(_)));
    let again = f.points.make_track(Some(unknown), "late").await.unwrap();
    assert!(matches!(again, TrackMade::Same(_)));
    let other = f.points.make_track(Some(unknown), "other").await.unwrap();
    assert!(matches!(other, TrackMade::Taken(_)));
    assert_eq!(
        f.points
            .redrive_letters(LetterFilter::default(), &by)
            .await
            .unwrap(),
        7
    );
    assert_eq!(f.stored().await, 12);
    assert_eq!(
        f.points
            .delete_letters(LetterFilter::default(), &by)
            .await
            .unwrap(),
        0
    );
    f.points
        .accept(&points_of(TrackId::from_ulid(ulid::Ulid(43)), 0..3))
        .await
        .unwrap();
    if f.gate.is_configured() {
        f.flush().await.unwrap();
    }
    assert_eq!(
        f.points
            .delete_letters(LetterFilter::default(), &by)
            .await
            .unwrap(),
        3
    );
    assert_eq!(
        f.points
            .letters(LetterFilter::default(), None, 5)
            .await
            .unwrap()
            .len(),
        0
    );
}

#[tokio::test]
async fn points_on_postgres_and_redis() {
    let (postgres, redis) = (PostgresServer::start().await.unwrap(), redis().await);
    buffered_points_are_flushed_once_and_kept_as_they_were(
        Fixture::start(Some(&postgres), Some(&redis)).await,
    )
    .await;
}

#[tokio::test]
async fn points_on_sqlite_and_redis() {
    let redis = redis().await;
    buffered_points_are_flushed_once_and_kept_as_they_were(Fixture::start(None, Some(&redis)).await).await;
}

#[tokio::test]
async fn letters_on_postgres() {
    let (postgres, redis) = (PostgresServer::start().await.unwrap(), redis().await);
    let f = Fixture::start(Some(&postgres), Some(&redis)).await;
    points_without_a_track_are_kept_and_redriven_once_it_exists(f).await;
}

#[tokio::test]
async fn letters_on_sqlite_without_any_redis() {
    let f = Fixture::start(None, None).await;
    points_without_a_track_are_kept_and_redriven_once_it_exists(f).await;
}

/// The middle of a flush is a hold; what a dead flusher held is taken back and stored, once.
#[tokio::test]
async fn what_a_dead_flusher_held_is_taken_back() {
    let (postgres, redis) = (PostgresServer::start().await.unwrap(), redis().await);
    let f = Fixture::start(Some(&postgres), Some(&redis)).await;
    let track = f.track().await;
    f.points.accept(&points_of(track, 0..3_000)).await.unwrap();
    // A flusher that pops and dies: its database is gone before it can store or give back.
    let script = include_str!("../../src/scripts/hold.lua");
    let (buffer, hold, holds) = (
        "{holdfast:points}:buffer",
        "{holdfast:points}:hold:dead",
        "{holdfast:points}:holds",
    );
    redis
        .command(&["EVAL", script, "3", buffer, hold, holds, "1000"])
        .await
        .unwrap();
    assert_eq!(f.points.buffered().await.unwrap(), 2_000);
    assert_eq!(f.flush().await.unwrap().stored, 2_000);
    assert_eq!(f.points.take_back().await.unwrap(), 0, "it may yet be alive");
    redis.command(&["ZADD", holds, "1", hold]).await.unwrap();
    assert_eq!(f.points.take_back().await.unwrap(), 1_000);
    assert_eq!(f.flush().await.unwrap().stored, 1_000);
    assert_eq!(f.stored().await, 3_000);
    assert!(redis.keys("{holdfast:points}*").await.unwrap().is_empty());
}

#[tokio::test]
async fn no_point_is_lost_when_postgres_is_away_during_a_flush() {
    let (postgres, redis) = (PostgresServer::start().await.unwrap(), redis().await);
    let f = Fixture::start(Some(&postgres), Some(&redis)).await;
    let track = f.track().await;
    f.points.accept(&points_of(track, 0..2_000)).await.unwrap();
    postgres.kill9().await.unwrap();
    assert!(f.flush().await.is_err());
    f.points.accept(&points_of(track, 2_000..3_000)).await.unwrap();
    postgres.start_again().await.unwrap();
    let patience = tokio::time::Instant::now() + Duration::from_mins(1);
    while f.flush().await.is_err() {
        assert!(
            tokio::time::Instant::now() < patience,
            "the database never came back"
        );
    }
    assert_eq!(f.points.buffered().await.unwrap(), 0);
    assert_eq!(f.stored().await, 3_000);
}

#[tokio::test]
async fn no_point_is_lost_when_redis_restarts_with_its_append_only_file_or_is_away() {
    let postgres = PostgresServer::start().await.unwrap();
    let options = RedisOptions::default().persistence(Persistence::AofAlways);
    let redis = RedisServer::start(options).await.unwrap();
    let f = Fixture::start(Some(&postgres), Some(&redis)).await;
    let track = f.track().await;
    f.points.accept(&points_of(track, 0..2_000)).await.unwrap();
    redis.kill9().await.unwrap();
    // Away: straight to SQL, whether or not the gate knows yet.
    f.points.accept(&points_of(track, 2_000..2_500)).await.unwrap();
    assert_eq!(f.stored().await, 500);
    redis.restart().await.unwrap();
    let normal = f
        .gate
        .watch()
        .wait_for(holdfast_core::mode::Mode::is_normal)
        .await
        .is_ok();
    assert!(normal);
    assert_eq!(f.flush().await.unwrap().stored, 2_000);
    assert_eq!(f.stored().await, 2_500);
}

#[tokio::test]
async fn who_buffers_asks_for_one_flush() {
    let redis = redis().await;
    let f = Fixture::start(None, Some(&redis)).await;
    let track = f.track().await;
    for n in 0..20 {
        f.points.accept(&points_of(track, n..n + 1)).await.unwrap();
    }
    let asked = async || {
        let stats = f.jobs.queue_stats().await.unwrap();
        stats.iter().map(|queue| queue.available).sum::<u64>()
    };
    let patience = tokio::time::Instant::now() + Duration::from_mins(1);
    while asked().await == 0 {
        assert!(tokio::time::Instant::now() < patience, "nobody asked for a flush");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(asked().await, 1);
}
