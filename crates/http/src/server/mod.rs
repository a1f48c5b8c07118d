//! Running actix over bound sockets: the limits of every connection, and an orderly stop.

mod connections;
mod listen;
mod local;

use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Protocol, Request};
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, Server, ServiceResponse};
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{App, Error};
use holdfast_core::config::ServerSettings;
use holdfast_core::shutdown::Shutdown;
use tokio::net::TcpStream;

use self::connections::Connections;
pub use self::listen::{BindError, Listeners, Reach, bind};
pub use self::local::LocalRoutes;
use crate::middleware::{Limits, around_all};
use crate::routes;

/// How long an idle connection is kept. Above the 60 s of the usual proxies: a server that closes first makes them fail.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Longest a request's head may take.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Longest a client may take to see its connection closed.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Serves until the switch is thrown; then no connection is accepted, idle ones are closed, and requests under way may
/// go on for the grace period.
pub async fn run<F>(
    listeners: Listeners,
    settings: &ServerSettings,
    shutdown: Shutdown,
    configure: F,
) -> std::io::Result<()>
where
    F: Fn(&mut ServiceConfig) + Clone + Send + 'static,
{
    let mut running = start(listeners, settings, &shutdown, configure)?;
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
///
/// Built from actix' parts and not with its `HttpServer`: that one takes connections as they are, without a word in how many, from
/// where, and for how long they may refuse to read.
fn start<F>(
    listeners: Listeners,
    settings: &ServerSettings,
    shutdown: &Shutdown,
    configure: F,
) -> std::io::Result<Server>
where
    F: Fn(&mut ServiceConfig) + Clone + Send + 'static,
{
    let limits = Data::new(Limits::new(settings.request_timeout, settings.max_wait));
    let connections = Connections::new(settings);
    let mut server = Server::build()
        .workers(settings.http_workers)
        .max_concurrent_connections(connections.per_thread(settings.http_workers))
        .shutdown_timeout(settings.grace.as_secs() + u64::from(settings.grace.subsec_nanos() > 0))
        .disable_signals();
    for socket in listeners.into_sockets() {
        let address = socket.local_addr()?;
        let (limits, connections, configure) = (limits.clone(), connections.clone(), configure.clone());
        let shutdown = shutdown.clone();
        server = server.listen(format!("http-{address}"), socket, move || {
            let app =
                application(limits.clone(), configure.clone()).map_err(|error: Error| error.error_response());
            let (connections, shutdown) = (connections.clone(), shutdown.clone());
            let http = HttpService::build()
                .graceful_shutdown_signal(move || {
                    let shutdown = shutdown.clone();
                    async move { shutdown.wait().await }
                })
                .keep_alive(KeepAlive::Timeout(KEEP_ALIVE))
                .client_request_timeout(HEAD_DEADLINE)
                .client_disconnect_timeout(CLOSE_DEADLINE)
                .local_addr(address)
                .finish(map_config(app, |()| AppConfig::default()));
            fn_service(move |stream: TcpStream| {
                let connections = connections.clone();
                async move {
                    // Answers are small, and nobody shall wait for the next one to fill the segment.
                    stream.set_nodelay(true).map_err(DispatchError::Io)?;
                    let peer = stream.peer_addr().ok();
                    let connection = connections.admit(stream, peer).map_err(DispatchError::Io)?;
                    Ok::<_, DispatchError>((connection, Protocol::Http1, peer))
                }
            })
            .and_then(http)
        })?;
    }
    Ok(server.run())
}

/// The routes, behind the middleware.
fn application(
    limits: Data<Limits>,
    configure: impl FnOnce(&mut ServiceConfig) + 'static,
) -> impl ServiceFactory<
    Request,
    Config = AppConfig,
    Response = ServiceResponse<BoxBody>,
    Error = Error,
    InitError = (),
> {
    let app = App::new()
        .app_data(limits)
        .configure(configure)
        .default_service(web::to(routes::not_found))
        .wrap(from_fn(around_all));
    IntoServiceFactory::<_, Request>::into_factory(app)
}
