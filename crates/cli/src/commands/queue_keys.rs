//! `holdfast queues keys` and what holds for one key of a queue for a time.

use std::time::Duration;

use clap::Subcommand;
use holdfast_control::wire::{KeyOverrideBody, OverriddenKey, Places, QueueKeyView, QueueKeysView};
use holdfast_ops::client::Api;
use holdfast_ops::{Failure, time};

use crate::args::{OutputArgs, query};
use crate::commands::queues::places;
use crate::output::{shown, table};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the limit keys of a queue of which jobs wait or run, or that are paused or limited for a time
    Keys {
        name: String,
        /// Most keys to list
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=100))]
        limit: u16,
        /// Continue after this key
        #[arg(long)]
        after: Option<String>,
    },
    /// Start no job of one limit key for a time; running jobs continue
    PauseKey {
        name: String,
        #[arg(value_name = "KEY")]
        limit_key: String,
        /// How long (seconds, or 5m, 2h, 1d); 30 days at most
        #[arg(long = "for", value_name = "TIME", value_parser = time::duration)]
        time: Duration,
    },
    /// Give one limit key a number of concurrent jobs of its own for a time
    LimitKey {
        name: String,
        #[arg(value_name = "KEY")]
        limit_key: String,
        /// Jobs of the key that run concurrently
        #[arg(long, value_name = "JOBS", value_parser = places)]
        max_running: u32,
        /// How long (seconds, or 5m, 2h, 1d); 30 days at most
        #[arg(long = "for", value_name = "TIME", value_parser = time::duration)]
        time: Duration,
    },
    /// End the pause or the limit of one key now
    RestoreKey {
        name: String,
        #[arg(value_name = "KEY")]
        limit_key: String,
    },
}

pub(super) async fn run(api: &Api, command: Command, output: OutputArgs) -> Result<(), Failure> {
    match command {
        Command::Keys { name, limit, after } => {
            let query = query([("limit", Some(limit.to_string())), ("after", after)]);
            let document = api.get(&["v1", "queues", &name, "keys"], &query).await?;
            let found: QueueKeysView = api.read(&document)?;
            output.print(&document, || {
                let rows: Vec<_> = found.keys.iter().map(row).collect();
                table(["KEY", "WAITING", "RUNNING", "OVERRIDE", "UNTIL"], &rows)
            })
        }
        Command::PauseKey {
            name,
            limit_key,
            time,
        } => put(api, &name, &limit_key, None, time, output).await,
        Command::LimitKey {
            name,
            limit_key,
            max_running,
            time,
        } => put(api, &name, &limit_key, Some(max_running), time, output).await,
        Command::RestoreKey { name, limit_key: key } => {
            let path = ["v1", "queues", &name, "keys", &key];
            let document = api.delete(&path, &[]).await?;
            output.print(&document, || {
                format!("the limits of {name} hold for the key {key}")
            })
        }
    }
}

async fn put(
    api: &Api,
    name: &str,
    key: &str,
    max_running: Option<u32>,
    time: Duration,
    output: OutputArgs,
) -> Result<(), Failure> {
    let body = KeyOverrideBody {
        paused: max_running.is_none(),
        max_running: max_running.map(Places),
        ttl_seconds: time.as_secs(),
    };
    let document = api.put_json(&["v1", "queues", name, "keys", key], &body).await?;
    let put: OverriddenKey = api.read(&document)?;
    output.print(&document, || {
        let until = put
            .overridden
            .map_or_else(String::new, |found| shown(found.expires_at));
        match max_running {
            None => format!("the key {key} of {name} is paused until {until}"),
            Some(most) => format!("{most} jobs of the key {key} of {name} run concurrently until {until}"),
        }
    })
}

fn row(key: &QueueKeyView) -> [String; 5] {
    let more = |count: u64| {
        let is_most = key.is_capped && count == key.waiting.max(key.running);
        format!("{count}{}", if is_most { "+" } else { "" })
    };
    let (rule, until) = match &key.overridden {
        Some(found) => (
            found
                .max_running
                .map_or_else(|| "paused".to_owned(), |most| format!("{most} running")),
            shown(found.expires_at),
        ),
        None => ("-".to_owned(), "-".to_owned()),
    };
    [key.key.clone(), more(key.waiting), more(key.running), rule, until]
}
