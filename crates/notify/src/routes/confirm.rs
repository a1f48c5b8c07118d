//! The page behind the link of a confirmation mail: the owner of an address confirms that it is a user's.
//!
//! As with unsubscribing, opening the link changes nothing; the page's button does. The page names the user, so that nobody confirms an
//! address for a stranger.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use holdfast_http::mailed_link::{behind_link, escaped, page};
use holdfast_http::problem::Problem;

use crate::state::NotifyState;

/// Ask whether an address is a user's
///
/// A page with a button. The link of a confirmation mail leads here; it works for 48 hours.
#[utoipa::path(get, path = "/v1/confirm-address/{token}", tag = "users", operation_id = "ask_to_confirm_address",
    params(("token" = String, Path, description = "As the mail's link says it")),
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
    let preferences = state.preferences.clone();
    let follow = |token: String| async move { preferences.confirmation(&token).await };
    let asked = behind_link(&state.http, &request, follow).await?;
    let (address, user) = (escaped(&asked.address), escaped(&asked.user));
    Ok(page(
        StatusCode::OK,
        "Confirm an address",
        &format!(
            "<p>Is <b>{address}</b> the address of the user <b>{user}</b>?</p>\n\
             <form method=\"post\"><button>Confirm</button></form>"
        ),
    ))
}

/// Confirm an address
///
/// What the page's button sends. The body is not read. Doing it again changes nothing.
#[utoipa::path(post, path = "/v1/confirm-address/{token}", tag = "users", operation_id = "confirm_address",
    params(("token" = String, Path, description = "As the mail's link says it")),
    responses(
        (status = 200, description = "Confirmed", content_type = "text/html"),
        (status = 404, description = "link-not-found"),
        (status = 429, description = "too-many-requests"),
        (status = 503, description = "unavailable"),
    ))]
pub(crate) async fn confirm(
    state: web::Data<NotifyState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let preferences = state.preferences.clone();
    let follow = |token: String| async move { preferences.confirm(&token).await };
    let done = behind_link(&state.http, &request, follow).await?;
    let address = escaped(&done.address);
    Ok(page(
        StatusCode::OK,
        "Confirm an address",
        &format!("<p><b>{address}</b> is confirmed.</p>"),
    ))
}
