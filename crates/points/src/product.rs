//! Points as a product.

use std::sync::Arc;

use holdfast_core::config::ProductSection;
use holdfast_http::ProblemKind;
use holdfast_jobs::{Registry, Resources};
use holdfast_product::{Duty, Product, ProductRoutes, WorkerProcess, handler_state};

use crate::problems::PointsProblem;
use crate::{Points, PointsFlush, PointsSettings, PointsState};

/// The actions of the audit log.
pub mod action {
    pub const POINT_LETTERS_REDRIVE: &str = "point_letters.redrive";
    pub const POINT_LETTERS_DELETE: &str = "point_letters.delete";
}

#[derive(Debug)]
pub struct PointsProduct;

impl Product for PointsProduct {
    fn name(&self) -> &'static str {
        "points"
    }

    fn settings(&self) -> &'static [ProductSection] {
        const SECTIONS: &[ProductSection] = &[ProductSection::of::<PointsSettings>()];
        SECTIONS
    }

    fn kinds(&self, registry: Registry) -> Registry {
        registry.register::<PointsFlush>()
    }

    fn worker_duties(&self, worker: WorkerProcess<'_>, resources: Resources) -> (Resources, Vec<Duty>) {
        let process = worker.process;
        let points = Points::new(
            process.settings,
            process.database,
            worker.gate,
            process.jobs.clone(),
        );
        let watching = points.clone();
        let duty: Duty = Box::pin(async move { watching.watch().await });
        (resources.with(points), vec![duty])
    }

    fn routes(&self) -> Option<ProductRoutes> {
        Some(ProductRoutes {
            table: crate::ROUTES,
            state: |api| {
                let process = api.process;
                handler_state(PointsState {
                    http: Arc::clone(api.http),
                    points: Points::new(process.settings, process.database, api.gate, process.jobs.clone()),
                })
            },
        })
    }

    fn problems(&self) -> &'static [ProblemKind] {
        PointsProblem::ALL
    }

    fn audit_verbs(&self) -> &'static [&'static str] {
        &[action::POINT_LETTERS_REDRIVE, action::POINT_LETTERS_DELETE]
    }
}
