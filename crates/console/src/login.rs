//! Logging in, by name and password or by API key, and out.

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::http::{Method, StatusCode};
use maud::html;

use crate::api::ApiRequest;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::quoted;
use crate::page;
use crate::router::see;
use crate::session;
use crate::ui;
use crate::urls::Fields;

/// The page with both forms.
pub(crate) fn show(cx: &Context, status: StatusCode, failure: Option<&Failure>) -> HttpResponse {
    let next = html! { input type="hidden" name="next" value=(cx.query.get("next")); };
    let action = cx.url_with(&["login"], &[("next", cx.query.get("next"))]);
    let remote = cx
        .state
        .api
        .remote()
        .map(|api| api.base().as_str().trim_end_matches('/').to_owned());
    let body = html! {
        main.alone #main {
            h1 { "Log in" }
            @if let Some(remote) = remote { p.quiet { "To the API at " (remote) } }
            @if let Some(failure) = failure { (ui::failed(failure)) }
            form.stack method="post" action=(action) {
                (next)
                (ui::field("Name", "", &html! {
                    input name="name" autocomplete="username" required maxlength="254" autofocus;
                }))
                (ui::field("Password", "", &html! {
                    input type="password" name="password" autocomplete="current-password" required maxlength="1024";
                }))
                button.primary { "Log in" }
            }
            details open[failure.is_some_and(|failure| failure.slug == "login-off")] {
                summary { "Use an API key" }
                form.stack method="post" action=(action) {
                    (next)
                    (ui::field("API key", "It stays in this browser until it is closed.", &html! {
                        input type="password" name="key" autocomplete="off" required maxlength="1024";
                    }))
                    button.primary { "Continue" }
                }
            }
        }
    };
    page::document(&cx.request, &cx.state.config, "Log in", status, &body)
}

/// The printed link of `holdfast console`: its ticket becomes the cookie.
pub(crate) fn enter(cx: &Context) -> HttpResponse {
    let given = cx.query.get("ticket");
    let is_ours = cx
        .state
        .config
        .ticket
        .as_deref()
        .is_some_and(|ticket| is_same(ticket, given));
    let mut response = see(&cx.url(&[]));
    if is_ours && let Some(cookie) = session::set_token(&cx.request, Some(given)) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// In a time that does not depend on where they differ.
fn is_same(ours: &str, given: &str) -> bool {
    let differing = ours
        .bytes()
        .zip(given.bytes())
        .fold(0, |differing, (a, b)| differing | (a ^ b));
    ours.len() == given.len() && differing == 0
}

pub(crate) async fn log_in(cx: &mut Context, form: &Fields) -> HttpResponse {
    let token = match form.get("key") {
        "" => token_of_login(cx, form).await,
        key => checked_key(cx, key).await,
    };
    let token = match token {
        Ok(token) => token,
        Err(failure) => return show(cx, failure.status, Some(&failure)),
    };
    let next = cx.query.get("next");
    let next = if next.starts_with(&cx.url(&[])) {
        next.to_owned()
    } else {
        cx.url(&[])
    };
    let mut response = see(&next);
    if let Some(cookie) = session::set_token(&cx.request, Some(&token)) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

async fn token_of_login(cx: &mut Context, form: &Fields) -> Result<String, Failure> {
    cx.token = None;
    let body = format!(
        r#"{{"name":{},"password":{}}}"#,
        quoted(form.get("name")),
        quoted(form.raw("password"))
    );
    let opened = cx.post(&["v1", "auth", "login"], Some(body)).await?;
    let token = opened.get("access_token").as_text();
    token.map(ToOwned::to_owned).ok_or_else(Failure::unreadable)
}

/// A key is one if the API knows it.
async fn checked_key(cx: &mut Context, key: &str) -> Result<String, Failure> {
    if !session::is_token(key) {
        return Err(Failure::bad_form(
            "An API key has printable ASCII characters only, 1,024 at most.",
        ));
    }
    cx.token = Some(key.to_owned());
    cx.identify().await?;
    Ok(key.to_owned())
}

/// Ends the session at the API, and in this browser whatever the API says: without the cookie its token is forgotten.
pub(crate) async fn log_out(cx: &mut Context) -> HttpResponse {
    let logout = ApiRequest::new(Method::POST, &["v1", "auth", "logout"]);
    // Of an API key, or of a session that has ended, there is nothing to end.
    cx.send(logout).await.ok();
    cx.has_new_token = false;
    let mut response = see(&cx.url(&["login"]));
    if let Some(cookie) = session::set_token(&cx.request, None) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}
