//! Feeds: RSS, Atom and JSON Feed.
//!
//! A feed says when something was published, not when it takes place: that is its entries' time. Feed dates come in every
//! format there is ([`dates::parse`]).
//!
//! XML is read to its end or not at all: where it is not well-formed, nobody knows where the next entry begins. JSON Feed
//! is read as mapped JSON, entry by entry.

use std::ops::ControlFlow;

use feed_rs::model::{self, FeedType};
use feed_rs::parser::{Builder, ParseErrorKind, ParseFeedError};

use super::entry::Texts;
use super::text::{decode, is_html, plain, plain_line, without_declaration};
use super::{Entry, Note, ParseFault, ParsedItem, Reading, Sink, dates, json};

const EXPECTED: &str = "a feed";

pub(super) fn parse(body: &[u8], reading: &Reading<'_>, sink: &mut Sink<'_>) -> Result<(), ParseFault> {
    let (text, note) = decode(body, reading.content_type);
    let text = text.trim_start();
    if text.is_empty() {
        return Err(ParseFault::Empty);
    }
    if is_html(text) {
        return Err(ParseFault::Html(EXPECTED));
    }
    if text.starts_with('{') {
        return json::parse_feed(text, reading, sink);
    }
    if declares_entities(text) {
        return Err(ParseFault::Entities);
    }
    if let Some(note) = note
        && sink(ParsedItem::Noted(note)).is_break()
    {
        return Ok(());
    }
    let feed = read(without_declaration(text), reading)?;
    for (index, entry) in feed.entries.iter().enumerate() {
        let found = found(entry, index, &feed.feed_type, reading);
        if sink(found) == ControlFlow::Break(()) {
            break;
        }
    }
    Ok(())
}

/// Whether the document type declares entities: what comes before the root element does.
fn declares_entities(text: &str) -> bool {
    let root = text
        .as_bytes()
        .windows(2)
        .position(|pair| pair[0] == b'<' && pair[1].is_ascii_alphabetic())
        .unwrap_or(text.len());
    text.as_bytes()[..root]
        .windows(8)
        .any(|window| window.eq_ignore_ascii_case(b"<!ENTITY"))
}

fn read(text: &str, reading: &Reading<'_>) -> Result<model::Feed, ParseFault> {
    let zone = reading.zone();
    let parser = Builder::new()
        .base_uri(Some(reading.url.as_str()))
        .timestamp_parser(move |text| dates::parse(text, zone))
        // An entry without an id is named by its link, or else, later, by what it says.
        .id_generator(|links, _, _| links.first().map(|link| link.href.clone()).unwrap_or_default())
        .sanitize_content(false)
        .build();
    parser.parse(text.as_bytes()).map_err(|error| {
        let reason = match error {
            ParseFeedError::ParseError(ParseErrorKind::NoFeedRoot) => {
                let begins: String = text.chars().take(40).collect();
                format!("it begins with {begins:?}")
            }
            other => other.to_string(),
        };
        ParseFault::not(EXPECTED, reason)
    })
}

fn found(entry: &model::Entry, index: usize, kind: &FeedType, reading: &Reading<'_>) -> ParsedItem {
    let place = || {
        let title = entry.title.as_ref().map(|title| format!(" ({})", title.content));
        format!("entry {}{}", index + 1, title.unwrap_or_default())
    };
    let Some(starts_at) = entry.published.or(entry.updated) else {
        let expected = match kind {
            FeedType::Atom => "published or updated",
            FeedType::RSS1 => "dc:date",
            _ => "pubDate",
        };
        return ParsedItem::Skipped(Note::new(place(), format!("has no {expected} that can be read")));
    };
    if !reading.covers(starts_at, None) {
        return ParsedItem::Outside;
    }
    let title = entry.title.as_ref().map(|title| plain_line(&title.content));
    let summary = entry.summary.as_ref().map(|summary| summary.content.as_str());
    let content = entry.content.as_ref().and_then(|content| content.body.as_deref());
    let description = summary.or(content).map(plain);
    let link = entry
        .links
        .iter()
        .find(|link| link.rel.as_deref().is_none_or(|rel| rel == "alternate"))
        .or_else(|| entry.links.first());
    let category = entry
        .categories
        .first()
        .map(|category| category.label.as_ref().unwrap_or(&category.term));
    let category = category.map(|category| plain_line(category));
    let texts = Texts {
        uid: Some(&entry.id),
        // What has no title is called by the beginning of what it says.
        title: title
            .as_deref()
            .filter(|title| !title.trim().is_empty())
            .or(description.as_deref()),
        description: description.as_deref(),
        url: link.map(|link| link.href.as_str()),
        category: category.as_deref(),
        place: None,
    };
    match Entry::new(&texts, starts_at, reading.url) {
        Some(entry) => ParsedItem::Entry(Box::new(entry)),
        None => ParsedItem::Skipped(Note::new(place(), "has neither a title nor a description")),
    }
}
