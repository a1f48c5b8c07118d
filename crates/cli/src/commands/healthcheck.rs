//! `holdfast healthcheck`: is the service on this machine alive? For Docker's HEALTHCHECK.
//!
//! It reads no configuration and starts no runtime: a container may run it every few seconds.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use holdfast_ops::Failure;

/// For connecting, and again for the answer.
const DEADLINE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The port that the service listens on
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
    /// What to ask for: /health/live (the process answers) or /health/ready (it can do its work)
    #[arg(long, default_value = "/health/live")]
    path: String,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let status = ask(address, &args.path)
        .map_err(|error| Failure::no(format!("nothing alive on {address}: {error}")))?;
    if status == "200" {
        return Ok(());
    }
    Err(Failure::no(format!("{address}{} answered {status}", args.path)))
}

/// The status code of one GET.
fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    // `HTTP/1.1 200`: the rest is of no interest.
    let mut status_line = [0; 12];
    stream.read_exact(&mut status_line)?;
    let text = String::from_utf8_lossy(&status_line);
    Ok(text.rsplit(' ').next().unwrap_or_default().to_owned())
}
