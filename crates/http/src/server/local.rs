//! The routes of a server, called in its own process: a request without a socket goes through the same middleware, and is answered
//! with the rights of the credentials that it carries.
//!
//! A value belongs to one HTTP thread, as every application of actix does.

use std::fmt;

use actix_http::Request;
use actix_service::boxed::{self, BoxService};
use actix_service::{Service as _, ServiceFactory as _};
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::web::{Data, ServiceConfig};
use actix_web::{Error, HttpResponse};
use holdfast_core::config::ServerSettings;

use super::application;
use crate::middleware::Limits;
use crate::problem::Problem;

/// See the [module](self).
pub struct LocalRoutes(BoxService<Request, ServiceResponse<BoxBody>, Error>);

impl LocalRoutes {
    /// # Errors
    /// A route could not be set up: a fault of this build.
    pub async fn start(
        settings: &ServerSettings,
        configure: impl FnOnce(&mut ServiceConfig) + 'static,
    ) -> Result<Self, Problem> {
        let limits = Data::new(Limits::new(settings.request_timeout, settings.max_wait));
        let started = application(limits, configure)
            .new_service(AppConfig::default())
            .await;
        let service =
            started.map_err(|()| Problem::internal("the routes of this process cannot be set up"))?;
        Ok(Self(boxed::service(service)))
    }

    /// What the routes answer; an error is answered as a problem.
    pub async fn call(&self, request: Request) -> HttpResponse {
        match self.0.call(request).await {
            Ok(answered) => answered.into_parts().1,
            Err(error) => error.error_response(),
        }
    }
}

impl fmt::Debug for LocalRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalRoutes")
    }
}
