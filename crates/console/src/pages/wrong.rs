//! What is wrong now, each with the page that says more.

use maud::{Markup, html};

use crate::context::Context;
use crate::json::Json;
use crate::ui::{self, plural};

/// One finding.
#[derive(Debug)]
pub(super) struct Fault {
    /// Something has failed or waits for a person; otherwise it is worth knowing.
    is_serious: bool,
    text: String,
    hint: String,
    url: String,
}

/// The documents that are looked at; null where one could not be read.
pub(super) struct Documents<'a> {
    pub(super) health: &'a Json,
    pub(super) queues: &'a Json,
    pub(super) workers: &'a Json,
    pub(super) schedules: &'a Json,
    pub(super) webhooks: &'a Json,
    pub(super) failures: &'a Json,
}

/// Groups of failures, and webhooks, that are named.
const GROUPS: usize = 3;

pub(super) fn faults(cx: &Context, found: &Documents<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    of_services(cx, found.health, &mut faults);
    of_queues(cx, found.queues, &mut faults);
    of_workers(cx, found.workers, &mut faults);
    for schedule in found.schedules.list("schedules") {
        let name = schedule.text("name");
        if !schedule.text("last_error").is_empty() {
            faults.push(Fault {
                is_serious: true,
                text: format!("Schedule {name} could not enqueue its job"),
                hint: schedule.text("last_error").to_owned(),
                url: cx.url(&["schedules", name]),
            });
        }
    }
    of_webhooks(cx, found.webhooks, &mut faults);
    for group in found.failures.list("failures").iter().take(GROUPS) {
        let count = group.count("count");
        faults.push(Fault {
            is_serious: false,
            text: format!(
                "{} failed for good: {}",
                plural(count, "job", "jobs"),
                match group.text("message") {
                    "" => group.text("class"),
                    message => message,
                }
            ),
            hint: group.text("kind").to_owned(),
            url: cx.url_with(&["failures"], &[("fingerprint", group.text("fingerprint"))]),
        });
    }
    faults
}

/// The webhooks that are disabled or fail: the first ones by name, the others by their number.
fn of_webhooks(cx: &Context, webhooks: &Json, faults: &mut Vec<Fault>) {
    let is_faulty = |webhook: &&Json| {
        !webhook.text("disabled_reason").is_empty() || !webhook.get("failing_since").is_null()
    };
    let faulty: Vec<&Json> = webhooks.list("webhooks").iter().filter(is_faulty).collect();
    for webhook in faulty.iter().take(GROUPS) {
        let reason = webhook.text("disabled_reason");
        faults.push(Fault {
            is_serious: !reason.is_empty(),
            text: format!(
                "Webhook {} {}",
                webhook.text("url"),
                if reason.is_empty() {
                    "is failing"
                } else {
                    "is disabled"
                }
            ),
            hint: reason.to_owned(),
            url: cx.url(&["webhooks", webhook.text("id")]),
        });
    }
    if faulty.len() > GROUPS {
        let others = (faulty.len() - GROUPS) as u64;
        faults.push(Fault {
            is_serious: false,
            text: format!(
                "{} or disabled as well",
                plural(others, "webhook is failing", "webhooks are failing")
            ),
            hint: String::new(),
            url: cx.url(&["webhooks"]),
        });
    }
}

fn of_services(cx: &Context, health: &Json, faults: &mut Vec<Fault>) {
    for (name, service) in health.get("services").fields() {
        let status = service.text("status");
        if matches!(status, "degraded" | "unhealthy") {
            let error = service.text("error");
            faults.push(Fault {
                is_serious: status == "unhealthy",
                text: format!(
                    "{name} is {status}{}{error}",
                    if error.is_empty() { "" } else { ": " }
                ),
                hint: service.text("hint").to_owned(),
                url: cx.url(&["redis"]),
            });
        }
    }
}

fn of_queues(cx: &Context, queues: &Json, faults: &mut Vec<Fault>) {
    for queue in queues.list("queues") {
        let name = queue.text("name");
        let waiting = queue.get("depth").count("available");
        let url = cx.url(&["queues", name]);
        if waiting > 0 && queue.flag("paused") {
            faults.push(Fault {
                is_serious: false,
                text: format!(
                    "Queue {name} is paused, and {}",
                    plural(waiting, "job waits", "jobs wait")
                ),
                hint: String::new(),
                url,
            });
        } else if waiting > 0 && queue.get("rates").count("workers") == 0 {
            faults.push(Fault {
                is_serious: true,
                text: format!(
                    "No worker serves queue {name}, and {}",
                    plural(waiting, "job waits", "jobs wait")
                ),
                hint: "Start a worker whose configuration names this queue.".to_owned(),
                url,
            });
        }
    }
}

fn of_workers(cx: &Context, workers: &Json, faults: &mut Vec<Fault>) {
    let lost = workers
        .list("workers")
        .iter()
        .filter(|worker| !worker.flag("alive"))
        .count() as u64;
    if lost > 0 {
        faults.push(Fault {
            is_serious: true,
            text: format!("{} no heartbeat", plural(lost, "worker sends", "workers send")),
            hint: "Their jobs are returned to the queues by other workers.".to_owned(),
            url: cx.url(&["workers"]),
        });
    }
}

pub(super) fn list(faults: &[Fault]) -> Markup {
    html! {
        @if faults.is_empty() {
            (ui::nothing("Nothing is wrong."))
        } @else {
            ul.faults {
                @for fault in faults {
                    li class=(if fault.is_serious { "bad" } else { "warn" }) {
                        a href=(fault.url) { (fault.text) }
                        @if !fault.hint.is_empty() { p.quiet { (fault.hint) } }
                    }
                }
            }
        }
    }
}
