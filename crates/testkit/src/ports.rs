//! Ports that stay ours, also while nobody listens on them.
//!
//! A port found by binding to port 0 lies in the range the kernel draws outgoing ports from: while a server
//! is down, any connection of a test running beside it may take it. So ports come from below that range
//! (Linux 32768, macOS 49152), and a lock on a file named after the port keeps other test processes from
//! choosing it. The kernel drops the lock with the process, however it ends.

use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::scratch;

const RANGE: Range<u16> = 20_000..30_000;
const ATTEMPTS: u32 = 1_000;

/// A port of 127.0.0.1 that no other test process uses until the lease is dropped.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    _lock: File,
}

impl PortLease {
    /// Leases a port that nobody listens on now.
    pub fn acquire() -> Result<Self> {
        let dir = scratch::shared_dir()?.join("ports");
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        for _ in 0..ATTEMPTS {
            let port = rand::random_range(RANGE);
            let path = dir.join(port.to_string());
            let lock = File::options().create(true).append(true).open(&path);
            let lock = lock.with_context(|| format!("opening {}", path.display()))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {}", path.display()));
                }
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(Self { port, _lock: lock });
            }
        }
        bail!(
            "no free port found between {} and {} in {ATTEMPTS} attempts",
            RANGE.start,
            RANGE.end
        )
    }

    /// Leases a port and listens on it, so that nobody comes in between.
    pub(crate) fn acquire_listening() -> Result<(Self, TcpListener)> {
        for _ in 0..ATTEMPTS {
            let lease = Self::acquire()?;
            if let Ok(listener) = TcpListener::bind(lease.addr()) {
                listener
                    .set_nonblocking(true)
                    .context("making a listener asynchronous")?;
                return Ok((lease, listener));
            }
        }
        bail!("no port could be listened on in {ATTEMPTS} attempts")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

/// A port of 127.0.0.1 that nobody listens on, kept from other test processes until this one ends.
pub fn free_port() -> Result<u16> {
    static KEPT: Mutex<Vec<PortLease>> = Mutex::new(Vec::new());
    let lease = PortLease::acquire()?;
    let port = lease.port();
    KEPT.lock().unwrap().push(lease);
    Ok(port)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn leases_differ_while_they_are_held() {
        let leases: Vec<PortLease> = (0..200).map(|_| PortLease::acquire().unwrap()).collect();
        let ports: HashSet<u16> = leases.iter().map(PortLease::port).collect();
        assert_eq!(ports.len(), 200);
    }

    #[test]
    fn free_port_refuses_connections() {
        let port = free_port().unwrap();
        let error = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
