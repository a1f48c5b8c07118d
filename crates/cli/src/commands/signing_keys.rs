//! `holdfast signing-keys`: the key that signs `http.request` jobs. A secret is shown once, when it is made.

use std::time::Duration;

use holdfast_http::wire::Seconds;
use holdfast_ops::Failure;
use holdfast_ops::client::{Api, Document};
use holdfast_services::Program;
use holdfast_services::kinds::signing_keys::{
    RotateSigningKey, SigningKey, SigningKeyList, SigningKeyWithSecret,
};

use crate::args::{OperatorArgs, OutputArgs};
use crate::confirm::ConfirmArgs;
use crate::output::{minute, table};

pub(crate) type Args = OperatorArgs<Command>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the keys that sign now, without their secrets
    List,
    /// Create the first key and print its secret, once
    Create,
    /// Put a new key in the place of the current one and print its secret, once; both sign for the grace period
    Rotate {
        /// How long the previous key signs too, in seconds; 2592000 (30 days) at most
        #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
        grace: u64,
    },
    /// End a key now
    Delete {
        /// The key's id
        id: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let (api, output, command) = args.open(program).await?;
    match command {
        Command::List => list(&api, output).await,
        Command::Create => {
            let body = RotateSigningKey::default();
            let document = api.post_json(&["v1", "signing-keys"], &body, None).await?;
            show_once(&api, &document, "created", output)
        }
        Command::Rotate { grace } => {
            let body = RotateSigningKey {
                grace_seconds: Some(Seconds(Duration::from_secs(grace))),
                secret: None,
            };
            let path = ["v1", "signing-keys", "rotate"];
            let document = api.post_json(&path, &body, None).await?;
            show_once(&api, &document, "rotated", output)
        }
        Command::Delete { id, confirm } => {
            confirm.agree_to(format!("Delete the signing key {id}")).await?;
            let document = api.delete(&["v1", "signing-keys", &id], &[]).await?;
            output.print(&document, || format!("deleted {id}"))
        }
    }
}

/// The secret alone on stdout, so that it can be piped.
fn show_once(api: &Api, document: &Document, done: &str, output: OutputArgs) -> Result<(), Failure> {
    let made: SigningKeyWithSecret = api.read(document)?;
    output.print(document, || made.secret.clone())?;
    if !output.json {
        eprintln!("{done} {}; its secret is not shown again", made.key.id);
    }
    Ok(())
}

async fn list(api: &Api, output: OutputArgs) -> Result<(), Failure> {
    let document = api.get(&["v1", "signing-keys"], &[]).await?;
    let list: SigningKeyList = api.read(&document)?;
    output.print(&document, || {
        let rows: Vec<_> = list.keys.iter().map(row).collect();
        table(["ID", "CREATED", "SIGNS UNTIL"], &rows)
    })
}

fn row(key: &SigningKey) -> [String; 3] {
    [
        key.id.to_string(),
        minute(Some(key.created_at)),
        minute(key.signs_until),
    ]
}
