//! Where the links of mails lead. Whoever holds a link may use it; nothing else is asked.
//!
//! Opening the link changes nothing: scanners and previews open links too. The page's button, and the mail program's own
//! (RFC 8058), send a POST, which does it. The answer says nothing about the address.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use holdfast_http::authentication::count_anonymous;
use holdfast_http::params::Params;
use holdfast_http::{Problem, ProblemKind};

use crate::state::NotifyState;

/// Longest token that is looked at, in bytes: that of a confirmation has 96.
const MAX_TOKEN: usize = 128;

/// The page has a form and nothing else.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
);

/// Show the unsubscribe page
///
/// A page with a button, which the link in a mail opens.
#[utoipa::path(get, path = "/v1/unsubscribe/{token}", tag = "mail", operation_id = "ask_to_unsubscribe",
    params(("token" = String, Path, description = "The token of a mail's link")),
    responses(
        (status = 200, description = "A page", content_type = "text/html"),
        (status = 404, description = "link-not-found"),
        (status = 429, description = "too-many-requests"),
        (status = 503, description = "unavailable"),
    ))]
pub(crate) async fn ask(
    state: web::Data<NotifyState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let notices = state.notices.clone();
    let list = behind_link(&state, &request, |token| async move {
        notices.mail().token_list(&token).await
    })
    .await?;
    Ok(page(
        "Unsubscribe",
        &format!(
            "<p>Do you want no more mail of the list <b>{list}</b>?</p>\n\
         <form method=\"post\"><button>Unsubscribe</button></form>"
        ),
    ))
}

/// Unsubscribe
///
/// The request of the page's button and of a mail program's one-click unsubscribe (RFC 8058). The body is
/// ignored. Repeating it changes nothing.
#[utoipa::path(post, path = "/v1/unsubscribe/{token}", tag = "mail", operation_id = "unsubscribe",
    params(("token" = String, Path, description = "The token of a mail's link")),
    responses(
        (status = 200, description = "Unsubscribed", content_type = "text/html"),
        (status = 404, description = "link-not-found"),
        (status = 429, description = "too-many-requests"),
        (status = 503, description = "unavailable"),
    ))]
pub(crate) async fn unsubscribe(
    state: web::Data<NotifyState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let notices = state.notices.clone();
    let done = behind_link(&state, &request, |token| async move {
        notices.mail().unsubscribe(&token).await
    })
    .await?;
    let list = done.list;
    Ok(page(
        "Unsubscribe",
        &format!("<p>You get no more mail of the list <b>{list}</b>.</p>"),
    ))
}

/// What the token of a mail's link leads to. Requests count against the address that they come from, because they name no caller.
pub(super) async fn behind_link<T, E, F>(
    state: &NotifyState,
    request: &HttpRequest,
    follow: impl FnOnce(String) -> F,
) -> Result<T, Problem>
where
    F: Future<Output = Result<Option<T>, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
    Problem: From<E>,
{
    Params::of(request, &[]).finish()?;
    count_anonymous(&state.http, request).await?;
    let followed = state.http.on_runtime(follow(token_of(request)?)).await?;
    followed.ok_or_else(no_such_link)
}

fn token_of(request: &HttpRequest) -> Result<String, Problem> {
    let token = request.match_info().get("token").unwrap_or_default();
    let is_token = |text: &str| {
        let mut bytes = text.bytes();
        text.len() <= MAX_TOKEN && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    if is_token(token) {
        return Ok(token.to_owned());
    }
    Err(no_such_link())
}

fn no_such_link() -> Problem {
    let detail = "the link is not one of ours, or is too old; use the one in the mail, whole";
    Problem::new(ProblemKind::LinkNotFound, detail)
}

/// A page with this title. What is put in is escaped, or a list's name, of letters that mean nothing in HTML.
pub(super) fn page(title: &str, content: &str) -> HttpResponse {
    let text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body>\n{content}\n</body></html>\n"
    );
    let mut response = HttpResponse::build(StatusCode::OK);
    response.content_type("text/html; charset=utf-8");
    response.insert_header((header::CONTENT_SECURITY_POLICY, PAGE_POLICY));
    response.insert_header((header::X_FRAME_OPTIONS, "DENY"));
    response.body(text)
}
