//! A firewall that forgets its connections: those made before stay open and carry nothing any more, in silence; new ones
//! work. It is what a NAT gateway does that was restarted, and the commonest way to make a worker deaf: the server
//! answers whoever asks anew, and the worker waits on a connection that will never say anything.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Forwards to one server. Everything through it ends with it.
#[derive(Debug)]
pub(crate) struct Firewall {
    addr: SocketAddr,
    /// How often it has forgotten.
    epoch: Arc<watch::Sender<u64>>,
    task: AbortHandle,
}

impl Firewall {
    pub(crate) async fn before(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let epoch = Arc::new(watch::Sender::new(0));
        let task = tokio::spawn(listen(listener, server, Arc::clone(&epoch))).abort_handle();
        Ok(Self { addr, epoch, task })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All connections of now are dead from now on; nobody is told.
    pub(crate) fn forget_connections(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, server: SocketAddr, epoch: Arc<watch::Sender<u64>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(forward(client, server, epoch.subscribe()));
    }
}

async fn forward(mut client: TcpStream, server: SocketAddr, mut epoch: watch::Receiver<u64>) {
    let Ok(mut upstream) = TcpStream::connect(server).await else {
        return;
    };
    if client.set_nodelay(true).is_err() || upstream.set_nodelay(true).is_err() {
        return;
    }
    tokio::select! {
        biased;
        // Forgotten: both sockets stay open, and nobody reads them.
        Ok(()) = epoch.changed() => std::future::pending().await,
        _ = copy_bidirectional(&mut client, &mut upstream) => {}
    }
}
