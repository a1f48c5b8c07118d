//! `holdfast autoscale`: one round of what a beat does with `autoscale.driver`.
//!
//! It decides without the beat's memory: need that was lower for the whole cool-down is known to the beat alone, so this command raises
//! and, unless `autoscale.cooldown_seconds` is 0, does not lower.

use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::Database;
use holdfast_jobs::Jobs;
use holdfast_ops::{Failure, in_process};
use holdfast_services::Program;
use holdfast_services::autoscale::{AutoscaleSettings, Autoscaler, Round, ServiceRound};

use crate::args::OutputArgs;
use crate::output::table;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing: show what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let settings = in_process::settings(program)?;
    let mut autoscale: AutoscaleSettings = settings.section();
    autoscale.dry_run |= args.dry_run;
    let database = Database::open(&settings.database)?;
    // Without Redis: nothing is enqueued here.
    let gate = RedisGate::open(Role::Queue, None, &settings.redis)?;
    let jobs = Jobs::new(&settings, program.registry(&settings), &database, &gate);
    let scaler = Autoscaler::new(autoscale, settings.worker.lost_after, &jobs)
        .map_err(|error| Failure::Misused(error.to_string()))?;
    let Some(mut scaler) = scaler else {
        return Err(Failure::Misused(
            "autoscaling is off: set autoscale.driver and autoscale.services".to_owned(),
        ));
    };
    let round = scaler.round().await;
    args.output.print(&round, || text(&round))?;
    let failed: Vec<&str> = round
        .services
        .iter()
        .filter(|service| service.decision == "failed")
        .map(|service| service.service.as_str())
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::no(format!("not scaled: {}", failed.join(", "))))
    }
}

fn text(round: &Round) -> String {
    let rows: Vec<_> = round.services.iter().map(row).collect();
    table(
        [
            "SERVICE", "REPLICAS", "NEEDED", "TRUSTED", "DECISION", "TARGET", "FAULT",
        ],
        &rows,
    )
}

fn row(service: &ServiceRound) -> [String; 7] {
    let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let decision = if service.target.is_some() && !service.done {
        format!("{} (not done)", service.decision)
    } else {
        service.decision.to_owned()
    };
    [
        service.service.clone(),
        number(service.current),
        service.needed.to_string(),
        service.trusted.to_string(),
        decision,
        number(service.target),
        service.fault.clone().unwrap_or_default(),
    ]
}
