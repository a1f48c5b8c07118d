//! `holdfast schedules`: made, seen, switched, run and removed.

use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use holdfast_control::wire::{
    AcceptedJob, ScheduleBody, ScheduleList, ScheduleRun, ScheduleRuns, ScheduleView,
};
use holdfast_http::wire::Seconds;
use holdfast_ops::client::{Api, Document};
use holdfast_ops::{Failure, time};
use holdfast_services::Program;

use crate::args::{OperatorArgs, OutputArgs, query};
use crate::commands::jobs::{accepted_text, payload};
use crate::confirm::ConfirmArgs;
use crate::output::{line, shown, table};

pub(crate) type Args = OperatorArgs<Command>;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
    Remove {
        #[command(flatten)]
        schedule: One,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Let a schedule tick again
    Enable(One),
    /// Stop a schedule from ticking
    Disable(One),
    /// Make the schedule's job now, beside its ticks
    Run(One),
    /// List the last ticks of a schedule with their jobs
    Runs(One),
}

/// One schedule.
#[derive(Debug, ClapArgs)]
pub(crate) struct One {
    /// The schedule's name
    name: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Add {
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

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let (api, output, command) = args.open(program).await?;
    let verb = async |name: &str, verb: &str| api.post(&["v1", "schedules", name, verb]).await;
    let document = match command {
        Command::List { after, limit } => {
            let query = query([("limit", Some(limit.to_string())), ("after", after)]);
            return list(&api, &query, output).await;
        }
        Command::Show(One { name }) => api.get(&["v1", "schedules", &name], &[]).await?,
        Command::Add(add) => add.run(&api).await?,
        Command::Remove {
            schedule: One { name },
            confirm,
        } => {
            confirm.agree_to(format!("Delete the schedule {name}")).await?;
            let document = api.delete(&["v1", "schedules", &name], &[]).await?;
            return output.print(&document, || format!("{name} is deleted"));
        }
        Command::Enable(One { name }) => verb(&name, "enable").await?,
        Command::Disable(One { name }) => verb(&name, "disable").await?,
        Command::Runs(One { name }) => {
            let document = api.get(&["v1", "schedules", &name, "runs"], &[]).await?;
            let ScheduleRuns { runs } = api.read(&document)?;
            return output.print(&document, || {
                let rows: Vec<_> = runs.iter().map(run_row).collect();
                table(["TICK", "JOB", "STATE"], &rows)
            });
        }
        Command::Run(One { name }) => {
            let document = verb(&name, "run").await?;
            let job: AcceptedJob = api.read(&document)?;
            return output.print(&document, || accepted_text(&job));
        }
    };
    let schedule: ScheduleView = api.read(&document)?;
    output.print(&document, || text(&schedule))
}

fn run_row(run: &ScheduleRun) -> [String; 3] {
    let job = run.job.map_or_else(|| "-".to_owned(), |job| job.to_string());
    let state = run
        .state
        .map_or_else(|| "-".to_owned(), |state| state.to_string());
    [shown(run.tick), job, state]
}

impl Add {
    async fn run(self, api: &Api) -> Result<Document, Failure> {
        let body = ScheduleBody {
            name: Some(self.name),
            cron: self.cron,
            every_seconds: self.every.map(Seconds),
            time_zone: self.time_zone,
            kind: self.kind,
            payload: payload(&self.payload)?,
            queue: self.queue,
            catch_up: self.catch_up,
            catch_up_max: self.catch_up_max,
            jitter_seconds: self.jitter.map(Seconds),
            enabled: Some(!self.disabled),
        };
        let name = body.name.as_deref().unwrap_or_default();
        Ok(if self.replace {
            api.put_json(&["v1", "schedules", name], &body).await?
        } else {
            api.post_json(&["v1", "schedules"], &body, None).await?
        })
    }
}

async fn list(api: &Api, query: &[(&str, String)], output: OutputArgs) -> Result<(), Failure> {
    let document = api.get(&["v1", "schedules"], query).await?;
    let page: ScheduleList = api.read(&document)?;
    output.print(&document, || {
        let rows: Vec<_> = page.schedules.into_iter().map(row).collect();
        table(["NAME", "WHEN", "KIND", "SOURCE", "NEXT TICK", "LAST JOB"], &rows)
    })
}

fn when(schedule: &ScheduleView) -> String {
    match (&schedule.cron, &schedule.time_zone, schedule.every_seconds) {
        (Some(cron), zone, _) => format!("{cron} ({})", zone.as_deref().unwrap_or("UTC")),
        (None, _, seconds) => format!("every {} s", seconds.unwrap_or_default()),
    }
}

fn row(schedule: ScheduleView) -> [String; 6] {
    let next = match schedule.next_ticks.first() {
        Some(tick) => shown(*tick),
        None if schedule.enabled => "never".to_owned(),
        None => "disabled".to_owned(),
    };
    let last = schedule
        .last_job
        .map_or_else(|| "-".to_owned(), |id| id.to_string());
    let when = when(&schedule);
    [
        schedule.name,
        when,
        schedule.kind,
        schedule.source.into_owned(),
        next,
        last,
    ]
}

fn text(schedule: &ScheduleView) -> String {
    let owner = match schedule.source.as_ref() {
        "config" => "the configuration",
        _ => "the API",
    };
    let mut lines = vec![
        line("name", &schedule.name),
        line("when", when(schedule)),
        line("kind", &schedule.kind),
        line("queue", schedule.queue.as_deref().unwrap_or("the kind's own")),
        line("payload", schedule.payload.get()),
        line("catch up", &schedule.catch_up),
        line("source", owner),
        line("enabled", if schedule.enabled { "yes" } else { "no" }),
    ];
    lines.extend(schedule.next_ticks.iter().map(|tick| line("next", shown(*tick))));
    lines.extend(schedule.last_run_at.map(|at| line("last run", shown(at))));
    lines.extend(schedule.last_job.map(|id| line("last job", id)));
    lines.extend(schedule.last_error.as_ref().map(|error| line("error", error)));
    lines.join("\n")
}
