//! Content lines: folded on the wire, `NAME;PARAMETER=value:value` each.

use std::borrow::Cow;

use icalendar::parser;

/// Joins folded lines on the level of bytes.
pub(super) fn unfolded(body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        let next = if rest[at..].starts_with(b"\r\n") {
            at + 2
        } else {
            at + 1
        };
        whole.extend_from_slice(&rest[..at]);
        if matches!(rest.get(next), Some(b' ' | b'\t')) {
            rest = &rest[next + 1..];
        } else {
            whole.extend_from_slice(&rest[at..next]);
            rest = &rest[next..];
        }
    }
    whole.extend_from_slice(rest);
    whole
}

/// The content lines of a text, each with the number of its first line, 1-based. Empty lines are passed by.
pub(super) struct Lines<'a> {
    rest: &'a str,
    number: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self {
            rest: text,
            number: 0,
        }
    }

    /// One line of the file, however lines end there: CRLF, LF or CR.
    fn physical(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        let end = self.rest.find(['\n', '\r']).unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest
            .strip_prefix("\r\n")
            .unwrap_or_else(|| rest.get(1..).unwrap_or_default());
        Some(line)
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Cow::Borrowed(self.physical()?);
        while line.trim().is_empty() {
            line = Cow::Borrowed(self.physical()?);
        }
        let number = self.number;
        while self.rest.starts_with([' ', '\t']) {
            let Some(more) = self.physical() else { break };
            line.to_mut().push_str(&more[1..]);
        }
        Some((number, line))
    }
}

/// A content line, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Property {
    /// In upper case.
    pub(super) name: String,
    /// Texts without their escapes.
    pub(super) value: String,
    params: Vec<(String, String)>,
}

impl Property {
    /// # Errors
    /// Why the line is none.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        // The crate knows names, and with them the types of their values, in upper case alone.
        let end = line.find([':', ';']).unwrap_or(line.len());
        let upper = if line[..end].bytes().any(|byte| byte.is_ascii_lowercase()) {
            Cow::Owned(format!("{}{}", line[..end].to_ascii_uppercase(), &line[end..]))
        } else {
            Cow::Borrowed(line)
        };
        let property =
            parser::Property::try_from(&*upper).map_err(|_| format!("{line:?} is not a content line"))?;
        let params = property
            .params
            .iter()
            .map(|param| {
                let value = param.val.as_ref().map(ToString::to_string);
                let value = value.unwrap_or_default().trim_matches('"').to_owned();
                (param.key.as_str().to_ascii_uppercase(), value)
            })
            .collect();
        Ok(Self {
            name: property.name.as_str().to_ascii_uppercase(),
            value: property.val.as_str().to_owned(),
            params,
        })
    }

    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.params
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The name that a line begins with, in upper case; `None` if it is not a content line.
pub(super) fn name(line: &str) -> Option<String> {
    let end = line.find([':', ';'])?;
    let name = line[..end].trim();
    let sound = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (sound && line[end..].contains(':')).then(|| name.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_lines_are_one_and_keep_their_number() {
        let text = "A:1\r\nB:22\r\n 33\r\n\t44\r\n\r\nC:\n  5\nD:6";
        let lines: Vec<_> = Lines::of(text)
            .map(|(number, line)| (number, line.into_owned()))
            .collect();
        let expected = [(1, "A:1"), (2, "B:223344"), (6, "C: 5"), (8, "D:6")];
        assert_eq!(lines, expected.map(|(number, line)| (number, line.to_owned())));
    }

    #[test]
    fn lines_may_end_as_on_an_old_macintosh() {
        let lines: Vec<_> = Lines::of("A:1\rB:2\r 3\r\rC:4\r")
            .map(|(_, line)| line.into_owned())
            .collect();
        assert_eq!(lines, ["A:1", "B:23", "C:4"]);
    }

    #[test]
    fn a_character_that_a_fold_parts_is_whole_again() {
        assert_eq!(
            unfolded(b"A:Caf\xc3\r\n \xa9\r\nB:1\n"),
            "A:Café\r\nB:1\n".as_bytes()
        );
    }

    #[test]
    fn a_line_is_taken_apart() {
        let parsed =
            Property::parse("dtstart;TZID=\"Europe/Vienna\";VALUE=DATE-TIME:20300501T180000").unwrap();
        assert_eq!(parsed.name, "DTSTART");
        assert_eq!(parsed.value, "20300501T180000");
        assert_eq!(parsed.param("TZID"), Some("Europe/Vienna"));
        let text = Property::parse(r"summary:Jazz\, and more\; see\: x\nnew \\ line").unwrap();
        assert_eq!(text.value, "Jazz, and more; see: x\nnew \\ line");
    }

    #[test]
    fn what_is_no_content_line_has_no_name() {
        assert_eq!(name("summary;LANGUAGE=en:x").as_deref(), Some("SUMMARY"));
        assert_eq!(name("X-WR-CALNAME:x").as_deref(), Some("X-WR-CALNAME"));
        for odd in [
            "just words",
            "",
            ":x",
            "SUMMARY",
            "SUM MARY:x",
            "SUMMARY;LANGUAGE=en",
            "Ü:x",
        ] {
            assert_eq!(name(odd), None, "{odd}");
        }
    }
}
