//! Schedules: when each is due next, what it did last, and running it now.

use chrono::{DateTime, Utc};
use futures::join;
use holdfast_http::Scope;
use maud::{Markup, html};

use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, seconds};

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let after = cx.query.get("after");
    let schedules = cx
        .get(&["v1", "schedules"], &[("after", after), ("limit", "200")])
        .await?;
    let next = schedules.text("next");
    let content = html! {
        div.title {
            h1 { "Schedules" }
            div { @if cx.viewer.may(Scope::Admin) { a.button href=(cx.url(&["schedules", "new"])) { "New schedule" } } }
        }
        div #schedules data-live { (table(cx, schedules.list("schedules"))) }
        (ui::pager((!next.is_empty()).then(|| cx.url_with(&["schedules"], &[("after", next)])).as_deref(), None))
    };
    Ok(Page::new("schedules", "Schedules", content))
}

fn table(cx: &Context, schedules: &[Json]) -> Markup {
    if schedules.is_empty() {
        return ui::nothing("No schedules. One enqueues a job at set times, such as every night at two.");
    }
    html! {
        div.scroll { table data-rows {
            thead { tr {
                th scope="col" { "Schedule" } th scope="col" { "State" } th scope="col" { "When" } th scope="col" { "Kind" }
                th scope="col" { "Next" } th scope="col" { "Last run" } th scope="col" { "Last job" } th scope="col" { span.unseen { "Action" } }
            } }
            tbody { @for schedule in schedules {
                @let name = schedule.text("name");
                tr {
                    td { a href=(cx.url(&["schedules", name])) data-open { (name) } @if schedule.text("source") != "api" { " " span.tag { "configured" } } }
                    td { (state(schedule)) @if !schedule.text("last_error").is_empty() { " " span.error title=(schedule.text("last_error")) { "failed" } } }
                    td { (rule(schedule)) }
                    td { (schedule.text("kind")) }
                    td { (ui::time(first_tick(schedule))) }
                    td { (ui::time(schedule.moment("last_run_at"))) }
                    td { (ui::job_link(cx, schedule.text("last_job"))) }
                    td.act { @if cx.viewer.may(Scope::Produce) { (ui::button(cx, &["schedules", name, "run"], "Run now", "small", &[])) } }
                }
            } }
        } }
    }
}

fn state(schedule: &Json) -> Markup {
    if schedule.flag("paused") {
        return ui::state("paused");
    }
    ui::state(if schedule.flag("enabled") {
        "enabled"
    } else {
        "disabled"
    })
}

/// When it is due, in the words of its definition.
fn rule(schedule: &Json) -> Markup {
    html! {
        @if schedule.get("every_seconds").is_null() {
            code { (schedule.text("cron")) } " " span.quiet { (match schedule.text("time_zone") { "" => "UTC", zone => zone }) }
        } @else {
            "every " (seconds(schedule.float("every_seconds")))
        }
        @if schedule.float("jitter_seconds") > 0.0 { span.quiet { ", up to " (seconds(schedule.float("jitter_seconds"))) " later" } }
    }
}

fn first_tick(schedule: &Json) -> Option<DateTime<Utc>> {
    schedule.list("next_ticks").first().and_then(Json::as_moment)
}

pub(super) async fn show(cx: &Context, name: &str) -> Result<Page, Failure> {
    let (schedule, runs) = join!(
        cx.get(&["v1", "schedules", name], &[]),
        cx.get(&["v1", "schedules", name, "runs"], &[]),
    );
    let schedule = schedule?;
    let may_change = cx.viewer.may(Scope::Admin);
    let is_ours = schedule.text("source") == "api";
    let content = html! {
        p.crumbs { a href=(cx.url(&["schedules"])) { "Schedules" } }
        div.title {
            h1 { (name) }
            div {
                @if cx.viewer.may(Scope::Produce) { (ui::button(cx, &["schedules", name, "run"], "Run now", "primary", &[])) }
                @if may_change {
                    @if schedule.flag("enabled") { (ui::button(cx, &["schedules", name, "disable"], "Disable", "", &[])) }
                    @else { (ui::button(cx, &["schedules", name, "enable"], "Enable", "", &[])) }
                    @if is_ours { a.button href=(cx.url(&["schedules", name, "edit"])) { "Edit" } }
                }
            }
        }
        div #facts data-live {
            p.standing { (state(&schedule)) " " (rule(&schedule)) }
            @if !schedule.text("last_error").is_empty() { p.error { "Its last tick failed: " (schedule.text("last_error")) } }
            dl.facts {
                (ui::fact("Kind", schedule.text("kind")))
                (ui::fact("Queue", ui::or_absent(schedule.text("queue"))))
                (ui::fact("Defined", if is_ours { "over the API" } else { "in the configuration" }))
                (ui::fact("Missed ticks", match schedule.text("catch_up") { "" => "–", word => word }))
                (ui::fact("Last tick", ui::time(schedule.moment("last_tick"))))
                (ui::fact("Last run", ui::time(schedule.moment("last_run_at"))))
                (ui::fact("Last job", ui::job_link(cx, schedule.text("last_job"))))
                (ui::fact("Changed", ui::time(schedule.moment("updated_at"))))
            }
            section { h2 { "Next ticks" } (ticks(&schedule)) }
            @if let Ok(runs) = &runs { section { h2 { "Last ticks" } (run_table(cx, runs.list("runs"))) } }
        }
        section { h2 { "Payload" } (ui::json_block(schedule.get("payload"), "Payload")) }
        @if may_change && is_ours {
            section.danger { h2 { "Delete" } (ui::button(cx, &["schedules", name, "delete"], "Delete this schedule", "danger", &[])) }
        }
    };
    Ok(Page::new("schedules", format!("Schedule {name}"), content))
}

fn run_table(cx: &Context, runs: &[Json]) -> Markup {
    if runs.is_empty() {
        return ui::nothing("It has not ticked yet.");
    }
    html! {
        div.scroll tabindex="0" { table {
            thead { tr { th scope="col" { "Tick" } th scope="col" { "Job" } th scope="col" { "State" } th.number scope="col" { "Took" } } }
            tbody { @for run in runs { tr {
                td { (ui::time(run.moment("tick"))) }
                td { (ui::job_link(cx, run.text("job"))) }
                td { @if run.text("state").is_empty() { span.quiet { "missed, skipped or no longer stored" } } @else { (ui::state(run.text("state"))) } }
                td.number { (ui::duration(run.moment("started_at"), run.moment("finished_at")).unwrap_or_default()) }
            } } }
        } }
    }
}

/// The next ticks in UTC and in the schedule's own zone, as the API gives them.
fn ticks(schedule: &Json) -> Markup {
    let ticks = schedule.list("next_ticks");
    if ticks.is_empty() {
        return ui::nothing("It is not due.");
    }
    html! {
        ol.ticks { @for tick in ticks.iter().filter_map(Json::as_moment).take(5) {
            li { (tick.format("%a %Y-%m-%d %H:%M:%S UTC")) " " span.quiet { (ui::age(tick)) } }
        } }
    }
}
