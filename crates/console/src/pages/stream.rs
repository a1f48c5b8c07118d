//! The API's event stream, for the modules of open pages: the browser sends the cookie, the API gets the token.

use actix_web::HttpResponse;
use actix_web::http::{Method, header};

use crate::api::ApiRequest;
use crate::context::Context;

/// `GET …/stream`.
pub(crate) async fn serve(cx: &mut Context) -> HttpResponse {
    let mut request = ApiRequest::new(Method::GET, &["v1", "stream"]);
    let last = cx.request.headers().get("last-event-id");
    if let Some(last) = last.and_then(|value| value.to_str().ok()) {
        request = request.header("last-event-id", last);
    }
    let streamed = cx
        .state
        .api
        .stream(request, &cx.request, cx.token.as_deref())
        .await;
    match streamed {
        Ok((status, body)) if status.is_success() => HttpResponse::Ok()
            .content_type("text/event-stream")
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header(("x-accel-buffering", "no"))
            .body(body),
        // An API without this route: the modules poll.
        Ok((status, _)) => HttpResponse::build(status).finish(),
        Err(failure) => HttpResponse::build(failure.status).finish(),
    }
}
