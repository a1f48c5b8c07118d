//! `holdfast-bench console`: what people who look at the console wait for, and what they cost the workers.
//!
//! The ledger is filled with jobs that wait, jobs that have ended and dead letters, by statements inside the database. The API is the built
//! program, in a process of its own; the worker runs in this one.
//!
//! - *Lists*: pages of `GET /v1/jobs` under one filter each, while a worker starts [`DRAIN_RATE`] jobs a second; then a search for the one job
//!   that matches, which is the oldest.
//! - *Consoles*: [`CONSOLES`] connections behave as the modules of the overview do: each has the event stream open, and fetches its page
//!   again at every new event. The worker drains as fast as it can, with them and without, in turns.
//! - *First load*: what a browser fetches for the overview, as it is served and as a proxy would compress it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use flate2::Compression;
use flate2::write::GzEncoder;
use holdfast_core::config::QueueLimits;
use holdfast_core::sql::Database;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::http::percentile;
use super::load::Connection;
use super::report::{Figure, Report};
use super::scenario::{self, scaled};
use super::system::{PAYLOAD_BYTES, QUEUE, Setup, System};
use super::{failed, idle};

/// Jobs that wait, and jobs that have ended.
const MANY: usize = 1_000_000;
const LETTERS: usize = 50_000;

/// Rows of one statement that fills the ledger.
const STEP: usize = 50_000;

/// Started a second while lists are read.
const DRAIN_RATE: &str = "1000/1s";

/// Jobs of a page, and pages that are read under one filter, the newest first.
const PAGE: usize = 50;
const PAGES: usize = 20;

/// Each asks for one thing.
const FILTERS: [&str; 13] = [
    "queue:bench",
    "kind:bench.rare",
    "state:available",
    "state:completed",
    "state:discarded",
    "priority:high",
    "key:customer-7",
    "tag:vip",
    "by:key/7",
    "attempt:>=3",
    "age:>1h",
    "error:\"timed out\"",
    "payload.customer:7",
];

/// Of one job.
const RARE: &str = "payload.rare:true";

const CONSOLES: usize = 100;
const ROUNDS: usize = 3;
/// Jobs of one drain.
const DRAINED: usize = 200_000;

const LIST_MS: f64 = 100.0;
const FIRST_ANSWER_MS: f64 = 200.0;
const WHOLE_TABLE_MS: f64 = 10_000.0;
const STATEMENTS: f64 = 1.0;
const DRAIN_SHARE: f64 = 98.0;
const FIRST_LOAD_BYTES: f64 = 100.0 * 1_024.0;

pub(super) async fn measure(
    setup: &Setup,
    part: &str,
    scale: f64,
    report: &mut Report,
) -> Result<(), Failure> {
    let Some(api) = idle::sibling("api") else {
        report.skipped(part, "api is not built beside this program");
        return Ok(());
    };
    let mut system = System::open(setup).await?;
    fill(&system, scale).await?;
    let mut api = idle::start(&api, setup)?;
    let address = idle::listening(&mut api).await?;
    idle::ready(&address).await?;
    let address: SocketAddr = address.parse().map_err(failed)?;
    lists(&mut system, address, part, report).await?;
    rare(address, part, report).await?;
    first_load(address, part, report).await?;
    let many = scaled(MANY, scale);
    empty(&system, "state = 'available'", many).await?;
    consoles(&mut system, address, scaled(DRAINED, scale), part, report).await?;
    api.kill().await?;
    empty(
        &system,
        "state = 'completed'",
        many + 2 * ROUNDS * scaled(DRAINED, scale),
    )
    .await?;
    system.close().await
}

/// Jobs of every state. Their ids are of the last two hours, in the order of their numbers: ended ones first.
async fn fill(system: &System, scale: f64) -> Result<(), Failure> {
    let (many, letters) = (scaled(MANY, scale), scaled(LETTERS, scale));
    let all = 2 * many + letters;
    let error = r#"'[{"at":"2026-01-01T00:00:00Z","attempt":3,"class":"transient","message":"the request timed out"}]'"#;
    let fill = "x".repeat(PAYLOAD_BYTES - 40);
    for (first, count, state) in [
        (0, many, "completed"),
        (many, letters, "discarded"),
        (many + letters, many, "available"),
    ] {
        let (has_ended, is_dead) = (state != "available", state == "discarded");
        for from in (first..first + count).step_by(STEP) {
            let to = (from + STEP).min(first + count) - 1;
            // Milliseconds before now, of the row `i`.
            let ago = format!("({all} - i) * 7200000 / {all}");
            let (id, now, past, rows) = match &system.database {
                Database::Postgres(_) => (
                    format!(
                        "(lpad(to_hex((extract(epoch from now()) * 1000)::bigint - {ago}), 12, '0') || lpad(to_hex(i), 20, '0'))::uuid"
                    ),
                    "now()".to_owned(),
                    format!("now() - {ago} * interval '1 millisecond'"),
                    format!("generate_series({from}::bigint, {to}) as s(i)"),
                ),
                Database::Sqlite(_) => {
                    let now = "cast(unixepoch('subsec') * 1000 as integer)";
                    (
                        format!("unhex(printf('%012x%020x', {now} - {ago}, i))"),
                        now.to_owned(),
                        format!("{now} - {ago}"),
                        format!(
                            "(with recursive s(i) as (select {from} union all select i + 1 from s where i < {to}) select i from s)"
                        ),
                    )
                }
            };
            let (ended, attempt, errors) = match (has_ended, is_dead) {
                (false, _) => ("null", "0", "null"),
                (true, false) => (&*past, "1", "null"),
                (true, true) => (&*past, "3", error),
            };
            let errors = match &system.database {
                Database::Postgres(_) => format!("{errors}::jsonb"),
                Database::Sqlite(_) => errors.to_owned(),
            };
            let json = match &system.database {
                Database::Postgres(_) => "::json",
                Database::Sqlite(_) => "",
            };
            let kind = if has_ended {
                "case when i % 1000 = 0 then 'bench.rare' else 'bench.noop' end"
            } else {
                "'bench.noop'"
            };
            // The oldest of all has what no other has.
            let payload = format!(
                "('{{\"at\":0,\"fill\":\"{fill}\",\"customer\":' || (i % 1000) || case when i = 0 then ',\"rare\":true}}' else '}}' end){json}"
            );
            let statement = format!(
                "insert into holdfast_jobs (id, queue, kind, payload, priority, run_at, created_at, max_attempts, timeout_ms, state, attempt,
                                            finished_at, errors, limit_key, tags, enqueued_by)
                 select {id}, '{QUEUE}', {kind}, {payload}, case when i % 10 = 0 then 0 else 1 end, {now}, {past}, 3, 60000, '{state}',
                        {attempt}, {ended}, {errors}, 'customer-' || (i % 50), case when i % 100 = 0 then '[\"vip\"]' end, 'key/' || (i % 20)
                 from {rows}"
            );
            system.sql(&statement).await?;
        }
    }
    system.sql("analyze holdfast_jobs").await
}

/// Deletes up to `rows` jobs, in steps: a statement has its time.
async fn empty(system: &System, condition: &str, rows: usize) -> Result<(), Failure> {
    let delete = format!(
        "delete from holdfast_jobs where id in (
             select id from holdfast_jobs where queue = '{QUEUE}' and {condition} limit {STEP})"
    );
    for _ in 0..rows.div_ceil(STEP) {
        system.sql(&delete).await?;
    }
    Ok(())
}

/// What is read of a page.
#[derive(Debug, Deserialize)]
struct JobPage {
    jobs: Vec<serde_json::Value>,
    next: Option<String>,
}

async fn get(connection: &mut Connection, path: &str) -> Result<(Vec<u8>, f64), Failure> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
    let sent = Instant::now();
    let body = connection.exchange(request.as_bytes(), b"HTTP/1.1 200").await?;
    Ok((body.to_vec(), sent.elapsed().as_secs_f64() * 1_000.0))
}

/// One page, and how long it took in milliseconds.
async fn page(
    connection: &mut Connection,
    search: &str,
    after: Option<&str>,
) -> Result<(JobPage, f64), Failure> {
    let limit = PAGE.to_string();
    let mut asked = vec![("q", search), ("view", "summary"), ("limit", &limit)];
    asked.extend(after.map(|after| ("after", after)));
    let url = reqwest::Url::parse_with_params("http://127.0.0.1/v1/jobs", asked).map_err(failed)?;
    let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    let (body, millis) = get(connection, &path).await?;
    Ok((serde_json::from_slice(&body)?, millis))
}

async fn lists(
    system: &mut System,
    address: SocketAddr,
    part: &str,
    report: &mut Report,
) -> Result<(), Failure> {
    let limits = QueueLimits {
        rate: Some(DRAIN_RATE.parse().map_err(failed)?),
        ..QueueLimits::default()
    };
    let store = system.jobs.limits().clone();
    store.set_override(QUEUE, Some(&limits)).await.map_err(failed)?;
    system.work()?;
    let mut connection = Connection::open(address).await?;
    for search in FILTERS {
        let mut times = Vec::with_capacity(PAGES);
        let mut after = None;
        while times.len() < PAGES {
            let (found, millis) = page(&mut connection, search, after.as_deref()).await?;
            times.push(millis);
            after = found.next;
            if after.is_none() {
                break;
            }
        }
        report.figure(
            part,
            &format!("a page under {search}, p95"),
            Figure::Millis(percentile(&mut times, 0.95)),
            Some(Figure::Millis(LIST_MS)),
        );
    }
    system.stop_working().await?;
    store.set_override(QUEUE, None).await.map_err(failed)
}

/// The whole table for one job.
async fn rare(address: SocketAddr, part: &str, report: &mut Report) -> Result<(), Failure> {
    let mut connection = Connection::open(address).await?;
    let (mut after, mut first, mut matches) = (None, None, 0);
    let began = Instant::now();
    loop {
        let (found, millis) = page(&mut connection, RARE, after.as_deref()).await?;
        first = first.or(Some(millis));
        matches += found.jobs.len();
        after = found.next;
        if after.is_none() {
            break;
        }
    }
    if matches != 1 {
        return Err(Failure::msg(format!(
            "{RARE} has found {matches} jobs, and not the one"
        )));
    }
    let whole = Figure::Millis(began.elapsed().as_secs_f64() * 1_000.0);
    let first = Figure::Millis(first.unwrap_or_default());
    report.figure(
        part,
        "a rare match, first answer",
        first,
        Some(Figure::Millis(FIRST_ANSWER_MS)),
    );
    report.figure(
        part,
        "a rare match, whole table",
        whole,
        Some(Figure::Millis(WHOLE_TABLE_MS)),
    );
    Ok(())
}

/// The overview, and what it names and imports.
async fn first_load(address: SocketAddr, part: &str, report: &mut Report) -> Result<(), Failure> {
    let mut connection = Connection::open(address).await?;
    let (document, _) = get(&mut connection, "/console/").await?;
    let text = String::from_utf8_lossy(&document).into_owned();
    let mut wanted: BTreeSet<String> = text
        .split('"')
        .filter(|piece| piece.starts_with("/console/assets/"))
        .map(str::to_owned)
        .collect();
    let (mut seen, mut plain, mut compressed) = (BTreeSet::new(), 0, 0);
    let mut count = |content: &[u8]| -> Result<(), Failure> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content)?;
        plain += content.len();
        compressed += encoder.finish()?.len();
        Ok(())
    };
    count(&document)?;
    while let Some(path) = wanted.pop_first() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let (content, _) = get(&mut connection, &path).await?;
        count(&content)?;
        // Modules import their neighbours.
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let text = String::from_utf8_lossy(&content);
        let imports = text
            .split('\'')
            .filter_map(|piece| piece.strip_prefix("./")?.strip_suffix(".js"));
        wanted.extend(imports.map(|name| format!("{directory}/{name}.js")));
    }
    report.figure(
        part,
        &format!("first load, {} files", seen.len() + 1),
        Figure::Bytes(plain as f64),
        None,
    );
    report.figure(
        part,
        "  gzip",
        Figure::Bytes(compressed as f64),
        Some(Figure::Bytes(FIRST_LOAD_BYTES)),
    );
    Ok(())
}

/// Drains with and without open consoles, in turns.
async fn consoles(
    system: &mut System,
    address: SocketAddr,
    count: usize,
    part: &str,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut rates = [Vec::new(), Vec::new()];
    let (mut statements, mut seconds) = ([0.0; 2], [0.0; 2]);
    let pages = Arc::new(AtomicU64::new(0));
    for round in 0..2 * ROUNDS {
        // Without, with, with, without: whatever grows slower or faster in the course does so for both.
        let with = usize::from(matches!(round % 4, 1 | 2));
        scenario::enqueue_bulk(system, count).await?;
        let mut open = JoinSet::new();
        if with == 1 {
            for _ in 0..CONSOLES {
                open.spawn(console(address, Arc::clone(&pages)));
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let (before, began) = (statements_of(address).await?, Instant::now());
        rates[with].push(scenario::drain(system, count).await?.rate);
        statements[with] += statements_of(address).await? - before;
        seconds[with] += began.elapsed().as_secs_f64();
        if let Some(ended) = open.try_join_next() {
            ended.map_err(failed)??;
        }
        open.shutdown().await;
    }
    let [without, with] = rates.map(|mut rates| percentile(&mut rates, 0.5));
    report.figure(part, "drain without consoles", Figure::Rate(without), None);
    report.figure(
        part,
        &format!("  with {CONSOLES} open consoles"),
        Figure::Share(100.0 * with / without),
        Some(Figure::Share(DRAIN_SHARE)),
    );
    let fetched = pages.load(Ordering::SeqCst) as f64 / (seconds[1] + 2.0 * ROUNDS as f64);
    report.figure(part, "  pages that they fetch", Figure::Rate(fetched), None);
    report.figure(
        part,
        "  units of work of the API a second",
        Figure::Count(statements[1] / seconds[1]),
        Some(Figure::Count(STATEMENTS)),
    );
    report.figure(
        part,
        "  the same without consoles",
        Figure::Count(statements[0] / seconds[0]),
        None,
    );
    Ok(())
}

/// An open overview: its event stream, and its page again at each event that says something new.
async fn console(address: SocketAddr, pages: Arc<AtomicU64>) -> Result<(), Failure> {
    let mut connection = Connection::open(address).await?;
    get(&mut connection, "/console/").await?;
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /console/stream HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\n\r\n")
        .await?;
    let (mut text, mut newest) = (String::new(), String::new());
    let mut chunk = vec![0; 16 * 1_024];
    loop {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Err(Failure::msg("an event stream has ended"));
        }
        text.push_str(&String::from_utf8_lossy(&chunk[..read]));
        let Some(end) = text.rfind("\n\n") else { continue };
        let id = text[..end]
            .rsplit_once("\nid: ")
            .and_then(|(_, rest)| rest.lines().next());
        let id = id.map(str::to_owned);
        text.drain(..end);
        if let Some(id) = id.filter(|id| *id != newest) {
            newest = id;
            get(&mut connection, "/console/").await?;
            pages.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Units of work that the API has run so far.
async fn statements_of(address: SocketAddr) -> Result<f64, Failure> {
    let mut connection = Connection::open(address).await?;
    let (body, _) = get(&mut connection, "/metrics").await?;
    let text = String::from_utf8_lossy(&body);
    let counts = text
        .lines()
        .filter(|line| line.starts_with("holdfast_sql_statement_duration_seconds_count"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(counts.sum())
}
