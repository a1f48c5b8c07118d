//! What a product of Holdfast is, and what products share.
//!
//! A product (points, events, notifications, …) is a crate over the engine of `holdfast-jobs`. It tells what it has through
//! one trait, [`Product`]; `crates/services/src/products.rs` lists all of them, and the services run what that list gives
//! them. Neither the engine nor a service names a product, and no product names another one. Where two of them meet, a
//! trait of this crate stands between: [`Messenger`], by which one product has messages sent by another, and
//! [`PersonalData`], by which a user is exported and deleted across all of them.

pub mod mail_address;
mod messenger;
mod path_user;
mod personal_data;
pub mod redaction;
mod user;

use std::fmt;
use std::sync::Arc;

use actix_web::web::{Data, ServiceConfig};
use futures::future::BoxFuture;
use holdfast_cache::Cache;
use holdfast_core::config::{ProductSection, Settings};
use holdfast_core::redis::RedisGate;
use holdfast_core::sql::Database;
use holdfast_http::{ProblemKind, RouteTable, ServerContext};
use holdfast_jobs::rotation::SealedColumn;
use holdfast_jobs::{Jobs, Registry, Resources};

pub use messenger::{ANNOUNCEMENT_FRAME, Announcement, AnnouncementMail, Messenger, MessengerResource};
pub use path_user::own_user;
pub use personal_data::{DeletionCounts, ExportPage, Person, PersonalData};
pub use user::{
    AccountId, AddressAuthority, DELETED_ACCOUNT, InvalidAccount, InvalidUser, MAX_USER, UserName,
};

/// Work that goes on for as long as it is polled. It never ends by itself.
pub type Duty = BoxFuture<'static, ()>;

/// What a product shares among its handlers cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("the resources of {product} cannot be built")]
pub struct ProductError {
    /// See [`Product::name`].
    pub product: &'static str,
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What every process opens before its products.
#[derive(Debug, Clone, Copy)]
pub struct Process<'a> {
    pub settings: &'a Settings,
    pub database: &'a Database,
    pub jobs: &'a Jobs,
}

/// The process of a worker.
#[derive(Debug, Clone, Copy)]
pub struct WorkerProcess<'a> {
    pub process: Process<'a>,
    /// Of the queue role.
    pub gate: &'a RedisGate,
    pub cache: &'a Cache,
}

/// The process of an API.
#[derive(Debug, Clone, Copy)]
pub struct ApiProcess<'a> {
    pub process: Process<'a>,
    /// Of the queue role.
    pub gate: &'a RedisGate,
    pub cache: &'a Cache,
    /// What all handlers of the server share.
    pub http: &'a Arc<ServerContext>,
}

/// Registers the state of a product's handlers with one HTTP thread.
pub type HandlerState = Box<dyn Fn(&mut ServiceConfig) + Send + Sync>;

/// The routes of a product.
#[derive(Clone, Copy)]
pub struct ProductRoutes {
    pub table: RouteTable,
    /// Makes what the handlers share. Called once for each server, inside tokio.
    pub state: fn(ApiProcess<'_>) -> HandlerState,
}

impl fmt::Debug for ProductRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProductRoutes")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// The state of handlers that take `web::Data<T>`.
pub fn handler_state<T: Send + Sync + 'static>(state: T) -> HandlerState {
    let state = Data::new(state);
    Box::new(move |config| {
        config.app_data(state.clone());
    })
}

/// One product. Everything but its name may be left out.
pub trait Product: Send + Sync {
    /// As in the name of its crate.
    fn name(&self) -> &'static str;

    /// The sections of its settings, declared with [`holdfast_core::settings!`].
    fn settings(&self) -> &'static [ProductSection] {
        &[]
    }

    /// Registers the kinds that every process knows.
    fn kinds(&self, registry: Registry) -> Registry {
        registry
    }

    /// Registers the kinds that no production process knows.
    fn development_kinds(&self, registry: Registry) -> Registry {
        registry
    }

    /// Adds what these settings refuse of the product's kinds: see [`Registry::restrict`].
    fn restrict(&self, settings: &Settings, registry: Registry) -> Registry {
        let _ = settings;
        registry
    }

    /// Adds what handlers share and needs no database. Called once for each process that runs handlers.
    ///
    /// # Errors
    /// It cannot be built: a fault of this build, not of the settings.
    fn resources(&self, settings: &Settings, resources: Resources) -> Result<Resources, ProductError> {
        let _ = settings;
        Ok(resources)
    }

    /// Adds what handlers need of a worker's process, and gives the duties of each worker. Products are called in the order of
    /// their list: a resource of an earlier one is there.
    fn worker_duties(&self, worker: WorkerProcess<'_>, resources: Resources) -> (Resources, Vec<Duty>) {
        let _ = worker;
        (resources, Vec::new())
    }

    /// The duties of each beat. Any number of beats may have them at once.
    fn beat_duties(&self, beat: Process<'_>) -> Vec<Duty> {
        let _ = beat;
        Vec::new()
    }

    /// The columns whose values are encrypted where there are keys: what a rotation rewrites.
    fn sealed_columns(&self) -> Vec<SealedColumn> {
        Vec::new()
    }

    /// The routes of the product; `None`: it has none.
    fn routes(&self) -> Option<ProductRoutes> {
        None
    }

    /// The types of problems that its routes alone answer with, declared with [`holdfast_http::problems!`].
    fn problems(&self) -> &'static [ProblemKind] {
        &[]
    }

    /// The actions that the product writes into the audit log.
    fn audit_verbs(&self) -> &'static [&'static str] {
        &[]
    }

    /// What the product stores about users; `None`: nothing.
    fn personal_data(&self, process: Process<'_>, cache: &Cache) -> Option<Arc<dyn PersonalData>> {
        let _ = (process, cache);
        None
    }
}
