//! Results and channels as a product.

use std::sync::Arc;

use holdfast_jobs::sql::Sql;
use holdfast_product::{Duty, Process, Product, ProductRoutes, handler_state};

use crate::sweep::{SWEEP_PERIOD, sweep_forever};
use crate::{Results, ResultsState};

#[derive(Debug)]
pub struct ResultsProduct;

impl Product for ResultsProduct {
    fn name(&self) -> &'static str {
        "results"
    }

    fn beat_duties(&self, beat: Process<'_>) -> Vec<Duty> {
        let sql = Sql::new(beat.database, &beat.settings.database);
        // Not more often than the beat asks the database anyway: one that sleeps when it is idle is to sleep.
        let period = beat.settings.beat.poll.max(SWEEP_PERIOD);
        vec![Box::pin(sweep_forever(sql, period))]
    }

    fn routes(&self) -> Option<ProductRoutes> {
        Some(ProductRoutes {
            table: crate::ROUTES,
            state: |api| {
                let process = api.process;
                handler_state(ResultsState {
                    http: Arc::clone(api.http),
                    results: Results::new(process.settings, process.database, api.gate),
                    max_body: process.settings.jobs.max_payload_bytes,
                })
            },
        })
    }
}
