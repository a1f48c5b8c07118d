//! `holdfast kinds`: what can be enqueued, and kinds that are declared for pull workers.

use std::time::Duration;

use clap::Subcommand;
use holdfast_control::wire::{ForgottenName, KindBody, KindList, KindView, RetryBody};
use holdfast_http::wire::Seconds;
use holdfast_ops::Failure;
use holdfast_ops::client::Api;
use holdfast_services::Program;

use crate::args::{OperatorArgs, OutputArgs};
use crate::commands::jobs::document;
use crate::confirm::ConfirmArgs;
use crate::output::table;

pub(crate) type Args = OperatorArgs<Command>;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List kinds with their queue, timeout and attempts
    List,
    /// Show a kind with its schemas and its retry policy
    Show { name: String },
    /// Declare a kind that pull workers run, or replace it; its queue is declared with it
    Declare(Box<Declare>),
    /// Delete a declared kind; its accepted jobs stay
    Delete {
        name: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

/// A kind of pull workers.
#[derive(Debug, clap::Args)]
pub(crate) struct Declare {
    name: String,
    /// The queue of its jobs
    #[arg(long)]
    queue: String,
    /// Longest duration of one attempt, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Largest number of attempts, the first included
    #[arg(long, value_name = "NUMBER")]
    max_attempts: Option<u32>,
    /// JSON Schema of its payloads: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "SCHEMA")]
    payload_schema: Option<String>,
    /// JSON Schema of its results: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "SCHEMA")]
    result_schema: Option<String>,
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The path of a secret field of its payloads, such as auth.token, items[].secret or /customer/email; may be repeated
    #[arg(long, value_name = "PATH")]
    redact: Vec<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("{text:?} is no number of seconds"))
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let (api, output, command) = args.open(program).await?;
    match command {
        Command::List => list(&api, output).await,
        Command::Show { name } => show(&api, &name, output).await,
        Command::Declare(declare) => declare.run(&api, output).await,
        Command::Delete { name, confirm } => {
            confirm.agree_to(format!("Delete the kind {name}")).await?;
            let document = api.delete(&["v1", "kinds", &name], &[]).await?;
            let ForgottenName { name, .. } = api.read(&document)?;
            output.print(&document, || format!("deleted the kind {name}"))
        }
    }
}

async fn list(api: &Api, output: OutputArgs) -> Result<(), Failure> {
    let document = api.get(&["v1", "kinds"], &[]).await?;
    let list: KindList = api.read(&document)?;
    output.print(&document, || {
        let rows: Vec<_> = list.kinds.iter().map(row).collect();
        table(["KIND", "QUEUE", "TIMEOUT", "ATTEMPTS"], &rows)
    })
}

fn row(kind: &KindView) -> [String; 4] {
    [
        kind.kind.to_string(),
        kind.queue.to_string(),
        format!("{} s", kind.timeout_seconds),
        kind.retry.max_attempts.to_string(),
    ]
}

async fn show(api: &Api, name: &str, output: OutputArgs) -> Result<(), Failure> {
    let document = api.get(&["v1", "kinds", name], &[]).await?;
    let kind: KindView = api.read(&document)?;
    output.print(&document, || {
        let schema = |schema: &Option<Box<serde_json::value::RawValue>>| {
            schema
                .as_ref()
                .map_or("-".to_owned(), |schema| schema.get().to_owned())
        };
        let rows = [
            ["kind".to_owned(), kind.kind.to_string()],
            [
                "declared".to_owned(),
                if kind.declared { "yes" } else { "no" }.to_owned(),
            ],
            ["queue".to_owned(), kind.queue.to_string()],
            ["timeout".to_owned(), format!("{} s", kind.timeout_seconds)],
            ["attempts".to_owned(), kind.retry.max_attempts.to_string()],
            [
                "description".to_owned(),
                kind.description.clone().unwrap_or_else(|| "-".to_owned()),
            ],
            ["payload schema".to_owned(), schema(&kind.payload_schema)],
            ["result schema".to_owned(), schema(&kind.result_schema)],
        ];
        table(["FIELD", "VALUE"], &rows)
    })
}

impl Declare {
    async fn run(self, api: &Api, output: OutputArgs) -> Result<(), Failure> {
        let schema =
            |what: &str, given: Option<String>| given.map(|given| document(what, &given)).transpose();
        let body = KindBody {
            queue: self.queue,
            timeout_seconds: self.timeout.map(Seconds),
            retry: RetryBody {
                max_attempts: self.max_attempts,
                ..RetryBody::default()
            },
            payload_schema: schema("payload schema", self.payload_schema)?,
            result_schema: schema("result schema", self.result_schema)?,
            description: self.description,
            redact: self.redact,
        };
        let document = api.put_json(&["v1", "kinds", &self.name], &body).await?;
        let kind: KindView = api.read(&document)?;
        output.print(&document, || {
            format!("declared the kind {} on the queue {}", kind.kind, kind.queue)
        })
    }
}
