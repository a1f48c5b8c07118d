//! Webhooks, mail and sources.

use actix_web::http::Method;
use maud::html;

use super::{ActionResult, Outcome, done, done_at, object, text, words};
use crate::api::ApiRequest;
use crate::context::Context;
use crate::json::{Json, quoted};
use crate::page::Page;
use crate::urls::Fields;

pub(super) async fn create_webhook(cx: &Context, form: &Fields) -> Outcome {
    let body = object(&[
        ("url", text(form, "url")),
        (
            "events",
            Some(words(form, "events").unwrap_or_else(|| "[]".to_owned())),
        ),
        ("kinds", words(form, "kinds")),
        ("queues", words(form, "queues")),
        ("description", text(form, "description")),
    ]);
    let created = cx.post(&["v1", "webhooks"], Some(body)).await?;
    Ok(secret(cx, &created, "The webhook is stored"))
}

pub(super) async fn steer_webhook(cx: &Context, id: &str, verb: &str) -> Outcome {
    let path = ["v1", "webhooks", id];
    match verb {
        "test" => {
            cx.post(&["v1", "webhooks", id, "test"], None).await?;
            done("A test message is on its way; it appears among the deliveries.")
        }
        "rotate" => {
            let rotated = cx
                .post(&["v1", "webhooks", id, "rotate"], Some("{}".to_owned()))
                .await?;
            Ok(secret(cx, &rotated, "The webhook has a new secret"))
        }
        "delete" => {
            cx.send(ApiRequest::new(Method::DELETE, &path)).await?;
            done_at("The webhook is deleted.", cx.url(&["webhooks"]))
        }
        _ => {
            let stored = cx.get(&path, &[]).await?;
            let member = |name: &'static str| (name, Some(stored.get(name).to_string()));
            let body = object(&[
                member("url"),
                member("events"),
                member("kinds"),
                member("queues"),
                member("description"),
                ("enabled", Some((verb == "enable").to_string())),
            ]);
            cx.send(ApiRequest::new(Method::PUT, &path).body(Some(body)))
                .await?;
            done(format!("The webhook is {verb}d."))
        }
    }
}

/// A secret that the API shows once.
fn secret(cx: &Context, document: &Json, title: &str) -> ActionResult {
    let id = document.at(&["webhook", "id"]).as_text().unwrap_or_default();
    let content = html! {
        h1 { (title) }
        p.lead { "Its secret is shown once. Store it where the messages are received: it verifies their signatures." }
        p.secret { code { (document.text("secret")) } }
        p { a.button href=(cx.url(&["webhooks", id])) { "To the webhook" } }
    };
    ActionResult::Page(Page::new("webhooks", title, content))
}

pub(super) async fn suppression(cx: &Context, verb: &str, form: &Fields) -> Outcome {
    let mut members = vec![
        ("address", Some(quoted(form.get("address")))),
        ("list", text(form, "list")),
    ];
    if verb == "suppress" {
        members.push(("reason", text(form, "reason")));
        cx.post(&["v1", "mail-suppressions"], Some(object(&members)))
            .await?;
        return done("The address gets no more mail.");
    }
    cx.post(&["v1", "mail-suppressions", "release"], Some(object(&members)))
        .await?;
    done("The address gets mail again.")
}

pub(super) async fn discover(cx: &Context, id: &str) -> Outcome {
    cx.post(&["v1", "sources", id, "discover"], None).await?;
    done("A job reads the source now.")
}
