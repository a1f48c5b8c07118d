//! `/health`, asked all the time: what an operator would see, and when.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_testkit::http::Client;
use serde_json::Value;
use tokio::task::JoinHandle;

/// Reports are cached for a second by the API: asking more often than this shows no more.
const PERIOD: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(5);

/// One answer of `/health`.
#[derive(Debug, Clone)]
pub struct HealthSample {
    pub at: Instant,
    pub took: Duration,
    pub addr: SocketAddr,
    /// `None`: no answer.
    pub http_status: Option<u16>,
    /// healthy, degraded, unhealthy; empty without an answer.
    pub status: String,
}

impl HealthSample {
    pub fn is_healthy(&self) -> bool {
        self.status == "healthy"
    }
}

/// Asks each address every 100 ms until it is dropped.
#[derive(Debug)]
pub struct HealthWatch {
    samples: Arc<Mutex<Vec<HealthSample>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl HealthWatch {
    pub(crate) fn start(addrs: Vec<SocketAddr>) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let watch = |addr| tokio::spawn(watch(addr, Arc::clone(&samples)));
        let tasks = addrs.into_iter().map(watch).collect();
        Self { samples, tasks }
    }

    pub fn samples(&self) -> Vec<HealthSample> {
        self.samples.lock().unwrap().clone()
    }

    /// The slowest answer.
    pub fn longest(&self) -> Duration {
        self.samples
            .lock()
            .unwrap()
            .iter()
            .map(|sample| sample.took)
            .max()
            .unwrap_or_default()
    }
}

impl Drop for HealthWatch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn watch(addr: SocketAddr, samples: Arc<Mutex<Vec<HealthSample>>>) {
    let mut client = Client::new(addr).with_deadline(DEADLINE);
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let at = Instant::now();
        let response = client.get("/health").await.ok();
        let body: Option<Value> = response.as_ref().and_then(|response| response.json().ok());
        let status = body
            .and_then(|body| body["status"].as_str().map(str::to_owned))
            .unwrap_or_default();
        let http_status = response.map(|response| response.status);
        samples.lock().unwrap().push(HealthSample {
            at,
            took: at.elapsed(),
            addr,
            http_status,
            status,
        });
    }
}
