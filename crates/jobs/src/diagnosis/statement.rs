//! A statement as it may be shown: cut, and without the values in it, which may be anybody's data or secrets.

/// Longest text that is shown, in characters.
const SHOWN: usize = 200;

/// What the server shows in place of a statement of another role.
const HIDDEN: &str = "<insufficient privilege>";

/// `None`: the server does not let this role see it.
pub(super) fn shown(query: &str) -> Option<String> {
    (query != HIDDEN).then(|| without_values(query))
}

/// Literals, numbers and comments are replaced; white space is folded. A text that ends inside a literal, because the server cut it, ends there.
fn without_values(query: &str) -> String {
    let mut out = String::new();
    let mut shown = 0;
    let mut rest = query;
    while let Some(first) = rest.chars().next() {
        if shown >= SHOWN {
            out.push('…');
            break;
        }
        let (piece, after) = next_piece(rest, first, out.chars().next_back());
        out.push_str(piece);
        shown += piece.chars().count();
        rest = after;
    }
    out.trim_end().to_owned()
}

fn next_piece(rest: &str, first: char, before: Option<char>) -> (&str, &str) {
    let in_word = before.is_some_and(is_word);
    let space = if before.is_none_or(char::is_whitespace) {
        ""
    } else {
        " "
    };
    match first {
        '\'' => (
            "?",
            after_quoted(&rest[1..], before.is_some_and(|c| matches!(c, 'e' | 'E'))),
        ),
        '$' if !in_word => match dollar_tag(rest) {
            Some(tag) => {
                let body = &rest[tag.len()..];
                let end = body.find(tag).map_or(body.len(), |at| at + tag.len());
                ("?", &body[end..])
            }
            None => rest.split_at(1),
        },
        '-' if rest.starts_with("--") => (space, rest.find('\n').map_or("", |at| &rest[at..])),
        '/' if rest.starts_with("/*") => (space, rest.find("*/").map_or("", |at| &rest[at + 2..])),
        c if c.is_whitespace() => (space, rest.trim_start()),
        // `$1` is a parameter's place and no value.
        c if c.is_ascii_digit() && !in_word && before != Some('$') => {
            let end = rest
                .find(|c: char| !(is_word(c) || c == '.'))
                .unwrap_or(rest.len());
            ("?", &rest[end..])
        }
        c => rest.split_at(c.len_utf8()),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Behind the quote that ends a literal; a doubled one is part of it, and one behind a backslash is in an `E''` literal.
fn after_quoted(body: &str, with_escapes: bool) -> &str {
    let mut chars = body.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if with_escapes => {
                chars.next();
            }
            '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => {
                chars.next();
            }
            '\'' => return &body[at + 1..],
            _ => {}
        }
    }
    ""
}

/// `$$` or `$name$` at the start of a text.
fn dollar_tag(rest: &str) -> Option<&str> {
    let end = rest[1..].find('$')? + 2;
    let name = &rest[1..end - 1];
    let is_name = name.chars().all(is_word) && !name.starts_with(|c: char| c.is_ascii_digit());
    is_name.then(|| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_statement_is_shown() {
        let cases = [
            ("select 1", "select ?"),
            (
                "update t1 set a = 'it''s', b=-12.5e3 where id = $1",
                "update t1 set a = ?, b=-? where id = $1",
            ),
            (r"select E'a\'secret' , x", "select E? , x"),
            ("select $tag$ secret ' $tag$, $$ two $$", "select ?, ?"),
            ("select 'cut in the mid", "select ?"),
            (
                "select a -- secret\n from b /* secret */ where c",
                "select a from b where c",
            ),
            ("select  a,\n\t b ", "select a, b"),
            (
                "alter role x password 'pw'; select 0xFF, ünïcode",
                "alter role x password ?; select ?, ünïcode",
            ),
        ];
        for (query, expected) in cases {
            assert_eq!(shown(query).as_deref(), Some(expected), "{query}");
        }
        assert_eq!(shown("<insufficient privilege>"), None);
    }

    #[test]
    fn a_long_statement_is_cut() {
        let long = shown(&format!("select {}", "a, ".repeat(1_000))).unwrap();
        assert_eq!(long.chars().count(), SHOWN + 1);
        assert!(long.ends_with('…'));
    }
}
