//! Events as a product.

use std::sync::Arc;

use holdfast_cache::Cache;
use holdfast_core::config::ProductSection;
use holdfast_http::ProblemKind;
use holdfast_jobs::rotation::SealedColumn;
use holdfast_jobs::{Registry, Resources};
use holdfast_outbound::Outbound;
use holdfast_product::{
    Duty, MessengerResource, PersonalData, Process, Product, ProductRoutes, WorkerProcess, handler_state,
};

use crate::discovery::{Announcer, Discoverer, EventsDiscover, NewsAnnouncer, Sources, Subscriptions};
use crate::personal_data::EventsData;
use crate::problems::EventsProblem;
use crate::recommend::{MlRecommend, MlTrain, Recommender};
use crate::{DiscoverySettings, EventsSettings, EventsState, RecommendSettings, RedditSettings};

/// The actions of the audit log.
pub mod action {
    pub const SOURCE_CREATE: &str = "source.create";
    /// Also one that enables or disables it.
    pub const SOURCE_UPDATE: &str = "source.update";
    pub const SOURCE_DELETE: &str = "source.delete";
}

#[derive(Debug)]
pub struct EventsProduct;

impl Product for EventsProduct {
    fn name(&self) -> &'static str {
        "events"
    }

    fn settings(&self) -> &'static [ProductSection] {
        const SECTIONS: &[ProductSection] = &[
            ProductSection::of::<EventsSettings>(),
            ProductSection::of::<DiscoverySettings>(),
            ProductSection::of::<RedditSettings>(),
            ProductSection::of::<RecommendSettings>(),
        ];
        SECTIONS
    }

    fn kinds(&self, registry: Registry) -> Registry {
        registry
            .register::<EventsDiscover>()
            .register::<MlRecommend>()
            .register::<MlTrain>()
    }

    fn worker_duties(&self, worker: WorkerProcess<'_>, resources: Resources) -> (Resources, Vec<Duty>) {
        let process = worker.process;
        let recommender = Recommender::new(process.settings, process.database, worker.cache);
        let resources = with_discovery(process, resources, &recommender).with(recommender.clone());
        let pruning: Duty = Box::pin(async move { recommender.watch().await });
        (resources, vec![pruning])
    }

    fn beat_duties(&self, beat: Process<'_>) -> Vec<Duty> {
        let sources = Sources::new(beat.settings, beat.database, beat.jobs.clone());
        let period = beat.settings.beat.poll;
        vec![Box::pin(async move { sources.sweep(period).await })]
    }

    fn sealed_columns(&self) -> Vec<SealedColumn> {
        crate::discovery::SEALED.to_vec()
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
                let sources = Sources::new(settings, database, jobs.clone());
                handler_state(EventsState {
                    http: Arc::clone(api.http),
                    subscriptions: Subscriptions::of(&sources),
                    sources,
                    recommender: Recommender::new(settings, database, api.cache),
                })
            },
        })
    }

    fn problems(&self) -> &'static [ProblemKind] {
        EventsProblem::ALL
    }

    fn audit_verbs(&self) -> &'static [&'static str] {
        &[
            action::SOURCE_CREATE,
            action::SOURCE_UPDATE,
            action::SOURCE_DELETE,
        ]
    }

    fn personal_data(&self, process: Process<'_>, cache: &Cache) -> Option<Arc<dyn PersonalData>> {
        Some(Arc::new(EventsData::new(process, cache)))
    }
}

/// A process without an HTTP client runs no `events.discover`: its handler says that the resource is missing. Without a
/// messenger nothing is announced.
fn with_discovery(process: Process<'_>, resources: Resources, recommender: &Recommender) -> Resources {
    let Some(outbound) = resources.get::<Outbound>() else {
        return resources;
    };
    let Process {
        settings,
        database,
        jobs,
    } = process;
    let announcer = resources.get::<MessengerResource>().map(|messenger| {
        let announcer = NewsAnnouncer::new(settings, Arc::clone(&messenger.0));
        Arc::new(announcer) as Arc<dyn Announcer>
    });
    let sources = Sources::new(settings, database, jobs.clone());
    let events = recommender.events().clone();
    resources.with(Discoverer::new(settings, sources, events, &outbound, announcer))
}
