//! What the routes of this crate share.

use std::sync::Arc;

use holdfast_http::ServerContext;

use crate::Points;

/// The state of [`ROUTES`](crate::ROUTES).
#[derive(Debug, Clone)]
pub struct PointsState {
    pub http: Arc<ServerContext>,
    pub points: Points,
}
