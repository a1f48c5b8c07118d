//! Producers: they enqueue `http.request` jobs with distinct ids, and write down every answer.
//!
//! A producer is as a careful client is: it asks one API after the other, waits for each answer, and believes nothing
//! else. A request that was refused or got no answer is not accepted, unless it is repeated with the same
//! `Idempotency-Key` ([`Repeat`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_testkit::http::{Client, Response};
use holdfast_testkit::{Receiver, eventually};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::process::API_KEY;
use crate::record::{AcceptedJob, Answer, Record, RequestRecord};

/// Above every deadline of the API: what takes longer hangs.
const CLIENT_DEADLINE: Duration = Duration::from_secs(20);
/// After a request that got no answer: a connection that is refused costs nothing, and a producer must not spin.
const REST: Duration = Duration::from_millis(20);
const POLL: Duration = Duration::from_millis(10);
/// What the API says when nothing can have been accepted.
const CERTAINLY_NOT: &str = "not accepted";

/// What the jobs call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Answered at once.
    Hit,
    /// Answered after this long: such jobs are running when something happens.
    Slow(Duration),
    /// Every n-th job is slow.
    Mixed { every: u64, slow: Duration },
}

/// What a producer does when a request was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It goes on with the next id; this one counts as not accepted.
    Never,
    /// It asks again, with the same `Idempotency-Key`, for so long. (A job with a key is always a ledger job.)
    SameKey(Duration),
}

/// What to enqueue. The default: 4 producers, queue `default`, as fast as they are answered, until stopped.
#[derive(Debug, Clone)]
pub struct Load {
    queues: Vec<String>,
    producers: usize,
    per_second: Option<f64>,
    count: Option<usize>,
    batch: usize,
    target: Target,
    repeat: Repeat,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            queues: vec!["default".to_owned()],
            producers: 4,
            per_second: None,
            count: None,
            batch: 1,
            target: Target::Hit,
            repeat: Repeat::Never,
        }
    }
}

impl Load {
    pub fn new() -> Self {
        Self::default()
    }

    /// The queues, in turn.
    pub fn queues(mut self, names: &[&str]) -> Self {
        self.queues = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Requests under way at once.
    pub fn producers(mut self, count: usize) -> Self {
        self.producers = count;
        self
    }

    /// Requests a second, all producers together; what an outage holds up is made up for afterwards.
    pub fn per_second(mut self, rate: f64) -> Self {
        self.per_second = Some(rate);
        self
    }

    /// Ends after so many jobs were asked for.
    pub fn count(mut self, jobs: usize) -> Self {
        self.count = Some(jobs);
        self
    }

    /// Jobs of one request: more than one goes to `/v1/jobs/batch`.
    pub fn batch(mut self, jobs: usize) -> Self {
        self.batch = jobs;
        self
    }

    pub fn target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    pub fn repeat(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    /// Starts the producers.
    pub(crate) fn start(
        self,
        apis: Vec<SocketAddr>,
        receiver: &Arc<Receiver>,
        record: &Arc<Record>,
    ) -> Running {
        let shared = Arc::new(LoadState {
            left: AtomicI64::new(self.count.map_or(i64::MAX, |count| count as i64)),
            turn: AtomicUsize::new(0),
            began: Instant::now(),
            load: self,
            apis,
            receiver: Arc::clone(receiver),
            record: Arc::clone(record),
        });
        let (stop, stopped) = watch::channel(false);
        let mut producers = JoinSet::new();
        for index in 0..shared.load.producers {
            producers.spawn(produce(Arc::clone(&shared), index, stopped.clone()));
        }
        Running {
            producers,
            stop,
            record: Arc::clone(&shared.record),
        }
    }
}

/// Producers at work. They end with this value.
#[derive(Debug)]
pub struct Running {
    producers: JoinSet<()>,
    stop: watch::Sender<bool>,
    record: Arc<Record>,
}

impl Running {
    /// Waits until `count` jobs have been accepted in all.
    pub async fn wait_for_accepted(&self, count: usize, deadline: Duration) -> Result<()> {
        eventually(&format!("{count} accepted jobs"), deadline, POLL, async || {
            (self.record.accepted_count() >= count).then_some(())
        })
        .await
        .with_context(|| format!("{} were", self.record.accepted_count()))
    }

    /// Lets requests under way be answered, and ends.
    pub async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        self.finish().await
    }

    /// Waits for the end of a load with a count.
    pub async fn finish(mut self) -> Result<()> {
        while let Some(ended) = self.producers.join_next().await {
            ended.context("a producer")?;
        }
        Ok(())
    }
}

struct LoadState {
    load: Load,
    apis: Vec<SocketAddr>,
    receiver: Arc<Receiver>,
    record: Arc<Record>,
    left: AtomicI64,
    turn: AtomicUsize,
    began: Instant,
}

/// The jobs of one request.
struct Order {
    queue: String,
    ids: Vec<String>,
}

impl LoadState {
    /// None when all have been asked for.
    fn next_order(&self) -> Option<Order> {
        let wanted = self.load.batch as i64;
        let before = self.left.fetch_sub(wanted, Ordering::Relaxed);
        if before <= 0 {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let queue = self.load.queues[turn % self.load.queues.len()].clone();
        let ids = (0..before.min(wanted)).map(|_| self.record.next_id()).collect();
        Some(Order { queue, ids })
    }

    /// Waits until the request numbered `turn` is due; a producer that comes late does not wait until it has caught up.
    async fn pace(&self, index: usize, turn: u64) {
        if let Some(rate) = self.load.per_second {
            let each = self.load.producers as f64 / rate;
            let due = self.began
                + Duration::from_secs_f64(each * (turn as f64 + index as f64 / self.load.producers as f64));
            tokio::time::sleep_until(due.into()).await;
        }
    }

    fn body(&self, order: &Order) -> Value {
        let job = |id: &String| json!({"kind": "http.request", "queue": order.queue, "payload": {"url": self.url(id)}});
        match order.ids.as_slice() {
            [id] => job(id),
            ids => json!({"jobs": ids.iter().map(job).collect::<Vec<_>>()}),
        }
    }

    fn url(&self, id: &str) -> String {
        let number: u64 = id
            .trim_start_matches(|c: char| !c.is_ascii_digit())
            .parse()
            .unwrap_or_default();
        let slow = match self.load.target {
            Target::Hit => None,
            Target::Slow(slow) => Some(slow),
            Target::Mixed { every, slow } => number.is_multiple_of(every).then_some(slow),
        };
        match slow {
            None => self.receiver.hit_url(id),
            Some(slow) => self.receiver.url(&format!("/slow/{}?id={id}", slow.as_millis())),
        }
    }
}

async fn produce(shared: Arc<LoadState>, index: usize, stopped: watch::Receiver<bool>) {
    let mut clients: Vec<Client> = shared.apis.iter().map(|addr| client(*addr)).collect();
    let mut api = index;
    for turn in 0.. {
        let mut stop = stopped.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = shared.pace(index, turn) => {}
        }
        let Some(order) = shared.next_order() else { return };
        let until = match shared.load.repeat {
            Repeat::Never => Instant::now(),
            Repeat::SameKey(patience) => Instant::now() + patience,
        };
        loop {
            api = (api + 1) % clients.len();
            let answer = ask(&shared, &mut clients[api], api, &order).await;
            if matches!(answer, Answer::Accepted { .. }) {
                break;
            }
            tokio::time::sleep(REST).await;
            if Instant::now() >= until {
                break;
            }
        }
    }
}

/// A client of an API of the cluster, with its key.
pub(crate) fn client(addr: SocketAddr) -> Client {
    Client::new(addr)
        .with_bearer(API_KEY)
        .with_deadline(CLIENT_DEADLINE)
}

/// One request, written down.
async fn ask(shared: &LoadState, client: &mut Client, api: usize, order: &Order) -> Answer {
    let path = if order.ids.len() == 1 {
        "/v1/jobs"
    } else {
        "/v1/jobs/batch"
    };
    let body = serde_json::to_vec(&shared.body(order)).expect("JSON can be written");
    let mut headers = vec![("content-type", "application/json")];
    if matches!(shared.load.repeat, Repeat::SameKey(_)) && order.ids.len() == 1 {
        headers.push(("idempotency-key", &order.ids[0]));
    }
    let at = Instant::now();
    let response = client.request("POST", path, &headers, &body).await;
    let took = at.elapsed();
    let answer = match response {
        Err(error) => Answer::Failed {
            error: format!("{error:#}"),
        },
        Ok(response) => understand(shared, order, &response).unwrap_or_else(|error| Answer::Failed {
            error: format!("{error:#}: {}", response.text()),
        }),
    };
    for id in &order.ids {
        match &answer {
            Answer::Accepted { .. } => {}
            Answer::Refused { certain: true, .. } => shared.record.refuse(id),
            Answer::Refused { .. } | Answer::Failed { .. } => shared.record.doubt(id),
        }
    }
    let (queue, id) = (order.queue.clone(), order.ids[0].clone());
    shared.record.asked(RequestRecord {
        at,
        took,
        api,
        queue,
        id,
        answer: answer.clone(),
    });
    answer
}

/// Reads the answer; accepted jobs go into the record.
fn understand(shared: &LoadState, order: &Order, response: &Response) -> Result<Answer> {
    if !matches!(response.status, 200 | 202) {
        let detail = response.text();
        let certain = response.status < 500 || detail.contains(CERTAINLY_NOT);
        return Ok(Answer::Refused {
            status: response.status,
            certain,
            detail,
        });
    }
    let body: Value = response.json()?;
    let jobs: Vec<String> = match &body["ids"] {
        Value::Array(ids) => ids.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => vec![body["id"].as_str().context("an id in the answer")?.to_owned()],
    };
    ensure!(
        jobs.len() == order.ids.len(),
        "{} ids for {} jobs",
        jobs.len(),
        order.ids.len()
    );
    for (id, job) in order.ids.iter().zip(jobs) {
        let durability = body["durability"].as_str().map(str::to_owned);
        let accepted = AcceptedJob {
            job,
            queue: order.queue.clone(),
            durability,
            at: Instant::now(),
        };
        shared.record.accept(id, accepted);
    }
    Ok(Answer::Accepted {
        jobs: order.ids.len(),
    })
}
