//! The job kinds that belong to no product.
//!
//! | kind | does |
//! | --- | --- |
//! | [`DebugEcho`] `debug.echo` | returns its payload |
//! | [`DebugSleep`] `debug.sleep` | sleeps, reports progress, stops cooperatively at a cancellation |
//! | [`DebugFail`] `debug.fail` | fails as its payload says, the death of the process included |
//! | [`HttpRequest`] `http.request` | calls a URL |
//! | [`Probe`] `holdfast.probe` | nothing: `holdfast validate` sends it through each queue |
//!
//! The `debug.*` kinds exist for tests and first steps, and a production process does not know them: [`DebugFail`] could be
//! used to kill workers. A kind is one file here and one line in the list below. What handlers share (the HTTP client with its
//! address policy) is built once per process, by [`KindsProduct`].

/// Declares each kind's file, and registers its type.
macro_rules! kinds {
    ($($(#[$doc:meta])* $set:ident { $($module:ident :: $kind:ident,)+ })+) => {
        $(
            $(
                mod $module;
                pub use $module::$kind;
            )+

            $(#[$doc])*
            fn $set(registry: holdfast_jobs::Registry) -> holdfast_jobs::Registry {
                registry$(.register::<$kind>())+
            }
        )+
    };
}

// The list of kinds: one line each.
kinds! {
    /// In every process.
    built_in {
        http_request::HttpRequest,
        probe::Probe,
    }
    /// Not in production.
    debug {
        debug_echo::DebugEcho,
        debug_fail::DebugFail,
        debug_sleep::DebugSleep,
    }
}

pub mod signing_keys;

use std::sync::Arc;

use holdfast_core::config::Settings;
use holdfast_http::ProblemKind;
use holdfast_jobs::rotation::SealedColumn;
use holdfast_jobs::{Registry, Resources};
use holdfast_outbound::{AddressPolicy, Outbound};
use holdfast_product::{Duty, Process, Product, ProductError, ProductRoutes, WorkerProcess, handler_state};

use signing_keys::{SigningKeyProblem, SigningKeys, SigningKeysState};

pub use debug_fail::{FailMode, RecoveryReport};
pub use debug_sleep::Slept;
pub use http_request::{HttpOutput, HttpResult, Method, ResultForm, ResultLimit};

/// The actions of the audit log.
pub mod action {
    pub const SIGNING_KEY_CREATE: &str = "signing_key.create";
    pub const SIGNING_KEY_ROTATE: &str = "signing_key.rotate";
    pub const SIGNING_KEY_DELETE: &str = "signing_key.delete";
}

#[derive(Debug)]
pub struct KindsProduct;

impl Product for KindsProduct {
    fn name(&self) -> &'static str {
        "kinds"
    }

    fn kinds(&self, registry: Registry) -> Registry {
        built_in(registry)
    }

    fn development_kinds(&self, registry: Registry) -> Registry {
        debug(registry)
    }

    /// An address that will never be allowed is refused when the job is enqueued.
    fn restrict(&self, settings: &Settings, registry: Registry) -> Registry {
        let policy = AddressPolicy::of(&settings.http_request);
        registry.restrict::<HttpRequest>(move |request| request.check_address(&policy))
    }

    fn worker_duties(&self, worker: WorkerProcess<'_>, resources: Resources) -> (Resources, Vec<Duty>) {
        let keys = signing_keys_of(worker.process);
        (resources.with(keys), Vec::new())
    }

    fn sealed_columns(&self) -> Vec<SealedColumn> {
        signing_keys::SEALED.to_vec()
    }

    fn routes(&self) -> Option<ProductRoutes> {
        Some(ProductRoutes {
            table: signing_keys::ROUTES,
            state: |api| {
                handler_state(SigningKeysState {
                    http: Arc::clone(api.http),
                    keys: signing_keys_of(api.process),
                })
            },
        })
    }

    fn problems(&self) -> &'static [ProblemKind] {
        SigningKeyProblem::ALL
    }

    fn audit_verbs(&self) -> &'static [&'static str] {
        &[
            action::SIGNING_KEY_CREATE,
            action::SIGNING_KEY_ROTATE,
            action::SIGNING_KEY_DELETE,
        ]
    }

    /// The HTTP client pools connections.
    fn resources(&self, settings: &Settings, resources: Resources) -> Result<Resources, ProductError> {
        let outbound = Outbound::new(&settings.http_request).map_err(|error| ProductError {
            product: self.name(),
            source: error.into(),
        })?;
        Ok(resources
            .with(outbound)
            .with(ResultLimit(settings.jobs.max_payload_bytes)))
    }
}

fn signing_keys_of(process: Process<'_>) -> SigningKeys {
    SigningKeys::new(process.settings, process.database, process.jobs.clone())
}
