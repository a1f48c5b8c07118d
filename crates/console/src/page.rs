//! The frame around every page: head, navigation, header.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use holdfast_http::Scope;
use maud::{DOCTYPE, Markup, html};

use crate::assets;
use crate::context::{Config, Context};
use crate::failure::Failure;
use crate::session;
use crate::ui;

/// What a page may load and do: files of this origin, and nothing else. The one policy of trusted types belongs to `dom.js`, which
/// takes pages of this console only.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types holdfast";

const FLASH_COOKIE: &str = "holdfast_flash";
const THEME_COOKIE: &str = "holdfast_theme";

/// How long a message about a finished action waits for the page that shows it, in seconds.
const FLASH_SECONDS: u64 = 60;
/// How long the choice of a theme is kept, in seconds: a year.
const THEME_SECONDS: u64 = 31_536_000;

/// A page of a section, by its address.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) path: &'static str,
    pub(crate) name: &'static str,
    /// Pressed after `g`.
    pub(crate) key: char,
    scope: Scope,
    group: &'static str,
}

const fn section(
    group: &'static str,
    path: &'static str,
    name: &'static str,
    key: char,
    scope: Scope,
) -> Section {
    Section {
        path,
        name,
        key,
        scope,
        group,
    }
}

/// In the order of the navigation.
pub(crate) const SECTIONS: &[Section] = &[
    section("Jobs", "", "Overview", 'o', Scope::Read),
    section("Jobs", "jobs", "Jobs", 'j', Scope::Read),
    section("Jobs", "queues", "Queues", 'q', Scope::Read),
    section("Jobs", "failures", "Failures", 'f', Scope::Read),
    section("Jobs", "batches", "Batches", 'b', Scope::Read),
    section("Jobs", "schedules", "Schedules", 's', Scope::Read),
    section("Jobs", "workers", "Workers", 'w', Scope::Read),
    section("Jobs", "kinds", "Kinds", 'k', Scope::Read),
    section("Products", "webhooks", "Webhooks", 'h', Scope::Admin),
    section("Products", "mail", "Mail", 'm', Scope::Admin),
    section("Products", "sources", "Sources", 'e', Scope::Read),
    section("System", "redis", "Health", 'r', Scope::Read),
    section("System", "audit", "Audit log", 'a', Scope::Admin),
    section("System", "keys", "API keys", 'y', Scope::Admin),
    section("System", "users", "Users", 'u', Scope::Admin),
];

/// What a handler makes.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// The address of its section in [`SECTIONS`].
    pub(crate) section: &'static str,
    pub(crate) status: StatusCode,
    pub(crate) content: Markup,
}

impl Page {
    pub(crate) fn new(section: &'static str, title: impl Into<String>, content: Markup) -> Self {
        Self {
            title: title.into(),
            section,
            status: StatusCode::OK,
            content,
        }
    }

    /// For a request that failed as a whole.
    pub(crate) fn of_failure(failure: &Failure, section: &'static str) -> Self {
        let content = html! {
            h1 { (failure.title) }
            @if !failure.detail.is_empty() { p.lead { (failure.detail) } }
            @if !failure.request_id.is_empty() { p.quiet { "Request " code { (failure.request_id) } } }
        };
        Self {
            title: failure.title.clone(),
            section,
            status: failure.status,
            content,
        }
    }
}

/// The theme that the person has chosen.
fn theme_of(request: &HttpRequest) -> &'static str {
    match session::cookie(request, THEME_COOKIE).as_deref() {
        Some("light") => "light",
        Some("dark") => "dark",
        _ => "auto",
    }
}

pub(crate) fn set_theme(config: &Config, theme: &str) -> Option<HeaderValue> {
    let theme = ["light", "dark"]
        .into_iter()
        .find(|known| *known == theme)
        .unwrap_or("auto");
    session::set_plain(THEME_COOKIE, theme, &config.path, THEME_SECONDS)
}

/// A message for the next page.
pub(crate) fn set_flash(config: &Config, text: &str) -> Option<HeaderValue> {
    session::set_plain(FLASH_COOKIE, &session::encoded(text), &config.path, FLASH_SECONDS)
}

/// The whole document of a page, for a person who is known.
pub(crate) fn respond(cx: &Context, page: &Page) -> HttpResponse {
    let config = &cx.state.config;
    let flash = session::cookie(&cx.request, FLASH_COOKIE).and_then(|value| session::decoded(&value));
    let body = html! {
        a.skip href="#main" { "Skip to the content" }
        div.frame {
            (header_bar(cx))
            (navigation(cx, page.section))
            main #main tabindex="-1" {
                @if let Some(text) = &flash { div.notice.good role="status" { (text) } }
                div.notice.bad #connection role="status" hidden { }
                (page.content)
            }
        }
        dialog #palette aria-label="Go to a page or do something" { }
        dialog #help aria-label="Keyboard shortcuts" { }
    };
    let mut response = document(&cx.request, config, &page.title, page.status, &body);
    if flash.is_some()
        && let Some(cleared) = session::set_plain(FLASH_COOKIE, "", &config.path, 0)
    {
        response.headers_mut().append(header::SET_COOKIE, cleared);
    }
    response
}

/// The whole document of a page without navigation.
pub(crate) fn document(
    request: &HttpRequest,
    config: &Config,
    title: &str,
    status: StatusCode,
    body: &Markup,
) -> HttpResponse {
    let path = &config.path;
    let place = if config.label.is_empty() {
        "Holdfast"
    } else {
        &config.label
    };
    let text = html! {
        (DOCTYPE)
        html lang="en" data-theme=(theme_of(request)) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · " (place) }
                link rel="icon" href=(assets::url(path, "icon.svg"));
                link rel="stylesheet" href=(assets::url(path, "console.css"));
                script type="module" src=(assets::url(path, "console.js")) {}
            }
            body data-path=(path) { (body) }
        }
    };
    let mut response = HttpResponse::build(status);
    response.content_type("text/html; charset=utf-8");
    response.insert_header((header::CONTENT_SECURITY_POLICY, POLICY));
    response.insert_header((header::X_FRAME_OPTIONS, "DENY"));
    response.insert_header((header::REFERRER_POLICY, "same-origin"));
    response.insert_header(("cross-origin-opener-policy", "same-origin"));
    response.insert_header(("cross-origin-resource-policy", "same-origin"));
    response.body(text.into_string())
}

fn header_bar(cx: &Context) -> Markup {
    let config = &cx.state.config;
    let theme = theme_of(&cx.request);
    html! {
        header.top {
            a.brand href=(cx.url(&[])) { "Holdfast" }
            @if !config.label.is_empty() {
                span class=(format!("label {}", config.label_color.as_str())) { (config.label) }
            }
            @if config.read_only { span.label.gray { "read-only" } }
            form.find method="get" action=(cx.url(&["jobs"])) role="search" aria-label="All jobs" {
                input #find type="search" name="q" aria-label="Find jobs" autocomplete="off" spellcheck="false"
                    placeholder="kind:mail.send state:discarded error:\"timed out\"" value=(cx.query.get("q"));
            }
            div.person {
                button.quiet.small #palette-open type="button" hidden title="Go to a page or do something" { "⌘K" }
                span.who title=(cx.viewer.scopes()) { (cx.viewer.name) }
                details.menu {
                    summary aria-label="Settings" { (ui::icon("M2 4h12M2 8h12M2 12h12")) }
                    div {
                        @for (value, name) in [("auto", "Theme of the system"), ("light", "Light"), ("dark", "Dark")] {
                            form method="post" action=(cx.url(&["theme"])) {
                                input type="hidden" name="theme" value=(value);
                                (ui::back(cx))
                                button aria-pressed=(if theme == value { "true" } else { "false" }) { (name) }
                            }
                        }
                        button #keys-toggle type="button" hidden { "Switch shortcuts off" }
                        @if cx.token.is_some() {
                            form method="post" action=(cx.url(&["logout"])) { button { "Log out" } }
                        } @else {
                            a href=(cx.url(&["login"])) { "Log in" }
                        }
                    }
                }
            }
        }
    }
}

fn navigation(cx: &Context, current: &str) -> Markup {
    let mut groups: Vec<(&str, Vec<&Section>)> = Vec::new();
    for section in SECTIONS.iter().filter(|section| cx.viewer.sees(section.scope)) {
        match groups.last_mut().filter(|(group, _)| *group == section.group) {
            Some((_, sections)) => sections.push(section),
            None => groups.push((section.group, vec![section])),
        }
    }
    html! {
        nav.sections aria-label="Sections" {
            @for (group, sections) in groups {
                h2 { (group) }
                ul {
                    @for section in sections {
                        li {
                            a href=(section_url(cx, section)) data-key=(section.key)
                                aria-current=[(section.path == current).then_some("page")] { (section.name) }
                        }
                    }
                }
            }
        }
    }
}

fn section_url(cx: &Context, section: &Section) -> String {
    if section.path.is_empty() {
        return cx.url(&[]);
    }
    cx.url(&[section.path])
}
