//! How long `/health` takes: while everything answers, and while neither the database nor Redis ever does.
//!
//! A black hole is a listener that takes connections and is silent, which is what lost packets look like to a client
//! that is connected already, and worse than a server that refuses.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::failed;
use super::http::percentile;
use super::load::{Connection, served};
use super::report::{Figure, Report};
use super::system::{Setup, System};

/// A report is kept for a second: asked for longer than that, some requests meet a kept one and some make a new one.
const ASKED_FOR: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(5);

const WELL_MS: f64 = 5.0;
const BLACK_HOLED_MS: f64 = 1_000.0;

pub(super) async fn measure(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    let system = System::open(setup).await?;
    let mut well = served(&system, |address| ask(address, "HTTP/1.1 200")).await?;
    system.close().await?;
    let aim = Some(Figure::Millis(WELL_MS));
    report.figure(
        "health",
        "/health, all well, p99",
        Figure::Millis(percentile(&mut well, 0.99)),
        aim,
    );
    report.figure(
        "health",
        "  the longest",
        Figure::Millis(percentile(&mut well, 1.0)),
        aim,
    );

    let (database, redis) = (BlackHole::open().await?, BlackHole::open().await?);
    let mut setup = setup.clone();
    let urls = [
        (
            "DATABASE_URL",
            format!("postgres://bench:bench@{}/bench", database.address),
        ),
        ("REDIS_URL", format!("redis://{}", redis.address)),
    ];
    setup.env.extend(urls.map(|(name, url)| (name.to_owned(), url)));
    let system = System::assemble(&setup)?;
    let mut holed = served(&system, |address| ask(address, "HTTP/1.1 503")).await?;
    let longest = Figure::Millis(percentile(&mut holed, 1.0));
    let aim = Some(Figure::Millis(BLACK_HOLED_MS));
    report.figure("health", "/health, both black-holed, the longest", longest, aim);
    Ok(())
}

/// Every request's time in milliseconds.
async fn ask(address: SocketAddr, expected: &str) -> Result<Vec<f64>, Failure> {
    let mut connection = Connection::open(address).await.map_err(failed)?;
    let request = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    let end = Instant::now() + ASKED_FOR;
    let mut times = Vec::new();
    while Instant::now() < end {
        let sent = Instant::now();
        connection
            .ask(request, expected.as_bytes())
            .await
            .map_err(failed)?;
        times.push(sent.elapsed().as_secs_f64() * 1_000.0);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(times)
}

/// Accepts and never answers, until it is dropped.
struct BlackHole {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl BlackHole {
    async fn open() -> Result<Self, Failure> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            let mut held: Vec<TcpStream> = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
        Ok(Self { address, accepting })
    }
}

impl Drop for BlackHole {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
