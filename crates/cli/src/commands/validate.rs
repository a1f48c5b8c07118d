//! `holdfast validate`: checks a whole system; with `--files` only deployment files.
//!
//! Exit codes: 0; 1 a check failed; 2 a check warned, with `--strict`; 64 the command line is invalid.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use holdfast_ops::Failure;
use holdfast_ops::checks::report::{self, Form, Report};
use holdfast_ops::checks::{Outcome, Run};
use holdfast_ops::validate::{self, Options};
use holdfast_services::Program;
use tracing_subscriber::filter::LevelFilter;

use crate::args::TargetArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// Print one JSON document instead of text
    #[arg(long, conflicts_with = "junit")]
    json: bool,
    /// Print a JUnit file instead of text
    #[arg(long)]
    junit: bool,
    /// Exit with 2 if a check warns
    #[arg(long)]
    strict: bool,
    /// Disconnect a private API and worker from Redis for five seconds, and check that their jobs run
    #[arg(long)]
    drill: bool,
    /// Only check the deployment files of a directory
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".", conflicts_with_all = ["url", "drill"])]
    files: Option<PathBuf>,
    /// Number of processes that share the database and Redis, for the sums of their pools; default: the live
    /// workers and two
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    processes: Option<u64>,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    be_quiet();
    let form = match (args.json, args.junit) {
        (true, _) => Form::Json,
        (_, true) => Form::Junit,
        _ => Form::Text,
    };
    let mut run = run_of(form);
    if let Some(directory) = &args.files {
        validate::check_files(&mut run, directory).await?;
    } else {
        let options = Options {
            url: args.target.url,
            key: args.target.key,
            drill: args.drill,
            processes: args.processes,
            program: program.clone(),
        };
        validate::check_system(&mut run, &options).await?;
    }
    print(&run, form, args.strict)
}

/// In the text form each check is printed as it ends. A closed pipe is noticed at the end of the run.
pub(crate) fn run_of(form: Form) -> Run {
    Run::new(move |outcome: &Outcome| {
        if form == Form::Text {
            let coloured = io::stdout().is_terminal();
            let mut stdout = io::stdout().lock();
            stdout.write_all(report::line(outcome, coloured).as_bytes()).ok();
            stdout.flush().ok();
        }
    })
}

/// Prints the report; the exit code is the run's verdict.
pub(crate) fn print(run: &Run, form: Form, strict: bool) -> Result<(), Failure> {
    let report = Report::of(run.outcomes());
    let text = report.render(form).map_err(io::Error::from)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Failure::unless_zero(report.exit_code(strict))
}

/// The checks report what is wrong; the log lines of the parts under check would repeat it.
fn be_quiet() {
    let to_stderr = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::ERROR)
        .with_writer(io::stderr);
    to_stderr.without_time().with_target(false).try_init().ok();
}
