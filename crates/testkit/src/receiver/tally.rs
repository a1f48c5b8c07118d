//! The counts.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::watch;

use super::script::percent_decoded;

/// How many whole requests are kept.
const RECORD_LIMIT: usize = 1_000;

/// One execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    pub at: Instant,
    /// The client's address: it tells apart the connections, and so the processes, that executed an id.
    pub peer: SocketAddr,
}

/// One request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedRequest {
    pub method: String,
    pub path: String,
    /// Without the question mark; empty if there was none.
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub peer: SocketAddr,
}

impl RecordedRequest {
    /// The first header of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        crate::http::wire::header(&self.headers, name)
    }

    /// A parameter of the query, decoded.
    pub fn query_value(&self, name: &str) -> Option<String> {
        let mut pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(known, _)| *known == name)
            .map(|(_, value)| percent_decoded(value))
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) total: u64,
    pub(super) distinct: usize,
    pub(super) requests: u64,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    hits: Mutex<HashMap<String, Vec<Hit>>>,
    recorded: Mutex<VecDeque<RecordedRequest>>,
    concurrency: Mutex<Concurrency>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Concurrency {
    all: Gauge,
    by_key: HashMap<String, Gauge>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Gauge {
    now: usize,
    max: usize,
}

impl Gauge {
    fn enter(&mut self) {
        self.now += 1;
        self.max = self.max.max(self.now);
    }
}

/// A request that is being answered.
pub(super) struct Running {
    tally: Arc<Tally>,
    key: String,
}

impl Tally {
    /// Counts a request, as an execution if it has an id, and returns how often that id has been seen now.
    pub(super) fn count(&self, request: &RecordedRequest, id: Option<&str>) -> u32 {
        let mut hits = self.hits.lock().unwrap();
        let occurrence = id.map_or(0, |id| {
            let hit = Hit {
                at: Instant::now(),
                peer: request.peer,
            };
            let of_id = hits.entry(id.to_owned()).or_default();
            of_id.push(hit);
            of_id.len()
        });
        // Under the lock, lest two requests report their progress in the wrong order.
        self.progress.send_modify(|progress| {
            progress.requests += 1;
            progress.total += u64::from(id.is_some());
            progress.distinct = hits.len();
        });
        occurrence as u32
    }

    pub(super) fn record(&self, request: RecordedRequest) {
        let mut recorded = self.recorded.lock().unwrap();
        if recorded.len() == RECORD_LIMIT {
            recorded.pop_front();
        }
        recorded.push_back(request);
    }

    /// Counts a request as being answered until the returned value is dropped.
    pub(super) fn enter(self: &Arc<Self>, key: &str) -> Running {
        let mut concurrency = self.concurrency.lock().unwrap();
        concurrency.all.enter();
        concurrency.by_key.entry(key.to_owned()).or_default().enter();
        Running {
            tally: Arc::clone(self),
            key: key.to_owned(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(super) fn hits(&self, id: &str) -> Vec<Hit> {
        self.hits.lock().unwrap().get(id).cloned().unwrap_or_default()
    }

    pub(super) fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.hits.lock().unwrap().keys().cloned().collect();
        ids.sort();
        ids
    }

    pub(super) fn duplicates(&self) -> Vec<(String, u32)> {
        let hits = self.hits.lock().unwrap();
        let repeated = hits.iter().filter(|(_, hits)| hits.len() > 1);
        let mut duplicates: Vec<_> = repeated
            .map(|(id, hits)| (id.clone(), hits.len() as u32))
            .collect();
        duplicates.sort();
        duplicates
    }

    pub(super) fn missing<S: AsRef<str>>(&self, ids: &[S]) -> Vec<String> {
        let hits = self.hits.lock().unwrap();
        let absent = ids.iter().map(AsRef::as_ref).filter(|id| !hits.contains_key(*id));
        absent.map(str::to_owned).collect()
    }

    pub(super) fn recorded(&self) -> Vec<RecordedRequest> {
        self.recorded.lock().unwrap().iter().cloned().collect()
    }

    pub(super) fn max_concurrent(&self, key: &str) -> usize {
        self.concurrency
            .lock()
            .unwrap()
            .by_key
            .get(key)
            .map_or(0, |gauge| gauge.max)
    }

    pub(super) fn max_concurrent_total(&self) -> usize {
        self.concurrency.lock().unwrap().all.max
    }

    /// Requests that are being answered stay counted as such.
    pub(super) fn clear(&self) {
        let mut hits = self.hits.lock().unwrap();
        hits.clear();
        self.recorded.lock().unwrap().clear();
        let mut concurrency = self.concurrency.lock().unwrap();
        let Concurrency { all, by_key } = &mut *concurrency;
        for gauge in by_key.values_mut().chain([all]) {
            gauge.max = gauge.now;
        }
        self.progress.send_replace(Progress::default());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut concurrency = self.tally.concurrency.lock().unwrap();
        concurrency.all.now -= 1;
        if let Some(gauge) = concurrency.by_key.get_mut(&self.key) {
            gauge.now -= 1;
        }
    }
}
