//! `holdfast jobs count`.

use clap::ValueEnum;
use holdfast_control::wire::{JobCount, JobCounts};
use holdfast_ops::Failure;
use holdfast_ops::client::Api;

use crate::args::{OutputArgs, query};
use crate::output::table;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only jobs for which every term holds, as for `jobs list`
    #[arg(long = "where", value_name = "SEARCH")]
    search: Option<String>,
    /// What to count by
    #[arg(long, value_enum, default_value = "state")]
    by: CountField,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CountField {
    State,
    Queue,
    Kind,
}

pub(super) async fn run(api: &Api, args: Args, output: OutputArgs) -> Result<(), Failure> {
    let by = match args.by {
        CountField::State => "state",
        CountField::Queue => "queue",
        CountField::Kind => "kind",
    };
    let query = query([("q", args.search), ("by", Some(by.to_owned()))]);
    let document = api.get(&["v1", "jobs", "counts"], &query).await?;
    let counts: JobCounts = api.read(&document)?;
    output.print(&document, || {
        let rows: Vec<_> = counts.counts.iter().map(row).collect();
        table([&*by.to_uppercase(), "JOBS"], &rows)
    })
}

fn row(count: &JobCount) -> [String; 2] {
    let sign = match &*count.certainty {
        "exact" => "",
        "approximate" => "about ",
        _ => "at least ",
    };
    [count.value.clone(), format!("{sign}{}", count.count)]
}
