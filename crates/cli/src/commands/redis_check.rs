//! `holdfast redis-check`: can this Redis be used, and how well? For a `REDIS_URL` alone; nothing else need run.
//!
//! Exit codes: 0; 1 a check failed; 2 one is to be looked at, with `--strict`; 64 there is no URL, or it is none.

use holdfast_core::config::{self, RedisEndpoint, RedisSettings};
use holdfast_core::redis::Role;
use secrecy::SecretString;

use crate::checks::Run;
use crate::checks::redis::{CHECKS, RedisSubject};
use crate::checks::report::{Form, Report, print_line, print_nothing};
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The server: `redis://user:password@host:port`, or rediss:// for TLS
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    url: Option<SecretString>,
    /// Check it as a cache, which may evict and need not persist
    #[arg(long)]
    cache: bool,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
    /// Let a check that is to be looked at fail the run
    #[arg(long)]
    strict: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let (url, settings) = match args.url {
        Some(url) => (url, config::load_section("redis")?.redis),
        None => configured()?,
    };
    let (form, show) = if args.json {
        (Form::Json, print_nothing as fn(&_))
    } else {
        (Form::Text, print_line as fn(&_))
    };
    let role = if args.cache { Role::Cache } else { Role::Queue };
    let mut subject = RedisSubject::new(role, RedisEndpoint { url }, settings);
    subject.shared = !args.cache;
    let mut run = Run::new(show);
    run.all("redis", &subject, CHECKS).await;
    let report = Report::of(run.outcomes());
    report.print(form)?;
    Failure::unless_zero(report.exit_code(args.strict))
}

/// What the configuration names, where platforms spell a URL in parts (`REDISHOST`, …).
fn configured() -> Result<(SecretString, RedisSettings), Failure> {
    let settings = crate::local::settings()?.redis;
    let endpoint = settings.queue.clone().ok_or_else(|| {
        Failure::Misused("there is no Redis to check: set REDIS_URL, or give --url".to_owned())
    })?;
    Ok((endpoint.url, settings))
}
