//! Points: into Redis one by one and pipelined, over HTTP, and from there to the database.

use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use chrono::{DateTime, Utc};
use holdfast_core::sql::Database;
use holdfast_jobs::{Job, JobContext, JobId, Resources};
use holdfast_services::points::{Point, Points, PointsFlush, TrackId, TrackMade};
use serde_json::json;
use tokio::task::JoinSet;

use super::report::{Figure, Report};
use super::scenario::scaled;
use super::system::{Setup, System};
use super::{failed, load};

const PART: &str = "points";

/// Points of one call, and of one request.
const BATCH: usize = 1_000;

/// Producers at once, in the library and over HTTP.
const PRODUCERS: usize = 4;

pub(super) async fn measure(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let system = System::open(setup).await?;
    let points = Points::new(
        &system.settings,
        &system.database,
        &system.gate,
        system.jobs.clone(),
    );
    let TrackMade::New(track) = points.make_track(None, "bench").await.map_err(failed)? else {
        return Err(Failure::msg("a fresh track was there already"));
    };
    let measured = into_redis(&points, track.id, scale, report).await;
    let measured = match measured {
        Ok(next) => over_http(&system, &points, track.id, (next, scale), report).await,
        Err(error) => Err(error),
    };
    tidy(&system, track.id).await?;
    system.close().await?;
    measured
}

async fn into_redis(
    points: &Points,
    track: TrackId,
    scale: f64,
    report: &mut Report,
) -> Result<usize, Failure> {
    flush(points).await?;
    let single = scaled(4_000, scale);
    let began = Instant::now();
    for n in 0..single {
        points.buffer(&batch(track, n, 1)).await.map_err(failed)?;
    }
    let one_by_one = single as f64 / began.elapsed().as_secs_f64();
    report.figure(PART, "into Redis, one by one", Figure::Rate(one_by_one), None);

    let count = scaled(400_000, scale) / (BATCH * PRODUCERS) * BATCH * PRODUCERS;
    let batches: Vec<Vec<Point>> = (0..count / BATCH)
        .map(|index| batch(track, single + index * BATCH, BATCH))
        .collect();
    let began = Instant::now();
    let mut producers = JoinSet::new();
    for share in batches.chunks(batches.len().div_ceil(PRODUCERS).max(1)) {
        let (points, share) = (points.clone(), share.to_vec());
        producers.spawn(async move {
            for batch in &share {
                points.buffer(batch).await?;
            }
            Ok::<_, holdfast_core::redis::GateError>(())
        });
    }
    while let Some(done) = producers.join_next().await {
        done.map_err(failed)?.map_err(failed)?;
    }
    let pipelined = count as f64 / began.elapsed().as_secs_f64();
    let aim = 150_000_f64.max(one_by_one * 30.0);
    report.figure(
        PART,
        "into Redis, pipelined by 1,000",
        Figure::Rate(pipelined),
        Some(Figure::Rate(aim)),
    );

    let began = Instant::now();
    let flushed = flush(points).await?;
    let rate = flushed as f64 / began.elapsed().as_secs_f64();
    report.figure(
        PART,
        "flushed to the database",
        Figure::Rate(rate),
        Some(Figure::Rate(40_000.0)),
    );
    if flushed != (single + count) as u64 {
        return Err(Failure::msg(format!(
            "only {flushed} of {} points were stored",
            single + count
        )));
    }
    Ok(single + count)
}

async fn over_http(
    system: &System,
    points: &Points,
    track: TrackId,
    (next, scale): (usize, f64),
    report: &mut Report,
) -> Result<(), Failure> {
    let requests = scaled(300, scale).div_ceil(PRODUCERS) * PRODUCERS;
    let bodies: Vec<Vec<u8>> = (0..requests)
        .map(|index| request(&batch(track, next + index * BATCH, BATCH)))
        .collect();
    let shares = bodies.chunks(requests / PRODUCERS).map(<[_]>::to_vec).collect();
    let took = load::post_all(system, shares).await?;
    let rate = (requests * BATCH) as f64 / took.as_secs_f64();
    report.figure(
        PART,
        "HTTP, 4 producers, 1,000 a request",
        Figure::Rate(rate),
        Some(Figure::Rate(60_000.0)),
    );
    // What the buffer had no room for is in the database already.
    flush(points).await?;
    let (stored, sent) = (stored(system, track).await?, next + requests * BATCH);
    if stored != sent as i64 {
        return Err(Failure::msg(format!(
            "only {stored} of {sent} points were stored"
        )));
    }
    Ok(())
}

async fn stored(system: &System, track: TrackId) -> Result<i64, Failure> {
    let Database::Postgres(pool) = &system.database else {
        return Err(Failure::msg("points are measured on PostgreSQL"));
    };
    sqlx::query_scalar("select count(*) from holdfast_points where track_id = $1")
        .bind(track.as_uuid())
        .fetch_one(pool)
        .await
        .map_err(failed)
}

fn batch(track: TrackId, from: usize, count: usize) -> Vec<Point> {
    (from..from + count)
        .map(|n| Point {
            track_id: track,
            recorded_at: moment(n),
            lat: 47.0 + (n % 1_000) as f64 / 1e4,
            lon: 11.0 + (n % 997) as f64 / 1e4,
            altitude: Some(1_800.0 + (n % 100) as f64),
            speed: Some(12.5),
        })
        .collect()
}

/// A quarter of a second apart, from a day in 2023 on.
fn moment(n: usize) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_700_000_000_000 + n as i64 * 250).unwrap_or_default()
}

fn request(points: &[Point]) -> Vec<u8> {
    let body = json!({ "points": points }).to_string();
    let head = format!(
        "POST /v1/points HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

/// As a worker would; how many new rows there are.
async fn flush(points: &Points) -> Result<u64, Failure> {
    let resources = Resources::default().with(points.clone());
    let context = JobContext::detached(JobId::generate(), 1, 1, resources);
    let flushed = PointsFlush {}.run(context).await;
    let flushed = flushed.map_err(|error| Failure::msg(format!("the flush failed: {error}")))?;
    Ok(flushed.stored)
}

/// Removes the bench's track, its points, and the flushes that nobody ran.
async fn tidy(system: &System, track: TrackId) -> Result<(), Failure> {
    // Those who buffered ask for a flush a moment later.
    tokio::time::sleep(Duration::from_millis(200)).await;
    system
        .sql(&format!(
            "delete from holdfast_tracks where id = '{}'",
            track.as_uuid()
        ))
        .await?;
    system
        .sql("delete from holdfast_jobs where kind = 'points.flush'")
        .await
}
