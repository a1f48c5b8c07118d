//! Discovery: entries of feeds from a local server to the database, one source after the other, as one worker's place does it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use holdfast_cache::Cache;
use holdfast_core::clock;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_jobs::audit::{Actor, By};
use holdfast_tasks::discovery::{Definition, Discoverer, NewSource, SourceId, SourceKind, Sources};
use holdfast_tasks::events::Events;
use holdfast_tasks::outbound::{AddressPolicy, Outbound};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::failed;
use super::report::{Figure, Report};
use super::scenario::scaled;
use super::system::{Setup, System};
use crate::failure::Failure;

const PART: &str = "discovery";

/// Entries of one feed.
const ENTRIES: usize = 500;

/// What one worker is to find in a minute.
const AIM: f64 = 20_000.0;

pub(super) async fn measure(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let system = System::open(setup).await?;
    let sources = Sources::new(&system.settings, &system.database, system.jobs.clone());
    let mut made = Vec::new();
    let measured = discover_all(&system, &sources, scaled(40, scale).max(2), &mut made, report).await;
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
    let (address, by) = (serve().await?, By::new(Actor::cli()));
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
            let found = found.map_err(|error| Failure::no(format!("a discovery failed: {error}")))?;
            let expected = if new { ENTRIES as u64 } else { 0 };
            if found.entries != ENTRIES as u64 || found.inserted != expected {
                return Err(Failure::no(format!(
                    "a feed of {ENTRIES} entries came to {found:?}"
                )));
            }
            entries += found.entries;
        }
        let rate = entries as f64 * 60.0 / began.elapsed().as_secs_f64();
        report.figure(PART, what, Figure::Rate(rate), Some(Figure::Rate(AIM)));
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

/// A server of feeds: `/n` is feed n. It ends with the process.
async fn serve() -> Result<String, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let published: Arc<str> = clock::now().to_rfc2822().into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let published = Arc::clone(&published);
            tokio::spawn(async move {
                let mut head = vec![0; 4_096];
                // One request a connection; one that breaks off is seen by whoever made it.
                while let Ok(read @ 1..) = stream.read(&mut head).await {
                    let text = String::from_utf8_lossy(&head[..read]).into_owned();
                    let feed = text.split(['/', ' ']).nth(2).unwrap_or_default();
                    let body = feed_of(feed, &published);
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
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
    let by = By::new(Actor::cli());
    for id in made {
        system
            .sql(&format!("delete from holdfast_events where source = '{id}'"))
            .await?;
        sources.delete(&by, *id).await.map_err(failed)?;
    }
    Ok(())
}
