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
mod upkeep;
mod users;
pub mod worker;

use std::sync::Arc;

use holdfast_cache::Cache;
use holdfast_control::Redactor;
use holdfast_core::config::{self, Additions, ConfigFaults, ProductSection, SettingDoc, Settings, Sources};
use holdfast_http::ProblemKind;
use holdfast_jobs::rotation::{Rotation, SealedColumn};
use holdfast_jobs::{Registry, Resources};
use holdfast_product::{Duty, PersonalData, Process, ProductError, ProductRoutes, WorkerProcess, redaction};

pub use holdfast_autoscale as autoscale;
pub use holdfast_events as events;
pub use holdfast_kinds as kinds;
pub use holdfast_notify as notify;
pub use holdfast_outbound as outbound;
pub use holdfast_points as points;
pub use holdfast_product as product;
pub use holdfast_results as results;

pub use products::PRODUCTS;
pub use program::Program;
pub use progress::Progress;
pub use role::{Role, UnknownRole};
pub use users::{
    DeleteOptions, DeletedUser, DeletedUsersKey, DeletionReport, Export, InvitationView, MadeKey,
    ROUTES as USER_ROUTES, UserData, UserDataError, UsersState,
};

/// The sections of the products' settings.
fn sections() -> Vec<ProductSection> {
    PRODUCTS
        .iter()
        .flat_map(|product| product.settings())
        .copied()
        .collect()
}

/// Every setting, those of the products included.
pub fn settings_table() -> Vec<SettingDoc> {
    config::settings_table(&sections())
}

/// The settings of given sources, those of the products included.
///
/// # Errors
/// Every fault of the sources.
pub fn load_from(sources: Sources) -> Result<Settings, ConfigFaults> {
    let sections = sections();
    let additions = Additions {
        sections: &sections,
        ..Additions::default()
    };
    config::load_from_with(sources, additions)
}

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

/// The kinds of a process with these settings, with what the settings refuse: in production none of those that only
/// development knows.
pub fn registry_for(settings: &Settings) -> Registry {
    let registry = if settings.is_production() {
        production()
    } else {
        registry()
    };
    PRODUCTS
        .iter()
        .fold(registry, |registry, product| product.restrict(settings, registry))
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
    let rotation = Rotation::new(beat.jobs, sealed_columns());
    let of_engine: Duty = Box::pin(rotation.keep_rotating());
    PRODUCTS
        .iter()
        .flat_map(|product| product.beat_duties(beat))
        .chain([of_engine])
        .collect()
}

/// What a rotation of encryption keys rewrites beside what the engine stores.
pub fn sealed_columns() -> impl Iterator<Item = SealedColumn> {
    PRODUCTS.iter().flat_map(|product| product.sealed_columns())
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

/// Every type of problem that the API answers with.
pub fn problems() -> impl Iterator<Item = ProblemKind> {
    let of_products = PRODUCTS.iter().flat_map(|product| product.problems());
    ProblemKind::ALL.iter().chain(of_products).copied()
}

/// Every action that a product writes into the audit log.
pub fn audit_verbs() -> impl Iterator<Item = &'static str> {
    PRODUCTS
        .iter()
        .flat_map(|product| product.audit_verbs().iter().copied())
}

/// Shows payloads without the fields that their kinds, built-in or the application's own, mark as secret.
pub fn redactor(registry: &Registry) -> Redactor {
    Redactor::new(registry.clone(), redaction::redact)
}

fn personal_data(process: Process<'_>, cache: &Cache) -> Vec<Arc<dyn PersonalData>> {
    PRODUCTS
        .iter()
        .filter_map(|product| product.personal_data(process, cache))
        .collect()
}

#[cfg(test)]
mod tests {
    use holdfast_jobs::{Job, JobContext, JobError, SecretField, SecretPart};
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Charge {
        amount: u32,
        card: String,
    }

    impl Job for Charge {
        const KIND: &'static str = "shop.charge";
        type Output = ();

        fn secret_fields() -> &'static [SecretField] {
            &[("card", SecretPart::Whole)]
        }

        async fn run(self, _: JobContext) -> Result<(), JobError> {
            Ok(())
        }
    }

    #[test]
    fn an_applications_own_kind_marks_its_secret_fields() {
        let redactor = redactor(&registry().register::<Charge>());
        let shown = |kind: &str, payload: &str| {
            let payload: Box<RawValue> = serde_json::from_str(payload).unwrap();
            redactor.shown(kind, &payload).map(|shown| shown.get().to_owned())
        };
        let charge = r#"{"amount":7,"card":"4111"}"#;
        assert_eq!(
            shown("shop.charge", charge).unwrap(),
            r#"{"amount":7,"card":"[redacted]"}"#
        );
        assert_eq!(shown("debug.echo", charge), None, "the kind has no secret fields");
        let unknown = shown("shop.other", charge);
        assert_eq!(
            unknown.as_deref(),
            Some(r#""[redacted]""#),
            "it is not known what is secret"
        );
        let mail = shown(
            "notify.email",
            r#"{"to":"ada@example.com","data":{"code":"S-77"}}"#,
        )
        .unwrap();
        assert!(mail.contains("ada@") && !mail.contains("S-77"), "{mail}");
        let request = shown("http.request", r#"{"url":"https://u:p@example.com"}"#).unwrap();
        assert!(!request.contains("u:p"), "{request}");
    }
}
