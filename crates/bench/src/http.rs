//! `holdfast-bench http`: what caching an answer costs and saves, as ratios to the same answer as a constant.
//!
//! Client, server and Redis share this machine, and 64 keep-alive connections each wait for their answer. The rounds
//! take turns, so that all ratios are of the same minutes. In the last round Redis hangs: `CLIENT PAUSE` leaves its
//! connections open and answers nobody, as SIGSTOP would, and ends by itself whatever becomes of the bench.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use holdfast_cache::Cache;
use holdfast_core::config::Settings;
use holdfast_core::shutdown::Shutdown;
use holdfast_services::api::{Application, Services};
use tokio::task::JoinSet;

use super::failed;
use super::load::Connection;
use super::report::{Figure, Report};
use super::system::{Setup, System};

const CONNECTIONS: usize = 64;
const REQUESTS: usize = 60_000;
const ROUNDS: usize = 3;
const HANG: Duration = Duration::from_secs(5);
const HANG_MARGIN: Duration = Duration::from_millis(500);
/// After this time of an outage nobody waits any more.
const SETTLED: Duration = Duration::from_secs(1);
const KEY: &str = "key-of-the-bench-http";

const PATHS: [&str; 3] = ["/measure/constant", "/measure/local", "/measure/redis"];

/// What one round found: requests a second, and every request's time in milliseconds.
#[derive(Debug, Default, Clone)]
struct Round {
    rates: Vec<f64>,
    times: Vec<f64>,
}

impl Round {
    fn rate(&self) -> f64 {
        median(&self.rates)
    }

    fn p99(&mut self) -> f64 {
        percentile(&mut self.times, 0.99)
    }
}

pub(super) async fn measure(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let system = System::open(setup).await?;
    let mut settings: Settings = system.settings.clone();
    "127.0.0.1".clone_into(&mut settings.server.host);
    settings.server.port = 0;
    settings.server.api_key = Some(KEY.into());
    let cache = System::cache(&settings)?;
    cache.gate().wait_ready(Duration::from_secs(2)).await;
    let services = Services {
        jobs: system.jobs.clone(),
        database: system.database.clone(),
        gate: system.gate.clone(),
        cache: cache.clone(),
    };
    let application = Application::build(&settings, services)
        .await
        .map_err(failed)?
        .with_measuring_routes();
    let address = SocketAddr::from(([127, 0, 0, 1], application.port()));
    let stop = Shutdown::new();
    let serving = tokio::spawn(application.run_until_stopped(stop.clone()));
    let measured = rounds(address, scale, report).await;
    let measured = match measured {
        Ok(()) => hanging(address, &settings, &cache, report).await,
        failure => failure,
    };
    stop.trigger();
    serving.await.map_err(failed)?.map_err(failed)?;
    measured?;
    system.close().await
}

async fn rounds(address: SocketAddr, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let requests = (REQUESTS as f64 * scale) as usize / CONNECTIONS;
    let mut found = vec![Round::default(); PATHS.len()];
    for path in PATHS {
        load(address, path, requests / 10).await?;
    }
    for _ in 0..ROUNDS {
        for (path, round) in PATHS.iter().zip(&mut found) {
            let began = Instant::now();
            let times = load(address, path, requests).await?;
            round
                .rates
                .push(times.len() as f64 / began.elapsed().as_secs_f64());
            round.times.extend(times.iter().map(|(_, time)| *time));
        }
    }
    let constant = found[0].rate();
    let aims = [None, Some(80.0), Some(45.0)];
    for ((path, round), aim) in PATHS.iter().zip(&mut found).zip(aims) {
        report.figure("http", &format!("GET {path}"), Figure::Rate(round.rate()), None);
        if let Some(aim) = aim {
            let share = Figure::Share(round.rate() / constant * 100.0);
            report.figure("http", "  of the constant", share, Some(Figure::Share(aim)));
        }
        let p99 = Figure::Millis(round.p99());
        report.figure("http", "  p99, 64 connections", p99, Some(Figure::Millis(10.0)));
    }
    Ok(())
}

/// The same requests while Redis hangs.
async fn hanging(
    address: SocketAddr,
    settings: &Settings,
    cache: &Cache,
    report: &mut Report,
) -> Result<(), Failure> {
    let Some(endpoint) = &settings.redis.cache else {
        return Ok(());
    };
    let client = holdfast_core::redis::client(endpoint, &settings.redis).map_err(failed)?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
    let deadline = Figure::Millis(settings.redis.command_timeout.as_secs_f64() * 1_000.0);
    for path in &PATHS[1..] {
        let hang = HANG + HANG_MARGIN;
        let () = redis::cmd("CLIENT")
            .arg("PAUSE")
            .arg(hang.as_millis() as u64)
            .arg("ALL")
            .query_async(&mut connection)
            .await
            .map_err(failed)?;
        let began = Instant::now();
        let times = load_until(address, path, began + HANG).await?;
        let mut after: Vec<f64> = times
            .iter()
            .filter(|(sent, _)| *sent >= began + SETTLED)
            .map(|(_, time)| *time)
            .collect();
        let most = times.iter().map(|(_, time)| *time).fold(0.0, f64::max);
        let p99 = Figure::Millis(percentile(&mut after, 0.99));
        report.figure(
            "hanging",
            &format!("GET {path}, p99 after the first second"),
            p99,
            Some(Figure::Millis(10.0)),
        );
        report.figure(
            "hanging",
            "  the longest of all",
            Figure::Millis(most),
            Some(deadline),
        );
        tokio::time::sleep(HANG_MARGIN).await;
        let mut mode = cache.gate().watch();
        let back = mode.wait_for(holdfast_core::mode::Mode::is_normal);
        drop(
            tokio::time::timeout(Duration::from_secs(10), back)
                .await
                .map_err(failed)?
                .map_err(failed)?,
        );
    }
    Ok(())
}

type Times = Vec<(Instant, f64)>;

async fn load(address: SocketAddr, path: &'static str, each: usize) -> Result<Times, Failure> {
    clients(address, path, move |sent, _| sent < each).await
}

async fn load_until(address: SocketAddr, path: &'static str, end: Instant) -> Result<Times, Failure> {
    clients(address, path, move |_, now| now < end).await
}

/// Asks on every connection as long as `go_on` says, given the requests sent there and the time.
async fn clients(
    address: SocketAddr,
    path: &'static str,
    go_on: impl Fn(usize, Instant) -> bool + Copy + Send + 'static,
) -> Result<Times, Failure> {
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(async move {
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n\r\n");
            let mut connection = Connection::open(address).await?;
            let mut times = Vec::new();
            loop {
                let sent = Instant::now();
                if !go_on(times.len(), sent) {
                    return Ok::<_, std::io::Error>(times);
                }
                connection.ask(request.as_bytes(), b"HTTP/1.1 200").await?;
                times.push((sent, sent.elapsed().as_secs_f64() * 1_000.0));
            }
        });
    }
    let mut times = Vec::new();
    while let Some(done) = clients.join_next().await {
        times.extend(done.map_err(failed)?.map_err(failed)?);
    }
    Ok(times)
}

pub(super) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values
        .get(at.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

fn median(values: &[f64]) -> f64 {
    percentile(&mut values.to_vec(), 0.5)
}
