//! What the routes of this crate share.

use std::sync::Arc;

use holdfast_http::ServerContext;

use crate::authenticator::KeysAndSessions;
use crate::keys::ApiKeys;
use crate::sessions::Sessions;
use crate::users::Users;

/// The state of [`ROUTES`](crate::ROUTES).
#[derive(Debug, Clone)]
pub struct AccountsState {
    pub http: Arc<ServerContext>,
    pub keys: ApiKeys,
    pub sessions: Sessions,
    pub users: Users,
}

impl AccountsState {
    pub fn new(http: &Arc<ServerContext>, callers: &KeysAndSessions) -> Self {
        Self {
            http: Arc::clone(http),
            keys: callers.keys.clone(),
            sessions: callers.sessions.clone(),
            users: callers.sessions.users().clone(),
        }
    }
}
