//! Which kinds a process knows, and what their handlers share.

use holdfast_core::config::Settings;
use holdfast_jobs::{Registry, Resources};

use crate::outbound::{Outbound, OutboundError};
use crate::{ResultLimit, built_in, debug};

/// Every kind that Holdfast brings along, the `debug.*` ones included.
pub fn registry() -> Registry {
    debug(production())
}

fn production() -> Registry {
    built_in(Registry::new())
        .register::<crate::discovery::EventsDiscover>()
        .register::<crate::points::PointsFlush>()
        .register::<crate::recommend::MlRecommend>()
        .register::<crate::recommend::MlTrain>()
        .register::<crate::webhooks::NotifyWebhook>()
        .register::<crate::mail::NotifyEmail>()
        .register::<crate::mail::NotifyDigest>()
}

/// The kinds of a process with these settings: no `debug.*` in production, where [`crate::DebugFail`] could be used to
/// kill workers.
pub fn registry_for(settings: &Settings) -> Registry {
    if settings.is_production() {
        production()
    } else {
        registry()
    }
}

/// What the handlers of the built-in kinds share. Build it once per process: its HTTP client pools connections.
///
/// # Errors
/// The HTTP client cannot be built: a fault of this build, not of the settings.
pub fn resources(settings: &Settings) -> Result<Resources, OutboundError> {
    Ok(Resources::default()
        .with(Outbound::new(&settings.http_request)?)
        .with(ResultLimit(settings.jobs.max_payload_bytes)))
}
