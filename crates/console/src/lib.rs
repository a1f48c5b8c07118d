//! The web console: pages that show what the API answers, and forms that ask it for what a person wants done.
//!
//! A page is rendered on the server from the API's own documents, fetched with the credentials of the person who looks at it: in this
//! process for the API's console ([`Console::local`]), over HTTP for one of a remote API ([`Console::remote`]). The console therefore
//! shows and does nothing that its user could not see or do over the API. Small modules of our own make the pages live and add the
//! keyboard; without JavaScript every view is an address and every action a form.
//!
//! # Invariants
//! - The API decides rights. A page only leaves out what would be refused.
//! - A write is taken only from a page of this origin ([`session`]).
//! - A page loads files of this origin only, no style or script stands in its text, and no text of a job becomes markup ([`page`]).
//! - Numbers are shown with the digits that the API sent ([`json`]).
//!
//! # When things fail
//! Each part of a page is read by itself: what cannot be read is said in its place, and the other parts are shown.

mod actions;
mod api;
mod assets;
mod context;
mod failure;
mod json;
mod login;
mod page;
mod pages;
mod remote;
mod router;
mod session;
mod ui;
mod urls;

use std::rc::Rc;
use std::sync::Arc;

use actix_web::web::{self, ServiceConfig};
use holdfast_core::config::{ConsoleSettings, ServerSettings};
use secrecy::SecretString;
use url::Url;

use crate::api::{Api, ApiSource};
use crate::context::{Config, ThreadState};
use crate::remote::RemoteApi;
use crate::session::Refreshes;

pub use crate::remote::RemoteError;

/// The console of an API. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Console {
    config: Arc<Config>,
    source: ApiSource,
    refreshes: Arc<Refreshes>,
}

impl Console {
    /// Over the routes that `configure` registers, in this process.
    pub fn local(
        settings: &ConsoleSettings,
        server: &ServerSettings,
        configure: impl Fn(&mut ServiceConfig) + Send + Sync + 'static,
    ) -> Self {
        let source = ApiSource::Local {
            server: Arc::new(server.clone()),
            configure: Arc::new(configure),
        };
        Self::new(settings, source, None)
    }

    /// Over an API at an address. Browsers that come by [`link`](Self::link) have the rights of `key`; others log in.
    pub fn remote(
        settings: &ConsoleSettings,
        api: Url,
        key: Option<SecretString>,
    ) -> Result<Self, RemoteError> {
        let ticket = key.is_some().then(|| {
            let bytes: [u8; 32] = rand::random();
            bytes.map(|byte| format!("{byte:02x}")).concat()
        });
        let source = ApiSource::Remote(Arc::new(RemoteApi::new(api, key)?));
        Ok(Self::new(settings, source, ticket))
    }

    fn new(settings: &ConsoleSettings, source: ApiSource, ticket: Option<String>) -> Self {
        Self {
            config: Arc::new(Config {
                path: settings.path.clone(),
                label: settings.label.clone(),
                label_color: settings.label_color,
                read_only: settings.read_only,
                ticket,
            }),
            source,
            refreshes: Arc::default(),
        }
    }

    /// The address to open, below the server's. It is a secret where the console has a key.
    pub fn link(&self) -> String {
        match &self.config.ticket {
            Some(ticket) => format!("{}/enter?ticket={ticket}", self.config.path),
            None => self.config.path.clone(),
        }
    }

    /// Registers the pages with one HTTP thread.
    pub fn configure(&self, config: &mut ServiceConfig) {
        let state = Rc::new(ThreadState {
            config: Arc::clone(&self.config),
            api: Api::new(self.source.clone()),
            refreshes: Arc::clone(&self.refreshes),
        });
        let path = &self.config.path;
        config
            .app_data(state)
            .route("/", web::get().to(router::to_console))
            .route(path, web::route().to(router::serve))
            .route(&format!("{path}/{{rest:.*}}"), web::route().to(router::serve));
    }
}
