//! `holdfast keys`: API keys. A key's text is shown once, when it is made.

use std::time::Duration;

use holdfast_accounts::wire::{KeyBody, KeyList, KeyWithText, RotationBody};
use holdfast_accounts::{Scopes, StoredKey};
use holdfast_http::wire::Seconds;
use holdfast_ops::Failure;
use holdfast_ops::client::{Api, Document};
use holdfast_services::Program;

use crate::args::{OperatorArgs, OutputArgs};
use crate::confirm::ConfirmArgs;
use crate::output::{minute, table};

pub(crate) type Args = OperatorArgs<Command>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Create a key and print it, once
    Create {
        /// The owner's name, shown in logs
        #[arg(long)]
        name: String,
        /// What it may do: produce (enqueue, cancel, retry), work (run jobs), read (without payloads), read:payload (with them), admin
        /// (everything)
        #[arg(long, default_value = "produce,read")]
        scopes: Scopes,
        /// The only queues that it may be used for, with commas between
        #[arg(long, value_delimiter = ',', value_name = "QUEUES")]
        queues: Option<Vec<String>>,
        /// The only kinds that it may be used for, with commas between
        #[arg(long, value_delimiter = ',', value_name = "KINDS")]
        kinds: Option<Vec<String>>,
    },
    /// List every key that was ever made, without its text
    List,
    /// Give a key another text and print it, once; the one before works for a while yet
    Rotate {
        /// The key's name or id
        #[arg(value_name = "KEY")]
        name: String,
        /// How long the text before works yet, in seconds; 2592000 (30 days) at most
        #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
        grace: u64,
    },
    /// End a key; servers refuse it within ten seconds
    Revoke {
        /// The key's name or id
        #[arg(value_name = "KEY")]
        name: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let output = args.output;
    let api = args.target.open(program).await?;
    match args.command {
        Command::Create {
            name,
            scopes,
            queues,
            kinds,
        } => {
            let scopes = scopes.iter().map(|scope| scope.to_string()).collect();
            let body = KeyBody {
                name,
                scopes,
                queues,
                kinds,
            };
            let document = api.post_json(&["v1", "keys"], &body, None).await?;
            show_once(&api, &document, "made", output)
        }
        Command::List => list(&api, output).await,
        Command::Rotate { name, grace } => {
            let grace_seconds = Some(Seconds(Duration::from_secs(grace)));
            let path = ["v1", "keys", &name, "rotate"];
            let document = api
                .post_json(&path, &RotationBody { grace_seconds }, None)
                .await?;
            show_once(&api, &document, "rotated", output)
        }
        Command::Revoke { name, confirm } => {
            confirm.agree_to(format!("Revoke the key {name}")).await?;
            let document = api.post(&["v1", "keys", &name, "revoke"]).await?;
            let key: StoredKey = api.read(&document)?;
            output.print(&document, || format!("revoked {} ({})", key.name, key.id))
        }
    }
}

/// The text alone on stdout, so that it can be piped.
fn show_once(api: &Api, document: &Document, done: &str, output: OutputArgs) -> Result<(), Failure> {
    let made: KeyWithText = api.read(document)?;
    output.print(document, || made.key.clone())?;
    if !output.json {
        eprintln!(
            "{done} {} for {} ({}{}); it is not shown again",
            made.id,
            made.name,
            made.scopes,
            bounds(made.queues.as_deref(), made.kinds.as_deref())
        );
    }
    Ok(())
}

/// ` on the queues a, b of the kinds x`, or nothing for a key that is not bound.
fn bounds(queues: Option<&[String]>, kinds: Option<&[String]>) -> String {
    let named = |before: &str, names: Option<&[String]>| {
        names.map_or(String::new(), |names| format!("{before}{}", names.join(", ")))
    };
    format!(
        "{}{}",
        named(" on the queues ", queues),
        named(" of the kinds ", kinds)
    )
}

async fn list(api: &Api, output: OutputArgs) -> Result<(), Failure> {
    let document = api.get(&["v1", "keys"], &[]).await?;
    let list: KeyList = api.read(&document)?;
    output.print(&document, || {
        let rows: Vec<_> = list.keys.into_iter().map(row).collect();
        table(["ID", "NAME", "SCOPES", "CREATED", "LAST USED", "REVOKED"], &rows)
    })
}

fn row(key: StoredKey) -> [String; 6] {
    [
        key.id.to_string(),
        key.name,
        format!(
            "{}{}",
            key.scopes,
            bounds(key.queues.as_deref(), key.kinds.as_deref())
        ),
        minute(Some(key.created_at)),
        minute(key.last_used_at),
        minute(key.revoked_at),
    ]
}
