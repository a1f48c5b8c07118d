//! Watches one API, on a dashboard or as JSON lines, tells when something is wrong and when it is
//! over, and leaves a report.
//!
//! # When things fail
//! - *The target is down*: that is what it is for. The sample says so and why, a rule fires, and the look goes on at
//!   the same pace; a look takes five seconds at most.
//! - *The key is refused*: one that the target does not know ends the command at the start. One that may not read the queues, or is
//!   revoked meanwhile, is named in each sample, because numbers that are unknown look like those of an idle system.
//! - *A receiver of notices is down*: see [`notify`]. Looks are not delayed.
//! - *The report cannot be written*: told at the start, before hours of watching, by writing an empty one.

mod alerts;
mod headless;
mod history;
mod notify;
mod report;
mod rules;
mod sample;
mod screen;

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_core::shutdown::Shutdown;
use secrecy::SecretString;
use tokio::time::{MissedTickBehavior, interval};
use url::Url;

use self::alerts::{AlertBook, Notice};
use self::history::History;
use self::notify::Notifier;
pub use self::notify::{Mailbox, Sinks};
use self::sample::Sample;
use crate::checks::api::wire::Wire;
use crate::failure::Failure;

/// Most notices that a report tells of; older ones go.
const MOST_NOTICES: usize = 1_000;
/// A shorter interval between two samples is refused.
pub const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Options {
    /// The API to watch.
    pub url: Url,
    pub key: Option<SecretString>,
    /// Between two samples; at least [`SHORTEST_INTERVAL`].
    pub interval: Duration,
    /// JSON lines on stdout instead of a dashboard.
    pub headless: bool,
    /// End after this time.
    pub duration: Option<Duration>,
    /// Alert rules, a TOML file; `None`: the built-in rules.
    pub rules: Option<PathBuf>,
    /// Interval between reminders of an active alert.
    pub remind: Duration,
    /// Where the report is written at the end: one HTML document.
    pub report: Option<PathBuf>,
    pub sinks: Sinks,
}

/// Everything that has been seen so far.
#[derive(Debug)]
struct Watch {
    target: String,
    history: History,
    book: AlertBook,
    notices: Vec<Notice>,
}

/// Watches until a signal, the duration, or a key ends it. The dashboard needs a terminal on stdout.
pub async fn run(options: Options) -> Result<(), Failure> {
    let rules = rules_of(options.rules.as_deref())?;
    if let Some(path) = &options.report {
        std::fs::write(path, "").map_err(|error| unwritten(path, error))?;
    }
    let target = options.url.origin().ascii_serialization();
    let wire = Wire::new(options.url, options.key)
        .map_err(|error| Failure::service("the HTTP client cannot be built", error))?;
    if let Some(refused) = sample::unknown_key(&wire).await {
        return Err(Failure::Misused(refused));
    }
    let notifier = Notifier::start(&options.sinks)?;
    let mut watch = Watch {
        book: AlertBook::new(rules, target.clone(), options.remind),
        target,
        history: History::default(),
        notices: Vec::new(),
    };
    let stop = Shutdown::new();
    stop.on_signals()?;
    end_after(options.duration, &stop);
    let ended = if options.headless {
        look_until(
            &stop,
            &wire,
            options.interval,
            &mut watch,
            &notifier,
            &mut headless::Lines,
        )
        .await
    } else {
        let mut screen = screen::Screen::open(&stop)?;
        let ended = look_until(&stop, &wire, options.interval, &mut watch, &notifier, &mut screen).await;
        drop(screen);
        ended
    };
    notifier.finish().await;
    if let Some(path) = &options.report {
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
