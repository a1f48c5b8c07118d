//! `holdfast keys`: API keys, straight in the database. A key's text is shown once, when it is made.

use std::time::Duration;

use holdfast_accounts::{ApiKeys, NewKey, Scopes, StoredKey};
use holdfast_jobs::audit::{Actor, By};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::args::OutputArgs;
use crate::output::table;
use holdfast_ops::Failure;
use holdfast_ops::local::Local;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Create a key and print it, once
    Create {
        /// The owner's name, shown in logs
        #[arg(long)]
        name: String,
        /// What it may do: produce (enqueue, cancel, retry), read, admin (everything)
        #[arg(long, default_value = "produce,read")]
        scopes: Scopes,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List every key that was ever made, without its text
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Give a key another text and print it, once; the one before works for a while yet
    Rotate {
        /// The key's name or id
        key: String,
        /// How long the text before works yet, in seconds; 2592000 (30 days) at most
        #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
        grace: u64,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// End a key; servers refuse it within ten seconds
    Revoke {
        /// The key's name or id
        key: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let local = Local::open().await?;
    let keys = ApiKeys::new(local.database, None);
    match command {
        Command::Create { name, scopes, output } => create(&keys, &name, scopes, output).await,
        Command::List { output } => list(&keys, output).await,
        Command::Rotate { key, grace, output } => {
            rotate(&keys, &key, Duration::from_secs(grace), output).await
        }
        Command::Revoke { key, output } => revoke(&keys, &key, output).await,
    }
}

async fn create(keys: &ApiKeys, name: &str, scopes: Scopes, output: OutputArgs) -> Result<(), Failure> {
    let key = keys.create(name, scopes, &by()).await?;
    show_once(&key, "made", output)
}

async fn rotate(
    keys: &ApiKeys,
    name_or_id: &str,
    grace: Duration,
    output: OutputArgs,
) -> Result<(), Failure> {
    match keys.rotate(name_or_id, grace, &by()).await? {
        Some(key) => show_once(&key, "rotated", output),
        None => Err(unknown(name_or_id)),
    }
}

/// The text alone on stdout, so that it can be piped.
fn show_once(key: &NewKey, done: &str, output: OutputArgs) -> Result<(), Failure> {
    let secret = key.secret.expose_secret();
    let document = json!({ "id": key.id, "name": key.name, "scopes": key.scopes, "key": secret });
    output.print(&document, || secret.to_owned())?;
    if !output.json {
        eprintln!(
            "{done} {} for {} ({}); it is not shown again",
            key.id, key.name, key.scopes
        );
    }
    Ok(())
}

async fn list(keys: &ApiKeys, output: OutputArgs) -> Result<(), Failure> {
    let keys = keys.list().await?;
    output.print(&json!({ "keys": keys }), || {
        let rows: Vec<_> = keys.iter().map(row).collect();
        table(["ID", "NAME", "SCOPES", "CREATED", "LAST USED", "REVOKED"], &rows)
    })
}

fn row(key: &StoredKey) -> [String; 6] {
    const TIME: &str = "%Y-%m-%d %H:%M";
    let or_dash = |at: Option<chrono::DateTime<chrono::Utc>>| {
        at.map_or_else(|| "-".to_owned(), |at| at.format(TIME).to_string())
    };
    [
        key.id.to_string(),
        key.name.clone(),
        key.scopes.to_string(),
        key.created_at.format(TIME).to_string(),
        or_dash(key.last_used_at),
        or_dash(key.revoked_at),
    ]
}

async fn revoke(keys: &ApiKeys, name_or_id: &str, output: OutputArgs) -> Result<(), Failure> {
    let Some(key) = keys.revoke(name_or_id, &by()).await? else {
        return Err(unknown(name_or_id));
    };
    output.print(&json!({ "revoked": key.id, "name": key.name }), || {
        format!("revoked {} ({})", key.name, key.id)
    })
}

fn by() -> By {
    By::new(Actor::cli())
}

fn unknown(name_or_id: &str) -> Failure {
    Failure::no(format!("there is no key with the name or id {name_or_id}"))
}
