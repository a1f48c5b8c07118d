//! Workers: alive or lost, what they serve and what they run.

use futures::join;
use holdfast_http::Scope;
use maud::{Markup, html};

use super::job_rows;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, rate, seconds};

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let (workers, beats) = join!(cx.get(&["v1", "workers"], &[]), cx.get(&["v1", "beats"], &[]));
    let workers = workers?;
    let content = html! {
        h1 { "Workers" }
        div #workers data-live { (table(cx, workers.list("workers"))) }
        @if let Ok(beats) = &beats {
            section {
                h2 { "Schedulers" }
                div #beats data-live { (beat_table(beats.list("beats"))) }
            }
        }
    };
    Ok(Page::new("workers", "Workers", content))
}

fn beat_table(beats: &[Json]) -> Markup {
    if beats.is_empty() {
        return ui::nothing("No scheduler runs: schedules do not tick.");
    }
    html! {
        div.scroll tabindex="0" { table {
            thead { tr { th scope="col" { "Scheduler" } th scope="col" { "State" } th scope="col" { "Started" } th.number scope="col" { "Silent for" } } }
            tbody { @for beat in beats { tr {
                td { (beat.text("name")) }
                td { (ui::state(if beat.flag("alive") { "alive" } else { "lost" })) }
                td { (ui::time(beat.moment("started_at"))) }
                td.number { (seconds(beat.float("seen_seconds_ago"))) }
            } } }
        } }
    }
}

/// A worker's standing, in one word.
fn standing(worker: &Json) -> Markup {
    ui::state(match (worker.flag("alive"), worker.flag("draining")) {
        (false, _) => "lost",
        (true, true) => "draining",
        (true, false) => "alive",
    })
}

fn sum(worker: &Json, name: &str) -> u64 {
    worker
        .get("stats")
        .fields()
        .iter()
        .map(|(_, stats)| stats.count(name))
        .sum()
}

fn table(cx: &Context, workers: &[Json]) -> Markup {
    if workers.is_empty() {
        return ui::nothing("No worker runs. Jobs are accepted, and wait.");
    }
    html! {
        div.scroll { table data-rows {
            thead { tr {
                th scope="col" { "Worker" } th scope="col" { "State" } th scope="col" { "Language" } th scope="col" { "Queues" }
                th.number scope="col" { "Running" } th.number scope="col" { "Completed" } th.number scope="col" { "Failed" }
                th.number scope="col" { "Done/s" } th scope="col" { "Started" } th.number scope="col" { "Silent for" }
            } }
            tbody { @for worker in workers {
                @let id = worker.text("id");
                tr {
                    td { a href=(cx.url(&["workers", id])) data-open title=(id) { (worker.text("name")) } }
                    td { (standing(worker)) }
                    td { (language(worker)) }
                    td.long { (worker.texts("queues").collect::<Vec<_>>().join(", ")) }
                    td.number { (ui::count(sum(worker, "running"))) }
                    td.number { (ui::count(sum(worker, "completed"))) }
                    td.number { (ui::count(sum(worker, "failed"))) }
                    td.number { (rate(worker.get("stats").fields().iter().map(|(_, stats)| stats.float("per_second")).sum())) }
                    td { (ui::time(worker.moment("started_at"))) }
                    td.number { (seconds(worker.float("seen_seconds_ago"))) }
                }
            } }
        } }
    }
}

fn language(worker: &Json) -> Markup {
    let client = worker.get("client");
    html! {
        @if client.is_null() { "Rust" }
        @else { (ui::or_absent(client.text("language"))) @if !client.text("version").is_empty() { " " span.quiet { (client.text("version")) } } }
    }
}

fn running_of(id: &str) -> String {
    format!("worker:{id} state:running")
}

pub(super) async fn show(cx: &Context, id: &str) -> Result<Page, Failure> {
    let (workers, running) = join!(
        cx.get(&["v1", "workers"], &[]),
        cx.get(
            &["v1", "jobs"],
            &[("q", &running_of(id)), ("limit", super::jobs::PAGE)]
        ),
    );
    let workers = workers?;
    let worker = workers
        .list("workers")
        .iter()
        .find(|worker| worker.text("id") == id);
    let Some(worker) = worker else {
        return Err(Failure::not_found(
            "This worker is not listed: it has ended, or its jobs were returned after its last heartbeat.",
        ));
    };
    let content = html! {
        p.crumbs { a href=(cx.url(&["workers"])) { "Workers" } }
        div.title {
            h1 { (worker.text("name")) }
            div #actions data-live {
                @if !worker.get("client").is_null() && !worker.flag("draining") && cx.viewer.may(Scope::Admin) {
                    (ui::button(cx, &["workers", id, "drain"], "Drain", "", &[]))
                }
            }
        }
        div #facts data-live {
            p.standing { (standing(worker)) " Last heartbeat " (seconds(worker.float("seen_seconds_ago"))) " ago." }
            dl.facts {
                (ui::fact("Id", html! { code { (id) } }))
                (ui::fact("Language", language(worker)))
                (ui::fact("Client", ui::or_absent(worker.get("client").text("name"))))
                (ui::fact("Started", ui::time(worker.moment("started_at"))))
            }
            div.scroll tabindex="0" { table {
                thead { tr { th scope="col" { "Queue" } th.number scope="col" { "Running" } th.number scope="col" { "Completed" } th.number scope="col" { "Failed" } th.number scope="col" { "Done/s" } } }
                tbody { @for name in worker.texts("queues") {
                    @let stats = worker.get("stats").get(name);
                    tr {
                        td { (ui::queue_link(cx, name)) }
                        td.number { (ui::count(stats.count("running"))) }
                        td.number { (ui::count(stats.count("completed"))) }
                        td.number { (ui::count(stats.count("failed"))) }
                        td.number { (rate(stats.float("per_second"))) }
                    }
                } }
            } }
        }
        section {
            h2 { "Running jobs" }
            div #jobs data-live { (ui::shown(&running, |page| job_rows::table(cx, page.list("jobs"), false))) }
            p { a href=(cx.url_with(&["jobs"], &[("q", &running_of(id))])) { "All running jobs of this worker" } }
        }
    };
    Ok(Page::new("workers", worker.text("name"), content))
}
