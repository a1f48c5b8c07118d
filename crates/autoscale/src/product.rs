//! Autoscaling as a product.

use holdfast_core::config::ProductSection;
use holdfast_product::{Duty, Process, Product};

use crate::{AutoscaleSettings, Autoscaler};

/// The actions of the audit log.
pub mod action {
    pub const AUTOSCALE_SET: &str = "autoscale.set";
}

#[derive(Debug)]
pub struct AutoscaleProduct;

impl Product for AutoscaleProduct {
    fn name(&self) -> &'static str {
        "autoscale"
    }

    fn settings(&self) -> &'static [ProductSection] {
        const SECTIONS: &[ProductSection] = &[ProductSection::of::<AutoscaleSettings>()];
        SECTIONS
    }

    fn beat_duties(&self, beat: Process<'_>) -> Vec<Duty> {
        let settings: AutoscaleSettings = beat.settings.section();
        match Autoscaler::new(settings, beat.settings.worker.lost_after, beat.jobs) {
            Ok(None) => Vec::new(),
            Ok(Some(autoscaler)) => vec![Box::pin(autoscaler.run())],
            Err(error) => {
                // Schedules are no less due for that.
                tracing::error!(error = &error as &dyn std::error::Error, "autoscaling is off");
                Vec::new()
            }
        }
    }

    fn audit_verbs(&self) -> &'static [&'static str] {
        &[action::AUTOSCALE_SET]
    }
}
