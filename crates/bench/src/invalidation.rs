//! Two ways to tell other processes that a value has changed, held against each other: PUBLISH beside each SET, and
//! client-side tracking in broadcasting mode. What docs/adr/0006 was decided by.

use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushKind};
use tokio::sync::mpsc;

use super::failed;
use super::report::{Figure, Report};

const PREFIX: &str = "holdfast:cache-bench:";
const CHANNEL: &str = "holdfast:cache-bench-changes";
const PROCESSES: usize = 4;
const SETS: usize = 20_000;
const VALUE: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Nobody,
    PubSub,
    Tracking,
}

pub(super) async fn measure(url: &str, report: &mut Report) -> Result<(), Failure> {
    for (way, name) in [
        (Way::Nobody, "SET, nobody told"),
        (Way::PubSub, "SET and PUBLISH to 4 processes"),
        (Way::Tracking, "SET, 4 processes tracking by prefix"),
    ] {
        let found = try_out(url, way).await?;
        report.figure("told", name, Figure::Rate(found.rate), None);
        report.figure(
            "told",
            "  CPU of Redis for each",
            Figure::Micros(found.server_micros),
            None,
        );
        if way != Way::Nobody {
            report.figure("told", "  messages for each", Figure::Count(found.messages), None);
            report.figure("told", "  told after, p50", Figure::Millis(found.delay), None);
        }
    }
    Ok(())
}

struct WayFigures {
    rate: f64,
    server_micros: f64,
    messages: f64,
    delay: f64,
}

async fn try_out(url: &str, way: Way) -> Result<WayFigures, Failure> {
    let client = redis::Client::open(format!(
        "{url}{}protocol=resp3",
        if url.contains('?') { '&' } else { '?' }
    ))
    .map_err(failed)?;
    let (sender, mut told) = mpsc::unbounded_channel();
    let mut listeners = Vec::new();
    if way != Way::Nobody {
        for _ in 0..PROCESSES {
            let config = AsyncConnectionConfig::new().set_push_sender(sender.clone());
            let mut listener = client
                .get_multiplexed_async_connection_with_config(&config)
                .await
                .map_err(failed)?;
            follow(&mut listener, way).await?;
            listeners.push(listener);
        }
    }
    let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
    let cpu = cpu_micros(&mut connection).await?;
    let began = Instant::now();
    for number in 0..SETS {
        change(&mut connection, way, number).await?;
    }
    let rate = SETS as f64 / began.elapsed().as_secs_f64();
    let server_micros = (cpu_micros(&mut connection).await? - cpu) / SETS as f64;
    let messages = drain(&mut told).await as f64 / SETS as f64;
    let delay = if way == Way::Nobody {
        0.0
    } else {
        delay(&mut connection, way, &mut told).await?
    };
    drop(listeners);
    Ok(WayFigures {
        rate,
        server_micros,
        messages,
        delay,
    })
}

async fn follow(listener: &mut MultiplexedConnection, way: Way) -> Result<(), Failure> {
    let mut command = match way {
        Way::Tracking => redis::cmd("CLIENT"),
        _ => redis::cmd("SUBSCRIBE"),
    };
    if way == Way::Tracking {
        command.arg(&["TRACKING", "ON", "BCAST", "PREFIX", PREFIX]);
    } else {
        command.arg(CHANNEL);
    }
    command.exec_async(listener).await.map_err(failed)
}

async fn change(connection: &mut MultiplexedConnection, way: Way, number: usize) -> Result<(), Failure> {
    let key = format!("{PREFIX}{}", number % 1_000);
    let value = [b'x'; VALUE];
    let mut pipe = redis::pipe();
    pipe.cmd("SET")
        .arg(&key)
        .arg(value.as_slice())
        .arg("PX")
        .arg(60_000)
        .ignore();
    if way == Way::PubSub {
        pipe.cmd("PUBLISH").arg(CHANNEL).arg(&key).ignore();
    }
    pipe.query_async(connection).await.map_err(failed)
}

type PushReceiver = mpsc::UnboundedReceiver<redis::PushInfo>;

fn is_change(push: &redis::PushInfo) -> bool {
    matches!(push.kind, PushKind::Message | PushKind::Invalidate)
}

/// Counts what has come, until nothing does.
async fn drain(told: &mut PushReceiver) -> usize {
    let mut count = 0;
    while let Ok(Some(push)) = tokio::time::timeout(Duration::from_millis(200), told.recv()).await {
        count += usize::from(is_change(&push));
    }
    count
}

/// Milliseconds from before a change until the first process is told.
async fn delay(
    connection: &mut MultiplexedConnection,
    way: Way,
    told: &mut PushReceiver,
) -> Result<f64, Failure> {
    let mut times = Vec::new();
    for number in 0..500 {
        let began = Instant::now();
        change(connection, way, number).await?;
        let mut heard = 0;
        while heard < PROCESSES {
            let push = tokio::time::timeout(PATIENCE, told.recv())
                .await
                .map_err(failed)?;
            let Some(push) = push else { break };
            if is_change(&push) {
                if heard == 0 {
                    times.push(began.elapsed().as_secs_f64() * 1_000.0);
                }
                heard += 1;
            }
        }
    }
    Ok(super::http::percentile(&mut times, 0.5))
}

async fn cpu_micros(connection: &mut MultiplexedConnection) -> Result<f64, Failure> {
    let user = info(connection, "cpu", "used_cpu_user").await?;
    let system = info(connection, "cpu", "used_cpu_sys").await?;
    Ok((user + system) * 1_000_000.0)
}

pub(super) async fn info(
    connection: &mut MultiplexedConnection,
    section: &str,
    field: &str,
) -> Result<f64, Failure> {
    let text: String = redis::cmd("INFO")
        .arg(section)
        .query_async(connection)
        .await
        .map_err(failed)?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok())
        .ok_or_else(|| Failure::msg(format!("Redis does not say {field}")))
}
