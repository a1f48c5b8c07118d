//! Making and changing a schedule.

use maud::{Markup, html};

use crate::context::Context;
use crate::failure::Failure;
use crate::json::{Json, quoted};
use crate::page::Page;
use crate::ui;
use crate::urls::Fields;

pub(super) async fn new(cx: &Context) -> Result<Page, Failure> {
    form(cx, &Json::Null, None).await
}

/// The form as it was filled in, with the ticks that it would have.
pub(crate) async fn preview(cx: &Context, form: &Fields) -> Result<Page, Failure> {
    let text = |name: &str| Some(form.get(name)).filter(|text| !text.is_empty()).map(quoted);
    let every = Some(form.get("every_seconds"))
        .filter(|text| !text.is_empty())
        .map(ToOwned::to_owned);
    let members = [
        ("cron", text("cron")),
        ("every_seconds", every),
        ("time_zone", text("time_zone")),
    ];
    let members: Vec<String> = members
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{}:{}", quoted(name), value?)))
        .collect();
    let preview = cx
        .post(
            &["v1", "schedules", "preview"],
            Some(format!("{{{}}}", members.join(","))),
        )
        .await;
    let given = |name: &str| (name.to_owned(), Json::Text(form.get(name).to_owned()));
    let mut fields: Vec<(String, Json)> = [
        "cron",
        "every_seconds",
        "time_zone",
        "kind",
        "queue",
        "catch_up",
        "jitter_seconds",
    ]
    .map(given)
    .into();
    let name = if form.get("was").is_empty() {
        "wanted"
    } else {
        "name"
    };
    let value = if form.get("was").is_empty() {
        form.get("name")
    } else {
        form.get("was")
    };
    fields.push((name.to_owned(), Json::Text(value.to_owned())));
    fields.push(("enabled".to_owned(), Json::Bool(form.has("enabled"))));
    let payload =
        Json::parse(form.get("payload")).unwrap_or_else(|_| Json::Text(form.get("payload").to_owned()));
    fields.push(("payload".to_owned(), payload));
    self::form(cx, &Json::Object(fields), Some(&preview)).await
}

fn previewed(preview: &Result<Json, Failure>) -> Markup {
    ui::shown(preview, |preview| {
        html! {
            div.notice role="status" {
                p { strong { (preview.text("words")) } " " (preview.text("time_zone")) }
                ol.ticks { @for tick in preview.list("ticks") {
                    li { (tick.text("local").replace('T', " ")) " " span.quiet { (tick.text("utc").replace('T', " ")) " UTC" } }
                } }
            }
        }
    })
}

pub(super) async fn edit(cx: &Context, name: &str) -> Result<Page, Failure> {
    let schedule = cx.get(&["v1", "schedules", name], &[]).await?;
    form(cx, &schedule, None).await
}

async fn form(
    cx: &Context,
    schedule: &Json,
    preview: Option<&Result<Json, Failure>>,
) -> Result<Page, Failure> {
    let kinds = cx.get(&["v1", "kinds"], &[]).await.unwrap_or_default();
    let name = schedule.text("name");
    let title = if name.is_empty() {
        "New schedule".to_owned()
    } else {
        format!("Edit {name}")
    };
    let payload = match schedule.get("payload") {
        Json::Null => "{}".to_owned(),
        payload => payload.pretty(),
    };
    let text = |field: &'static str, example: &str| {
        html! { input name=(field) value=(schedule.get(field).brief()) placeholder=(example) autocomplete="off"; }
    };
    let content = html! {
        p.crumbs { a href=(cx.url(&["schedules"])) { "Schedules" } }
        h1 { (title) }
        form.stack method="post" action=(cx.url(&["schedules"])) {
            @if name.is_empty() {
                (ui::field("Name", "", &html! { input name="name" value=(schedule.text("wanted")) required maxlength="63" autocomplete="off" placeholder="nightly-report"; }))
            } @else {
                input type="hidden" name="was" value=(name);
            }
            fieldset {
                legend { "When: one of these" }
                (ui::field("Cron", "Minute, hour, day of month, month, day of week.", &text("cron", "0 2 * * *")))
                (ui::field("Time zone", "Of the cron expression. Empty: UTC.", &text("time_zone", "Europe/Berlin")))
                (ui::field("Every so many seconds", "", &text("every_seconds", "3600")))
            }
            @if let Some(preview) = preview { (previewed(preview)) }
            (ui::field("Kind", "", &html! {
                input name="kind" required list="kinds" value=(schedule.text("kind")) autocomplete="off";
                datalist #kinds { @for kind in kinds.list("kinds") { option value=(kind.text("kind")) {} } }
            }))
            (ui::field("Payload", "JSON.", &html! { textarea.code name="payload" rows="8" spellcheck="false" { (payload) } }))
            (ui::field("Queue", "Empty: the kind's.", &text("queue", "")))
            (ui::field("Missed ticks", "What happens with ticks that no scheduler was there for.", &html! {
                select name="catch_up" { @for choice in ["", "skip", "latest", "all"] {
                    option value=(choice) selected[schedule.text("catch_up") == choice] { (if choice.is_empty() { "default" } else { choice }) }
                } }
            }))
            (ui::field("Spread in seconds", "Each job is enqueued up to so much later.", &text("jitter_seconds", "0")))
            label.check { input type="checkbox" name="enabled" checked[schedule.is_null() || schedule.flag("enabled")]; " Enabled" }
            div.actions { button.primary { "Store" } button name="step" value="preview" formnovalidate { "Show the next ticks" } a.button href=(cx.url(&["schedules"])) { "Leave it" } }
        }
    };
    Ok(Page::new("schedules", title, content))
}
