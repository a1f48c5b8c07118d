//! The names that the palette finds.

use actix_web::HttpResponse;
use futures::join;

use crate::context::Context;
use crate::json::{Json, quoted};

/// `GET …/names`: the queues and kinds that the person may see.
pub(crate) async fn serve(cx: &Context) -> HttpResponse {
    let (queues, kinds) = join!(cx.get(&["v1", "queues"], &[]), cx.get(&["v1", "kinds"], &[]));
    let names = |found: Option<&Json>, list: &str, field: &str| {
        let items = found.map_or(&[][..], |found| found.list(list)).iter();
        items
            .map(|item| quoted(item.text(field)))
            .collect::<Vec<_>>()
            .join(",")
    };
    let body = format!(
        r#"{{"queues":[{}],"kinds":[{}]}}"#,
        names(queues.as_ref().ok(), "queues", "name"),
        names(kinds.as_ref().ok(), "kinds", "kind")
    );
    HttpResponse::Ok().content_type("application/json").body(body)
}
