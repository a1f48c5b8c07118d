//! `holdfast schedules`: through the HTTP API where `--url` is given, else straight to the database.

mod target;

use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::target::Target;
use crate::args::{OutputArgs, TargetArgs};
use crate::commands::jobs::payload;
use crate::output::table;
use holdfast_ops::Failure;
use holdfast_ops::time;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List schedules by name
    List {
        /// Begin after this name
        #[arg(long, value_name = "NAME")]
        after: Option<String>,
        /// Most schedules to list
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Show one schedule, with its next ticks and its last run
    Show(One),
    /// Create a schedule
    Add(Box<Add>),
    /// Delete a schedule; jobs that it has made go on
    Remove(One),
    /// Let a schedule tick again
    Enable(One),
    /// Stop a schedule from ticking
    Disable(One),
    /// Make the schedule's job now, beside its ticks
    Run(One),
}

/// One schedule.
#[derive(Debug, ClapArgs)]
struct One {
    /// The schedule's name
    name: String,
}

#[derive(Debug, ClapArgs)]
struct Add {
    /// Its name: 1 to 63 of a-z, 0-9, _, - and .
    name: String,
    /// The kind of its jobs, such as http.request
    kind: String,
    /// Their payload: JSON, @FILE, or - for stdin
    #[arg(default_value = "{}")]
    payload: String,
    /// Cron expression: five fields, or six with seconds first, such as "30 2 * * *"
    #[arg(long, required_unless_present = "every", conflicts_with = "every")]
    cron: Option<String>,
    /// Interval, instead of --cron (seconds, or 30s, 5m, 2h, 1d)
    #[arg(long, value_parser = time::duration)]
    every: Option<Duration>,
    /// The time zone of --cron, such as Europe/Berlin; default: UTC
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// The queue; default: the kind's
    #[arg(long)]
    queue: Option<String>,
    /// What happens to missed ticks: skip, latest or all
    #[arg(long)]
    catch_up: Option<String>,
    /// With --catch-up all: the largest number that become jobs
    #[arg(long, value_name = "NUMBER")]
    catch_up_max: Option<u32>,
    /// Delay each tick's job by a random time up to this
    #[arg(long, value_parser = time::duration)]
    jitter: Option<Duration>,
    /// Create it disabled
    #[arg(long)]
    disabled: bool,
    /// Replace the schedule of that name, if there is one
    #[arg(long)]
    replace: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Args {
        target,
        output,
        command,
    } = args;
    let target = Target::open(&target).await?;
    match command {
        Command::List { after, limit } => list(&target, after.as_deref(), usize::from(limit), output).await,
        Command::Show(One { name }) => print(&target.show(&name).await?, output),
        Command::Add(add) => {
            let (name, replace) = (add.name.clone(), add.replace);
            print(&target.add(&name, (*add).into_body()?, replace).await?, output)
        }
        Command::Remove(One { name }) => {
            target.remove(&name).await?;
            output.print(&json!({"name": name, "deleted": true}), || {
                format!("{name} is deleted")
            })
        }
        Command::Enable(One { name }) => print(&target.switch(&name, true).await?, output),
        Command::Disable(One { name }) => print(&target.switch(&name, false).await?, output),
        Command::Run(One { name }) => {
            let accepted = target.run(&name).await?;
            output.print(&accepted.document, || accepted.text())
        }
    }
}

impl Add {
    /// As the API reads it.
    fn into_body(self) -> Result<Value, Failure> {
        let seconds = |span: Option<Duration>| match span {
            Some(span) if span.subsec_nanos() == 0 => json!(span.as_secs()),
            Some(span) => json!(span.as_secs_f64()),
            None => Value::Null,
        };
        let fields = [
            ("name", json!(self.name)),
            ("kind", json!(self.kind)),
            ("cron", json!(self.cron)),
            ("every_seconds", seconds(self.every)),
            ("time_zone", json!(self.time_zone)),
            ("queue", json!(self.queue)),
            ("catch_up", json!(self.catch_up)),
            ("catch_up_max", json!(self.catch_up_max)),
            ("jitter_seconds", seconds(self.jitter)),
            ("enabled", json!(!self.disabled)),
        ];
        let mut body: Map<String, Value> = fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        body.insert("payload".to_owned(), json!(payload(&self.payload)?));
        Ok(Value::Object(body))
    }
}

async fn list(target: &Target, after: Option<&str>, limit: usize, output: OutputArgs) -> Result<(), Failure> {
    let schedules = target.list(after, limit).await?;
    let rows = schedules
        .iter()
        .map(|schedule| Ok(View::of(schedule)?.row()))
        .collect::<Result<Vec<_>, Failure>>()?;
    output.print(&json!({ "schedules": schedules }), || {
        table(["NAME", "WHEN", "KIND", "SOURCE", "NEXT TICK", "LAST JOB"], &rows)
    })
}

fn print(schedule: &Value, output: OutputArgs) -> Result<(), Failure> {
    let view = View::of(schedule)?;
    output.print(schedule, || view.text())
}

/// What the text form of a schedule shows. The JSON form shows everything that the server says.
#[derive(Debug, Deserialize)]
struct View {
    name: String,
    source: String,
    enabled: bool,
    cron: Option<String>,
    every_seconds: Option<u32>,
    time_zone: Option<String>,
    kind: String,
    payload: Value,
    queue: Option<String>,
    catch_up: String,
    next_ticks: Vec<String>,
    last_run_at: Option<String>,
    last_job: Option<String>,
    last_error: Option<String>,
}

impl View {
    fn of(schedule: &Value) -> Result<Self, Failure> {
        Self::deserialize(schedule)
            .map_err(|error| Failure::no(format!("the answer is not a schedule: {error}")))
    }

    fn when(&self) -> String {
        match (&self.cron, &self.time_zone, self.every_seconds) {
            (Some(cron), zone, _) => format!("{cron} ({})", zone.as_deref().unwrap_or("UTC")),
            (None, _, seconds) => format!("every {} s", seconds.unwrap_or_default()),
        }
    }

    fn row(self) -> [String; 6] {
        let when = self.when();
        let next = match self.next_ticks.into_iter().next() {
            Some(tick) => tick,
            None if self.enabled => "never".to_owned(),
            None => "disabled".to_owned(),
        };
        let last = self.last_job.unwrap_or_else(|| "-".to_owned());
        [self.name, when, self.kind, self.source, next, last]
    }

    fn text(&self) -> String {
        let line = |name: &str, value: &str| format!("{name:<10}{value}");
        let owner = match self.source.as_str() {
            "config" => "the configuration",
            _ => "the API",
        };
        let mut lines = vec![
            line("name", &self.name),
            line("when", &self.when()),
            line("kind", &self.kind),
            line("queue", self.queue.as_deref().unwrap_or("the kind's own")),
            line("payload", &self.payload.to_string()),
            line("catch up", &self.catch_up),
            line("source", owner),
            line("enabled", if self.enabled { "yes" } else { "no" }),
        ];
        lines.extend(self.next_ticks.iter().map(|tick| line("next", tick)));
        let last = [
            ("last run", &self.last_run_at),
            ("last job", &self.last_job),
            ("error", &self.last_error),
        ];
        lines.extend(
            last.iter()
                .filter_map(|(name, value)| Some(line(name, value.as_ref()?))),
        );
        lines.join("\n")
    }
}
