//! Many jobs at once: a preview first, then the operation under a key of its own, so that a form that is sent twice does it once.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::engine::ids;
use super::{ActionResult, Outcome, done, done_at, number, object, until_finished};
use crate::context::Context;
use crate::failure::Failure;
use crate::json::{Json, quoted};
use crate::page::Page;
use crate::ui::{self, grouped, plural};
use crate::urls::Fields;

/// The parts of a filter of dead letters, by their names in forms and at the API.
pub(crate) const LETTER_FILTER: [&str; 6] = ["fingerprint", "queue", "kind", "error", "from", "to"];

/// Cancels or retries the selected jobs one by one.
pub(super) async fn selected(cx: &Context, form: &Fields) -> Outcome {
    let verb = form.get("do");
    if !matches!(verb, "cancel" | "retry") {
        return Err(Failure::bad_form("Choose what to do with the selected jobs."));
    }
    let ids = ids(form)?;
    let mut changed = 0;
    let mut refused: Option<Failure> = None;
    for id in &ids {
        match cx.post(&["v1", "jobs", id, verb], None).await {
            Ok(_) => changed += 1,
            // What is refused once is refused 200 times.
            Err(failure) if matches!(failure.status.as_u16(), 401 | 403 | 503) => return Err(failure),
            Err(failure) => refused = Some(failure),
        }
    }
    let word = if verb == "cancel" {
        "cancelled, or asked to stop"
    } else {
        "available again"
    };
    match refused {
        None => done(format!("{} {word}.", plural(changed, "job is", "jobs are"))),
        Some(failure) => done(format!(
            "{} of {} jobs are {word}. Of the others, for example: {}",
            changed,
            ids.len(),
            failure.detail
        )),
    }
}

pub(super) async fn purge(cx: &Context, name: &str, form: &Fields) -> Outcome {
    let body = object(&[("confirm", Some(quoted(form.get("confirm"))))]);
    let purged = until_finished(cx, &["v1", "queues", name, "purge"], body, form.get("op")).await?;
    let cancelled = purged.count("cancelled") + purged.count("cancelled_on_broker");
    let said = format!(
        "{} of {name} cancelled.",
        plural(cancelled, "waiting job was", "waiting jobs were")
    );
    if purged.flag("finished") {
        return done(said);
    }
    done(format!("{said} There are more: purge again to continue."))
}

/// What a form selects of the dead letters: one, some, or those of a filter.
fn letters(form: &Fields) -> Vec<(&'static str, Option<String>)> {
    let ids: Vec<String> = form.all("id").map(quoted).collect();
    if !ids.is_empty() {
        return vec![("ids", Some(format!("[{}]", ids.join(","))))];
    }
    let filter: Vec<_> = LETTER_FILTER
        .iter()
        .map(|name| (*name, super::text(form, name)))
        .collect();
    if filter.iter().all(|(_, value)| value.is_none()) {
        return vec![("all", Some("true".to_owned()))];
    }
    vec![("filter", Some(object(&filter)))]
}

pub(super) async fn redrive(cx: &Context, form: &Fields) -> Outcome {
    let mut members = letters(form);
    if form.get("step") != "do" {
        return preview(cx, form, "redrive", members).await;
    }
    if let Some(payload) = Some(form.get("payload")).filter(|payload| !payload.is_empty()) {
        super::json(form, "payload")?;
        let id = form.get("id");
        members = vec![("id", Some(quoted(id))), ("payload", Some(payload.to_owned()))];
    }
    members.push(("rate", number(form, "rate")?));
    members.push(("attempts", number(form, "attempts")?));
    let path = ["v1", "dead-letters", "redrive"];
    let answer = until_finished(cx, &path, object(&members), form.get("op")).await?;
    done_at(
        said(&answer, "was redriven", "were redriven"),
        cx.url(&["failures"]),
    )
}

pub(super) async fn delete_letters(cx: &Context, form: &Fields) -> Outcome {
    let members = letters(form);
    if form.get("step") != "do" {
        return preview(cx, form, "delete", members).await;
    }
    let path = ["v1", "dead-letters", "delete"];
    let answer = until_finished(cx, &path, object(&members), form.get("op")).await?;
    done_at(
        said(&answer, "was deleted", "were deleted"),
        cx.url(&["failures"]),
    )
}

fn said(answer: &Json, one: &str, many: &str) -> String {
    let affected = answer.count("affected");
    let mut said = format!(
        "{} {}.",
        plural(affected, "dead letter", "dead letters"),
        if affected == 1 { one } else { many }
    );
    if answer.count("skipped") > 0 {
        let skipped = grouped(answer.count("skipped"));
        write!(said, " {skipped} were skipped: another job has their unique key.").ok();
    }
    if !answer.flag("finished") {
        let remaining = grouped(answer.count("remaining"));
        write!(said, " About {remaining} are left: do it again to continue.").ok();
    }
    said
}

/// What would be done, with the form that does it.
async fn preview(
    cx: &Context,
    form: &Fields,
    verb: &'static str,
    mut members: Vec<(&'static str, Option<String>)>,
) -> Outcome {
    members.push(("dry_run", Some("true".to_owned())));
    let found = cx
        .post(&["v1", "dead-letters", verb], Some(object(&members)))
        .await?;
    let matched = found.count("matched");
    let (title, word) = match verb {
        "redrive" => ("Redrive dead letters", "Redrive"),
        _ => ("Delete dead letters", "Delete"),
    };
    let content = html! {
        h1 { (title) }
        p.lead { (plural(matched, "dead letter matches", "dead letters match")) @if matched >= 100_000 { " at least" } "." }
        @if matched > 0 {
            form.stack method="post" action=(cx.url(&["failures", verb])) {
                (selection(form))
                input type="hidden" name="step" value="do";
                input type="hidden" name="op" value=(operation_key());
                @if verb == "redrive" {
                    (ui::field("Jobs a second", "They become due at this rate. Empty: all immediately.", &html! {
                        input name="rate" inputmode="decimal" value=(form.get("rate"));
                    }))
                    (ui::field("Attempts", "How many attempts each of them gets. Empty: those of its kind.", &html! {
                        input name="attempts" inputmode="numeric" value=(form.get("attempts"));
                    }))
                } @else {
                    p { "They are deleted permanently." }
                }
                div.actions {
                    button class=(if verb == "redrive" { "primary" } else { "danger" }) { (word) " " (grouped(matched)) }
                    a.button href=(cx.url(&["failures"])) { "Keep them" }
                }
            }
            h2 { "Some of them" }
            (sample(cx, found.list("sample")))
        }
    };
    Ok(ActionResult::Page(Page::new("failures", title, content)))
}

/// The hidden fields that select the same letters.
fn selection(form: &Fields) -> Markup {
    html! {
        @for id in form.all("id") { input type="hidden" name="id" value=(id); }
        @for name in LETTER_FILTER {
            @if !form.get(name).is_empty() { input type="hidden" name=(name) value=(form.get(name)); }
        }
    }
}

fn sample(cx: &Context, jobs: &[Json]) -> Markup {
    html! {
        div.scroll tabindex="0" { table {
            thead { tr { th scope="col" { "Job" } th scope="col" { "Kind" } th scope="col" { "Queue" } th scope="col" { "Error" } } }
            tbody { @for job in jobs { tr {
                td { (ui::job_link(cx, job.text("id"))) }
                td { (job.text("kind")) }
                td { (job.text("queue")) }
                td.long { (job.list("errors").last().map_or("", |error| error.text("message"))) }
            } } }
        } }
    }
}

/// A key for one bulk operation: the form that carries it does it once.
pub(crate) fn operation_key() -> String {
    format!("console-{:032x}", rand::random::<u128>())
}
