//! The built-in job kinds and the products behind them. Plain kinds are listed below, those of products in `registry.rs`.
//!
//! | kind | does |
//! | --- | --- |
//! | [`DebugEcho`] `debug.echo` | returns its payload |
//! | [`DebugSleep`] `debug.sleep` | sleeps, reports progress, gives way to a cancellation |
//! | [`DebugFail`] `debug.fail` | fails in the way it is told, the process' death included |
//! | [`HttpRequest`] `http.request` | calls a URL |
//! | [`webhooks::NotifyWebhook`] `notify.webhook` | tells an endpoint of an event, signed |
//! | [`mail::NotifyEmail`] `notify.email` | sends a mail, written from a template |
//! | [`mail::NotifyDigest`] `notify.digest` | sends what was put aside for a user as one mail |
//! | [`discovery::EventsDiscover`] `events.discover` | reads a source of events, and stores what is new |
//! | [`points::PointsFlush`] `points.flush` | takes points from the buffer to SQL |
//! | [`recommend::MlTrain`] `ml.train` | makes the model of what people like |
//! | [`recommend::MlRecommend`] `ml.recommend` | makes a user's list of recommended events |
//! | [`Probe`] `holdfast.probe` | nothing: `holdfast validate` sends it through each queue |
//!
//! The `debug.*` kinds exist for tests and first steps, and a production process does not know them
//! ([`registry_for`]). A plain kind is one file here and one line in the list below. What handlers share (the HTTP
//! client with its address policy) is built once per process, by [`resources`].

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

pub mod accounts;
mod dialect;
pub mod discovery;
pub mod events;
pub mod interactions;
pub mod mail;
pub mod notices;
pub mod outbound;
mod place;
pub mod points;
pub mod recommend;
pub mod redaction;
mod registry;
mod secrets;
pub mod webhooks;
mod words;

pub use debug_fail::{FailMode, Recovered};
pub use debug_sleep::Slept;
pub use http_request::{HttpResult, Method, ResultLimit};
pub use registry::{registry, registry_for, resources};
