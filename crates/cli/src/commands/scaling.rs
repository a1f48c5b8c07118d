//! `holdfast scaling`: how many workers the queues need.

use holdfast_control::wire::{ScalingFigures, ScalingView};
use holdfast_ops::Failure;
use holdfast_services::Program;

use crate::args::{OutputArgs, TargetArgs};
use crate::output::table;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Only this queue
    #[arg(long)]
    queue: Option<String>,
    /// In how many seconds a backlog is to be gone
    #[arg(long, default_value_t = 60.0)]
    drain_seconds: f64,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let api = args.target.open(program).await?;
    let drain = args.drain_seconds.to_string();
    let query = [("drain_seconds", Some(drain)), ("queue", args.queue)];
    let query: Vec<_> = query
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    let document = api.get(&["v1", "scaling"], &query).await?;
    let scaling: ScalingView = api.read(&document)?;
    args.output.print(&document, || text(&scaling))
}

fn text(scaling: &ScalingView) -> String {
    let queues = scaling
        .queues
        .iter()
        .map(|(name, figures)| row(name.clone(), figures));
    let fleets = [("rust", &scaling.fleets.rust), ("pull", &scaling.fleets.pull)];
    let fleets = fleets
        .into_iter()
        .map(|(name, figures)| row(format!("all of {name}"), figures));
    let rows: Vec<_> = queues.chain(fleets).collect();
    let header = [
        "QUEUE",
        "WAITING",
        "OLDEST",
        "ARRIVALS/S",
        "ENDED/S",
        "RUN",
        "PLACES",
        "DESIRED",
        "WORKERS",
        "DESIRED",
    ];
    let age = scaling.age_seconds.map_or_else(
        || "depths are not stored".to_owned(),
        |age| format!("depths {age:.0} s old"),
    );
    let trust = if scaling.trusted {
        "trusted".to_owned()
    } else {
        format!("not trusted: {}", scaling.reasons.join(", "))
    };
    format!("{}\n{age}, {trust}", table(header, &rows))
}

fn row(name: String, figures: &ScalingFigures) -> [String; 10] {
    let run = figures
        .run_seconds
        .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s"));
    [
        name,
        figures.waiting.to_string(),
        format!("{:.0} s", figures.oldest_age_seconds),
        figures.arrivals_per_second.to_string(),
        figures.completions_per_second.to_string(),
        run,
        figures.places.to_string(),
        figures.desired_places.to_string(),
        figures.workers.to_string(),
        figures.desired_replicas.to_string(),
    ]
}
