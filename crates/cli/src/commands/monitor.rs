//! `holdfast monitor`: watches one API, on a dashboard or as JSON lines.
//!
//! Exit codes: 0, also after a signal; 1 the report cannot be written; 64 the command line or the rules are invalid.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_ops::monitor::{self, Mailbox, Options, SHORTEST_INTERVAL, Sinks};
use holdfast_ops::{Failure, time};
use secrecy::SecretString;
use url::Url;

use crate::args::TargetArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// Interval between samples: 2, 500ms, 1m
    #[arg(long, default_value = "2s", value_parser = interval_of)]
    interval: Duration,
    /// Print JSON lines instead of a dashboard: every sample and every notice
    #[arg(long)]
    headless: bool,
    /// Stop after this time: 90s, 5m, 8h
    #[arg(long = "for", value_name = "DURATION", value_parser = time::duration)]
    duration: Option<Duration>,
    /// Alert rules, a TOML file; without one the built-in rules
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Interval between reminders of an active alert
    #[arg(long, default_value = "1h", value_parser = time::duration)]
    remind: Duration,
    /// Write a report to this file at the end: one HTML document that opens offline
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    sinks: SinkArgs,
}

fn interval_of(text: &str) -> Result<Duration, String> {
    let interval = time::duration(text)?;
    if interval < SHORTEST_INTERVAL {
        return Err("at least 100ms".to_owned());
    }
    Ok(interval)
}

/// Where notices are sent.
#[derive(Debug, clap::Args)]
struct SinkArgs {
    /// Send notices to this URL, signed as Standard Webhooks says
    #[arg(long, value_name = "URL", requires = "webhook_secret")]
    webhook: Option<Url>,
    /// Secret of the webhook's signature: whsec_ and base64
    #[arg(
        long,
        env = "HOLDFAST_MONITOR_WEBHOOK_SECRET",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    webhook_secret: Option<SecretString>,
    /// Send notices by mail through this server: smtps://user:password@host, or smtp://host:port
    #[arg(long, env = "HOLDFAST_MONITOR_SMTP_URL", hide_env_values = true, value_name = "URL", requires_all = ["mail_from", "mail_to"])]
    smtp: Option<SecretString>,
    /// Sender of the mails
    #[arg(long, value_name = "ADDRESS")]
    mail_from: Option<Mailbox>,
    /// Receiver of the mails; may be given more than once
    #[arg(long, value_name = "ADDRESS")]
    mail_to: Vec<Mailbox>,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Some(url) = args.target.url else {
        return Err(Failure::Misused(
            "what to watch? Give --url, or set HOLDFAST_URL".to_owned(),
        ));
    };
    if !args.headless && !std::io::stdout().is_terminal() {
        return Err(Failure::Misused(
            "the dashboard needs a terminal: give --headless for JSON lines".to_owned(),
        ));
    }
    let SinkArgs {
        webhook,
        webhook_secret,
        smtp,
        mail_from,
        mail_to,
    } = args.sinks;
    monitor::run(Options {
        url,
        key: args.target.key,
        interval: args.interval,
        headless: args.headless,
        duration: args.duration,
        rules: args.rules,
        remind: args.remind,
        report: args.report,
        sinks: Sinks {
            webhook,
            webhook_secret,
            smtp,
            mail_from,
            mail_to,
        },
    })
    .await
}
