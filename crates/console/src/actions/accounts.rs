//! API keys and users.

use actix_web::http::Method;
use maud::html;

use super::{ActionResult, Outcome, done, object, text, words};
use crate::api::ApiRequest;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::{Json, quoted};
use crate::page::Page;
use crate::urls::Fields;

pub(super) async fn create_key(cx: &Context, form: &Fields) -> Outcome {
    let scopes: Vec<String> = form.all("scope").map(quoted).collect();
    if scopes.is_empty() {
        return Err(Failure::bad_form("Choose at least one scope."));
    }
    let body = object(&[
        ("name", text(form, "name")),
        ("scopes", Some(format!("[{}]", scopes.join(",")))),
        ("queues", words(form, "queues")),
        ("kinds", words(form, "kinds")),
    ]);
    let made = cx.post(&["v1", "keys"], Some(body)).await?;
    Ok(shown_once(cx, &made, "The key is made"))
}

pub(super) async fn steer_key(cx: &Context, id: &str, verb: &str) -> Outcome {
    if verb == "revoke" {
        cx.post(&["v1", "keys", id, "revoke"], None).await?;
        return done("The key is revoked.");
    }
    let made = cx
        .post(&["v1", "keys", id, "rotate"], Some("{}".to_owned()))
        .await?;
    Ok(shown_once(cx, &made, "The key has a new text"))
}

fn shown_once(cx: &Context, made: &Json, title: &str) -> ActionResult {
    let content = html! {
        h1 { (title) }
        p.lead { "The text of " strong { (made.text("name")) } " is shown once. Store it where it is used." }
        p.secret { code { (made.text("key")) } }
        p { a.button href=(cx.url(&["keys"])) { "To the keys" } }
    };
    ActionResult::Page(Page::new("keys", title, content))
}

pub(super) async fn create_user(cx: &Context, form: &Fields) -> Outcome {
    let password = Some(form.raw("password")).filter(|password| !password.is_empty());
    let body = object(&[
        ("name", text(form, "name")),
        ("role", text(form, "role")),
        ("password", password.map(quoted)),
    ]);
    cx.post(&["v1", "users"], Some(body)).await?;
    done(format!("User {} is stored.", form.get("name")))
}

pub(super) async fn steer_user(cx: &Context, id: &str, verb: &str, form: &Fields) -> Outcome {
    let path = ["v1", "users", id, verb];
    match verb {
        "role" => {
            let body = object(&[("role", text(form, "role"))]);
            cx.send(ApiRequest::new(Method::PUT, &path).body(Some(body)))
                .await?;
            done("The role is changed. The user's sessions have ended.")
        }
        "password" => {
            let body = object(&[("password", Some(quoted(form.raw("password"))))]);
            cx.send(ApiRequest::new(Method::PUT, &path).body(Some(body)))
                .await?;
            done("The password is changed. The user's sessions have ended.")
        }
        "invite" => {
            cx.post(&path, None).await?;
            done("A mail with a link to set a password is on its way.")
        }
        _ => {
            cx.post(&path, None).await?;
            done(format!("The user is {verb}d."))
        }
    }
}
