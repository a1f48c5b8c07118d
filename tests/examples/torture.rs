//! Seeds of the storm, one after the other, until time is up or one fails: see `scripts/torture`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_tests::Report;
use holdfast_tests::chaos::{self, Pace, Schedule};

const USAGE: &str = "usage: torture [--minutes N] [--runs N] [--seed S] [--short]";

/// What to do.
struct Options {
    until: Duration,
    runs: u64,
    seed: u64,
    pace: Pace,
    /// As given, to be repeated in the command that shows a failure again.
    is_short: bool,
}

impl Options {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            until: Duration::MAX,
            runs: u64::MAX,
            seed: rand::random::<u16>().into(),
            pace: Pace::LONG,
            is_short: false,
        };
        let mut arguments = arguments.peekable();
        if arguments.peek().is_none() {
            bail!(USAGE);
        }
        while let Some(argument) = arguments.next() {
            let mut number = || -> Result<u64> {
                let value = arguments
                    .next()
                    .with_context(|| format!("{argument} wants a number\n{USAGE}"))?;
                value
                    .parse()
                    .with_context(|| format!("{argument} {value}\n{USAGE}"))
            };
            match argument.as_str() {
                "--minutes" => options.until = Duration::from_secs(60 * number()?),
                "--runs" => options.runs = number()?,
                "--seed" => options.seed = number()?,
                "--short" => (options.pace, options.is_short) = (Pace::SHORT, true),
                _ => bail!("{argument}?\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match torture().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether every seed held.
async fn torture() -> Result<bool> {
    let options = Options::read(std::env::args().skip(1))?;
    println!("{}", Report::header());
    let began = Instant::now();
    for seed in (options.seed..).take(usize::try_from(options.runs).unwrap_or(usize::MAX)) {
        let schedule = Schedule::draw(seed, options.pace);
        let report = chaos::run(&schedule).await;
        let again = format!(
            "scripts/torture{} --seed {seed} --runs 1",
            if options.is_short { " --short" } else { "" }
        );
        match report {
            Ok(report) if report.broken.is_empty() => println!("{}", report.row()),
            Ok(report) => {
                println!("{}\n\n{schedule}\n{}\n", report.row(), report.warnings.join("\n"));
                println!(
                    "seed {seed} broke these promises:\n- {}\n\nto see it again: {again}",
                    report.broken.join("\n- ")
                );
                return Ok(false);
            }
            Err(error) => {
                println!(
                    "\n{schedule}\nseed {seed} could not be run to its end: {error:#}\n\nto see it again: {again}"
                );
                return Ok(false);
            }
        }
        if began.elapsed() >= options.until {
            break;
        }
    }
    Ok(true)
}
