//! One client's connection through the proxy, from accept to end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::dialogue::Dialogue;
use super::lane::{ConnectionEnd, Lane, Side};
use super::{Mode, ProxyState, Setting};

/// Counts an open connection while it lives.
pub(super) struct Guard(Arc<ProxyState>);

impl Guard {
    pub(super) fn new(shared: &Arc<ProxyState>) -> Self {
        shared.open.send_modify(|open| *open += 1);
        Self(Arc::clone(shared))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// Serves `client` until one side or the mode ends it. `guard` goes last, when the sockets are closed.
pub(super) async fn serve(mut client: TcpStream, shared: Arc<ProxyState>, guard: Guard) {
    let ended = match reach_upstream(&shared).await {
        Some(mut server) => {
            let ended = relay(&mut client, &mut server, &shared).await;
            if ended == ConnectionEnd::Abruptly {
                reset(server);
            }
            ended
        }
        None => ConnectionEnd::Abruptly,
    };
    match ended {
        ConnectionEnd::Abruptly => reset(client),
        ConnectionEnd::Quietly => drop(client),
        ConnectionEnd::ReplyCut => {
            drop(client);
            shared.cut.send_modify(|cut| *cut += 1);
        }
    }
    drop(guard);
}

/// Connects to the server once the mode lets anything through; None if it is gone or the mode says so.
async fn reach_upstream(shared: &ProxyState) -> Option<TcpStream> {
    let mut settings = shared.setting.subscribe();
    loop {
        let mode = settings.borrow_and_update().mode;
        match mode {
            Mode::Refuse | Mode::Reset => return None,
            Mode::BlackHole => settings.changed().await.ok()?,
            _ => tokio::select! {
                biased;
                changed = settings.changed() => changed.ok()?,
                server = TcpStream::connect(shared.upstream) => return server.ok(),
            },
        }
    }
}

/// Moves bytes both ways until both directions have ended, or one of them abruptly.
async fn relay(client: &mut TcpStream, server: &mut TcpStream, shared: &ProxyState) -> ConnectionEnd {
    // Without it, Nagle's algorithm would add latency that no mode asked for.
    if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
        return ConnectionEnd::Abruptly;
    }
    let dialogue = Dialogue::new(shared.protocol, &shared.rules);
    let settings: watch::Receiver<Setting> = shared.setting.subscribe();
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let requests = Lane::new(
        Side::Requests,
        from_client,
        to_server,
        settings.clone(),
        &dialogue,
        &shared.to_server,
    );
    let replies = Lane::new(
        Side::Replies,
        from_server,
        to_client,
        settings,
        &dialogue,
        &shared.to_client,
    );
    match tokio::try_join!(requests.run(), replies.run()) {
        Ok(_) => ConnectionEnd::Quietly,
        Err(ended) => ended,
    }
}

/// Closes with RST instead of FIN. Should that fail, the connection is closed all the same.
fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
    drop(stream);
}

/// Adds what has been delivered to a counter.
pub(super) fn count(counter: &std::sync::atomic::AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::SeqCst);
}
