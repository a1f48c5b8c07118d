//! A TCP proxy that plays the network's faults between a client and a real server.
//!
//! The mode can be changed at any time and applies to established and new connections alike. Bytes are never
//! lost in the middle of a stream (TCP does not do that either): what a mode holds back is delivered, in
//! order, once the mode allows it again, unless the connection has ended by then. When
//! [`FaultProxy::set_mode`] has returned, no byte sent afterwards escapes the new mode.
//!
//! [`FaultProxy::cut_reply_when`] plays the failure that every retry has to be built for: the server has
//! applied the request, and the client never learns it.
//!
//! The proxy runs on a thread of its own, so it keeps its timing whatever the test's runtime does.

mod connection;
mod dialogue;
mod lane;
mod postgres_wire;

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use self::dialogue::CutRule;
use crate::background::Background;
use crate::ports::PortLease;
use crate::{PostgresServer, RedisServer};

/// Within this time the proxy has closed and reopened whatever a mode asks for.
const APPLY_LIMIT: Duration = Duration::from_secs(10);

/// What happens to the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Everything passes.
    #[default]
    Forward,
    /// As if the server's process were gone: established connections are reset, nobody listens on the port.
    Refuse,
    /// Established connections are reset; new ones are accepted and reset.
    Reset,
    /// As if packets were dropped: connections stay open, nothing passes, no FIN is sent. New connections are
    /// accepted and then treated alike: the handshake is the kernel's, and a proxy cannot swallow it.
    BlackHole,
    /// What the client sends arrives; nothing comes back.
    HalfOpen,
    /// A round trip takes this much longer, half of it on each way.
    Latency(Duration),
    /// At most so many bytes a second, per connection and direction.
    Bandwidth(u64),
}

/// How the proxy tells requests and replies apart, for [`FaultProxy::cut_reply_when`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A request is what one read returned; its reply is whatever comes next. Exact for protocols that wait
    /// for each reply and send short requests, such as HTTP/1.1 without pipelining.
    Raw,
    /// Exact, pipelining and multiplexing included. A request is one command.
    Resp,
    /// Exact. A request is everything up to and including a simple query or a Sync; its reply goes up to
    /// `ReadyForQuery`.
    Postgres,
}

/// What has passed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyStats {
    /// Connections accepted, those that a mode reset included.
    pub accepted: u64,
    /// Connections open now.
    pub open: usize,
    pub bytes_to_server: u64,
    pub bytes_to_client: u64,
    /// Replies withheld by [`FaultProxy::cut_reply_when`].
    pub cut_replies: u64,
}

/// A proxy on a fixed port of 127.0.0.1. Everything through it ends with it.
pub struct FaultProxy {
    shared: Arc<ProxyState>,
    lease: PortLease,
    _thread: Background,
}

/// The mode, and how often it has been set: an acknowledgement names the change it is about.
#[derive(Debug, Clone, Copy)]
struct Setting {
    mode: Mode,
    revision: u64,
}

/// What the proxy's tasks share with its handle.
struct ProxyState {
    upstream: SocketAddr,
    protocol: Protocol,
    setting: watch::Sender<Setting>,
    /// The last revision that the listener has taken note of.
    listener_at: watch::Sender<u64>,
    open: watch::Sender<usize>,
    cut: watch::Sender<u64>,
    accepted: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    rules: Mutex<Vec<CutRule>>,
}

impl FaultProxy {
    /// Starts a proxy in [`Mode::Forward`] before a server of any kind ([`Protocol::Raw`]).
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        Self::start_with(upstream, Protocol::Raw).await
    }

    /// Starts a proxy before a Redis server.
    pub async fn for_redis(redis: &RedisServer) -> Result<Self> {
        Self::start_with(redis.addr(), Protocol::Resp).await
    }

    /// Starts a proxy before a PostgreSQL server.
    pub async fn for_postgres(postgres: &PostgresServer) -> Result<Self> {
        Self::start_with(postgres.addr(), Protocol::Postgres).await
    }

    pub async fn start_with(upstream: SocketAddr, protocol: Protocol) -> Result<Self> {
        let (lease, listener) = PortLease::acquire_listening()?;
        let shared = Arc::new(ProxyState {
            upstream,
            protocol,
            setting: watch::Sender::new(Setting {
                mode: Mode::Forward,
                revision: 1,
            }),
            listener_at: watch::Sender::new(0),
            open: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            accepted: AtomicU64::new(0),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            rules: Mutex::new(Vec::new()),
        });
        let thread = Background::spawn("fault-proxy", listen(Arc::clone(&shared), listener, lease.addr()))?;
        let proxy = Self {
            shared,
            lease,
            _thread: thread,
        };
        proxy.applied(1).await?;
        Ok(proxy)
    }

    pub fn port(&self) -> u16 {
        self.lease.port()
    }

    pub fn addr(&self) -> SocketAddr {
        self.lease.addr()
    }

    /// The same URL, through this proxy: `redis://:secret@127.0.0.1:6379/0` with our host and port.
    pub fn url_for(&self, upstream_url: &str) -> String {
        with_authority(upstream_url, self.addr())
    }

    pub fn mode(&self) -> Mode {
        self.shared.setting.borrow().mode
    }

    /// Changes the mode, for established connections too, and returns when it is in force.
    pub async fn set_mode(&self, mode: Mode) -> Result<()> {
        let mut revision = 0;
        self.shared.setting.send_modify(|setting| {
            revision = setting.revision + 1;
            *setting = Setting { mode, revision };
        });
        self.applied(revision).await?;
        if matches!(mode, Mode::Refuse | Mode::Reset) {
            let none = |open: &usize| *open == 0 || self.shared.setting.borrow().revision != revision;
            wait(
                &self.shared.open,
                "the connections to be reset",
                APPLY_LIMIT,
                none,
            )
            .await?;
        }
        Ok(())
    }

    /// Cuts the reply to each of the next `times` requests that satisfy `predicate`: the request is
    /// forwarded, its reply awaited and thrown away, and the connection closed. Replies to requests before it
    /// on the same connection are delivered. Rules add up; each request uses the first that matches.
    pub fn cut_reply_when<P>(&self, predicate: P, times: u64)
    where
        P: Fn(&[u8]) -> bool + Send + Sync + 'static,
    {
        self.shared
            .rules
            .lock()
            .unwrap()
            .push(CutRule::new(Box::new(predicate), times));
    }

    /// Forgets all rules of [`Self::cut_reply_when`].
    pub fn cut_no_more(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Waits until so many replies have been cut in all.
    pub async fn wait_for_cuts(&self, count: u64, deadline: Duration) -> Result<()> {
        let what = format!("{count} cut replies");
        wait(&self.shared.cut, &what, deadline, |cut| *cut >= count).await
    }

    /// Waits until exactly so many connections are open.
    pub async fn wait_for_open(&self, count: usize, deadline: Duration) -> Result<()> {
        let what = format!("{count} open connections");
        wait(&self.shared.open, &what, deadline, |open| *open == count).await
    }

    pub fn stats(&self) -> ProxyStats {
        ProxyStats {
            accepted: self.shared.accepted.load(Ordering::SeqCst),
            open: *self.shared.open.borrow(),
            bytes_to_server: self.shared.to_server.load(Ordering::SeqCst),
            bytes_to_client: self.shared.to_client.load(Ordering::SeqCst),
            cut_replies: *self.shared.cut.borrow(),
        }
    }

    async fn applied(&self, revision: u64) -> Result<()> {
        wait(
            &self.shared.listener_at,
            "the proxy's listener",
            APPLY_LIMIT,
            |at| *at >= revision,
        )
        .await
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("addr", &self.addr())
            .field("upstream", &self.shared.upstream)
            .field("mode", &self.mode())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Whether `bytes` contain `needle`: most predicates of [`FaultProxy::cut_reply_when`].
pub fn bytes_contain(bytes: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || bytes.windows(needle.len()).any(|window| window == needle)
}

/// The accept loop: opens and closes the port as the mode says.
async fn listen(shared: Arc<ProxyState>, listener: std::net::TcpListener, addr: SocketAddr) {
    let mut settings = shared.setting.subscribe();
    let mut listener = Some(TcpListener::from_std(listener).expect("a runtime with I/O"));
    loop {
        let Setting { mode, revision } = *settings.borrow_and_update();
        if mode == Mode::Refuse {
            listener = None;
        } else if listener.is_none() {
            listener = Some(
                TcpListener::bind(addr)
                    .await
                    .expect("the proxy's port is leased to us"),
            );
        }
        shared.listener_at.send_replace(revision);
        tokio::select! {
            biased;
            changed = settings.changed() => if changed.is_err() { return },
            client = accept(listener.as_ref()) => {
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(connection::serve(client, Arc::clone(&shared), connection::Guard::new(&shared)));
            }
        }
    }
}

/// Never, while nobody listens. A client that has gone before it was accepted does not count.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        if let Ok((client, _)) = listener.accept().await {
            return client;
        }
    }
}

async fn wait<T>(
    sender: &watch::Sender<T>,
    what: &str,
    deadline: Duration,
    met: impl FnMut(&T) -> bool,
) -> Result<()> {
    let mut receiver = sender.subscribe();
    let waited = tokio::time::timeout(deadline, receiver.wait_for(met)).await;
    waited
        .map_err(|_| anyhow!("waited {deadline:?} in vain for: {what}"))?
        .context("the proxy has ended")?;
    Ok(())
}

/// Replaces `host:port` in `scheme://[user@]host:port[/rest]`.
fn with_authority(url: &str, addr: SocketAddr) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let login = authority
        .rsplit_once('@')
        .map_or(String::new(), |(login, _)| format!("{login}@"));
    let scheme = if scheme.is_empty() {
        String::new()
    } else {
        format!("{scheme}://")
    };
    format!("{scheme}{login}{addr}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_for_replaces_host_and_port_only() {
        let addr: SocketAddr = "127.0.0.1:9".parse().unwrap();
        for (url, expected) in [
            ("redis://:pa@ss@localhost:6379/0", "redis://:pa@ss@127.0.0.1:9/0"),
            (
                "postgres://holdfast@127.0.0.1:5432/db?x=1",
                "postgres://holdfast@127.0.0.1:9/db?x=1",
            ),
            ("http://127.0.0.1:80", "http://127.0.0.1:9"),
            ("127.0.0.1:80", "127.0.0.1:9"),
        ] {
            assert_eq!(with_authority(url, addr), expected);
        }
    }
}
