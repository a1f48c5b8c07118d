//! `holdfast console`: the web console of an API elsewhere, served on this machine.
//!
//! With a key, the printed link lets one's browser in: it carries a token of this run, which becomes a cookie. Without one, the page asks
//! for a name and a password, or for a key.

use std::io::{self, Write as _};
use std::net::Ipv4Addr;

use holdfast_console::Console;
use holdfast_core::shutdown::Shutdown;
use holdfast_http::server::{self, Reach};
use holdfast_ops::Failure;
use holdfast_services::Program;

use crate::args::TargetArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// Port on this machine; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Change nothing, whatever the key may do
    #[arg(long)]
    read_only: bool,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let Some(url) = args.target.url else {
        return Err(Failure::Misused(
            "the console of which API? Give --url, or set HOLDFAST_URL; an API serves its own console at /console"
                .to_owned(),
        ));
    };
    let mut settings = holdfast_ops::in_process::settings(program)?;
    settings.console.read_only |= args.read_only;
    settings.server.host = Ipv4Addr::LOCALHOST.to_string();
    settings.server.port = args.port;
    let console = Console::remote(&settings.console, url, args.target.key)
        .map_err(|error| Failure::service("the console cannot be served", error))?;
    let listeners = server::bind(&settings.server, Reach::Configured)
        .map_err(|error| Failure::service("the console cannot be served", error))?;
    let link = format!("http://{}{}", listeners.address(), console.link());
    writeln!(io::stdout(), "The console is at {link}")?;
    let stop = Shutdown::new();
    stop.on_signals()?;
    let configure = move |config: &mut _| console.configure(config);
    server::run(listeners, &settings.server, stop, configure)
        .await
        .map_err(|error| Failure::service("the console failed", error))
}
