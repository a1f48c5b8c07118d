//! Bytes as text, and markup as plain text.

use std::borrow::Cow;

use encoding_rs::{Encoding, ISO_2022_JP, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use quick_xml::escape::resolve_html5_entity;

use super::Note;

/// How far into a body its declaration is looked for.
const PROLOG: usize = 256;

/// Longest entity, `&` and `;` included: `&CounterClockwiseContourIntegral;`.
const MAX_ENTITY: usize = 33;

/// A body as text, and what was odd about it.
///
/// A byte order mark decides. Without one, UTF-8 counts wherever it is valid, whatever is declared: servers declare what they
/// were installed with, and text of another encoding is not valid UTF-8 by chance. Then the header's encoding counts, then
/// that of the XML declaration, then what the first bytes of UTF-16 show, and then Windows-1252, in which every byte means
/// something. A header that says UTF-8 of bytes that are none is wrong, and passed over; a declaration likewise.
pub(super) fn decode<'a>(body: &'a [u8], content_type: Option<&str>) -> (Cow<'a, str>, Option<Note>) {
    if let Some((encoding, length)) = Encoding::for_bom(body) {
        return decoded(encoding, &body[length..]);
    }
    let declared = [content_type.and_then(charset), declaration(body), wide(body)];
    let mut declared = declared.into_iter().flatten();
    let first = declared.clone().next();
    // In these, too, text may be valid UTF-8.
    let ambiguous = first.is_some_and(|encoding| [ISO_2022_JP, UTF_16BE, UTF_16LE].contains(&encoding));
    if !ambiguous && let Ok(text) = std::str::from_utf8(body) {
        return (Cow::Borrowed(text), None);
    }
    if let Some(encoding) = declared.find(|encoding| *encoding != UTF_8) {
        return decoded(encoding, body);
    }
    let (text, _) = WINDOWS_1252.decode_without_bom_handling(body);
    let note = Note::new("encoding", "is not UTF-8; it was read as Windows-1252");
    (text, Some(note))
}

/// UTF-16 without a byte order mark: what a text of markup, JSON or a calendar begins with is ASCII.
fn wide(body: &[u8]) -> Option<&'static Encoding> {
    match body {
        [0, 1..=127, 0, 1..=127, ..] => Some(UTF_16BE),
        [1..=127, 0, 1..=127, 0, ..] => Some(UTF_16LE),
        _ => None,
    }
}

fn decoded<'a>(encoding: &'static Encoding, body: &'a [u8]) -> (Cow<'a, str>, Option<Note>) {
    let (text, broken) = encoding.decode_without_bom_handling(body);
    let note = broken.then(|| {
        let reason = format!("is not {} throughout; what is not was replaced", encoding.name());
        Note::new("encoding", reason)
    });
    (text, note)
}

/// The `charset` of a content type.
fn charset(content_type: &str) -> Option<&'static Encoding> {
    content_type
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .and_then(|(_, value)| Encoding::for_label(value.trim().trim_matches(['"', '\'']).as_bytes()))
}

/// The encoding of an XML declaration, which is readable in every encoding that it can name.
fn declaration(body: &[u8]) -> Option<&'static Encoding> {
    let head = String::from_utf8_lossy(&body[..body.len().min(PROLOG)]);
    let prolog = head
        .trim_start()
        .strip_prefix("<?xml")?
        .split("?>")
        .next()?
        .to_owned();
    let (_, rest) = prolog.split_once("encoding")?;
    let value = rest.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    Encoding::for_label(value[1..].split(quote).next()?.as_bytes())
}

/// The text behind an XML declaration: what was decoded has no encoding to declare any more.
pub(super) fn without_declaration(text: &str) -> &str {
    let trimmed = text.trim_start();
    match trimmed
        .strip_prefix("<?xml")
        .and_then(|rest| rest.split_once("?>"))
    {
        Some((_, rest)) => rest,
        None => trimmed,
    }
}

/// Whether it is a page for people.
pub(super) fn is_html(text: &str) -> bool {
    let mut head = text.trim_start();
    while let Some((_, rest)) = head.strip_prefix("<!--").and_then(|rest| rest.split_once("-->")) {
        head = rest.trim_start();
    }
    head = without_declaration(head).trim_start();
    let begins = |with: &str| {
        head.as_bytes()
            .get(..with.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    begins("<!doctype html") || begins("<html") || begins("<head") || begins("<body")
}

/// Words with single blanks between them, and no control characters.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if !word.is_empty() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    line
}

/// At most so many bytes, and whole characters.
pub(super) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// What a browser would show of a piece of HTML, roughly: tags are gone, what begins a block begins a line, entities are
/// characters, and nothing of scripts and styles is left. Text that is no HTML stays as it is.
pub(super) fn plain(html: &str) -> Cow<'_, str> {
    if !html.contains(['<', '&']) {
        return Cow::Borrowed(html);
    }
    let mut plain = String::with_capacity(html.len());
    let mut rest = html;
    // Looked for once: a tag for each `<` would be a search to the end for each.
    let last = html.rfind('>').unwrap_or_default();
    while let Some(at) = rest.find(['<', '&']) {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        rest = if rest.starts_with('&') {
            entity(rest, &mut plain)
        } else if html.len() - rest.len() > last {
            plain.push('<');
            &rest[1..]
        } else {
            tag(rest, &mut plain)
        };
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// [`plain`], of what ends up on one line. Titles are often escaped once more than their format requires (`&amp;eacute;`),
/// and no title is about entities.
pub(super) fn plain_line(html: &str) -> Cow<'_, str> {
    let once = plain(html);
    let names_one = once.split('&').skip(1).any(|rest| {
        let name = rest.split(';').next().unwrap_or_default();
        name.len() < MAX_ENTITY && character(name).is_some() && rest.len() > name.len()
    });
    if names_one {
        Cow::Owned(entities(&once))
    } else {
        once
    }
}

/// Text whose entities are characters.
fn entities(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = entity(&rest[at..], &mut plain);
    }
    plain.push_str(rest);
    plain
}

/// Passes an entity; `rest` begins with it.
fn entity<'a>(rest: &'a str, plain: &mut String) -> &'a str {
    let head = cut(rest, MAX_ENTITY);
    if let Some(end) = head.find(';')
        && let Some(text) = character(&head[1..end])
    {
        plain.push_str(&text);
        return &rest[end + 1..];
    }
    plain.push('&');
    &rest[1..]
}

/// The text of an entity's name: those of HTML, and numbers.
fn character(name: &str) -> Option<Cow<'static, str>> {
    let code = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
    if name == "nbsp" {
        return Some(Cow::Borrowed(" "));
    }
    let Some(number) = name.strip_prefix('#') else {
        return resolve_html5_entity(name).map(Cow::Borrowed);
    };
    let character = match number.strip_prefix(['x', 'X']) {
        Some(hex) => code(hex, 16),
        None => code(number, 10),
    };
    character.map(|character| Cow::Owned(character.to_string()))
}

/// Passes a tag, or a `<` that begins none; `rest` begins with it.
fn tag<'a>(rest: &'a str, plain: &mut String) -> &'a str {
    let begins = rest[1..].starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?'));
    let Some(end) = rest.find('>').filter(|_| begins) else {
        plain.push('<');
        return &rest[1..];
    };
    let name = rest[1..end].trim_start_matches('/');
    let name: String = name
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    if matches!(
        name.as_str(),
        "br" | "p" | "div" | "li" | "ul" | "ol" | "tr" | "table" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6"
    ) && !plain.ends_with('\n')
        && !plain.is_empty()
    {
        plain.push('\n');
    }
    let after = &rest[end + 1..];
    if matches!(name.as_str(), "script" | "style") && !rest.starts_with("</") {
        let close = format!("</{name}");
        let found = after
            .as_bytes()
            .windows(close.len())
            .position(|window| window.eq_ignore_ascii_case(close.as_bytes()));
        // Its closing tag is passed as any other; without one, nothing is left.
        return found.map_or("", |at| &after[at..]);
    }
    after
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(body: &[u8], content_type: Option<&str>) -> (String, bool) {
        let (text, note) = decode(body, content_type);
        (text.into_owned(), note.is_some())
    }

    #[test]
    fn an_encoding_is_found_out() {
        let fine = |text: &str| (text.to_owned(), false);
        assert_eq!(text("Café".as_bytes(), None), fine("Café"));
        assert_eq!(text(b"\xef\xbb\xbfCaf\xc3\xa9", None), fine("Café"));
        // The header is wrong about a body that is valid UTF-8.
        let latin = Some("text/calendar; charset=\"ISO-8859-1\"");
        assert_eq!(text("Café".as_bytes(), latin), fine("Café"));
        assert_eq!(text(b"Caf\xe9", latin), fine("Café"));
        assert_eq!(
            text(b"<?xml version='1.0' encoding='iso-8859-2'?><a>\xb1</a>", None).0,
            "<?xml version='1.0' encoding='iso-8859-2'?><a>ą</a>"
        );
        let utf16: Vec<u8> = "\u{feff}Café".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(text(&utf16, None), fine("Café"));
        // What the header says of the bytes cannot be: the declaration may be right.
        let cyrillic = b"<?xml version='1.0' encoding='windows-1251'?><a>\xcf\xf0\xe8\xe2\xe5\xf2</a>";
        for header in [
            Some("text/xml; charset=utf-8"),
            Some("text/xml; charset='nonsense'"),
            None,
        ] {
            let (read, noted) = text(cyrillic, header);
            assert!(read.ends_with("<a>Привет</a>") && !noted, "{header:?}: {read}");
        }
        let wide: Vec<u8> = "<a>Café</a>".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(text(&wide, Some("text/xml; charset=utf-8")), fine("<a>Café</a>"));
        assert_eq!(
            text(b"\x1b$B%+\x1b(B", Some("text/xml;charset=iso-2022-jp")),
            fine("カ")
        );
    }

    #[test]
    fn an_encoding_that_is_wrong_is_read_all_the_same_and_noted() {
        assert_eq!(text(b"Caf\xe9", None), ("Café".to_owned(), true));
        assert_eq!(
            text(b"Caf\xe9", Some("text/xml; charset=utf-8")),
            ("Café".to_owned(), true)
        );
        assert_eq!(
            text(b"\xef\xbb\xbfCaf\xe9", None),
            ("Caf\u{fffd}".to_owned(), true)
        );
    }

    #[test]
    fn html_is_told_from_feeds() {
        for page in [
            "<!DOCTYPE html><title>x</title>",
            "\n <HTML lang=de>",
            "<?xml version='1.0'?>\n<!DOCTYPE HTML PUBLIC \"-//W3C\">",
            "<!-- made by hand --><html>",
        ] {
            assert!(is_html(page), "{page}");
        }
        for feed in [
            "<rss version='2.0'>",
            "<?xml version='1.0'?><feed>",
            "BEGIN:VCALENDAR",
            "{}",
            "",
        ] {
            assert!(!is_html(feed), "{feed}");
        }
    }

    #[test]
    fn markup_becomes_text() {
        for (html, text) in [
            ("plain", "plain"),
            ("AT&T < 5 & 6 &nosuch; 7", "AT&T < 5 & 6 &nosuch; 7"),
            ("a&amp;b &lt;c&gt; &#228;&#xE4; &#xD800;", "a&b <c> ää &#xD800;"),
            ("<p>One</p><p>Two<br/>three</p>", "One\nTwo\nthree\n"),
            ("<a href='x?a=1&b=2'>link</a>!", "link!"),
            ("x<script>alert(1)</SCRIPT>y<style>p{}", "xy"),
            ("<b>unclosed", "unclosed"),
            ("1 <2", "1 <2"),
            ("Caf&eacute; &euro;5 &rarr;", "Café €5 →"),
            ("Caf&amp;eacute;", "Caf&eacute;"),
        ] {
            assert_eq!(plain(html), text, "{html}");
        }
    }

    #[test]
    fn a_title_that_is_escaped_twice_is_read() {
        for (html, text) in [
            ("Caf&amp;eacute;", "Café"),
            ("Caf&amp;#233; &amp;amp; Bar", "Café & Bar"),
            ("Caf&eacute; & Bar; AT&T; Q&A", "Café & Bar; AT&T; Q&A"),
            ("1 &lt; 2", "1 < 2"),
            ("<b>R&amp;B</b>", "R&B"),
        ] {
            assert_eq!(plain_line(html), text, "{html}");
        }
    }

    #[test]
    fn markup_without_ends_takes_no_longer_than_text() {
        // A search to the end for each of them would take hours.
        let open = "<a".repeat(4 << 20);
        assert_eq!(plain(&open).len(), open.len());
        let scripts = "<script>".repeat(1 << 20);
        assert_eq!(plain(&scripts), "");
        let odd = "&a".repeat(4 << 20);
        assert_eq!(plain_line(&odd).len(), odd.len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_some_text(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let (text, _) = decode(&body, None);
            let _ = is_html(&text);
            let _ = without_declaration(&text);
            let _ = plain(&text);
            prop_assert!(!one_line(&text).contains('\n'));
        }
    }
}
