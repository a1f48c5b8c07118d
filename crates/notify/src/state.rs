//! What the routes of this crate share.

use std::sync::Arc;

use holdfast_http::ServerContext;

use crate::PreferenceStore;
use crate::notifications::Notices;

/// The state of [`ROUTES`](crate::ROUTES).
#[derive(Debug, Clone)]
pub struct NotifyState {
    pub http: Arc<ServerContext>,
    /// With webhooks and mail.
    pub notices: Notices,
    pub preferences: PreferenceStore,
}
