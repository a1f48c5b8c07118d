//! Where a server listens.
//!
//! `[::]` is bound as a dual-stack socket, which Railway's private network needs, or as `0.0.0.0` on a machine without
//! IPv6. A server that has no API key is bound to this machine's own addresses, whatever the settings say.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use holdfast_core::config::ServerSettings;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Who may reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Whoever reaches the configured address.
    Configured,
    /// This machine alone.
    Loopback,
}

/// Bound sockets, at least one, all on one port.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<TcpListener>,
    address: SocketAddr,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: the port may be taken, or the address is not this machine's")]
pub struct BindError {
    address: String,
    source: io::Error,
}

impl BindError {
    /// 69 (`EX_UNAVAILABLE`): of a process that ends because of it.
    pub const EXIT_CODE: u8 = 69;
}

impl Listeners {
    /// The first one's.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn into_sockets(self) -> Vec<TcpListener> {
        self.sockets
    }
}

/// Binds and listens: connections wait in the backlog until the server runs.
pub fn bind(settings: &ServerSettings, reach: Reach) -> Result<Listeners, BindError> {
    let port = settings.port;
    let failed = |source| BindError {
        address: format!("{}:{port}", settings.host),
        source,
    };
    let host = settings.host.trim_start_matches('[').trim_end_matches(']');
    let configured = resolve(host, port).map_err(failed)?;
    let everywhere = |address: &IpAddr| address.is_unspecified() && address.is_ipv6();
    match reach {
        Reach::Loopback if !configured.iter().all(IpAddr::is_loopback) => bind_loopback(port).map_err(failed),
        Reach::Configured if configured.iter().any(everywhere) => bind_everywhere(port).map_err(failed),
        _ => bind_all(&configured, port).map_err(failed),
    }
}

fn resolve(host: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    let addresses: Vec<IpAddr> = (host, port)
        .to_socket_addrs()?
        .map(|address| address.ip())
        .collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

fn bind_everywhere(port: u16) -> io::Result<Listeners> {
    let dual = listener(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), true);
    let socket = match dual {
        Err(error) if is_taken(&error) => return Err(error),
        Err(_) => listener(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), false)?,
        Ok(socket) => socket,
    };
    listeners(vec![socket])
}

fn bind_loopback(port: u16) -> io::Result<Listeners> {
    bind_all(&[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], port)
}

/// Every address that this machine has, on one port.
fn bind_all(addresses: &[IpAddr], port: u16) -> io::Result<Listeners> {
    let (first, others) = addresses.split_first().ok_or(io::ErrorKind::NotFound)?;
    let mut sockets = vec![listener(SocketAddr::new(*first, port), false)?];
    let bound = sockets[0].local_addr()?.port();
    for address in others {
        match listener(SocketAddr::new(*address, bound), false) {
            Ok(socket) => sockets.push(socket),
            // A port that the system picked for the first address need not be free on the second.
            Err(error) if is_taken(&error) && port != 0 => return Err(error),
            Err(error) => tracing::debug!(%address, %error, "this address is not listened on"),
        }
    }
    listeners(sockets)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
    )
}

fn listeners(sockets: Vec<TcpListener>) -> io::Result<Listeners> {
    let address = sockets[0].local_addr()?;
    Ok(Listeners { sockets, address })
}

fn listener(address: SocketAddr, dual_stack: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    // A restarted server must not wait for the old one's connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
