//! `holdfast-bench`: what this machine can do, as figures and as ratios to a yardstick of the same run.
//!
//! It works on the servers that the configuration names (`DATABASE_URL`, `REDIS_URL`), on a queue of its own called
//! `bench`, and removes what it made. Machines are noisy, so a figure means little alone: beside each stands its ratio to
//! LPUSH of the same payload against the same Redis, one by one and pipelined.

mod cache;
mod console;
mod discovery;
mod health;
mod http;
mod idle;
mod invalidation;
mod load;
mod memory;
mod points;
mod prune;
mod pull;
mod recommend;
mod redrive;
mod report;
mod scenario;
mod system;
mod ticks;
mod webhooks;
mod yardstick;

use std::path::PathBuf;

use anyhow::Error as Failure;
use report::Report;
use system::Setup;

/// Measures enqueue, drain, pick-up, HTTP and the idle services; or, if told so, the cache, the console, pull workers or recommendations.
#[derive(Debug, clap::Parser)]
#[command(name = "holdfast-bench", version = holdfast_core::build::version())]
pub struct Cli {
    #[command(subcommand)]
    what: Option<Measurement>,
    /// Only these parts: redis, ledger, old-transaction, no-redis, sqlite, idle, redrive, prune, points,
    /// ticks, webhooks, discovery. Default: all that the servers allow.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Multiplies the number of jobs of every part.
    #[arg(long, default_value_t = 1.0, global = true)]
    scale: f64,
    /// Prints a Markdown table instead of lines.
    #[arg(long, global = true)]
    markdown: bool,
    /// Directory for the file of the SQLite part; removed at the end.
    #[arg(long, default_value = ".holdfast/bench", global = true)]
    directory: PathBuf,
}

/// What is measured instead of jobs.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
enum Measurement {
    /// The cache: its operations, their cost on Redis, concurrent misses, and ways of invalidation
    Cache,
    /// The console: pages of the job list, a rare match, 100 open consoles beside a drain, and the first load
    Console,
    /// Cached responses compared with a constant, also while Redis hangs; and the duration of `/health`
    Http,
    /// The pull protocol, beside a Rust worker: drain, pick-up, and the cost of idle long polls
    Pull,
    /// Recommendations: cost of a training and a list, and quality compared with popularity and chance
    Recommend(recommend::Args),
}

/// What a part needs, and its name on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Redis,
    Ledger,
    OldTransaction,
    NoRedis,
    Sqlite,
    Idle,
    Redrive,
    Prune,
    Points,
    Ticks,
    Webhooks,
    Discovery,
}

impl Part {
    const ALL: [(Self, &'static str); 12] = [
        (Self::Redis, "redis"),
        (Self::Ledger, "ledger"),
        (Self::OldTransaction, "old-transaction"),
        (Self::NoRedis, "no-redis"),
        (Self::Sqlite, "sqlite"),
        (Self::Idle, "idle"),
        (Self::Redrive, "redrive"),
        (Self::Prune, "prune"),
        (Self::Points, "points"),
        (Self::Ticks, "ticks"),
        (Self::Webhooks, "webhooks"),
        (Self::Discovery, "discovery"),
    ];
}

/// Runs what the command line says and prints the figures.
pub fn run(args: &Cli) -> Result<(), Failure> {
    let parts = chosen(&args.only)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let servers = system::Servers::from_config()?;
        let mut report = Report::new(args.markdown);
        if let Some(what) = &args.what {
            let measured = instead(what, &servers, args, &mut report).await;
            return measured.and(remove(&args.directory));
        }
        if let Some(redis) = &servers.redis {
            report.yardstick(yardstick::measure(redis).await?);
        }
        for part in parts {
            let setup = match part {
                Part::Redis => servers.setup(true, true, "redis"),
                Part::Ledger
                | Part::OldTransaction
                | Part::Idle
                | Part::Redrive
                | Part::Prune
                | Part::Points
                | Part::Ticks
                | Part::Webhooks
                | Part::Discovery => servers.setup(true, true, "ledger"),
                Part::NoRedis => servers.setup(true, false, "ledger"),
                Part::Sqlite => Some(Setup::sqlite(&args.directory)),
            };
            let Some(setup) = setup else {
                report.skipped(
                    part_name(part),
                    "it needs DATABASE_URL=postgres://… and REDIS_URL",
                );
                continue;
            };
            match part {
                Part::Redis => scenario::redis(&setup, args.scale, &mut report).await?,
                Part::Ledger => scenario::ledger(&setup, args.scale, &mut report).await?,
                Part::OldTransaction => scenario::old_transaction(&setup, args.scale, &mut report).await?,
                Part::NoRedis => scenario::no_redis(&setup, args.scale, &mut report).await?,
                Part::Sqlite => scenario::sqlite(&setup, args.scale, &mut report).await?,
                Part::Idle => idle::measure(&setup, &mut report).await?,
                Part::Redrive => redrive::measure(&setup, args.scale, &mut report).await?,
                Part::Prune => prune::measure(&setup, args.scale, &mut report).await?,
                Part::Points => points::measure(&setup, args.scale, &mut report).await?,
                Part::Ticks => ticks::measure(&setup, args.scale, &mut report).await?,
                Part::Webhooks => webhooks::measure(&setup, args.scale, &mut report).await?,
                Part::Discovery => discovery::measure(&setup, args.scale, &mut report).await?,
            }
        }
        remove(&args.directory)
    })
}

/// What is measured in place of jobs.
async fn instead(
    what: &Measurement,
    servers: &system::Servers,
    args: &Cli,
    report: &mut Report,
) -> Result<(), Failure> {
    if let Measurement::Recommend(what) = what {
        return recommend::measure(what, servers, (&args.directory, args.scale), report).await;
    }
    if *what == Measurement::Pull {
        if let Some(redis) = &servers.redis {
            report.yardstick(yardstick::measure(redis).await?);
        }
        let Some(setup) = servers.setup(true, true, "ledger") else {
            report.skipped("pull", "it needs DATABASE_URL=postgres://… and REDIS_URL");
            return Ok(());
        };
        return pull::measure(&setup, args.scale, report).await;
    }
    if *what == Measurement::Console {
        match servers.setup(true, servers.redis.is_some(), "ledger") {
            Some(setup) => console::measure(&setup, "console, PostgreSQL", args.scale, report).await?,
            None => report.skipped("console, PostgreSQL", "it needs DATABASE_URL=postgres://…"),
        }
        let setup = Setup::sqlite(&args.directory);
        return console::measure(&setup, "console, SQLite", args.scale, report).await;
    }
    // On Redis and an embedded database: the cache asks no other.
    let Some(redis) = &servers.redis else {
        report.skipped("cache", "it needs REDIS_URL");
        return Ok(());
    };
    let mut setup = Setup::sqlite(&args.directory);
    setup.env.insert("REDIS_URL".to_owned(), redis.clone());
    if *what == Measurement::Http {
        http::measure(&setup, args.scale, report).await?;
        health::measure(&setup, report).await
    } else {
        cache::measure(&setup, args.scale, report).await
    }
}

fn remove(directory: &std::path::Path) -> Result<(), Failure> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    Ok(())
}

/// What the system under measurement refused to do.
fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::from_boxed(source.into()).context("the bench could not go on")
}

fn part_name(part: Part) -> &'static str {
    Part::ALL
        .iter()
        .find(|(known, _)| *known == part)
        .map_or("", |(_, name)| name)
}

fn chosen(only: &[String]) -> Result<Vec<Part>, Failure> {
    if only.is_empty() {
        return Ok(Part::ALL.iter().map(|(part, _)| *part).collect());
    }
    only.iter()
        .map(|name| {
            Part::ALL
                .iter()
                .find(|(_, known)| known == name)
                .map(|(part, _)| *part)
                .ok_or_else(|| {
                    let known: Vec<_> = Part::ALL.iter().map(|(_, name)| *name).collect();
                    Failure::msg(format!("--only {name}: expected one of {}", known.join(", ")))
                })
        })
        .collect()
}
