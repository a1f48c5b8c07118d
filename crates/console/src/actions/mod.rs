//! What forms do: each sends one request to the API, with the rights of the person who sent the form.

mod accounts;
mod bulk;
mod engine;
mod products;

use std::time::{Duration, Instant};

use actix_web::http::Method;

use crate::api::ApiRequest;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::{Json, quoted};
use crate::page::Page;
use crate::urls::Fields;

pub(crate) use bulk::{LETTER_FILTER, operation_key};

/// A bulk operation goes on for so long within one request; a repeat continues it.
const BULK_TIME: Duration = Duration::from_secs(6);

/// What a form has done.
pub(crate) enum ActionResult {
    /// A sentence for the next page: the one that the form was on, or `to`.
    Message { text: String, to: Option<String> },
    /// A page of its own: a preview, or a secret that is shown once.
    Page(Page),
}

pub(crate) type Outcome = Result<ActionResult, Failure>;

#[allow(clippy::unnecessary_wraps, reason = "the last line of actions that can fail")]
fn done(text: impl Into<String>) -> Outcome {
    Ok(ActionResult::Message {
        text: text.into(),
        to: None,
    })
}

#[allow(clippy::unnecessary_wraps, reason = "as above")]
fn done_at(text: impl Into<String>, to: String) -> Outcome {
    Ok(ActionResult::Message {
        text: text.into(),
        to: Some(to),
    })
}

/// The action at an address.
pub(crate) async fn perform(cx: &Context, segments: &[&str], form: &Fields) -> Outcome {
    match segments {
        ["jobs"] => engine::enqueue(cx, form).await,
        ["jobs", "selected"] => bulk::selected(cx, form).await,
        ["jobs", id, verb @ ("cancel" | "retry")] => engine::steer_job(cx, id, verb).await,
        ["jobs", id, "edit"] => engine::edit(cx, id, form).await,
        ["jobs", id, "rerun"] => engine::rerun(cx, id, form).await,
        ["queues", name, verb @ ("pause" | "resume" | "ring")] => engine::steer_queue(cx, name, verb).await,
        ["queues", name, "purge"] => bulk::purge(cx, name, form).await,
        ["queues", name, "limits"] => engine::limit_queue(cx, name, form).await,
        ["queues", name, "unlimit"] => engine::unlimit_queue(cx, name).await,
        ["queues", name, "key"] => engine::override_key(cx, name, form).await,
        ["failures", "redrive"] => bulk::redrive(cx, form).await,
        ["failures", "delete"] => bulk::delete_letters(cx, form).await,
        ["batches", id, "cancel"] => engine::cancel_batch(cx, id).await,
        ["schedules"] if form.get("step") == "preview" => crate::pages::schedule_form::preview(cx, form)
            .await
            .map(ActionResult::Page),
        ["schedules"] => engine::put_schedule(cx, form).await,
        [
            "schedules",
            name,
            verb @ ("run" | "enable" | "disable" | "delete"),
        ] => engine::steer_schedule(cx, name, verb).await,
        ["workers", id, "drain"] => engine::drain(cx, id).await,
        ["webhooks"] => products::create_webhook(cx, form).await,
        [
            "webhooks",
            id,
            verb @ ("test" | "enable" | "disable" | "delete" | "rotate"),
        ] => products::steer_webhook(cx, id, verb).await,
        ["mail", verb @ ("suppress" | "release")] => products::suppression(cx, verb, form).await,
        ["sources", id, "discover"] => products::discover(cx, id).await,
        ["keys"] => accounts::create_key(cx, form).await,
        ["keys", id, verb @ ("rotate" | "revoke")] => accounts::steer_key(cx, id, verb).await,
        ["users"] => accounts::create_user(cx, form).await,
        [
            "users",
            id,
            verb @ ("enable" | "disable" | "role" | "password" | "invite"),
        ] => accounts::steer_user(cx, id, verb, form).await,
        _ => Err(Failure::not_found("There is no such action.")),
    }
}

/// A JSON object of the members that have a value, each of them JSON already.
fn object(members: &[(&str, Option<String>)]) -> String {
    let members: Vec<String> = members
        .iter()
        .filter_map(|(name, value)| Some(format!("{}:{}", quoted(name), value.as_ref()?)))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// A field of a form as a JSON text; `None` if it is empty.
fn text(form: &Fields, name: &str) -> Option<String> {
    Some(form.get(name)).filter(|text| !text.is_empty()).map(quoted)
}

/// A field of a form as a JSON number; `None` if it is empty.
fn number(form: &Fields, name: &str) -> Result<Option<String>, Failure> {
    let given = form.get(name);
    if given.is_empty() {
        return Ok(None);
    }
    match Json::parse(given) {
        Ok(Json::Number(number)) => Ok(Some(number)),
        _ => Err(Failure::bad_form(&format!("{name}: {given:?} is not a number."))),
    }
}

/// A field of a form that holds JSON, as it was typed.
fn json(form: &Fields, name: &str) -> Result<String, Failure> {
    let given = form.get(name);
    match Json::parse(given) {
        Ok(_) => Ok(given.to_owned()),
        Err(error) => {
            let cause = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            Err(Failure::bad_form(&format!("{name} is not JSON: {cause}")))
        }
    }
}

/// Words between commas or spaces, as a JSON list; `None` if there are none.
fn words(form: &Fields, name: &str) -> Option<String> {
    let words: Vec<String> = form
        .get(name)
        .split([',', ' ', '\n', '\r'])
        .filter(|word| !word.is_empty())
        .map(quoted)
        .collect();
    (!words.is_empty()).then(|| format!("[{}]", words.join(",")))
}

/// Repeats a bulk operation until it has finished, or for [`BULK_TIME`]. The key makes the repeats one operation.
async fn until_finished(cx: &Context, path: &[&str], body: String, key: &str) -> Result<Json, Failure> {
    let began = Instant::now();
    loop {
        let mut request = ApiRequest::new(Method::POST, path).body(Some(body.clone()));
        if !key.is_empty() {
            request = request.header("idempotency-key", key);
        }
        let answer = cx.send(request).await?;
        if key.is_empty() || answer.flag("finished") || began.elapsed() > BULK_TIME {
            return Ok(answer);
        }
    }
}
