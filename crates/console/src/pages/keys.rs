//! API keys: what each may do, and when it was used last.

use holdfast_http::Scope;
use maud::{Markup, html};

use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui;

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let keys = cx.get(&["v1", "keys"], &[]).await?;
    let content = html! {
        h1 { "API keys" }
        div #keys data-live { (table(cx, keys.list("keys"))) }
        @if cx.viewer.may(Scope::Admin) { (create(cx)) }
    };
    Ok(Page::new("keys", "API keys", content))
}

fn table(cx: &Context, keys: &[Json]) -> Markup {
    if keys.is_empty() {
        return ui::nothing("No keys.");
    }
    html! {
        div.scroll { table data-rows {
            thead { tr { th scope="col" { "Name" } th scope="col" { "State" } th scope="col" { "Scopes" } th scope="col" { "Bound to" } th scope="col" { "Last used" } th scope="col" { "Made" } th scope="col" { "By" } th scope="col" { span.unseen { "Action" } } } }
            tbody { @for key in keys {
                @let id = key.text("id");
                @let is_revoked = !key.get("revoked_at").is_null();
                tr {
                    td { (key.text("name")) }
                    td { (ui::state(if is_revoked { "disabled" } else { "enabled" })) @if is_revoked { " revoked " (ui::time(key.moment("revoked_at"))) } }
                    td.long { (key.texts("scopes").collect::<Vec<_>>().join(", ")) }
                    td.long { (ui::or_absent(&key.texts("queues").chain(key.texts("kinds")).collect::<Vec<_>>().join(", "))) }
                    td { (ui::time(key.moment("last_used_at"))) }
                    td { (ui::time(key.moment("created_at"))) }
                    td { (ui::or_absent(key.text("created_by"))) }
                    td.act { @if !is_revoked && cx.viewer.may(Scope::Admin) {
                        (ui::button(cx, &["keys", id, "rotate"], "Rotate", "small", &[]))
                        (ui::button(cx, &["keys", id, "revoke"], "Revoke", "small danger", &[]))
                    } }
                }
            } }
        } }
    }
}

fn create(cx: &Context) -> Markup {
    html! {
        details.section {
            summary { "New key" }
            form.stack method="post" action=(cx.url(&["keys"])) {
                (ui::field("Name", "", &html! { input name="name" required autocomplete="off"; }))
                fieldset {
                    legend { "Scopes" }
                    @for scope in Scope::ALL { label.check { input type="checkbox" name="scope" value=(scope.as_str()); " " (scope.as_str()) } }
                }
                (ui::field("Queues", "The only ones that it may be used for, between commas. Empty: all.", &html! { input name="queues" autocomplete="off"; }))
                (ui::field("Kinds", "The only ones that it may be used for, between commas. Empty: all.", &html! { input name="kinds" autocomplete="off"; }))
                button.primary { "Make the key" }
            }
        }
    }
}
