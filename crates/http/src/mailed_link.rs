//! What the links of mails lead to: HTML pages with one form. The link is the authorization: no login is needed.
//!
//! Opening the link changes nothing: scanners and previews open links too. The page's button sends a POST, which does it.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};

use crate::authentication::count_anonymous;
use crate::context::ServerContext;
use crate::params::Params;
use crate::problem::{Problem, ProblemKind};

/// Longest token that is looked at, in bytes: that of an invitation has 112.
const MAX_TOKEN: usize = 128;

/// The page has a form and nothing else.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
);

/// The content type of the pages.
pub(crate) const PAGE_TYPE: &str = "text/html; charset=utf-8";

/// What the token of a mail's link leads to. Requests count against the address that they come from, because they name no caller.
pub async fn behind_link<T, E, F>(
    context: &ServerContext,
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
    count_anonymous(context, request).await?;
    let followed = context.on_runtime(follow(token_of(request)?)).await?;
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

/// A page with this title. The content is HTML: what others have written is [`escaped`].
pub fn page(status: StatusCode, title: &str, content: &str) -> HttpResponse {
    let text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body>\n{content}\n</body></html>\n"
    );
    let mut response = HttpResponse::build(status);
    response.content_type(PAGE_TYPE);
    response.insert_header((header::CONTENT_SECURITY_POLICY, PAGE_POLICY));
    response.insert_header((header::X_FRAME_OPTIONS, "DENY"));
    response.body(text)
}

/// As text of an HTML document.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
