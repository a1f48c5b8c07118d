//! What the routes of this crate share.

use std::sync::Arc;

use holdfast_http::ServerContext;

use crate::discovery::{Sources, Subscriptions};
use crate::recommend::Recommender;

/// The state of [`ROUTES`](crate::ROUTES).
#[derive(Debug, Clone)]
pub struct EventsState {
    pub http: Arc<ServerContext>,
    pub sources: Sources,
    pub subscriptions: Subscriptions,
    /// With the stores of events and interactions.
    pub recommender: Recommender,
}
