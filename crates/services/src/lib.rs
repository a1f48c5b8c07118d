//! The products of Holdfast, composed, and the services that run them: [`api`], [`worker`] and [`beat`].
//!
//! [`products`](products::PRODUCTS) lists the products, one line each. This crate asks each of them for what it has, and puts it
//! together: the kinds that a process knows, what its handlers share, the duties of workers and beats, the personal data of
//! a user. A service names no product.
//!
//! The binaries of the services, the command line and the crate `holdfast`, on which applications depend, are built on this crate.

mod answering;
pub mod api;
pub mod beat;
mod products;
mod program;
mod progress;
mod role;
mod users;
pub mod worker;

use std::sync::Arc;

use holdfast_cache::Cache;
use holdfast_core::config::Settings;
use holdfast_jobs::{Registry, Resources};
use holdfast_product::{
    Duty, PersonalData, Process, ProductError, ProductRoutes, SecretFields, WorkerProcess,
};
use serde_json::value::RawValue;

pub use holdfast_events as events;
pub use holdfast_kinds as kinds;
pub use holdfast_notify as notify;
pub use holdfast_outbound as outbound;
pub use holdfast_points as points;
pub use holdfast_product as product;

pub use products::PRODUCTS;
pub use program::Program;
pub use progress::Progress;
pub use role::{Role, UnknownRole};
pub use users::{
    DeleteOptions, Deleted, DeletedUser, DeletedUsersKey, Export, InvitationView, MadeKey,
    ROUTES as USER_ROUTES, UserData, UserDataError, UsersState,
};

/// Every kind that Holdfast brings along, the `debug.*` ones included.
pub fn registry() -> Registry {
    PRODUCTS.iter().fold(production(), |registry, product| {
        product.development_kinds(registry)
    })
}

fn production() -> Registry {
    PRODUCTS
        .iter()
        .fold(Registry::new(), |registry, product| product.kinds(registry))
}

/// The kinds of a process with these settings: in production none of those that only development knows.
pub fn registry_for(settings: &Settings) -> Registry {
    if settings.is_production() {
        production()
    } else {
        registry()
    }
}

/// What the handlers of a process share. Build it once per process: its HTTP client pools connections.
///
/// # Errors
/// The HTTP client cannot be built: a fault of this build, not of the settings.
pub fn resources(settings: &Settings) -> Result<Resources, ProductError> {
    PRODUCTS
        .iter()
        .try_fold(Resources::default(), |resources, product| {
            product.resources(settings, resources)
        })
}

/// What handlers need of a worker's process beside [`resources`], and what the worker does beside its jobs. The duties never
/// end by themselves.
pub fn worker_duties(worker: WorkerProcess<'_>, resources: Resources) -> (Resources, Vec<Duty>) {
    PRODUCTS
        .iter()
        .fold((resources, Vec::new()), |(resources, mut duties), product| {
            let (resources, more) = product.worker_duties(worker, resources);
            duties.extend(more);
            (resources, duties)
        })
}

/// What a beat does beside its schedules. The duties never end by themselves.
pub fn beat_duties(beat: Process<'_>) -> Vec<Duty> {
    PRODUCTS
        .iter()
        .flat_map(|product| product.beat_duties(beat))
        .collect()
}

/// Polls all of these; it never ends by itself.
pub async fn perform(duties: Vec<Duty>) {
    futures::future::join_all(duties).await;
    std::future::pending::<()>().await;
}

/// The routes of every product that has some.
pub fn product_routes() -> impl Iterator<Item = ProductRoutes> {
    PRODUCTS.iter().filter_map(|product| product.routes())
}

/// Every action that a product writes into the audit log.
pub fn audit_verbs() -> impl Iterator<Item = &'static str> {
    PRODUCTS
        .iter()
        .flat_map(|product| product.audit_verbs().iter().copied())
}

/// A payload of this kind without its secrets; `None`: the kind has no secret fields.
pub fn redacted(kind: &str, payload: &RawValue) -> Option<Box<RawValue>> {
    let mut marked = PRODUCTS.iter().flat_map(|product| product.secret_fields());
    let of_kind: Option<&SecretFields> = marked.find(|marked| marked.kind == kind);
    of_kind.and_then(|marked| marked.redact(payload))
}

fn personal_data(process: Process<'_>, cache: &Cache) -> Vec<Arc<dyn PersonalData>> {
    PRODUCTS
        .iter()
        .filter_map(|product| product.personal_data(process, cache))
        .collect()
}
