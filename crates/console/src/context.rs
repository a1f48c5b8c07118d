//! What a page is made with: the request, the person who looks, and the API as that person may use it.

use std::rc::Rc;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::Method;
use holdfast_core::config::LabelColor;
use holdfast_http::Scope;

use crate::api::{Api, ApiRequest};
use crate::failure::Failure;
use crate::json::Json;
use crate::session::{self, Refreshes};
use crate::urls::{self, Fields};

/// How the console is set up; shared by all threads.
#[derive(Debug)]
pub(crate) struct Config {
    /// Without a slash at its end.
    pub(crate) path: String,
    pub(crate) label: String,
    pub(crate) label_color: LabelColor,
    pub(crate) read_only: bool,
    /// Of the console of a remote API: the token of the printed link.
    pub(crate) ticket: Option<String>,
}

/// What the pages of one HTTP thread share.
#[derive(Debug)]
pub(crate) struct ThreadState {
    pub(crate) config: Arc<Config>,
    pub(crate) api: Api,
    pub(crate) refreshes: Arc<Refreshes>,
}

/// Who looks at a page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Viewer {
    pub(crate) name: String,
    scopes: Vec<String>,
    read_only: bool,
}

impl Viewer {
    fn of(me: &Json, read_only: bool) -> Self {
        let name = match (me.text("name"), me.text("kind")) {
            ("", "key") => format!("key {}", me.text("id")),
            ("", "bootstrap") => "HOLDFAST_API_KEY".to_owned(),
            ("", "local") => "this machine".to_owned(),
            ("", _) => me.text("id").to_owned(),
            (name, _) => name.to_owned(),
        };
        Self {
            name,
            scopes: me.texts("scopes").map(ToOwned::to_owned).collect(),
            read_only,
        }
    }

    /// Whether the API would let this person do what needs the scope. The pages only hide: the API decides.
    fn has(&self, scope: Scope) -> bool {
        let has = |scope: Scope| self.scopes.iter().any(|held| held == scope.as_str());
        has(scope) || has(Scope::Admin) || (scope == Scope::Read && has(Scope::ReadPayload))
    }

    /// Whether the person sees what needs this scope.
    pub(crate) fn sees(&self, scope: Scope) -> bool {
        self.has(scope)
    }

    /// Whether an action that needs this scope is offered.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        !self.read_only && self.has(scope)
    }

    pub(crate) fn scopes(&self) -> String {
        self.scopes.join(", ")
    }
}

/// One request for a page or an action.
pub(crate) struct Context {
    pub(crate) state: Rc<ThreadState>,
    pub(crate) request: HttpRequest,
    /// The parameters of the query.
    pub(crate) query: Fields,
    pub(crate) token: Option<String>,
    /// The cookie is to hold [`token`](Self::token) from now on.
    pub(crate) has_new_token: bool,
    pub(crate) viewer: Viewer,
}

impl Context {
    /// For a request, before it is known who sent it.
    pub(crate) async fn open(state: Rc<ThreadState>, request: HttpRequest) -> Self {
        let given = Self::given_token(&state, &request);
        let in_background = is_background(&request);
        let next = match &given {
            Some(token) => {
                state
                    .refreshes
                    .next_of(token, &state.api, &request, in_background)
                    .await
            }
            None => None,
        };
        Self {
            query: Fields::parse(request.query_string().as_bytes()),
            has_new_token: next.is_some(),
            token: next.or(given),
            viewer: Viewer::default(),
            state,
            request,
        }
    }

    fn given_token(state: &ThreadState, request: &HttpRequest) -> Option<String> {
        let token = session::token_of(request)?;
        // A browser that came by the printed link has the key of the console's own process.
        if state.config.ticket.as_ref() == Some(&token) {
            return state.api.remote()?.exposed_key().map(ToOwned::to_owned);
        }
        Some(token)
    }

    /// Asks the API who sends the request.
    ///
    /// # Errors
    /// 401: the person has to log in.
    pub(crate) async fn identify(&mut self) -> Result<(), Failure> {
        let me = self.get(&["v1", "auth", "me"], &[]).await?;
        self.viewer = Viewer::of(&me, self.state.config.read_only);
        Ok(())
    }

    /// A document of the API.
    pub(crate) fn get<'a>(
        &'a self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> impl Future<Output = Result<Json, Failure>> + use<'a> {
        self.send(ApiRequest::new(Method::GET, path).query(query))
    }

    /// What a POST answers.
    pub(crate) async fn post(&self, path: &[&str], body: Option<String>) -> Result<Json, Failure> {
        self.send(ApiRequest::new(Method::POST, path).body(body)).await
    }

    pub(crate) async fn send(&self, request: ApiRequest) -> Result<Json, Failure> {
        let answer = self.state.api.call(request, &self.request, self.token.as_deref());
        let answer = answer.await?;
        // The health report of an unhealthy system is a report, whatever its status.
        if answer.status.as_u16() == 503
            && let Ok(report) = Json::parse(&String::from_utf8_lossy(&answer.body))
            && !report.get("services").is_null()
        {
            return Ok(report);
        }
        answer.document()
    }

    /// The address of a page.
    pub(crate) fn url(&self, segments: &[&str]) -> String {
        let mut url = self.state.config.path.clone();
        for segment in segments {
            url.push('/');
            url.push_str(&urls::segment(segment));
        }
        url
    }

    /// The same, with parameters; those without a value are left out.
    pub(crate) fn url_with(&self, segments: &[&str], parameters: &[(&str, &str)]) -> String {
        self.url(segments) + &urls::query(parameters)
    }

    /// This page, with its query.
    pub(crate) fn here(&self) -> String {
        self.request
            .uri()
            .path_and_query()
            .map_or_else(|| self.url(&[]), ToString::to_string)
    }
}

/// The request of a module of a page that is open, not of a person who goes to another one.
pub(crate) fn is_background(request: &HttpRequest) -> bool {
    request.headers().contains_key("x-holdfast-live")
}
