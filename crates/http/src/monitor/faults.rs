//! The gauges of what keeps jobs from ending. What could not be read is not set.

use holdfast_core::telemetry::catalogue;
use holdfast_jobs::diagnosis::{FaultKind, Report, ServerFigures};

pub(super) fn read<'a>(report: &Report, queues: impl Iterator<Item = &'a str>) {
    for kind in FaultKind::ALL {
        let faults = report.of_kind(kind).count();
        // The kinds that a partial report lacks may be there all the same.
        if faults > 0 || !report.is_partial {
            catalogue::FAULTS.with([kind.as_str()]).set(faults as f64);
        }
    }
    if let Some(leases) = &report.leases {
        catalogue::JOBS_LOST
            .with(["orphaned"])
            .set(leases.lost.orphaned as f64);
        catalogue::JOBS_LOST
            .with(["silent"])
            .set(leases.lost.silent as f64);
        catalogue::JOBS_OVERDUE.with([]).set(leases.overdue.jobs as f64);
    }
    if let Some(stalled) = &report.stalled {
        for queue in queues {
            let is_stalled = stalled.iter().any(|name| name == queue);
            catalogue::QUEUE_STALLED
                .with([queue])
                .set(f64::from(u8::from(is_stalled)));
        }
    }
    if let Some(file) = report.file {
        catalogue::SQL_LOG_BYTES.with([]).set(file.log_bytes as f64);
    }
    if let Some(server) = &report.server {
        read_server(server);
    }
}

fn read_server(server: &ServerFigures) {
    let transactions = server.transactions.iter();
    let oldest = transactions
        .clone()
        .filter_map(|old| old.seconds)
        .fold(0.0, f64::max);
    let xmin = transactions.filter_map(|old| old.xmin_age).max().unwrap_or(0);
    catalogue::SQL_LOCK_WAITS.with([]).set(server.waits.len() as f64);
    catalogue::SQL_OLDEST_TRANSACTION.with([]).set(oldest);
    catalogue::SQL_OLDEST_XMIN.with([]).set(f64::from(xmin));
    for table in &server.tables {
        catalogue::SQL_DEAD_ROWS
            .with([&table.table])
            .set(table.dead as f64);
        if let Some(vacuumed) = table.vacuumed_seconds_ago {
            catalogue::SQL_VACUUM_AGE.with([&table.table]).set(vacuumed);
        }
    }
    let connections = server.connections;
    catalogue::SQL_SERVER_CONNECTIONS
        .with(["used"])
        .set(connections.used as f64);
    catalogue::SQL_SERVER_CONNECTIONS
        .with(["max"])
        .set(connections.max as f64);
}
