//! The witness: an HTTP server outside the system under test that counts what really ran.
//!
//! Every request that carries an id, as `/hit/<id>` or `?id=<id>` (any path below), is one execution. It is
//! counted when it has arrived whole, before it is answered: an execution whose answer is lost has still
//! happened. What the paths do:
//!
//! | path | answer |
//! | --- | --- |
//! | `/hit/<id>`, and any path not named here | 200 |
//! | `/status/<code>` | that status |
//! | `/slow/<ms>` | 200 after so many milliseconds |
//! | `/fail-then-ok/<n>/<id>` | 503 to the first n requests of this id, then 200 |
//! | `/retry-after/<secs>/<id>` | 429 with `Retry-After` to the first, then 200 |
//! | `/hang` | none, until the client gives up |
//! | `/close` | none: the connection is closed |
//! | `/redirect?to=<url>` | 302 (`to` percent-encoded) |
//! | `/echo` | 200 and the request as JSON: `{method, path, query, headers, body}` |
//!
//! Requests being answered are counted by key (`?key=<key>`, else the first path segment):
//! [`Receiver::max_concurrent`]. It runs on a thread of its own, so it answers at full speed whatever the
//! test's runtime does.

mod script;
mod tally;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use self::script::Answer;
use self::tally::{Progress, Tally};
use crate::background::Background;
use crate::http::wire::{Body, Connection, Head};
use crate::ports::PortLease;

pub use tally::{Hit, RecordedRequest};

/// A running receiver on a fixed port of 127.0.0.1. Ends with its connections on drop.
#[derive(Debug)]
pub struct Receiver {
    tally: Arc<Tally>,
    lease: PortLease,
    _thread: Background,
}

impl Receiver {
    /// Starts listening.
    pub async fn start() -> Result<Self> {
        let (lease, listener) = PortLease::acquire_listening()?;
        let tally = Arc::new(Tally::default());
        let thread = Background::spawn("receiver", listen(listener, Arc::clone(&tally)))?;
        Ok(Self {
            tally,
            lease,
            _thread: thread,
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.lease.addr()
    }

    pub fn port(&self) -> u16 {
        self.lease.port()
    }

    /// `http://127.0.0.1:port<path>`; `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// The URL that counts an execution of `id`.
    pub fn hit_url(&self, id: &str) -> String {
        self.url(&format!("/hit/{id}"))
    }

    /// How often `id` was executed.
    pub fn count(&self, id: &str) -> u32 {
        self.tally.hits(id).len() as u32
    }

    /// All executions of `id`, in the order of arrival.
    pub fn hits(&self, id: &str) -> Vec<Hit> {
        self.tally.hits(id)
    }

    /// Executions in all.
    pub fn total(&self) -> u64 {
        self.tally.progress().total
    }

    /// Ids that were executed at least once.
    pub fn distinct(&self) -> usize {
        self.tally.progress().distinct
    }

    /// Requests of any kind, with an id or without.
    pub fn requests(&self) -> u64 {
        self.tally.progress().requests
    }

    /// All ids that were executed, sorted.
    pub fn ids(&self) -> Vec<String> {
        self.tally.ids()
    }

    /// Ids executed more than once, and how often; sorted.
    pub fn duplicates(&self) -> Vec<(String, u32)> {
        self.tally.duplicates()
    }

    /// Those of `ids` that were never executed, in their order.
    pub fn missing<S: AsRef<str>>(&self, ids: &[S]) -> Vec<String> {
        self.tally.missing(ids)
    }

    /// The last requests (1,000 at most) with headers and body, oldest first.
    pub fn recorded(&self) -> Vec<RecordedRequest> {
        self.tally.recorded()
    }

    /// The most requests with this key that were being answered at once.
    pub fn max_concurrent(&self, key: &str) -> usize {
        self.tally.max_concurrent(key)
    }

    /// The most requests of any key that were being answered at once.
    pub fn max_concurrent_total(&self) -> usize {
        self.tally.max_concurrent_total()
    }

    /// Waits until `count` different ids have been executed.
    pub async fn wait_for_distinct(&self, count: usize, deadline: Duration) -> Result<()> {
        self.wait(&format!("{count} distinct ids"), deadline, |progress| {
            progress.distinct >= count
        })
        .await
    }

    /// Waits for `count` executions in all.
    pub async fn wait_for_total(&self, count: u64, deadline: Duration) -> Result<()> {
        self.wait(&format!("{count} executions"), deadline, |progress| {
            progress.total >= count
        })
        .await
    }

    /// Waits until `id` has been executed `count` times.
    pub async fn wait_for_hits(&self, id: &str, count: u32, deadline: Duration) -> Result<()> {
        self.wait(&format!("{count} executions of {id}"), deadline, |_| {
            self.count(id) >= count
        })
        .await
    }

    /// Waits for `count` requests of any kind.
    pub async fn wait_for_requests(&self, count: u64, deadline: Duration) -> Result<()> {
        self.wait(&format!("{count} requests"), deadline, |progress| {
            progress.requests >= count
        })
        .await
    }

    /// Forgets everything counted so far.
    pub fn clear(&self) {
        self.tally.clear();
    }

    async fn wait(
        &self,
        what: &str,
        deadline: Duration,
        mut met: impl FnMut(&Progress) -> bool,
    ) -> Result<()> {
        let mut progress = self.tally.watch();
        // `met` runs on a copy, outside the channel's lock: it may take the tally's own locks, whose holder reports here.
        let reached = async {
            loop {
                let now = *progress.borrow_and_update();
                if met(&now) {
                    return Ok(());
                }
                progress.changed().await?;
            }
        };
        let waited: Result<Result<(), watch::error::RecvError>, _> =
            tokio::time::timeout(deadline, reached).await;
        waited
            .map_err(|_| {
                anyhow!(
                    "the receiver waited {deadline:?} in vain for {what}; it has {:?}",
                    self.tally.progress()
                )
            })?
            .context("the receiver has ended")?;
        Ok(())
    }
}

async fn listen(listener: std::net::TcpListener, tally: Arc<Tally>) {
    let listener = TcpListener::from_std(listener).expect("a runtime with I/O");
    loop {
        // A client that has gone before it was accepted concerns nobody.
        if let Ok((stream, peer)) = listener.accept().await {
            tokio::spawn(serve(stream, peer, Arc::clone(&tally)));
        }
    }
}

/// Answers one connection's requests; what breaks it off (a client that was killed, a malformed request) ends
/// it.
async fn serve(stream: TcpStream, peer: SocketAddr, tally: Arc<Tally>) {
    let Ok(mut connection) = Connection::new(stream) else {
        return;
    };
    while let Ok(Some(head)) = connection.head().await {
        let Ok(Some(request)) = read_request(&mut connection, head, peer).await else {
            let _ = connection
                .stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                .await;
            return;
        };
        let keep = request.keep;
        let Some(answer) = answer(&connection, request, &tally).await else {
            return;
        };
        if connection.stream.write_all(&answer.encode(keep)).await.is_err() || !keep {
            return;
        }
    }
}

/// None if the request line is not one.
async fn read_request(connection: &mut Connection, head: Head, peer: SocketAddr) -> Result<Option<Request>> {
    let keep = head.keeps_alive();
    if head
        .header("expect")
        .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    {
        connection
            .stream
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .await?;
    }
    let body = connection.body(head.body()?.unwrap_or(Body::Length(0))).await?;
    let [method, target, _version] = head.first_line.split(' ').collect::<Vec<_>>()[..] else {
        return Ok(None);
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
    let recorded = RecordedRequest {
        method,
        path,
        query,
        headers: head.headers,
        body,
        peer,
    };
    Ok(Some(Request { recorded, keep }))
}

struct Request {
    recorded: RecordedRequest,
    keep: bool,
}

/// Counts the request and plays its script; None if the connection is to be closed, or the client has gone.
async fn answer(connection: &Connection, request: Request, tally: &Arc<Tally>) -> Option<Answer> {
    let script = script::Script::of(&request.recorded);
    // Before it is counted: whoever has waited for a count finds what was counted.
    tally.record(request.recorded.clone());
    let occurrence = tally.count(&request.recorded, script.id.as_deref());
    let _running = tally.enter(&script.key);
    let answer = script.play(&request.recorded, occurrence);
    match answer {
        script::Outcome::Now(answer) => Some(answer),
        script::Outcome::After(delay, answer) => tokio::select! {
            () = tokio::time::sleep(delay) => Some(answer),
            () = client_gone(&connection.stream) => None,
        },
        script::Outcome::Never => {
            client_gone(&connection.stream).await;
            None
        }
        script::Outcome::Close => None,
    }
}

/// Ends when the client closes or resets; never, if it sends its next request early.
async fn client_gone(stream: &TcpStream) {
    if matches!(stream.peek(&mut [0; 1]).await, Ok(1..)) {
        std::future::pending::<()>().await;
    }
}
