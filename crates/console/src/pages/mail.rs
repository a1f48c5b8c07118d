//! Mail: templates, and addresses that get none.

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
    let (templates, suppressions) = join!(
        cx.get(&["v1", "mail-templates"], &[("limit", "200")]),
        cx.get(
            &["v1", "mail-suppressions"],
            &[("after", after), ("limit", "100")]
        ),
    );
    let content = html! {
        h1 { "Mail" }
        section {
            h2 { "Templates" }
            (ui::shown(&templates, |page| template_list(page.list("templates"))))
        }
        section {
            h2 { "Suppressed addresses" }
            p.quiet { "These get no mail: of any list, or of the one that is named." }
            div #suppressions data-live { (ui::shown(&suppressions, |page| suppression_list(cx, page.list("suppressions")))) }
            @if let Ok(page) = &suppressions && !page.text("next").is_empty() {
                (ui::pager(Some(&cx.url_with(&["mail"], &[("after", page.text("next"))])), None))
            }
            @if cx.viewer.may(Scope::Admin) {
                form.row method="post" action=(cx.url(&["mail", "suppress"])) {
                    (ui::back(cx))
                    (ui::field("Address", "", &html! { input name="address" type="email" required autocomplete="off"; }))
                    (ui::field("List", "Empty: every list.", &html! { input name="list" autocomplete="off"; }))
                    button { "Suppress" }
                }
            }
        }
    };
    Ok(Page::new("mail", "Mail", content))
}

fn template_list(templates: &[Json]) -> Markup {
    if templates.is_empty() {
        return ui::nothing("No templates are stored; those of the program are used.");
    }
    html! {
        @for template in templates {
            details.section {
                summary { strong { (template.text("name")) } " " span.quiet { (template.text("subject")) " · changed " (ui::time(template.moment("updated_at"))) } }
                h3 { "Text" }
                pre tabindex="0" aria-label="Text" { (template.text("text")) }
                @if !template.text("html").is_empty() { h3 { "HTML, as source" } pre tabindex="0" aria-label="HTML source" { (template.text("html")) } }
            }
        }
    }
}

fn suppression_list(cx: &Context, suppressions: &[Json]) -> Markup {
    if suppressions.is_empty() {
        return ui::nothing("No address is suppressed.");
    }
    html! {
        div.scroll tabindex="0" { table {
            thead { tr { th scope="col" { "Address" } th scope="col" { "List" } th scope="col" { "Reason" } th scope="col" { "Since" } th scope="col" { span.unseen { "Action" } } } }
            tbody { @for suppression in suppressions { tr {
                td { (suppression.text("address")) }
                td { (if suppression.text("list").is_empty() { "every list" } else { suppression.text("list") }) }
                td.long { (ui::or_absent(suppression.text("reason"))) }
                td { (ui::time(suppression.moment("at"))) }
                td.act { @if cx.viewer.may(Scope::Admin) {
                    (ui::button(cx, &["mail", "release"], "Release", "small", &[("address", suppression.text("address")), ("list", suppression.text("list"))]))
                } }
            } } }
        } }
    }
}
