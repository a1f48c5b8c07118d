//! `holdfast redis-check`: can this Redis be used, and how well? For a `REDIS_URL` alone; nothing else need run.
//!
//! Exit codes: 0; 1 a check failed; 2 one is to be looked at, with `--strict`; 64 there is no URL, or it is none.

use holdfast_core::config::{self, RedisEndpoint, RedisSettings};
use holdfast_core::redis::Role;
use holdfast_ops::checks::report::Form;
use holdfast_ops::{Failure, in_process, validate as checks};
use holdfast_services::Program;
use secrecy::SecretString;

use crate::commands::validate;

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
    /// Exit with 2 if a check warns
    #[arg(long)]
    strict: bool,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let (url, settings) = match args.url {
        Some(url) => (url, config::load_section("redis")?.redis),
        None => configured(program)?,
    };
    let form = if args.json { Form::Json } else { Form::Text };
    let role = if args.cache { Role::Cache } else { Role::Queue };
    let mut run = validate::run_of(form);
    checks::check_redis_server(&mut run, RedisEndpoint { url }, settings, role).await;
    validate::print(&run, form, args.strict)
}

/// What the configuration names, where platforms spell a URL in parts (`REDISHOST`, …).
fn configured(program: &Program) -> Result<(SecretString, RedisSettings), Failure> {
    let settings = in_process::settings(program)?.redis;
    let endpoint = settings.queue.clone().ok_or_else(|| {
        Failure::Misused("there is no Redis to check: set REDIS_URL, or give --url".to_owned())
    })?;
    Ok((endpoint.url, settings))
}
