//! RSS, Atom and JSON Feed, and what is no feed.

use chrono_tz::Tz;
use holdfast_events::discovery::parse::{Form, ParseFault};

use super::{Harvest, read, read_as, short};

const RSS2: &str = include_str!("corpus/rss2.xml");
const RSS1: &str = include_str!("corpus/rss1.xml");
const ATOM: &str = include_str!("corpus/atom.xml");
const JSON_FEED: &str = include_str!("corpus/feed.json");

fn feed(body: impl AsRef<[u8]>) -> Harvest {
    read(Form::Feed, body.as_ref(), Some(Tz::Europe__Vienna)).unwrap()
}

fn fault(body: impl AsRef<[u8]>) -> ParseFault {
    read(Form::Feed, body.as_ref(), None).unwrap_err()
}

fn rss(items: &str) -> String {
    format!("<rss version=\"2.0\"><channel><title>x</title>{items}</channel></rss>")
}

fn item(title: &str) -> String {
    format!("<item><title>{title}</title><guid>{title}</guid><pubDate>2030-06-01T18:00:00Z</pubDate></item>")
}

#[test]
fn dates_of_rss_are_read_in_every_format() {
    let harvest = feed(RSS2);
    for uid in ["rfc2822", "rfc3339", "named", "local", "asctime", "notitle"] {
        assert_eq!(short(harvest.find(uid).starts_at), "2030-06-01T16:00", "{uid}");
    }
    assert_eq!(short(harvest.find("day").starts_at), "2030-05-31T22:00");
    assert_eq!(short(harvest.find("epoch").starts_at), "2030-06-01T16:00");
    assert_eq!(harvest.entries.len(), 9);
    assert_eq!(harvest.outside, 1);
}

#[test]
fn entries_of_no_use_are_skipped_with_a_reason() {
    let harvest = feed(RSS2);
    assert!(harvest.reason("No date").contains("pubDate"));
    assert!(harvest.reason("Bad date").contains("pubDate"));
    assert!(harvest.reason("entry 11").contains("neither a title nor"));
    assert_eq!(harvest.skipped.len(), 3, "{:?}", harvest.skipped);
    assert_eq!(harvest.noted, []);
}

#[test]
fn texts_of_rss_are_plain() {
    let harvest = feed(RSS2);
    let entry = harvest.find("rfc2822");
    assert_eq!(entry.title, "RFC 2822 & entities");
    assert_eq!(entry.description.as_deref(), Some("Jazz & more"));
    assert_eq!(entry.category.as_deref(), Some("music"));
    assert_eq!(entry.url.as_deref(), Some("https://example.com/1"));
    assert_eq!(harvest.find("notitle").title, "Only a description");
    assert_eq!(harvest.find("https://example.com/noguid").title, "No guid");
}

#[test]
fn atom_and_rss_1_are_read() {
    let harvest = feed(ATOM);
    let entry = harvest.find("urn:1");
    assert_eq!(entry.title, "Bold news");
    assert_eq!(entry.description.as_deref(), Some("Short"));
    assert_eq!(entry.category.as_deref(), Some("live music"));
    assert_eq!(entry.url.as_deref(), Some("https://example.org/blog/1.html"));
    assert_eq!(short(entry.starts_at), "2030-06-01T16:00");
    assert_eq!(short(harvest.find("urn:2").starts_at), "2030-06-02T00:00");
    assert!(harvest.reason("Never").contains("published or updated"));
    let harvest = feed(RSS1);
    assert_eq!(harvest.starts(), ["https://example.com/r1 2030-06-01T16:00"]);
}

#[test]
fn json_feed_is_read_entry_by_entry() {
    let harvest = feed(JSON_FEED);
    let entry = harvest.find("1");
    assert_eq!(entry.description.as_deref(), Some("Text"));
    assert_eq!(entry.category.as_deref(), Some("music"));
    assert_eq!(harvest.find("2").title, "No title but a text");
    assert_eq!(harvest.find("2").url.as_deref(), Some("https://example.com/2"));
    assert_eq!(harvest.find("3").title, "A number for an id");
    assert!(harvest.reason("entry 4").contains("/date_published"));
    assert!(harvest.reason("entry 5").contains("is not an object"));
    assert!(harvest.reason("entry 6").contains("\"soon\""));
    assert_eq!(
        (harvest.entries.len(), harvest.skipped.len(), harvest.outside),
        (3, 3, 1)
    );
}

#[test]
fn what_is_no_feed_is_a_fault() {
    assert_eq!(fault(""), ParseFault::Empty);
    assert_eq!(fault("\u{feff} \n"), ParseFault::Empty);
    assert!(matches!(
        fault("<!DOCTYPE html><html><body>Feeds</body></html>"),
        ParseFault::Html(_)
    ));
    for odd in [
        "hello".to_owned(),
        "<opml version='1.0'></opml>".to_owned(),
        "{\"version\":\"2\",\"items\":[]}".to_owned(),
        "{\"version\": \"https://jsonfeed.org/version/1\", \"items\": {}}".to_owned(),
        "{\"version\": \"https://jsonfeed.org/version/1\", \"items\": [".to_owned(),
        "[".repeat(100_000),
        rss("<item><title>a</b></item>"),
        RSS2[..RSS2.len() / 2].to_owned(),
    ] {
        let fault = fault(&odd);
        assert!(
            matches!(fault, ParseFault::Not { .. }),
            "{}: {fault}",
            &odd[..odd.len().min(60)]
        );
    }
}

#[test]
fn xml_bombs_are_refused_and_deep_xml_does_no_harm() {
    let entities: Vec<String> = (1..10)
        .map(|level| {
            format!(
                "<!ENTITY l{level} \"{}\">",
                format!("&l{};", level - 1).repeat(10)
            )
        })
        .collect();
    let bomb = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE rss [<!ENTITY l0 \"lol\">{}]>{}",
        entities.concat(),
        rss(&item("&l9;"))
    );
    assert_eq!(fault(bomb), ParseFault::Entities);
    let outside = "<!DOCTYPE rss [<!entity x SYSTEM \"file:///etc/passwd\">]><rss version='2.0'/>";
    assert_eq!(fault(outside), ParseFault::Entities);
    // An entity that nobody declares is a text.
    assert_eq!(feed(rss(&item("a &l9; b"))).entries[0].title, "a &l9; b");
    let deep = format!("{}{}", "<a>".repeat(50_000), "</a>".repeat(50_000));
    let read = read(Form::Feed, rss(&deep).as_bytes(), None);
    assert!(read.is_ok_and(|harvest| harvest.entries.is_empty()));
}

#[test]
fn titles_that_are_escaped_twice_and_html_are_read() {
    for (written, title) in [
        ("Caf&amp;eacute;", "Café"),
        ("<![CDATA[Caf&amp;eacute; &euro; 5]]>", "Café € 5"),
        ("&lt;b&gt;R&amp;amp;B&lt;/b&gt; &amp;ndash; live", "R&B – live"),
        ("Caf&eacute;", "Café"),
        ("Q&amp;A; AT&amp;T", "Q&A; AT&T"),
    ] {
        let title_of = |body: String| feed(body).entries[0].title.clone();
        let item = item("x").replacen("<title>x</title>", &format!("<title>{written}</title>"), 1);
        assert_eq!(title_of(rss(&item)), title, "{written}");
    }
    let json = r#"{"version": "https://jsonfeed.org/version/1", "items": [
        {"title": "Caf&eacute;", "url": "/a", "date_published": "2030-06-01T18:00:00Z"}]}"#;
    let harvest = feed(json);
    assert_eq!(harvest.entries[0].title, "Café");
    assert_eq!(harvest.entries[0].uid, "/a", "without an id, the link names it");
}

#[test]
fn an_entry_without_a_guid_keeps_its_name() {
    let item = |title: &str, link: &str| {
        rss(&format!(
            "<item><title>{title}</title>{link}<pubDate>2030-06-01T18:00:00Z</pubDate></item>"
        ))
    };
    let name = |body: String| feed(body).entries[0].uid.clone();
    let link = "<link>https://example.com/a</link>";
    assert_eq!(name(item("A", link)), name(item("A, sold out", link)));
    assert_eq!(
        name(item("A", "")),
        name(item("A", "<description>new</description>"))
    );
    assert_ne!(name(item("A", "")), name(item("B", "")));
}

#[test]
fn a_header_that_is_wrong_about_the_encoding_gives_way_to_the_declaration() {
    let mut body =
        b"<?xml version=\"1.0\" encoding=\"windows-1251\"?><rss version=\"2.0\"><channel><title>x</title>\
        <item><title>"
            .to_vec();
    body.extend(b"\xcf\xf0\xe8\xe2\xe5\xf2");
    body.extend(b"</title><guid>a</guid><pubDate>2030-06-01T18:00:00Z</pubDate></item></channel></rss>");
    for header in [
        None,
        Some("application/rss+xml; charset=utf-8"),
        Some("text/xml; charset=UTF8"),
    ] {
        let harvest = read_as(Form::Feed, &body, None, header).unwrap();
        assert_eq!(
            (harvest.entries[0].title.as_str(), harvest.noted.len()),
            ("Привет", 0),
            "{header:?}"
        );
    }
    // A header that may be right counts before the declaration.
    let harvest = read_as(Form::Feed, &body, None, Some("text/xml; charset=iso-8859-5")).unwrap();
    assert_ne!(harvest.entries[0].title, "Привет");
}

#[test]
fn encodings_are_found_out_and_wrong_ones_noted() {
    let latin = |declared: &str| -> Vec<u8> {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"{declared}\"?>{}",
            rss(&item("Caf\u{e9}"))
        );
        text.chars().map(|character| character as u8).collect()
    };
    let right = feed(latin("ISO-8859-1"));
    assert_eq!((right.entries[0].title.as_str(), right.noted.len()), ("Café", 0));
    let wrong = feed(latin("UTF-8"));
    assert_eq!((wrong.entries[0].title.as_str(), wrong.noted.len()), ("Café", 1));
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-16\"?>{}",
        rss(&item("Café"))
    );
    let utf16: Vec<u8> = format!("\u{feff}{text}")
        .encode_utf16()
        .flat_map(u16::to_be_bytes)
        .collect();
    assert_eq!(feed(utf16).entries[0].title, "Café");
}
