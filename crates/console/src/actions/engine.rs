//! Jobs, queues, batches, schedules and workers.

use actix_web::http::Method;

use super::{Outcome, done, done_at, json, number, object, text, words};
use crate::api::ApiRequest;
use crate::context::Context;
use crate::failure::Failure;
use crate::ui::short_id;
use crate::urls::Fields;

pub(super) async fn enqueue(cx: &Context, form: &Fields) -> Outcome {
    let body = object(&[
        ("kind", text(form, "kind")),
        ("payload", Some(json(form, "payload")?)),
        ("queue", text(form, "queue")),
        ("delay_seconds", number(form, "delay_seconds")?),
        ("priority", text(form, "priority")),
        ("max_attempts", number(form, "max_attempts")?),
        ("unique_key", text(form, "unique_key")),
        ("limit_key", text(form, "limit_key")),
        ("tags", words(form, "tags")),
    ]);
    let accepted = cx.post(&["v1", "jobs"], Some(body)).await?;
    let id = accepted.text("id");
    let said = if accepted.flag("duplicate") {
        "A job with this unique key exists already; this is it."
    } else {
        "The job was accepted."
    };
    done_at(said, cx.url(&["jobs", id]))
}

/// Enqueues a job like another one, perhaps with another payload.
pub(super) async fn rerun(cx: &Context, id: &str, form: &Fields) -> Outcome {
    let body = object(&[("payload", Some(json(form, "payload")?))]);
    let request = ApiRequest::new(Method::POST, &["v1", "jobs", id, "rerun"]).body(Some(body));
    let accepted = cx.send(request.header("idempotency-key", form.get("op"))).await?;
    done_at("A new job was accepted.", cx.url(&["jobs", accepted.text("id")]))
}

/// Changes a job while it waits. What the person did not touch is not sent: another one may have changed it meanwhile.
pub(super) async fn edit(cx: &Context, id: &str, form: &Fields) -> Outcome {
    let is_touched = |name: &str| form.get(name) != form.get(&format!("was_{name}"));
    let touched = |name: &str| text(form, name).filter(|_| is_touched(name));
    let payload = if is_touched("payload") {
        Some(json(form, "payload")?)
    } else {
        None
    };
    let attempts = if is_touched("max_attempts") {
        number(form, "max_attempts")?
    } else {
        None
    };
    let body = object(&[
        ("payload", payload),
        ("queue", touched("queue")),
        ("priority", touched("priority")),
        ("run_at", touched("run_at")),
        ("max_attempts", attempts),
    ]);
    if body == "{}" {
        return done("Nothing was changed.");
    }
    let request = ApiRequest::new(Method::PATCH, &["v1", "jobs", id]).body(Some(body));
    let edited = cx.send(request).await?;
    done_at(
        format!("The job is changed; it is {}.", edited.text("state")),
        cx.url(&["jobs", id]),
    )
}

pub(super) async fn steer_job(cx: &Context, id: &str, verb: &str) -> Outcome {
    let steered = cx.post(&["v1", "jobs", id, verb], None).await?;
    let short = short_id(id);
    match (verb, steered.text("state")) {
        ("cancel", "running") => done(format!("Job {short} runs; it was asked to stop.")),
        ("cancel", _) => done(format!("Job {short} is cancelled.")),
        (_, state) => done(format!("Job {short} is {state} again.")),
    }
}

pub(super) async fn steer_queue(cx: &Context, name: &str, verb: &str) -> Outcome {
    let steered = cx.post(&["v1", "queues", name, verb], None).await?;
    match verb {
        "pause" => done(format!(
            "Queue {name} is paused: running jobs continue, and no others start."
        )),
        "resume" => done(format!("Queue {name} runs again.")),
        _ if steered.flag("rung") => done(format!("The workers of {name} were woken.")),
        _ => done(format!(
            "Redis did not take the wake-up of {name}; its workers poll."
        )),
    }
}

pub(super) async fn limit_queue(cx: &Context, name: &str, form: &Fields) -> Outcome {
    let body = object(&[
        ("max_running", number(form, "max_running")?),
        ("rate", text(form, "rate")),
        ("key_max_running", number(form, "key_max_running")?),
        ("key_rate", text(form, "key_rate")),
    ]);
    let request = ApiRequest::new(Method::PUT, &["v1", "queues", name, "limits"]);
    cx.send(request.body(Some(body))).await?;
    done(format!(
        "The limits of {name} are set. They apply from each worker's next claim on."
    ))
}

pub(super) async fn unlimit_queue(cx: &Context, name: &str) -> Outcome {
    cx.send(ApiRequest::new(Method::DELETE, &["v1", "queues", name, "limits"]))
        .await?;
    done(format!("The configured limits of {name} apply again."))
}

/// Pauses one key, limits it, or ends what holds for it.
pub(super) async fn override_key(cx: &Context, name: &str, form: &Fields) -> Outcome {
    // As it is: a key may begin or end with a space.
    let key = form.raw("key");
    if key.is_empty() {
        return Err(Failure::bad_form("Say which key."));
    }
    let path = ["v1", "queues", name, "keys", key];
    if form.get("rule") == "end" {
        cx.send(ApiRequest::new(Method::DELETE, &path)).await?;
        return done(format!("The limits of {name} hold for the key {key} again."));
    }
    let most = number(form, "max_running")?;
    let said = match &most {
        None => format!("The key {key} is paused: running jobs continue, and no others start."),
        Some(most) => format!("{most} jobs of the key {key} run at once, from each worker's next claim on."),
    };
    let body = object(&[
        ("paused", most.is_none().then(|| "true".to_owned())),
        ("max_running", most),
        ("ttl_seconds", number(form, "ttl_seconds")?),
    ]);
    cx.send(ApiRequest::new(Method::PUT, &path).body(Some(body)))
        .await?;
    done(said)
}

pub(super) async fn cancel_batch(cx: &Context, id: &str) -> Outcome {
    cx.post(&["v1", "batches", id, "cancel"], None).await?;
    done("The batch is cancelled: its waiting jobs are cancelled, and its running jobs were asked to stop.")
}

/// Creates a schedule, or replaces one that is named in `was`.
pub(super) async fn put_schedule(cx: &Context, form: &Fields) -> Outcome {
    let was = form.get("was");
    let name = if was.is_empty() { form.get("name") } else { was };
    let body = object(&[
        ("name", was.is_empty().then(|| text(form, "name")).flatten()),
        ("cron", text(form, "cron")),
        ("every_seconds", number(form, "every_seconds")?),
        ("time_zone", text(form, "time_zone")),
        ("kind", text(form, "kind")),
        ("payload", Some(json(form, "payload")?)),
        ("queue", text(form, "queue")),
        ("catch_up", text(form, "catch_up")),
        ("jitter_seconds", number(form, "jitter_seconds")?),
        ("enabled", Some(form.has("enabled").to_string())),
    ]);
    let request = if was.is_empty() {
        ApiRequest::new(Method::POST, &["v1", "schedules"])
    } else {
        ApiRequest::new(Method::PUT, &["v1", "schedules", was])
    };
    cx.send(request.body(Some(body))).await?;
    done_at(
        format!("Schedule {name} is stored."),
        cx.url(&["schedules", name]),
    )
}

pub(super) async fn steer_schedule(cx: &Context, name: &str, verb: &str) -> Outcome {
    if verb == "delete" {
        cx.send(ApiRequest::new(Method::DELETE, &["v1", "schedules", name]))
            .await?;
        return done_at(format!("Schedule {name} is deleted."), cx.url(&["schedules"]));
    }
    let answer = cx.post(&["v1", "schedules", name, verb], None).await?;
    match verb {
        "run" => done_at(
            format!("Schedule {name} has enqueued a job now."),
            cx.url(&["jobs", answer.text("id")]),
        ),
        "enable" => done(format!("Schedule {name} is enabled.")),
        _ => done(format!("Schedule {name} is disabled.")),
    }
}

pub(super) async fn drain(cx: &Context, id: &str) -> Outcome {
    cx.post(&["v1", "workers", id, "drain"], None).await?;
    done("The worker takes no more jobs, and ends when its running jobs have ended.")
}

/// The ids that were selected.
pub(super) fn ids(form: &Fields) -> Result<Vec<&str>, Failure> {
    let ids: Vec<&str> = form.all("id").collect();
    match ids.len() {
        0 => Err(Failure::bad_form("Select at least one job.")),
        1..=200 => Ok(ids),
        _ => Err(Failure::bad_form(
            "Select 200 jobs at most; the command line takes a filter.",
        )),
    }
}
