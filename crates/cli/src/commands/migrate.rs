//! `holdfast migrate`: the schema, before a deployment or by hand.
//!
//! Progress goes to stderr. The command may be interrupted at any time, and run again.

use std::time::Duration;

use holdfast_core::sql::{Database, MigrationReport, migrate_within};
use serde_json::json;
use tokio::time::timeout;

use crate::args::OutputArgs;
use holdfast_ops::Failure;
use holdfast_ops::in_process;
use holdfast_ops::time;
use holdfast_services::Program;

/// Longest look at what is pending.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing: say what is pending, and exit with 1 if anything is
    #[arg(long)]
    check: bool,
    /// Give up after this time; what was applied by then stays, and another run goes on from there
    #[arg(long, value_name = "TIME", default_value = "6h", value_parser = time::duration)]
    timeout: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let settings = in_process::settings_with_progress(program)?;
    if !args.check {
        let report = migrate_within(&settings.database, args.timeout).await?;
        return print_report(args.output, &report);
    }
    // SQLite would make an empty file to look into.
    let pending = if settings.embedded_path().is_some_and(|path| !path.exists()) {
        vec!["everything: there is no database yet".to_owned()]
    } else {
        let database = Database::open(&settings.database)?;
        timeout(LOOK_DEADLINE, database.pending_migrations())
            .await
            .unwrap_or_else(|_| Err(database.late(LOOK_DEADLINE)))?
    };
    args.output.print(&json!({ "pending": pending }), || {
        if pending.is_empty() {
            "the database is up to date".to_owned()
        } else {
            format!("pending {}", pending.join("\npending "))
        }
    })?;
    if pending.is_empty() {
        Ok(())
    } else {
        Err(Failure::no(
            "the database is not up to date: run `holdfast migrate`",
        ))
    }
}

fn print_report(output: OutputArgs, report: &MigrationReport) -> Result<(), Failure> {
    let MigrationReport {
        applied,
        already_applied,
        ahead,
    } = report;
    let document = json!({ "applied": applied, "already_applied": already_applied, "ahead": ahead });
    output.print(&document, || {
        let mut lines: Vec<String> = applied.iter().map(|name| format!("applied {name}")).collect();
        if applied.is_empty() {
            lines.push(format!(
                "the database is up to date: {already_applied} applied before, nothing to do"
            ));
        }
        lines.extend(
            ahead
                .iter()
                .map(|version| format!("{version:04} is of a newer version of Holdfast")),
        );
        lines.join("\n")
    })
}
