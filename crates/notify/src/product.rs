//! Notifications as a product.

use std::sync::Arc;

use holdfast_cache::Cache;
use holdfast_core::config::ProductSection;
use holdfast_http::ProblemKind;
use holdfast_jobs::rotation::SealedColumn;
use holdfast_jobs::{Registry, Resources};
use holdfast_product::{
    Duty, MessengerResource, PersonalData, Process, Product, ProductRoutes, WorkerProcess, handler_state,
};

use crate::mail::{Mail, NotifyDigest, NotifyEmail};
use crate::notifications::Notices;
use crate::personal_data::NotifyData;
use crate::problems::NotifyProblem;
use crate::webhooks::{EngineEvents, NotifyWebhook, Watch};
use crate::{NotificationsSettings, NotifyState, PreferenceStore, SmtpSettings, mail, secrets, webhooks};

/// The actions of the audit log.
pub mod action {
    pub const WEBHOOK_CREATE: &str = "webhook.create";
    pub const WEBHOOK_UPDATE: &str = "webhook.update";
    pub const WEBHOOK_DELETE: &str = "webhook.delete";
    pub const WEBHOOK_ROTATE: &str = "webhook.rotate";
    /// By Holdfast itself: the endpoint failed for too long, or answered that it is gone.
    pub const WEBHOOK_DISABLE: &str = "webhook.disable";
    pub const MAIL_TEMPLATE_PUT: &str = "mail_template.put";
    pub const MAIL_TEMPLATE_DELETE: &str = "mail_template.delete";
    /// Without the address, which a deletion of its user must be able to remove.
    pub const MAIL_SUPPRESS: &str = "mail.suppress";
    pub const MAIL_RELEASE: &str = "mail.release";
}

#[derive(Debug)]
pub struct NotifyProduct;

impl Product for NotifyProduct {
    fn name(&self) -> &'static str {
        "notify"
    }

    fn settings(&self) -> &'static [ProductSection] {
        const SECTIONS: &[ProductSection] = &[
            ProductSection::of::<NotificationsSettings>(),
            ProductSection::of::<SmtpSettings>(),
        ];
        SECTIONS
    }

    fn kinds(&self, registry: Registry) -> Registry {
        registry
            .register::<NotifyWebhook>()
            .register::<NotifyEmail>()
            .register::<NotifyDigest>()
    }

    fn worker_duties(&self, worker: WorkerProcess<'_>, resources: Resources) -> (Resources, Vec<Duty>) {
        let Process {
            settings,
            database,
            jobs,
        } = worker.process;
        let notices = Notices::new(settings, database, jobs.clone());
        let resources = resources
            .with(notices.webhooks().clone())
            .with(notices.mail().clone())
            .with(MessengerResource(Arc::new(notices.clone())));
        let pruning: Duty = Box::pin(async move { notices.watch().await });
        let watching: Duty = Box::pin(Watch::of(worker.process, observe(worker.process)).run());
        (resources, vec![pruning, watching])
    }

    fn beat_duties(&self, beat: Process<'_>) -> Vec<Duty> {
        let mail = Mail::new(beat.settings, beat.database, beat.jobs.clone());
        let period = beat.settings.beat.poll;
        let watch = Watch::of(beat, observe(beat));
        vec![
            Box::pin(async move { mail.sweep_digests(period).await }),
            Box::pin(watch.run()),
        ]
    }

    fn sealed_columns(&self) -> Vec<SealedColumn> {
        [webhooks::SEALED, mail::SEALED_DIGESTS, secrets::SEALED].concat()
    }

    fn routes(&self) -> Option<ProductRoutes> {
        Some(ProductRoutes {
            table: crate::ROUTES,
            state: |api| {
                let Process {
                    settings,
                    database,
                    jobs,
                } = api.process;
                observe(api.process);
                handler_state(NotifyState {
                    http: Arc::clone(api.http),
                    notices: Notices::new(settings, database, jobs.clone()),
                    preferences: PreferenceStore::new(settings, database, jobs.clone()),
                })
            },
        })
    }

    fn problems(&self) -> &'static [ProblemKind] {
        NotifyProblem::ALL
    }

    fn audit_verbs(&self) -> &'static [&'static str] {
        &[
            action::WEBHOOK_CREATE,
            action::WEBHOOK_UPDATE,
            action::WEBHOOK_DELETE,
            action::WEBHOOK_ROTATE,
            action::WEBHOOK_DISABLE,
            action::MAIL_TEMPLATE_PUT,
            action::MAIL_TEMPLATE_DELETE,
            action::MAIL_SUPPRESS,
            action::MAIL_RELEASE,
        ]
    }

    fn personal_data(&self, process: Process<'_>, _: &Cache) -> Option<Arc<dyn PersonalData>> {
        Some(Arc::new(NotifyData::new(process)))
    }
}

fn observe(process: Process<'_>) -> Arc<EngineEvents> {
    EngineEvents::observe(process.settings, process.database, process.jobs)
}
