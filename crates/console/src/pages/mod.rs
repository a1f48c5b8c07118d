//! One file for each section.

mod audit;
mod batches;
pub(crate) mod export;
mod failures;
mod filter;
mod health;
mod history;
mod job;
mod job_rows;
mod jobs;
mod keys;
mod kinds;
mod mail;
pub(crate) mod names;
mod overview;
mod queue;
mod queues;
pub(crate) mod schedule_form;
mod schedules;
mod sources;
pub(crate) mod stream;
mod users;
mod webhooks;
mod workers;
mod wrong;

use crate::context::Context;
use crate::failure::Failure;
use crate::page::{Page, SECTIONS};

/// The page at an address below the console's path.
pub(crate) async fn page(cx: &Context, segments: &[&str]) -> Result<Page, Failure> {
    match segments {
        [] => overview::page(cx).await,
        ["jobs"] => jobs::page(cx).await,
        ["jobs", "new"] => kinds::enqueue_page(cx).await,
        ["jobs", id] => job::page(cx, id).await,
        ["queues"] => queues::page(cx).await,
        ["queues", name] => queue::page(cx, name).await,
        ["failures"] => failures::page(cx).await,
        ["batches"] => batches::page(cx).await,
        ["batches", id] => batches::show(cx, id).await,
        ["schedules"] => schedules::page(cx).await,
        ["schedules", "new"] => schedule_form::new(cx).await,
        ["schedules", name] => schedules::show(cx, name).await,
        ["schedules", name, "edit"] => schedule_form::edit(cx, name).await,
        ["workers"] => workers::page(cx).await,
        ["workers", id] => workers::show(cx, id).await,
        ["kinds"] => kinds::page(cx).await,
        ["webhooks"] => webhooks::page(cx).await,
        ["webhooks", id] => webhooks::show(cx, id).await,
        ["mail"] => mail::page(cx).await,
        ["sources"] => sources::page(cx).await,
        ["redis"] => health::page(cx).await,
        ["audit"] => audit::page(cx).await,
        ["keys"] => keys::page(cx).await,
        ["users"] => users::page(cx).await,
        _ => Err(Failure::not_found("There is no page at this address.")),
    }
}

/// The section that an address belongs to.
pub(crate) fn section_of(segments: &[&str]) -> &'static str {
    let first = segments.first().copied().unwrap_or_default();
    SECTIONS
        .iter()
        .find(|section| section.path == first)
        .map_or("", |section| section.path)
}
