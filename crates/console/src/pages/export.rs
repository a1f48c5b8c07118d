//! The jobs of a filter as a file, read from the API page by page while it is sent.

use actix_web::HttpResponse;
use actix_web::http::header;
use bytes::Bytes;
use futures::stream;

use super::jobs::parameters;
use crate::context::Context;
use crate::json::Json;
use crate::page::{self, Page};

/// Most jobs of one export.
const MAX_JOBS: usize = 100_000;

/// Jobs that are asked for at once.
const CHUNK: &str = "200";

#[derive(Clone, Copy)]
enum Format {
    Ndjson,
    Csv,
}

const COLUMNS: [&str; 15] = [
    "id",
    "kind",
    "queue",
    "state",
    "priority",
    "attempt",
    "max_attempts",
    "created_at",
    "run_at",
    "started_at",
    "finished_at",
    "expires_at",
    "tags",
    "enqueued_by",
    "payload",
];

/// `GET …/jobs/export?q=&as=ndjson|csv`.
pub(crate) async fn serve(cx: &mut Context) -> HttpResponse {
    let format = if cx.query.get("as") == "csv" {
        Format::Csv
    } else {
        Format::Ndjson
    };
    let first = match chunk(cx, "").await {
        Ok(first) => first,
        Err(failure) => return page::respond(cx, &Page::of_failure(&failure, "jobs")),
    };
    let (media_type, name) = match format {
        Format::Ndjson => ("application/x-ndjson", "jobs.ndjson"),
        Format::Csv => ("text/csv; charset=utf-8", "jobs.csv"),
    };
    let moved = Context {
        state: cx.state.clone(),
        request: cx.request.clone(),
        query: cx.query.clone(),
        token: cx.token.clone(),
        has_new_token: false,
        viewer: cx.viewer.clone(),
    };
    let body = stream::unfold(Some((moved, first, 0)), move |left| async move {
        let (cx, found, sent) = left?;
        let jobs = found.list("jobs");
        let text = written(format, jobs, sent == 0);
        let (next, sent) = (found.text("next").to_owned(), sent + jobs.len());
        let goes_on = !next.is_empty() && sent < MAX_JOBS;
        let following = if goes_on {
            chunk(&cx, &next).await.ok()
        } else {
            None
        };
        Some((
            Ok::<_, std::io::Error>(Bytes::from(text)),
            following.map(|found| (cx, found, sent)),
        ))
    });
    HttpResponse::Ok()
        .content_type(media_type)
        .insert_header((
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ))
        .streaming(body)
}

async fn chunk(cx: &Context, after: &str) -> Result<Json, crate::failure::Failure> {
    let parameters = parameters(cx);
    let mut asked: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (*name, &**value)).collect();
    asked.retain(|(name, _)| !matches!(*name, "after" | "limit"));
    asked.extend([("after", after), ("limit", CHUNK)]);
    cx.get(&["v1", "jobs"], &asked).await
}

fn written(format: Format, jobs: &[Json], is_first: bool) -> String {
    match format {
        Format::Ndjson => {
            let lines: Vec<String> = jobs.iter().map(Json::to_string).chain([String::new()]).collect();
            lines.join("\n")
        }
        Format::Csv => {
            let head = if is_first {
                COLUMNS.join(",") + "\r\n"
            } else {
                String::new()
            };
            let line = |job: &Json| {
                let cells: Vec<String> = COLUMNS
                    .iter()
                    .map(|column| cell(&job.get(column).brief()))
                    .collect();
                cells.join(",") + "\r\n"
            };
            head + &jobs.iter().map(line).collect::<String>()
        }
    }
}

/// A cell of CSV (RFC 4180). One that a spreadsheet would take for a formula gets a quotation mark in front.
fn cell(text: &str) -> String {
    let guarded = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if guarded.contains(['"', ',', '\n', '\r']) {
        return format!("\"{}\"", guarded.replace('"', "\"\""));
    }
    guarded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_and_is_no_formula() {
        assert_eq!(cell("a"), "a");
        assert_eq!(cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(cell("=1+1"), "'=1+1");
    }
}
