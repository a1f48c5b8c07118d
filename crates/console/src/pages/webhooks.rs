//! Webhooks: where messages are sent, and how each delivery went.

use futures::join;
use holdfast_http::Scope;
use maud::{Markup, html};

use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui;

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let after = cx.query.get("after");
    let webhooks = cx
        .get(&["v1", "webhooks"], &[("after", after), ("limit", "100")])
        .await?;
    let next = webhooks.text("next");
    let content = html! {
        h1 { "Webhooks" }
        div #webhooks data-live { (table(cx, webhooks.list("webhooks"))) }
        (ui::pager((!next.is_empty()).then(|| cx.url_with(&["webhooks"], &[("after", next)])).as_deref(), None))
        @if cx.viewer.may(Scope::Admin) { (create(cx)) }
    };
    Ok(Page::new("webhooks", "Webhooks", content))
}

fn state(webhook: &Json) -> Markup {
    html! {
        (ui::state(if webhook.flag("enabled") { "enabled" } else { "disabled" }))
        @if !webhook.get("failing_since").is_null() { " " span.error { "failing since " (ui::time(webhook.moment("failing_since"))) } }
    }
}

fn table(cx: &Context, webhooks: &[Json]) -> Markup {
    if webhooks.is_empty() {
        return ui::nothing(
            "No webhooks. One sends a message to an address when something happens, such as a job that is discarded.",
        );
    }
    html! {
        div.scroll { table data-rows {
            thead { tr { th scope="col" { "Address" } th scope="col" { "State" } th scope="col" { "Events" } th scope="col" { "Description" } th scope="col" { "Changed" } } }
            tbody { @for webhook in webhooks { tr {
                td.long { a href=(cx.url(&["webhooks", webhook.text("id")])) data-open { (webhook.text("url")) } }
                td { (state(webhook)) }
                td.long { (webhook.texts("events").collect::<Vec<_>>().join(", ")) }
                td.long { (ui::or_absent(webhook.text("description"))) }
                td { (ui::time(webhook.moment("updated_at"))) }
            } } }
        } }
    }
}

fn create(cx: &Context) -> Markup {
    html! {
        details.section {
            summary { "New webhook" }
            form.stack method="post" action=(cx.url(&["webhooks"])) {
                (ui::field("Address", "", &html! { input name="url" type="url" required placeholder="https://example.com/hooks"; }))
                (ui::field("Events", "Between commas; job.* is every event of jobs.", &html! { input name="events" required value="job.discarded"; }))
                (ui::field("Kinds", "Only jobs of these kinds. Empty: all.", &html! { input name="kinds"; }))
                (ui::field("Queues", "Only jobs of these queues. Empty: all.", &html! { input name="queues"; }))
                (ui::field("Description", "", &html! { input name="description"; }))
                button.primary { "Store" }
            }
        }
    }
}

pub(super) async fn show(cx: &Context, id: &str) -> Result<Page, Failure> {
    let after = cx.query.get("after");
    let (webhook, deliveries) = join!(
        cx.get(&["v1", "webhooks", id], &[]),
        cx.get(
            &["v1", "webhooks", id, "deliveries"],
            &[("after", after), ("limit", "50")]
        ),
    );
    let webhook = webhook?;
    let may_change = cx.viewer.may(Scope::Admin);
    let content = html! {
        p.crumbs { a href=(cx.url(&["webhooks"])) { "Webhooks" } }
        div.title {
            h1.long { (webhook.text("url")) }
            @if may_change { div {
                (ui::button(cx, &["webhooks", id, "test"], "Send a test", "primary", &[]))
                @if webhook.flag("enabled") { (ui::button(cx, &["webhooks", id, "disable"], "Disable", "", &[])) }
                @else { (ui::button(cx, &["webhooks", id, "enable"], "Enable", "", &[])) }
                (ui::button(cx, &["webhooks", id, "rotate"], "New secret", "", &[]))
            } }
        }
        div #facts data-live {
            p.standing { (state(&webhook)) @if !webhook.text("disabled_reason").is_empty() { " " (webhook.text("disabled_reason")) } }
            dl.facts {
                (ui::fact("Id", html! { code { (id) } }))
                (ui::fact("Events", webhook.texts("events").collect::<Vec<_>>().join(", ")))
                (ui::fact("Kinds", ui::or_absent(&webhook.texts("kinds").collect::<Vec<_>>().join(", "))))
                (ui::fact("Queues", ui::or_absent(&webhook.texts("queues").collect::<Vec<_>>().join(", "))))
                (ui::fact("Description", ui::or_absent(webhook.text("description"))))
                (ui::fact("Former secret until", ui::time(webhook.moment("previous_secret_until"))))
                (ui::fact("Stored", ui::time(webhook.moment("created_at"))))
            }
        }
        section {
            h2 { "Deliveries" }
            div #deliveries data-live { (ui::shown(&deliveries, |page| list(cx, page.list("deliveries")))) }
            @if let Ok(page) = &deliveries && !page.text("next").is_empty() {
                (ui::pager(Some(&cx.url_with(&["webhooks", id], &[("after", page.text("next"))])), None))
            }
        }
        @if may_change {
            section.danger { h2 { "Delete" } (ui::button(cx, &["webhooks", id, "delete"], "Delete this webhook", "danger", &[])) }
        }
    };
    Ok(Page::new("webhooks", "Webhook", content))
}

fn list(cx: &Context, deliveries: &[Json]) -> Markup {
    if deliveries.is_empty() {
        return ui::nothing("Nothing was sent yet.");
    }
    html! {
        div.scroll tabindex="0" { table {
            thead { tr { th scope="col" { "When" } th scope="col" { "Event" } th scope="col" { "Job" } th.number scope="col" { "Attempt" } th.number scope="col" { "Status" } th.number scope="col" { "Took" } th scope="col" { "Request and response" } } }
            tbody { @for delivery in deliveries { tr {
                td { (ui::time(delivery.moment("at"))) }
                td { (delivery.text("type")) }
                td { (ui::job_link(cx, delivery.text("job_id"))) }
                td.number { (delivery.get("attempt").brief()) }
                td.number { @if delivery.get("status").is_null() { span.error { "none" } } @else { (delivery.get("status").brief()) } }
                td.number { (ui::seconds(delivery.float("duration_ms") / 1_000.0)) }
                td.long {
                    @if !delivery.text("error").is_empty() { span.error { (delivery.text("error")) } }
                    details {
                        summary { "Show" }
                        pre tabindex="0" aria-label="Request" { (delivery.text("request")) }
                        @if !delivery.text("response").is_empty() { pre tabindex="0" aria-label="Response" { (delivery.text("response")) } }
                    }
                }
            } } }
        } }
    }
}
