//! HTTP producers: keep-alive connections that each send one job a request and wait for its answer.
//!
//! The client is a few lines over a socket, so that the figure is the server's and not a client library's.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use holdfast_core::config::Settings;
use holdfast_core::shutdown::Shutdown;
use holdfast_services::api::{Application, Services};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::failed;
use super::system::{Noop, System};

#[derive(Debug, Clone, Copy)]
pub(super) struct HttpLoad {
    pub producers: usize,
    pub requests: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct HttpFigures {
    /// Accepted jobs a second.
    pub rate: f64,
    /// Milliseconds.
    pub p99: f64,
}

/// Serves the API in this process and loads it.
pub(super) async fn measure(system: &System, load: HttpLoad) -> Result<HttpFigures, Failure> {
    served(system, async |address| produce(address, load).await).await
}

/// Serves the API in this process and sends each producer's requests, one after another; how long it took.
pub(super) async fn post_all(system: &System, shares: Vec<Vec<Vec<u8>>>) -> Result<Duration, Failure> {
    served(system, async |address| {
        let began = Instant::now();
        let mut producers = JoinSet::new();
        for share in shares {
            producers.spawn(async move {
                let mut connection = Connection::open(address).await?;
                for request in &share {
                    connection.ask(request, b"HTTP/1.1 202").await?;
                }
                Ok::<_, std::io::Error>(())
            });
        }
        while let Some(done) = producers.join_next().await {
            done.map_err(failed)?.map_err(failed)?;
        }
        Ok(began.elapsed())
    })
    .await
}

/// Serves the API in this process while the work lasts.
pub(super) async fn served<T>(
    system: &System,
    work: impl AsyncFnOnce(SocketAddr) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut settings: Settings = system.settings.clone();
    "127.0.0.1".clone_into(&mut settings.server.host);
    settings.server.port = 0;
    let services = Services {
        jobs: system.jobs.clone(),
        database: system.database.clone(),
        gate: system.gate.clone(),
        cache: System::cache(&settings)?,
    };
    let application = Application::build(&settings, services).await.map_err(failed)?;
    let address = SocketAddr::from(([127, 0, 0, 1], application.port()));
    let stop = Shutdown::new();
    let serving = tokio::spawn(application.run_until_stopped(stop.clone()));
    let figures = work(address).await;
    stop.trigger();
    serving.await.map_err(failed)?.map_err(failed)?;
    figures
}

async fn produce(address: SocketAddr, load: HttpLoad) -> Result<HttpFigures, Failure> {
    let body = serde_json::json!({ "kind": "bench.noop", "payload": Noop::at(0) }).to_string();
    let request = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let share = load.requests / load.producers;
    let began = Instant::now();
    let mut producers = JoinSet::new();
    for _ in 0..load.producers {
        let request = request.clone();
        producers.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut times = Vec::with_capacity(share);
            for _ in 0..share {
                let sent = Instant::now();
                connection.ask(request.as_bytes(), b"HTTP/1.1 202").await?;
                times.push(sent.elapsed().as_secs_f64() * 1_000.0);
            }
            Ok::<_, std::io::Error>(times)
        });
    }
    let mut times = Vec::with_capacity(load.requests);
    while let Some(done) = producers.join_next().await {
        times.extend(done.map_err(failed)?.map_err(failed)?);
    }
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(0.0);
    Ok(HttpFigures { rate, p99 })
}

pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(4_096),
        })
    }

    /// Sends a request and reads its answer, which has to begin as told.
    pub(super) async fn ask(&mut self, request: &[u8], expected: &[u8]) -> std::io::Result<()> {
        self.exchange(request, expected).await.map(drop)
    }

    /// The same; the answer's body, whose length is in its head.
    pub(super) async fn exchange(&mut self, request: &[u8], expected: &[u8]) -> std::io::Result<&[u8]> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        // Where the body begins, and where it ends.
        let mut body = None;
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            body = body.or_else(|| {
                let head = self.buffer.windows(4).position(|window| window == b"\r\n\r\n")?;
                Some(head + 4..head + 4 + content_length(&self.buffer[..head]))
            });
            if body.as_ref().is_some_and(|body| self.buffer.len() >= body.end) {
                break;
            }
        }
        if self.buffer.starts_with(expected) {
            return Ok(&self.buffer[body.unwrap_or_default()]);
        }
        let answer = String::from_utf8_lossy(&self.buffer).into_owned();
        Err(std::io::Error::other(format!("not as expected: {answer}")))
    }
}

pub(super) fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}
