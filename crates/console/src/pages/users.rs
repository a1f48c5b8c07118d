//! Users and their roles.

use holdfast_http::Scope;
use maud::{Markup, html};

use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui;

const ROLES: [(&str, &str); 3] = [
    ("viewer", "sees everything but payloads"),
    ("operator", "sees payloads, enqueues, cancels and retries as well"),
    ("admin", "may do everything"),
];

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let users = cx.get(&["v1", "users"], &[]).await?;
    let content = html! {
        h1 { "Users" }
        div #users data-live { (table(cx, users.list("users"))) }
        @if cx.viewer.may(Scope::Admin) { (create(cx)) }
    };
    Ok(Page::new("users", "Users", content))
}

fn table(cx: &Context, users: &[Json]) -> Markup {
    if users.is_empty() {
        return ui::nothing(
            "No users. A user logs in here with a name and a password; an API key works too.",
        );
    }
    html! {
        div.scroll { table data-rows {
            thead { tr { th scope="col" { "Name" } th scope="col" { "Role" } th scope="col" { "State" } th scope="col" { "Stored" } th scope="col" { span.unseen { "Actions" } } } }
            tbody { @for user in users { (row(cx, user)) } }
        } }
    }
}

fn row(cx: &Context, user: &Json) -> Markup {
    let id = user.text("id");
    let is_enabled = user.get("disabled_at").is_null();
    html! { tr {
        td { (user.text("name")) }
        td {
            @if cx.viewer.may(Scope::Admin) {
                form.inline method="post" action=(cx.url(&["users", id, "role"])) {
                    (ui::back(cx))
                    select name="role" aria-label=(format!("Role of {}", user.text("name"))) {
                        @for (role, _) in ROLES { option value=(role) selected[user.text("role") == role] { (role) } }
                    }
                    button.small { "Set" }
                }
            } @else { (user.text("role")) }
        }
        td { (ui::state(if is_enabled { "enabled" } else { "disabled" })) }
        td { (ui::time(user.moment("created_at"))) }
        td.act { @if cx.viewer.may(Scope::Admin) {
            @if is_enabled {
                (ui::button(cx, &["users", id, "invite"], "Invite", "small", &[]))
                (ui::button(cx, &["users", id, "disable"], "Disable", "small danger", &[]))
            } @else { (ui::button(cx, &["users", id, "enable"], "Enable", "small", &[])) }
        } }
    } }
}

fn create(cx: &Context) -> Markup {
    html! {
        details.section {
            summary { "New user" }
            form.stack method="post" action=(cx.url(&["users"])) {
                (ui::field("Name", "A mail address, if the user is to be invited by mail.", &html! { input name="name" required autocomplete="off"; }))
                fieldset {
                    legend { "Role" }
                    @for (role, says) in ROLES { label.check { input type="radio" name="role" value=(role) checked[role == "viewer"]; " " (role) ": " (says) } }
                }
                (ui::field("Password", "Empty: the user gets one by an invitation.", &html! { input type="password" name="password" autocomplete="new-password"; }))
                button.primary { "Store" }
            }
        }
    }
}
