//! Whether it is well, what is wrong, and where to go.

use futures::join;
use maud::{Markup, html};

use super::{history, wrong};
use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, grouped, rate, seconds};

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let (health, queues, workers, schedules, webhooks, failures, stats) = join!(
        cx.get(&["health"], &[]),
        cx.get(&["v1", "queues"], &[]),
        cx.get(&["v1", "workers"], &[]),
        cx.get(&["v1", "schedules"], &[("limit", "200")]),
        cx.get(&["v1", "webhooks"], &[("limit", "200")]),
        cx.get(&["v1", "failures"], &[("limit", "5")]),
        history::read(cx, ""),
    );
    if let Err(failure) = &queues
        && failure.status.as_u16() == 403
    {
        return Ok(bound_key(cx));
    }
    let null = Json::Null;
    let found = wrong::Documents {
        health: health.as_ref().unwrap_or(&null),
        queues: queues.as_ref().unwrap_or(&null),
        workers: workers.as_ref().unwrap_or(&null),
        schedules: schedules.as_ref().unwrap_or(&null),
        webhooks: webhooks.as_ref().unwrap_or(&null),
        failures: failures.as_ref().unwrap_or(&null),
    };
    let faults = wrong::faults(cx, &found);
    let content = html! {
        h1 { "Overview" }
        div #standing data-live { (standing(&health)) }
        div #figures data-live { (ui::shown(&queues, |queues| figures(cx, queues, found.workers))) }
        section {
            h2 { "What is wrong now" }
            div #faults data-live { (wrong::list(&faults)) }
        }
        (history::section(cx, &[], &stats))
        section {
            h2 { "Queues" }
            div #queues data-live { (ui::shown(&queues, |queues| super::queues::table(cx, queues))) }
        }
    };
    Ok(Page::new("", "Overview", content))
}

fn standing(health: &Result<Json, Failure>) -> Markup {
    ui::shown(health, |health| {
        let status = health.text("status");
        let said = match status {
            "healthy" => "Everything that jobs need works.",
            "degraded" => "Jobs run; something works with less.",
            _ => "Jobs cannot be accepted now.",
        };
        let known = |name: &str| health.at(&["services", name]).text("status").to_owned();
        html! {
            p.standing {
                (ui::state(status)) " " (said)
                span.quiet {
                    " Version " (health.text("version")) ", up " (seconds(health.float("uptime_seconds"))) "."
                    @for (name, service) in health.get("services").fields() {
                        @if known(name) != "not_configured" {
                            " " span.service { (ui::state(service.text("status"))) " " (name) }
                        }
                    }
                }
            }
        }
    })
}

fn figures(cx: &Context, queues: &Json, workers: &Json) -> Markup {
    let queues = queues.list("queues");
    let sum = |state: &str| {
        queues
            .iter()
            .map(|queue| queue.get("depth").count(state))
            .sum::<u64>()
    };
    let per_second: f64 = queues
        .iter()
        .map(|queue| queue.get("rates").float("per_second"))
        .sum();
    let oldest = queues
        .iter()
        .map(|queue| queue.float("oldest_age_seconds"))
        .fold(0.0, f64::max);
    let alive = workers
        .list("workers")
        .iter()
        .filter(|worker| worker.flag("alive"))
        .count();
    let jobs = |state: &str| cx.url_with(&["jobs"], &[("q", &format!("state:{state}"))]);
    html! {
        dl.figures {
            (figure("Waiting", &grouped(sum("available")), &jobs("available"), ""))
            (figure("Running", &grouped(sum("running")), &jobs("running"), ""))
            (figure("Scheduled", &grouped(sum("scheduled")), &jobs("scheduled"), ""))
            (figure("To be retried", &grouped(sum("retryable")), &jobs("retryable"), ""))
            (figure("Dead letters", &grouped(sum("discarded")), &cx.url(&["failures"]), if sum("discarded") > 0 { "bad" } else { "" }))
            (figure("Finished a second", &rate(per_second), &cx.url(&["queues"]), ""))
            (figure("Oldest waits", &seconds(oldest), &cx.url(&["queues"]), ""))
            (figure("Workers", &grouped(alive as u64), &cx.url(&["workers"]), if alive == 0 { "bad" } else { "" }))
        }
    }
}

fn figure(name: &str, value: &str, url: &str, class: &str) -> Markup {
    html! { div class=(class) { dt { (name) } dd { a href=(url) { (value) } } } }
}

/// A key that is bound to queues or kinds sees jobs of one of them at a time.
fn bound_key(cx: &Context) -> Page {
    let content = html! {
        h1 { "Overview" }
        p.lead { "This key is bound to some queues or kinds, or lacks the scope " code { "read" } "." }
        p { "Look up " a href=(cx.url(&["jobs"])) { "jobs" } " of one queue and kind, such as " code { "queue:mail" } "." }
    };
    Page::new("", "Overview", content)
}
