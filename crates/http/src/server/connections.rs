//! Limits on the connections of one server, and which connection is closed for a new one.
//!
//! # States
//! A connection is *admitted*, *active* whenever bytes are read or written, *stalled* while a write makes no progress, and *closed*
//! by its peer, by actix, by a stalled write, or for a new connection.
//!
//! # Invariants
//! - There are never more connections than open files allow, less [`RESERVE`] for everything else of the process.
//! - When all are taken, the connection that was inactive longest, and at least for [`IDLE`], is closed for a new one: idle
//!   connections and clients that do not read block nobody. A new connection is refused only where all are active.
//! - One address (a /64 network with IPv6) has a share; beyond it, one of its own connections is closed. Loopback addresses are not
//!   counted, nor are those of trusted proxies, whose connections carry all clients.
//! - A write without progress for [`STALLED`] closes its connection: answers that wait for a slow reader take memory.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use holdfast_core::config::ServerSettings;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::rate::network;

/// Longest time a write may make no progress.
const STALLED: Duration = Duration::from_secs(30);

/// A connection that was active within this time is not closed for another.
const IDLE: Duration = Duration::from_secs(1);

/// Open files that are not connections: the databases', logs, listeners, timers.
const RESERVE: u64 = 128;

/// Connections that were asked to close and are still open.
const MARGIN: usize = 64;

/// Most connections by default: an idle one takes about 12 KiB.
const MOST: usize = 8_192;

/// Most connections of one address by default: a client that does not read takes about 130 KiB.
const MOST_PER_ADDRESS: usize = 512;

/// The soft limit of open files is raised to this, where the hard limit allows.
const FILES: u64 = 16_384;

/// Every connection of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    per_address: usize,
    /// Tells which addresses are trusted proxies'.
    server: ServerSettings,
    begun: Instant,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    held: HashMap<u64, Arc<Entry>>,
    /// How many of these were not asked to close.
    open: usize,
    by_address: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Entry {
    /// `None`: it is not counted by address.
    address: Option<IpAddr>,
    /// When bytes were read or written last, in milliseconds since the server began.
    active_ms: AtomicU64,
    closed: AtomicBool,
    waker: AtomicWaker,
}

impl Connections {
    /// Limits by the settings and by how many files this process may open; raises the soft limit first.
    pub(crate) fn new(settings: &ServerSettings) -> Self {
        let files = usize::try_from(open_files()).unwrap_or(usize::MAX);
        let room = files
            .saturating_sub(usize::try_from(RESERVE).unwrap_or(0) + MARGIN)
            .max(16);
        let most = match settings.max_connections {
            0 => MOST.min(room),
            wanted => wanted.min(room),
        };
        let per_address = match settings.max_connections_per_address {
            0 => (most / 4).clamp(1, MOST_PER_ADDRESS),
            wanted => wanted,
        };
        if settings.max_connections > room {
            tracing::warn!(
                connections.wanted = settings.max_connections,
                connections.most = most,
                files.limit = files,
                "the limit of open files allows fewer connections than server.max_connections: raise it (ulimit -n)"
            );
        }
        Self::of(most, per_address, settings.clone())
    }

    fn of(most: usize, per_address: usize, server: ServerSettings) -> Self {
        Self(Arc::new(Inner {
            most,
            per_address,
            server,
            begun: Instant::now(),
            table: Mutex::default(),
        }))
    }

    /// How many connections each of these threads may have, including closing ones.
    pub(crate) fn per_thread(&self, threads: usize) -> usize {
        (self.0.most + MARGIN).div_ceil(threads.max(1))
    }

    /// Admits a connection, if need be by closing an idle one.
    ///
    /// # Errors
    /// All others are active. Dropping the stream closes it.
    pub(crate) fn admit(&self, stream: TcpStream, peer: Option<SocketAddr>) -> io::Result<Connection> {
        let inner = &self.0;
        let now_ms = inner.now_ms();
        let counted = peer
            .map(|peer| peer.ip().to_canonical())
            .filter(|ip| !ip.is_loopback() && !inner.server.is_trusted_proxy(*ip));
        let address = counted.map(network);
        let mut table = inner.lock();
        let is_full = |count: usize, most: usize| count >= most;
        let of_address = address.map_or(0, |address| table.by_address.get(&address).copied().unwrap_or(0));
        if address.is_some()
            && is_full(of_address, inner.per_address)
            && !table.close_longest_idle(now_ms, address)
        {
            return Err(refused("its address has as many connections as it may"));
        }
        if is_full(table.open, inner.most) && !table.close_longest_idle(now_ms, None) {
            return Err(refused("there are as many connections as there may be"));
        }
        if table.held.len() >= inner.most + MARGIN {
            return Err(refused("too many connections are closing"));
        }
        let entry = Arc::new(Entry {
            address,
            active_ms: AtomicU64::new(now_ms),
            closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let id = table.next;
        table.next += 1;
        table.open += 1;
        table.held.insert(id, Arc::clone(&entry));
        if let Some(address) = address {
            *table.by_address.entry(address).or_default() += 1;
        }
        drop(table);
        Ok(Connection {
            stream,
            id,
            entry,
            connections: self.clone(),
            stalled: None,
        })
    }
}

impl Inner {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Removes one connection from the counts.
    fn leave(&mut self, address: Option<IpAddr>) {
        self.open -= 1;
        let Some(address) = address else { return };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    /// Asks the connection that was inactive longest to close, of this address or of any. False: all are active.
    fn close_longest_idle(&mut self, now_ms: u64, of: Option<IpAddr>) -> bool {
        let open = self.held.values().filter(|entry| {
            !entry.closed.load(Ordering::Relaxed) && of.is_none_or(|address| entry.address == Some(address))
        });
        let longest_idle = open.min_by_key(|entry| entry.active_ms.load(Ordering::Relaxed));
        let idle = IDLE.as_millis() as u64;
        let Some(entry) = longest_idle
            .filter(|entry| now_ms.saturating_sub(entry.active_ms.load(Ordering::Relaxed)) >= idle)
        else {
            return false;
        };
        entry.closed.store(true, Ordering::Relaxed);
        entry.waker.wake();
        let address = entry.address;
        self.leave(address);
        true
    }
}

fn refused(why: &str) -> io::Error {
    tracing::debug!("a connection is refused: {why}");
    io::Error::new(io::ErrorKind::ConnectionRefused, why.to_owned())
}

/// How many files this process may open, after the soft limit was raised as far as [`FILES`].
fn open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 1_024;
    };
    let wanted = FILES.min(hard);
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() {
        return wanted;
    }
    soft
}

/// A counted connection, which ends when it stalls or is closed for a new one.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    id: u64,
    entry: Arc<Entry>,
    connections: Connections,
    /// Runs while a write makes no progress.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn note_activity(&mut self) {
        self.stalled = None;
        self.entry
            .active_ms
            .store(self.connections.0.now_ms(), Ordering::Relaxed);
    }

    /// Registers first: otherwise a close between the two would not wake the task.
    fn check_open(&self, context: &Context<'_>) -> io::Result<()> {
        self.entry.waker.register(context.waker());
        if self.entry.closed.load(Ordering::Relaxed) {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "closed for a new connection",
            ));
        }
        Ok(())
    }

    fn written(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Ok(bytes)) => {
                self.note_activity();
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let timer = self
                    .stalled
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(STALLED)));
                ready!(timer.as_mut().poll(context));
                let why = "the peer has read nothing for 30 s";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_open(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            let now_ms = self.connections.0.now_ms();
            self.entry.active_ms.store(now_ms, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_open(context)?;
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_open(context)?;
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.written(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_open(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut table = self.connections.0.lock();
        table.held.remove(&self.id);
        if !self.entry.closed.load(Ordering::Relaxed) {
            table.leave(self.entry.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::config::{Sources, load_from};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, last], 4_711))
    }

    /// As if all had been inactive for a minute.
    fn age(connections: &Connections) {
        let mut inner = connections.0.lock();
        for entry in inner.held.values_mut() {
            entry.active_ms.store(0, Ordering::Relaxed);
        }
    }

    fn aged(most: usize, per_address: usize) -> Connections {
        let server = load_from(Sources::default()).unwrap().server;
        let Connections(inner) = Connections::of(most, per_address, server);
        let mut inner = Arc::into_inner(inner).unwrap();
        inner.begun = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        Connections(Arc::new(inner))
    }

    #[tokio::test]
    async fn a_new_connection_replaces_the_longest_idle_one_and_never_an_active_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connections = aged(2, 1_000);
        let mut held = Vec::new();
        for last in 1..=2 {
            let (client, server) = pair(&listener).await;
            held.push((client, connections.admit(server, Some(peer(last))).unwrap()));
        }
        let (_client, server) = pair(&listener).await;
        assert!(
            connections.admit(server, Some(peer(3))).is_err(),
            "all of them moved"
        );
        age(&connections);
        held[1].1.note_activity();
        let (_client, server) = pair(&listener).await;
        let _newcomer = connections.admit(server, Some(peer(3))).unwrap();
        let mut buffer = [0];
        let error = held[0].1.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        held[1].0.write_all(b"x").await.unwrap();
        assert_eq!(held[1].1.read(&mut buffer).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_address_has_a_share_and_this_machine_is_not_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connections = aged(10, 1);
        let (_one, server) = pair(&listener).await;
        let _first = connections.admit(server, Some(peer(1))).unwrap();
        let (_two, server) = pair(&listener).await;
        assert!(connections.admit(server, Some(peer(1))).is_err());
        let (_three, server) = pair(&listener).await;
        let other = connections.admit(server, Some(peer(2))).unwrap();
        drop(other);
        assert_eq!(connections.0.lock().by_address.len(), 1);
        let local = Some(SocketAddr::from(([127, 0, 0, 1], 1)));
        let mut kept = Vec::new();
        for _ in 0..3 {
            let (client, server) = pair(&listener).await;
            kept.push((client, connections.admit(server, local).unwrap()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_makes_no_progress_ends_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connections = aged(2, 1_000);
        let (_client, server) = pair(&listener).await;
        let mut connection = connections.admit(server, Some(peer(1))).unwrap();
        let piece = vec![0; 1 << 20];
        let begun = tokio::time::Instant::now();
        let error = loop {
            if let Err(error) = connection.write_all(&piece).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= STALLED);
    }
}
