//! Whether a logout holds everywhere at once.

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_http::health::{Finding, HealthProbe, hints};

use crate::sessions::Sessions;

/// Whether Redis answers for sessions. Without it SQL decides, and a logout reaches other processes within ten seconds.
#[derive(Debug)]
pub struct SessionsProbe {
    sessions: Sessions,
}

impl SessionsProbe {
    pub fn new(sessions: Sessions) -> Self {
        Self { sessions }
    }

    fn look(&self) -> Finding {
        if !self.sessions.is_on() {
            return Finding::not_configured().with("login", "off: JWT_SECRET_KEY is not set");
        }
        if self.sessions.is_degraded() {
            return Finding::degraded(
                "Redis does not answer: SQL alone decides about sessions",
                hints::SESSIONS_LOCAL,
            );
        }
        Finding::healthy()
    }
}

impl HealthProbe for SessionsProbe {
    fn name(&self) -> &'static str {
        "sessions"
    }

    fn check(&self) -> BoxFuture<'_, Finding> {
        async { self.look() }.boxed()
    }
}
