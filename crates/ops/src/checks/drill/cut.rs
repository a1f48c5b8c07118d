//! A wire to one server that can be cut and joined again: a TCP proxy on a free loopback port.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Longest wait for the server behind it.
const CONNECT: Duration = Duration::from_secs(5);

/// Ends with everything through it when it is dropped.
#[derive(Debug)]
pub(super) struct Wire {
    address: SocketAddr,
    joined: watch::Sender<bool>,
    _listening: AbortOnDropHandle<()>,
}

impl Wire {
    /// `upstream` is `host:port`. Call it inside tokio.
    pub(super) async fn to(upstream: (String, u16)) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let joined = watch::Sender::new(true);
        let listening = tokio::spawn(listen(listener, upstream, joined.subscribe()));
        Ok(Self {
            address,
            joined,
            _listening: AbortOnDropHandle::new(listening),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every connection breaks, and new ones are closed at once.
    pub(super) fn cut(&self) {
        self.joined.send_replace(false);
    }

    pub(super) fn join(&self) {
        self.joined.send_replace(true);
    }
}

async fn listen(listener: TcpListener, upstream: (String, u16), joined: watch::Receiver<bool>) {
    // Ends its connections with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if *joined.borrow() {
            connections.spawn(carry(client, upstream.clone(), joined.clone()));
        }
    }
}

async fn carry(mut client: TcpStream, upstream: (String, u16), mut joined: watch::Receiver<bool>) {
    let Ok(Ok(mut server)) = timeout(CONNECT, TcpStream::connect((upstream.0.as_str(), upstream.1))).await
    else {
        return;
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = joined.wait_for(|joined| !joined) => {}
    }
}
