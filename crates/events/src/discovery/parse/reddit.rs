//! A page of a subreddit's listing, as Reddit's API answers it.

use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::entry::Texts;
use super::text::is_html;
use super::{Entry, Note, ParseFault, ParsedItem, Reading, Sink, dates};

const EXPECTED: &str = "a listing of Reddit";

/// What follows a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Page {
    /// Names the next page; `None`: this was the last one.
    pub(in super::super) after: Option<String>,
}

#[derive(Deserialize)]
struct Body<'a> {
    kind: String,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    after: Option<String>,
    #[serde(borrow)]
    children: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Child {
    data: Post,
}

#[derive(Deserialize)]
struct Post {
    /// With its type: `t3_abc`.
    name: String,
    title: String,
    selftext: Option<String>,
    permalink: Option<String>,
    created_utc: f64,
    link_flair_text: Option<String>,
}

pub(in super::super) fn parse(
    body: &[u8],
    reading: &Reading<'_>,
    sink: &mut Sink<'_>,
) -> Result<Page, ParseFault> {
    let text = String::from_utf8_lossy(body);
    if text.trim_start().is_empty() {
        return Err(ParseFault::Empty);
    }
    if is_html(&text) {
        return Err(ParseFault::Html(EXPECTED));
    }
    let page: Body<'_> =
        serde_json::from_str(&text).map_err(|error| ParseFault::not(EXPECTED, error.to_string()))?;
    if page.kind != "Listing" {
        return Err(ParseFault::not(
            EXPECTED,
            format!("it is of the kind {:?}", page.kind),
        ));
    }
    // Links lead to the site, not to its API.
    let site = Url::parse("https://www.reddit.com/").unwrap_or_else(|_| reading.url.clone());
    for (index, child) in page.data.children.iter().enumerate() {
        let found = match serde_json::from_str::<Child>(child.get()) {
            Ok(child) => found(&child.data, index, reading, &site),
            Err(error) => ParsedItem::Skipped(Note::new(place(index), error.to_string())),
        };
        if sink(found).is_break() {
            break;
        }
    }
    Ok(Page {
        after: page.data.after.filter(|after| !after.is_empty()),
    })
}

fn place(index: usize) -> String {
    format!("post {}", index + 1)
}

fn found(post: &Post, index: usize, reading: &Reading<'_>, site: &Url) -> ParsedItem {
    let Some(starts_at) = dates::of_epoch(post.created_utc as i64) else {
        return ParsedItem::Skipped(Note::new(place(index), "says no time at created_utc"));
    };
    if !reading.covers(starts_at, None) {
        return ParsedItem::Outside;
    }
    let texts = Texts {
        uid: Some(&post.name),
        title: Some(&post.title),
        description: post.selftext.as_deref(),
        url: post.permalink.as_deref(),
        category: post.link_flair_text.as_deref(),
        place: None,
    };
    match Entry::new(&texts, starts_at, site) {
        Some(entry) => ParsedItem::Entry(Box::new(entry)),
        None => ParsedItem::Skipped(Note::new(place(index), "has no title")),
    }
}
