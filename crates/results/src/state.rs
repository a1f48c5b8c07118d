//! What the routes of this crate share.

use std::sync::Arc;

use holdfast_http::ServerContext;

use crate::Results;

/// The state of [`ROUTES`](crate::ROUTES).
#[derive(Debug, Clone)]
pub struct ResultsState {
    pub http: Arc<ServerContext>,
    pub results: Results,
    /// Most bytes of a document's or a message's body: `jobs.max_payload_bytes`.
    pub max_body: usize,
}
