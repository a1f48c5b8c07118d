//! Unsubscribing by the link of a mail. The page's button, and the mail program's own (RFC 8058), send a POST, which does it. The answer
//! says nothing about the address.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use holdfast_http::Problem;
use holdfast_http::mailed_link::{behind_link, page};

use crate::state::NotifyState;

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
    let list = behind_link(&state.http, &request, |token| async move {
        notices.mail().token_list(&token).await
    })
    .await?;
    Ok(page(
        StatusCode::OK,
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
    let done = behind_link(&state.http, &request, |token| async move {
        notices.mail().unsubscribe(&token).await
    })
    .await?;
    let list = done.list;
    Ok(page(
        StatusCode::OK,
        "Unsubscribe",
        &format!("<p>You get no more mail of the list <b>{list}</b>.</p>"),
    ))
}
