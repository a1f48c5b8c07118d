//! Do accepted jobs end? What keeps them from it, as [`Diagnosis`] finds it.

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_jobs::diagnosis::{Diagnosis, Fault, Report};

use super::{Finding, HealthProbe};

/// Faults that the error names; all of them are in the details.
const NAMED: usize = 3;

/// The faults of the ledger. A diagnosis ends within the probe's deadline by itself.
#[derive(Debug)]
pub struct LedgerProbe {
    diagnosis: Diagnosis,
}

impl LedgerProbe {
    pub fn new(diagnosis: Diagnosis) -> Self {
        Self { diagnosis }
    }
}

/// The details name the statements that hold locks. In production they are shown to callers with the scope `read` alone
/// ([`Report::in_words`](super::Report::in_words)).
fn judge(report: &Report) -> Finding {
    let finding = match report.faults.first() {
        None => Finding::healthy(),
        Some(first) => {
            let named: Vec<&str> = report
                .faults
                .iter()
                .take(NAMED)
                .map(|fault: &Fault| &*fault.message)
                .collect();
            Finding::degraded(named.join("; "), first.kind.hint())
        }
    };
    let oldest = report
        .server
        .as_ref()
        .and_then(|server| server.transactions.first());
    finding
        .with("faults", &report.faults)
        .with("complete", !report.is_partial)
        .with("running", &report.leases)
        .with("stalled_queues", &report.stalled)
        .with("oldest_transaction", oldest)
        .with(
            "connections",
            report.server.as_ref().map(|server| server.connections),
        )
        .with("tables", report.server.as_ref().map(|server| &server.tables))
}

impl HealthProbe for LedgerProbe {
    fn name(&self) -> &'static str {
        "ledger"
    }

    fn check(&self) -> BoxFuture<'_, Finding> {
        async move { judge(&*self.diagnosis.look().await) }.boxed()
    }
}
