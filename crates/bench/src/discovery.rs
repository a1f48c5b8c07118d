//! Discovery: entries of feeds from a local server to the database, one source after the other, as one worker's place does it;
//! beside it what fetching and reading the same feeds costs without storing anything. And how much memory a large calendar takes.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use holdfast_cache::Cache;
use holdfast_core::clock;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_services::events::Events;
use holdfast_services::events::discovery::parse::{Form, ParsedItem, Reading, parse};
use holdfast_services::events::discovery::{
    Definition, Discoverer, NewSource, SourceId, SourceKind, Sources,
};
use holdfast_services::outbound::{AddressPolicy, Call, Outbound};
use reqwest::Method;
use reqwest::header::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::failed;
use super::memory::{forget_peak, peak};
use super::report::{Figure, Report};
use super::system::{Setup, System};

const PART: &str = "discovery";

/// Of the whole.
const FEEDS: f64 = 40.0;

/// Entries of one feed.
const ENTRIES: usize = 500;

/// Events of the calendar, and its size in bytes.
const EVENTS: usize = 20_000;
const CALENDAR: usize = 10 << 20;

/// What the process may take while it discovers the calendar.
const MEMORY_AIM: f64 = (150 << 20) as f64;

/// What one worker is to find in a minute.
const AIM: f64 = 20_000.0;

pub(super) async fn measure(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let system = System::open(setup).await?;
    let sources = Sources::new(&system.settings, &system.database, system.jobs.clone());
    let mut made = Vec::new();
    let measured = discover_all(
        &system,
        &sources,
        ((FEEDS * scale) as usize).max(2),
        &mut made,
        report,
    )
    .await;
    tidy(&system, &sources, &made).await?;
    system.close().await?;
    measured
}

async fn discover_all(
    system: &System,
    sources: &Sources,
    feeds: usize,
    made: &mut Vec<SourceId>,
    report: &mut Report,
) -> Result<(), Failure> {
    let (address, by) = (serve().await?, AuditContext::new(Actor::cli()));
    for feed in 0..feeds {
        let source = sources
            .create(&by, &source(&address, feed))
            .await
            .map_err(failed)?;
        made.push(source.id);
    }
    let gate = RedisGate::open(Role::Cache, None, &system.settings.redis).map_err(failed)?;
    let cache = Cache::open(gate, &system.settings.cache);
    let outbound =
        Outbound::with_policy(&system.settings.http_request, AddressPolicy::anything()).map_err(failed)?;
    // The bench's feeds are larger than what `http.request` takes.
    let reading = read_all(&outbound.limited_to(CALENDAR), &address, feeds).await?;
    report.figure(
        PART,
        "entries fetched and read, not stored, a minute",
        Figure::PerMinute(reading),
        None,
    );
    let events = Events::new(&system.settings, &system.database, &cache);
    let discoverer = Discoverer::new(&system.settings, sources.clone(), events, &outbound, None);
    for (what, new) in [
        ("new entries, a minute", true),
        ("the same entries again, a minute", false),
    ] {
        let began = Instant::now();
        let mut entries = 0;
        for id in made.iter() {
            let found = discoverer.discover(*id).await;
            let found = found.map_err(|error| Failure::msg(format!("a discovery failed: {error}")))?;
            let expected = if new { ENTRIES as u64 } else { 0 };
            if found.entries != ENTRIES as u64 || found.inserted != expected {
                return Err(Failure::msg(format!(
                    "a feed of {ENTRIES} entries came to {found:?}"
                )));
            }
            entries += found.entries;
        }
        let rate = entries as f64 * 60.0 / began.elapsed().as_secs_f64();
        report.figure(PART, what, Figure::PerMinute(rate), Some(Figure::PerMinute(AIM)));
        report.figure(
            PART,
            "  of merely reading them",
            Figure::Share(100.0 * rate / reading),
            None,
        );
    }
    calendar(&discoverer, sources, &address, made, report).await
}

/// Entries a minute where nothing is done with what is read: the yardstick.
async fn read_all(outbound: &Outbound, address: &str, feeds: usize) -> Result<f64, Failure> {
    let began = Instant::now();
    for feed in 0..feeds {
        let call = Call {
            method: Method::GET,
            url: format!("http://{address}/{feed}").parse().map_err(failed)?,
            headers: HeaderMap::new(),
            body: None,
            timeout: Duration::from_secs(30),
            accept: Vec::new(),
        };
        let answer = outbound.send(call).await;
        let answer = answer.map_err(|error| Failure::msg(format!("a feed cannot be fetched: {error}")))?;
        if answer.truncated {
            return Err(Failure::msg("a feed is larger than the bench's limit".to_owned()));
        }
        let now = clock::now();
        let reading = Reading {
            zone: None,
            from: now - chrono::TimeDelta::days(1),
            until: now + chrono::TimeDelta::days(1),
            content_type: None,
            url: &answer.url,
        };
        let mut entries = 0;
        let mut count = |found: ParsedItem| {
            entries += usize::from(matches!(found, ParsedItem::Entry(_)));
            ControlFlow::Continue(())
        };
        parse(Form::Feed, &answer.body, &reading, &mut count).map_err(failed)?;
        if entries != ENTRIES {
            return Err(Failure::msg(format!(
                "a feed of {ENTRIES} entries came to {entries}"
            )));
        }
    }
    Ok((feeds * ENTRIES) as f64 * 60.0 / began.elapsed().as_secs_f64())
}

/// The most memory the whole process takes while it discovers a large calendar, the server of it included.
async fn calendar(
    discoverer: &Discoverer,
    sources: &Sources,
    address: &str,
    made: &mut Vec<SourceId>,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut wanted = source(address, 0);
    wanted.name.push_str(" calendar");
    wanted.definition.kind = SourceKind::Ical;
    wanted.definition.url = Some(format!("http://{address}/calendar"));
    let made_now = sources.create(&AuditContext::new(Actor::cli()), &wanted).await;
    let id = made_now.map_err(failed)?.id;
    made.push(id);
    forget_peak();
    let began = Instant::now();
    let found = discoverer.discover(id).await;
    let found = found.map_err(|error| Failure::msg(format!("a discovery failed: {error}")))?;
    if found.inserted != EVENTS as u64 {
        return Err(Failure::msg(format!(
            "a calendar of {EVENTS} events came to {found:?}"
        )));
    }
    let rate = EVENTS as f64 * 60.0 / began.elapsed().as_secs_f64();
    let what = format!("a calendar of 10 MiB with {EVENTS} events");
    report.figure(PART, &what, Figure::PerMinute(rate), Some(Figure::PerMinute(AIM)));
    if let Some(peak) = peak() {
        let aim = Some(Figure::Bytes(MEMORY_AIM));
        report.figure(PART, "  peak memory of the process", Figure::Bytes(peak), aim);
    }
    Ok(())
}

fn source(address: &str, feed: usize) -> NewSource {
    NewSource {
        name: format!("bench {} {feed}", clock::unix_millis()),
        // No beat is to discover it as well.
        enabled: false,
        definition: Definition {
            kind: SourceKind::Rss,
            url: Some(format!("http://{address}/{feed}")),
            mapping: None,
            subreddit: None,
            listing: None,
            pages: None,
            interval_seconds: 86_400,
            time_zone: None,
            category: None,
            place: None,
            lat: None,
            lon: None,
        },
    }
}

/// A server of feeds: `/n` is feed n, `/calendar` the calendar. It ends with the process.
async fn serve() -> Result<String, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let published: Arc<str> = clock::now().to_rfc2822().into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let published = Arc::clone(&published);
            tokio::spawn(async move {
                let mut head = vec![0; 4_096];
                // One request a connection; one that breaks off is seen by its client.
                while let Ok(read @ 1..) = stream.read(&mut head).await {
                    let text = String::from_utf8_lossy(&head[..read]).into_owned();
                    let feed = text.split(['/', ' ']).nth(2).unwrap_or_default();
                    let body = match feed {
                        "calendar" => calendar_text(),
                        feed => feed_of(feed, &published),
                    };
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    for part in [head, body] {
                        if stream.write_all(part.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok(address)
}

fn calendar_text() -> String {
    let mut text = String::with_capacity(CALENDAR + (1 << 20));
    text.push_str("BEGIN:VCALENDAR\r\n");
    for event in 0..EVENTS {
        let _ = write!(
            text,
            "BEGIN:VEVENT\r\nUID:{event}@example.com\r\nSUMMARY:Event {event} of the calendar\r\n\
             DTSTART;TZID=Europe/Vienna:2090{:02}{:02}T{:02}0000\r\nDESCRIPTION:{}\r\nEND:VEVENT\r\n",
            event % 9 + 1,
            event % 28 + 1,
            event % 24,
            "many words ".repeat(36),
        );
    }
    text.push_str("END:VCALENDAR\r\n");
    text
}

fn feed_of(feed: &str, published: &str) -> String {
    let mut body = String::from("<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>bench</title>");
    for entry in 0..ENTRIES {
        let _ = write!(
            body,
            "<item><title>Event {entry} of feed {feed}</title><guid>{feed}-{entry}</guid><link>https://example.com/{feed}/{entry}</link>\
             <category>bench</category><pubDate>{published}</pubDate><description>&lt;p&gt;Some words on event {entry} of feed \
             {feed}, where it is and what there is to see, as long as such texts are.&lt;/p&gt;</description></item>"
        );
    }
    body.push_str("</channel></rss>");
    body
}

async fn tidy(system: &System, sources: &Sources, made: &[SourceId]) -> Result<(), Failure> {
    let by = AuditContext::new(Actor::cli());
    for id in made {
        system
            .sql(&format!("delete from holdfast_events where source = '{id}'"))
            .await?;
        sources.delete(&by, *id).await.map_err(failed)?;
    }
    Ok(())
}
