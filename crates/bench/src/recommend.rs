//! `holdfast-bench recommend`: what a training and a list cost, and what the lists are worth.
//!
//! Costs are measured through SQL, as a worker and an API pay them: 100,000 events and 1,000,000 interactions are stored, a
//! model is trained of them and loaded by a second process' worth of code, and lists are made for a thousand users. It uses
//! the configured PostgreSQL only if that holds no event and no model yet, because it would take their place; an embedded
//! database otherwise. Worth is leave-last-out on the same generated data, or on a CSV.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error as Failure};
use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_core::sql::Database;
use holdfast_services::events::interactions::{Action, Interaction};
use holdfast_services::events::recommend::evaluate::{DataSet, Evaluation, Shape, Visit, read_csv};
use holdfast_services::events::recommend::{Recommender, TrainedWhat};
use holdfast_services::events::{Filter, NewEvent};
use holdfast_services::product::UserName;
use ulid::Ulid;

use super::failed;
use super::http::percentile;
use super::memory::{forget_peak, peak};
use super::report::{Figure, Report};
use super::scenario::scaled;
use super::system::{Servers, Setup, System};

const PART: &str = "recommend";

/// Data and users are drawn from it.
const SEED: u64 = 20_260;

/// Events or interactions of one call.
const BATCH: usize = 1_000;

/// Visits of a user, on average.
const VISITS: usize = 20;

/// Users for whom lists are made.
const ASKED: usize = 1_000;

/// Users whose last event is looked for.
const LOOKED_FOR: usize = 5_000;

const HALF_LIFE: Duration = Duration::from_hours(24 * 60);
const TRAINING: Figure = Figure::Millis(60_000.0);
const PEAK: Figure = Figure::Bytes(1_073_741_824.0);
const LIST: Figure = Figure::Millis(20.0);

/// Trainings and lists: what they cost and what they are worth
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(super) struct Args {
    /// Evaluate on these interactions instead: lines of user, item, time and, if there is one, weight
    #[arg(long)]
    csv: Option<PathBuf>,
}

pub(super) async fn measure(
    args: &Args,
    servers: &Servers,
    (directory, scale): (&Path, f64),
    report: &mut Report,
) -> Result<(), Failure> {
    if let Some(path) = &args.csv {
        let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let data = read_csv(BufReader::new(file))
            .map_err(|fault| Failure::msg(format!("{}: {fault}", path.display())))?;
        worth(data, report).await
    } else {
        let shape = Shape {
            events: scaled(100_000, scale),
            users: scaled(1_000_000, scale) / VISITS,
            visits: scaled(1_000_000, scale),
            circles: ((400.0 * scale) as usize).max(8),
            ..Shape::default()
        };
        costs(shape, &setup(servers, directory).await?, report).await?;
        worth(shape.generate(SEED), report).await
    }
}

/// The configured PostgreSQL, if nothing in it would be replaced.
async fn setup(servers: &Servers, directory: &Path) -> Result<Setup, Failure> {
    let Some(setup) = servers.setup(true, false, "ledger") else {
        return Ok(Setup::sqlite(directory));
    };
    let system = System::open(&setup).await?;
    let recommender = recommender(&system)?;
    let any = Filter {
        cancelled: true,
        ..Filter::default()
    };
    let events = recommender.events().find(&any, 1).await.map_err(failed)?;
    let model = recommender.model().await.map_err(failed)?;
    system.close().await?;
    Ok(if events.is_empty() && model.is_none() {
        setup
    } else {
        Setup::sqlite(directory)
    })
}

fn recommender(system: &System) -> Result<Recommender, Failure> {
    let cache = System::cache(&system.settings)?;
    Ok(Recommender::new(&system.settings, &system.database, &cache))
}

async fn costs(shape: Shape, setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    let system = System::open(setup).await?;
    let measured = measured(shape, &system, report).await;
    for table in ["events where source = 'bench'", "models", "model_parts"] {
        system.sql(&format!("delete from holdfast_{table}")).await?;
    }
    system.close().await?;
    measured
}

async fn measured(shape: Shape, system: &System, report: &mut Report) -> Result<(), Failure> {
    let name = match system.database {
        Database::Postgres(_) => "PostgreSQL",
        Database::Sqlite(_) => "SQLite",
    };
    let recommender = recommender(system)?;
    let (events, visits) = fill(shape, &recommender, name, report).await?;
    forget_peak();
    let trained = recommender.train(true).await.map_err(failed)?;
    if trained.events != events || trained.what != TrainedWhat::Everything {
        return Err(Failure::msg(format!("{events} events became {trained:?}")));
    }
    let what = format!("training, {events} events, {visits} visits ({name})");
    report.figure(
        PART,
        &what,
        Figure::Millis(trained.seconds * 1_000.0),
        Some(TRAINING),
    );
    if let Some(peak) = peak() {
        report.figure(
            PART,
            "  peak memory of the process",
            Figure::Bytes(peak),
            Some(PEAK),
        );
    }
    report.figure(
        PART,
        "  size of the model",
        Figure::Bytes(trained.bytes as f64),
        None,
    );
    again(&recommender, report).await?;
    lists(shape, &self::recommender(system)?, report).await
}

/// Stores the data; how many events and visits.
async fn fill(
    shape: Shape,
    recommender: &Recommender,
    name: &str,
    report: &mut Report,
) -> Result<(usize, usize), Failure> {
    let data = shape.generate(SEED);
    let now = clock::now();
    let began = Instant::now();
    let events: Vec<NewEvent> = (0..data.events.len()).map(|at| event(&data, at, now)).collect();
    let mut ids = Vec::with_capacity(events.len());
    for batch in events.chunks(BATCH) {
        let stored = recommender.events().upsert(batch).await.map_err(failed)?;
        ids.extend(stored.iter().map(|one| one.id));
    }
    let rate = ids.len() as f64 / began.elapsed().as_secs_f64();
    report.figure(PART, &format!("events stored ({name})"), Figure::Rate(rate), None);
    let newest = data
        .users
        .iter()
        .flatten()
        .map(|visit| visit.at)
        .max()
        .unwrap_or(0);
    let began = Instant::now();
    let mut waiting = Vec::with_capacity(BATCH * 2);
    for (number, visits) in data.users.iter().enumerate() {
        let user = user(number)?;
        waiting.extend(
            visits
                .iter()
                .map(|visit| interaction(&user, &ids, visit, now, newest)),
        );
        if waiting.len() >= BATCH {
            recommender
                .interactions()
                .accept(&waiting)
                .await
                .map_err(failed)?;
            waiting.clear();
        }
    }
    recommender
        .interactions()
        .accept(&waiting)
        .await
        .map_err(failed)?;
    let rate = data.visits() as f64 / began.elapsed().as_secs_f64();
    report.figure(
        PART,
        &format!("interactions stored ({name})"),
        Figure::Rate(rate),
        None,
    );
    Ok((ids.len(), data.visits()))
}

fn event(data: &DataSet, at: usize, now: DateTime<Utc>) -> NewEvent {
    let known = &data.events[at];
    NewEvent {
        source: Some("bench".to_owned()),
        uid: at.to_string(),
        title: known.title.clone(),
        description: None,
        url: None,
        category: known.category.clone(),
        starts_at: now + chrono::Duration::minutes(60 + at as i64),
        ends_at: None,
        time_zone: None,
        position: known.place,
        place: None,
        cancelled: false,
    }
}

fn user(number: usize) -> Result<UserName, Failure> {
    format!("bench-{number}").parse().map_err(failed)
}

fn interaction(user: &UserName, ids: &[Ulid], visit: &Visit, now: DateTime<Utc>, newest: i64) -> Interaction {
    let action = match visit.weight {
        weight if weight > 4.0 => Action::Attend,
        weight if weight > 2.0 => Action::Save,
        _ => Action::View,
    };
    Interaction {
        user: user.clone(),
        event: ids[visit.event as usize],
        action,
        at: now - chrono::Duration::seconds(newest - visit.at),
    }
}

/// What a training costs that finds little to do.
async fn again(recommender: &Recommender, report: &mut Report) -> Result<(), Failure> {
    let idle = recommender.train(false).await.map_err(failed)?;
    let change = NewEvent {
        title: "something else".to_owned(),
        ..event(
            &Shape {
                events: 1,
                users: 0,
                ..Shape::default()
            }
            .generate(SEED),
            0,
            clock::now(),
        )
    };
    recommender.events().upsert(&[change]).await.map_err(failed)?;
    let events = recommender.train(false).await.map_err(failed)?;
    for (trained, what, expected) in [
        (idle, "  again, nothing changed", TrainedWhat::Nothing),
        (events, "  again, an event changed", TrainedWhat::Events),
    ] {
        if trained.what != expected {
            return Err(Failure::msg(format!("expected {expected:?}, found {trained:?}")));
        }
        report.figure(PART, what, Figure::Millis(trained.seconds * 1_000.0), None);
    }
    Ok(())
}

/// Lists as an API makes them that has just started.
async fn lists(shape: Shape, recommender: &Recommender, report: &mut Report) -> Result<(), Failure> {
    let began = Instant::now();
    recommender.model().await.map_err(failed)?;
    let took = began.elapsed().as_secs_f64() * 1_000.0;
    report.figure(PART, "model loaded", Figure::Millis(took), None);
    let step = (shape.users / ASKED).max(1);
    let mut times = Vec::with_capacity(ASKED);
    for number in (0..shape.users).step_by(step).take(ASKED) {
        let user = user(number)?;
        let began = Instant::now();
        let list = recommender.make(&user).await.map_err(failed)?;
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
        if list.items.is_empty() {
            return Err(Failure::msg(format!("{user} got an empty list")));
        }
    }
    report.figure(
        PART,
        "a user's list, median",
        Figure::Millis(percentile(&mut times, 0.5)),
        None,
    );
    let p99 = percentile(&mut times, 0.99);
    report.figure(PART, "a user's list, p99", Figure::Millis(p99), Some(LIST));
    Ok(())
}

/// Against popularity and chance; the aim is twice the better of them.
async fn worth(data: DataSet, report: &mut Report) -> Result<(), Failure> {
    let (events, users, visits) = (data.events.len(), data.users.len(), data.visits());
    let evaluating = move || data.leave_last_out(LOOKED_FOR, HALF_LIFE, SEED);
    let found = tokio::task::spawn_blocking(evaluating).await.map_err(failed)?;
    let Evaluation {
        model,
        popularity,
        random,
        training,
        mut list_millis,
        ..
    } = found;
    let what = format!("learned in memory: {users} users, {events} events, {visits} visits");
    report.figure(
        PART,
        &what,
        Figure::Millis(training.as_secs_f64() * 1_000.0),
        None,
    );
    let p99 = percentile(&mut list_millis, 0.99);
    report.figure(PART, "a list in memory, p99", Figure::Millis(p99), Some(LIST));
    let rows = [
        ("recall@10", [model.recall, popularity.recall, random.recall]),
        ("nDCG@10", [model.ndcg, popularity.ndcg, random.ndcg]),
        ("coverage", [model.coverage, popularity.coverage, random.coverage]),
    ];
    for (what, [model, popularity, random]) in rows {
        // Chance covers everything: no aim.
        let aim = (what != "coverage").then_some(Figure::Score(2.0 * popularity.max(random)));
        report.figure(PART, what, Figure::Score(model), aim);
        report.figure(
            PART,
            &format!("  {what} of popularity"),
            Figure::Score(popularity),
            None,
        );
        report.figure(PART, &format!("  {what} of chance"), Figure::Score(random), None);
    }
    Ok(())
}
