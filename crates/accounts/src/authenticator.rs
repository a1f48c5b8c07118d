//! How a server knows its callers: by API keys alone, or by API keys and sessions.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use holdfast_http::authentication::Authenticator;
use holdfast_http::{Caller, Problem};

use crate::keys::ApiKeys;
use crate::sessions::{Sessions, is_token};

/// API keys alone, for services without sessions.
impl Authenticator for ApiKeys {
    fn known_key(&self, token: &str) -> Option<Caller> {
        self.known(token)
    }

    fn look_up_key<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller, Problem>> {
        async move { Ok(self.look_up(token).await?) }.boxed()
    }

    fn session<'a>(&'a self, _: &'a str) -> Option<BoxFuture<'a, Result<Caller, Problem>>> {
        None
    }

    fn has_no_keys(&self) -> BoxFuture<'_, Result<bool, Problem>> {
        async move { Ok(self.none_exist().await?) }.boxed()
    }
}

/// API keys, and the sessions of users.
#[derive(Debug, Clone)]
pub struct KeysAndSessions {
    pub keys: ApiKeys,
    pub sessions: Sessions,
}

impl Authenticator for KeysAndSessions {
    fn known_key(&self, token: &str) -> Option<Caller> {
        self.keys.known(token)
    }

    fn look_up_key<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller, Problem>> {
        self.keys.look_up_key(token)
    }

    fn session<'a>(&'a self, token: &'a str) -> Option<BoxFuture<'a, Result<Caller, Problem>>> {
        is_token(token).then(|| async move { Ok(self.sessions.authenticate(token).await?) }.boxed())
    }

    fn has_no_keys(&self) -> BoxFuture<'_, Result<bool, Problem>> {
        self.keys.has_no_keys()
    }
}
