//! Which page or action an address is.

use std::rc::Rc;

use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use maud::html;

use crate::context::{Context, ThreadState, is_background};
use crate::failure::Failure;
use crate::page::{self, Page};
use crate::urls::Fields;
use crate::{actions, assets, login, pages, session};

/// Longest form, in bytes: an edited payload is the largest field.
const MAX_FORM: usize = 2 * 1024 * 1024;

/// `/` leads to the console.
pub(crate) async fn to_console(request: HttpRequest) -> HttpResponse {
    match request.app_data::<Rc<ThreadState>>() {
        Some(state) => found(&state.config.path),
        None => HttpResponse::NotFound().finish(),
    }
}

/// Everything below the console's path.
pub(crate) async fn serve(request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let Some(state) = request.app_data::<Rc<ThreadState>>().cloned() else {
        return HttpResponse::InternalServerError().finish();
    };
    let rest = request
        .path()
        .strip_prefix(&*state.config.path)
        .unwrap_or_default();
    let path = crate::urls::segments(rest);
    let segments: Vec<&str> = path.iter().map(String::as_str).collect();
    if let ["assets", version, name] = *segments {
        let served = assets::serve(version, name);
        return served.unwrap_or_else(|failure| HttpResponse::build(failure.status).finish());
    }
    if state.api.remote().is_some() && !session::is_for_this_machine(&request) {
        // A name of another site that resolves to this machine: its pages would be of one origin with ours.
        let body = html! { main.alone #main { p { "This console serves its own machine." } } };
        return page::document(&request, &state.config, "Holdfast", StatusCode::FORBIDDEN, &body);
    }
    if session::lacks_cookie_of_link(&request) {
        return reloaded(&request, &state);
    }
    let mut cx = Context::open(state, request).await;
    let mut response = match *cx.request.method() {
        Method::GET | Method::HEAD => read(&mut cx, &segments).await,
        Method::POST => write(&mut cx, &segments, payload).await,
        _ => HttpResponse::MethodNotAllowed()
            .insert_header((header::ALLOW, "GET, HEAD, POST"))
            .finish(),
    };
    let is_set = response
        .headers()
        .get_all(header::SET_COOKIE)
        .any(HeaderValue::is_sensitive);
    if cx.has_new_token
        && !is_set
        && let Some(cookie) = session::set_token(&cx.request, cx.token.as_deref())
    {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

async fn read(cx: &mut Context, segments: &[&str]) -> HttpResponse {
    match segments {
        ["login"] => return login::show(cx, StatusCode::OK, None),
        ["enter"] => return login::enter(cx),
        _ => {}
    }
    if let Err(failure) = cx.identify().await {
        return refused(cx, &failure);
    }
    if let (["jobs"], true) = (segments, is_id(cx.query.get("q"))) {
        return found(&cx.url(&["jobs", cx.query.get("q")]));
    }
    match segments {
        ["names"] => return pages::names::serve(cx).await,
        ["stream"] => return pages::stream::serve(cx).await,
        ["jobs", "export"] => return pages::export::serve(cx).await,
        _ => {}
    }
    let section = pages::section_of(segments);
    match pages::page(cx, segments).await {
        Ok(page) => page::respond(cx, &page),
        Err(failure) if failure.is_unauthenticated() => refused(cx, &failure),
        Err(failure) => page::respond(cx, &Page::of_failure(&failure, section)),
    }
}

/// Whether a filter is the id of one job: a ULID.
fn is_id(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) && text.as_bytes()[0] <= b'7'
}

/// A person who is not known is led to the login, and from there back.
fn refused(cx: &Context, failure: &Failure) -> HttpResponse {
    if !failure.is_unauthenticated() {
        let page = Page::of_failure(failure, "");
        let body = html! { main.alone #main { (page.content) p { a.button href=(cx.url(&["login"])) { "Log in" } } } };
        return page::document(&cx.request, &cx.state.config, &page.title, page.status, &body);
    }
    if is_background(&cx.request) {
        // With a page as its body: the middleware makes problems of errors without one.
        let body = html! { main.alone #main { p { "Log in again." } } };
        let status = StatusCode::UNAUTHORIZED;
        return page::document(&cx.request, &cx.state.config, "Log in", status, &body);
    }
    let next = cx.here();
    found(&cx.url_with(&["login"], &[("next", &next)]))
}

async fn write(cx: &mut Context, segments: &[&str], payload: web::Payload) -> HttpResponse {
    if let Err(failure) = session::refuse_other_sites(&cx.request) {
        return refused(cx, &failure);
    }
    let form = match form(payload).await {
        Ok(form) => form,
        Err(failure) => return refused(cx, &failure),
    };
    match segments {
        ["login"] => return login::log_in(cx, &form).await,
        ["logout"] => return login::log_out(cx).await,
        ["theme"] => {
            let mut response = see(&back_of(cx, &form));
            if let Some(cookie) = page::set_theme(&cx.state.config, form.get("theme")) {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            return response;
        }
        _ => {}
    }
    if let Err(failure) = cx.identify().await {
        return refused(cx, &failure);
    }
    let section = pages::section_of(segments);
    let done = if cx.state.config.read_only {
        Err(Failure::forbidden(
            "This console is read-only (console.read_only).",
        ))
    } else {
        actions::perform(cx, segments, &form).await
    };
    match done {
        Ok(actions::ActionResult::Message { text, to }) => {
            let mut response = see(&to.unwrap_or_else(|| back_of(cx, &form)));
            if let Some(cookie) = page::set_flash(&cx.state.config, &text) {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            response
        }
        Ok(actions::ActionResult::Page(page)) => page::respond(cx, &page),
        Err(failure) if failure.is_unauthenticated() => refused(cx, &failure),
        Err(failure) => {
            let mut page = Page::of_failure(&failure, section);
            page.content = html! { (page.content) p { a.button href=(back_of(cx, &form)) { "Back" } } };
            page::respond(cx, &page)
        }
    }
}

/// The page to go back to: one of the console.
fn back_of(cx: &Context, form: &Fields) -> String {
    let back = form.get("back");
    let root = &cx.state.config.path;
    let is_ours = back
        .strip_prefix(&**root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    if is_ours && !back.contains(['\\', '\n', '\r']) {
        return back.to_owned();
    }
    root.clone()
}

async fn form(mut payload: web::Payload) -> Result<Fields, Failure> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk: Bytes = chunk.map_err(|_| Failure::bad_form("It did not arrive whole."))?;
        if body.len() + chunk.len() > MAX_FORM {
            return Err(Failure::bad_form(
                "It has more than 2 MiB; use the API or the command line.",
            ));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Fields::parse(&body))
}

fn found(url: &str) -> HttpResponse {
    HttpResponse::Found()
        .insert_header((header::LOCATION, url))
        .finish()
}

/// After a form: a reload of the page does not send it again.
pub(crate) fn see(url: &str) -> HttpResponse {
    HttpResponse::SeeOther()
        .insert_header((header::LOCATION, url))
        .finish()
}

/// A page that loads itself again, now as one of this site, with its cookie.
fn reloaded(request: &HttpRequest, state: &ThreadState) -> HttpResponse {
    let body = html! { main.alone { p { a href="" { "Continue" } } } };
    let mut response = page::document(request, &state.config, "Holdfast", StatusCode::OK, &body);
    response
        .headers_mut()
        .insert(header::REFRESH, HeaderValue::from_static("0"));
    response
}
