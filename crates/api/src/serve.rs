//! Running actix over bound sockets: the limits of every connection, and an orderly stop.

use std::time::Duration;

use actix_web::dev::Server;
use actix_web::http::KeepAlive;
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{App, HttpServer};
use holdfast_core::config::ServerSettings;
use holdfast_core::shutdown::Shutdown;

use crate::border::{Limits, border};
use crate::listen::Listeners;
use crate::routes;

/// Connections of one HTTP thread; more wait in the backlog.
const MAX_CONNECTIONS: usize = 8_192;

/// How long an idle connection is kept. Above the 60 s of the usual proxies: a server that closes first makes them fail.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Longest a request's head may take.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Longest a client may take to see its connection closed.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Serves until the switch is thrown; then no connection is accepted, idle ones are closed, and requests under way may
/// go on for the grace period.
pub(crate) async fn run<F>(
    listeners: Listeners,
    settings: &ServerSettings,
    shutdown: Shutdown,
    configure: F,
) -> std::io::Result<()>
where
    F: Fn(&mut ServiceConfig) + Clone + Send + 'static,
{
    let mut running = start(listeners, settings, configure)?;
    let handle = running.handle();
    tokio::select! {
        ended = &mut running => return ended,
        () = shutdown.wait() => {}
    }
    // The server must be polled to stop.
    let (ended, ()) = tokio::join!(running, handle.stop(true));
    ended
}

/// Apart from the waiting, because the builder cannot be held across it in a future that moves between threads.
fn start<F>(listeners: Listeners, settings: &ServerSettings, configure: F) -> std::io::Result<Server>
where
    F: Fn(&mut ServiceConfig) + Clone + Send + 'static,
{
    let limits = Data::new(Limits::new(settings.request_timeout, settings.max_wait));
    let mut server = HttpServer::new(move || {
        App::new()
            .app_data(limits.clone())
            .configure(configure.clone())
            .default_service(web::to(routes::nowhere))
            .wrap(from_fn(border))
    })
    .workers(settings.http_workers)
    .max_connections(MAX_CONNECTIONS)
    .keep_alive(KeepAlive::Timeout(KEEP_ALIVE))
    .client_request_timeout(HEAD_DEADLINE)
    .client_disconnect_timeout(CLOSE_DEADLINE)
    .tcp_nodelay(true)
    .shutdown_timeout(settings.grace.as_secs() + u64::from(settings.grace.subsec_nanos() > 0))
    .disable_signals();
    for socket in listeners.into_sockets() {
        server = server.listen(socket)?;
    }
    Ok(server.run())
}
