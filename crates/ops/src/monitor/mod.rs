//! `holdfast monitor`: watches one API, on a dashboard or as JSON lines, tells when something is wrong and when it is
//! over, and leaves a report.
//!
//! # When things fail
//! - *The target is down*: that is what it is for. The sample says so and why, a rule fires, and the look goes on at
//!   the same pace; a look takes five seconds at most.
//! - *A receiver of notices is down*: see [`notify`]. Looks are not delayed.
//! - *The report cannot be written*: told at the start, before hours of watching, by writing an empty one.
//!
//! Exit codes: 0, also after a signal; 1 the report cannot be written; 64 the command line or the rules are of no use.

mod alerts;
mod headless;
mod history;
mod notify;
mod report;
mod rules;
mod sample;
mod screen;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_core::shutdown::Shutdown;
use tokio::time::{MissedTickBehavior, interval};

use self::alerts::{AlertBook, Notice};
use self::history::History;
use self::notify::{Notifier, SinkArgs};
use self::sample::Sample;
use crate::args::TargetArgs;
use crate::checks::api::wire::Wire;
use crate::failure::Failure;
use crate::time;

/// Most notices that a report tells of; older ones go.
const MOST_NOTICES: usize = 1_000;
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// Between two looks: 2, 500ms, 1m
    #[arg(long, default_value = "2s", value_parser = interval_of)]
    interval: Duration,
    /// Print JSON lines instead of a dashboard: every sample and every notice
    #[arg(long)]
    headless: bool,
    /// End after this time: 90s, 5m, 8h
    #[arg(long = "for", value_name = "DURATION", value_parser = time::duration)]
    duration: Option<Duration>,
    /// Alert rules, a TOML file; without one the built-in rules
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Between reminders of an alert that lasts
    #[arg(long, default_value = "1h", value_parser = time::duration)]
    remind: Duration,
    /// Write a report to this file at the end: one HTML document that opens offline
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    sinks: SinkArgs,
}

fn interval_of(text: &str) -> Result<Duration, String> {
    let interval = time::duration(text)?;
    if interval < SHORTEST_INTERVAL {
        return Err("at least 100ms".to_owned());
    }
    Ok(interval)
}

/// Everything that has been seen so far.
#[derive(Debug)]
struct Watch {
    target: String,
    history: History,
    book: AlertBook,
    notices: Vec<Notice>,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Some(url) = args.target.url.clone() else {
        return Err(Failure::Misused(
            "what to watch? Give --url, or set HOLDFAST_URL".to_owned(),
        ));
    };
    if !args.headless && !std::io::stdout().is_terminal() {
        return Err(Failure::Misused(
            "the dashboard needs a terminal: give --headless for JSON lines".to_owned(),
        ));
    }
    let rules = rules_of(args.rules.as_deref())?;
    if let Some(path) = &args.report {
        std::fs::write(path, "").map_err(|error| unwritten(path, error))?;
    }
    let target = url.origin().ascii_serialization();
    let wire = Wire::new(url, args.target.key.clone())
        .map_err(|error| Failure::service("the HTTP client cannot be built", error))?;
    let notifier = Notifier::start(&args.sinks)?;
    let mut watch = Watch {
        book: AlertBook::new(rules, target.clone(), args.remind),
        target,
        history: History::default(),
        notices: Vec::new(),
    };
    let stop = Shutdown::new();
    stop.on_signals()?;
    end_after(args.duration, &stop);
    let ended = if args.headless {
        look_until(
            &stop,
            &wire,
            args.interval,
            &mut watch,
            &notifier,
            &mut headless::Lines,
        )
        .await
    } else {
        let mut screen = screen::Screen::open(&stop)?;
        let ended = look_until(&stop, &wire, args.interval, &mut watch, &notifier, &mut screen).await;
        drop(screen);
        ended
    };
    notifier.finish().await;
    if let Some(path) = &args.report {
        std::fs::write(path, report::html(&watch)).map_err(|error| unwritten(path, error))?;
    }
    ended
}

fn unwritten(path: &Path, error: std::io::Error) -> Failure {
    Failure::service(format!("the report {} cannot be written", path.display()), error)
}

fn rules_of(path: Option<&Path>) -> Result<Vec<rules::Rule>, Failure> {
    let Some(path) = path else {
        return rules::parse(rules::DEFAULTS).map_err(Failure::Misused);
    };
    let text = std::fs::read_to_string(path).map_err(|source| Failure::Input {
        file: path.display().to_string(),
        source,
    })?;
    rules::parse(&text).map_err(|fault| Failure::Misused(format!("{}: {fault}", path.display())))
}

fn end_after(duration: Option<Duration>, stop: &Shutdown) {
    if let Some(duration) = duration {
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(duration).await;
            stop.trigger();
        });
    }
}

/// Where a look is shown.
trait Show {
    fn show(&mut self, watch: &Watch, news: &[Notice]) -> Result<(), Failure>;
    fn end(&mut self, _: &Watch) -> Result<(), Failure> {
        Ok(())
    }
}

/// Looks, tells and shows, until it is stopped.
async fn look_until(
    stop: &Shutdown,
    wire: &Wire,
    pause: Duration,
    watch: &mut Watch,
    notifier: &Notifier,
    show: &mut impl Show,
) -> Result<(), Failure> {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.token().run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(sample) = stop.token().run_until_cancelled(Sample::take(wire)).await else {
            break;
        };
        watch.history.push(sample);
        let news = watch.book.look(&watch.history);
        for notice in &news {
            notifier.send(notice.clone());
        }
        watch.remember(&news);
        show.show(watch, &news)?;
    }
    show.end(watch)
}

impl Watch {
    fn remember(&mut self, news: &[Notice]) {
        self.notices.extend_from_slice(news);
        let surplus = self.notices.len().saturating_sub(MOST_NOTICES);
        self.notices.drain(..surplus);
    }
}
