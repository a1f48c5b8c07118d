//! Whether two JSON texts say the same, without reading them into values.
//!
//! Payloads are kept as the text that was sent, and may hold what no value of ours holds: `1e-20000`, integers of forty
//! digits, half a surrogate pair, a key twice. So texts are compared in a canonical form: without white space between tokens,
//! members ordered by key (equal keys in their order), escapes that need none undone, numbers by their exact decimal value
//! (`1e3` is `1000`, `-0` is `0`; `1e-20000` is not `0`).

use std::fmt::Write;

use serde_json::Value;

/// Whether two well-formed texts say the same.
pub(crate) fn same(a: &str, b: &str) -> bool {
    a == b || canonical(a) == canonical(b)
}

/// The canonical form of a well-formed text. Nested as deep as the text: bounded by `jobs.max_payload_depth`.
pub(crate) fn canonical(text: &str) -> String {
    let mut form = String::with_capacity(text.len());
    Reader { rest: text }.value(&mut form);
    form
}

/// The value of a text, where it holds all of it; else its canonical form as a string.
pub(crate) fn exact_value(text: &str) -> Value {
    let form = canonical(text);
    match serde_json::from_str::<Value>(text) {
        Ok(value) if canonical(&value.to_string()) == form => value,
        _ => Value::String(form),
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn value(&mut self, form: &mut String) {
        self.skip_space();
        match self.rest.as_bytes().first() {
            Some(b'{') => self.object(form),
            Some(b'[') => self.array(form),
            Some(b'"') => self.string(form),
            _ => self.scalar(form),
        }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn takes(&mut self, token: char) -> bool {
        self.skip_space();
        let after = self.rest.strip_prefix(token);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn array(&mut self, form: &mut String) {
        self.takes('[');
        form.push('[');
        while !self.takes(']') && !self.rest.is_empty() {
            self.value(form);
            form.push(',');
            self.takes(',');
        }
        form.push(']');
    }

    fn object(&mut self, form: &mut String) {
        self.takes('{');
        let mut members = Vec::new();
        while !self.takes('}') && !self.rest.is_empty() {
            let (mut key, mut value) = (String::new(), String::new());
            self.value(&mut key);
            self.takes(':');
            self.value(&mut value);
            self.takes(',');
            members.push((key, value));
        }
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        form.push('{');
        for (key, value) in members {
            form.push_str(&key);
            form.push(':');
            form.push_str(&value);
            form.push(',');
        }
        form.push('}');
    }

    fn string(&mut self, form: &mut String) {
        self.takes('"');
        form.push('"');
        while let Some(character) = self.next_char() {
            match character {
                '"' => break,
                '\\' => self.escape(form),
                plain => form.push(plain),
            }
        }
        form.push('"');
    }

    fn next_char(&mut self) -> Option<char> {
        let mut characters = self.rest.chars();
        let next = characters.next();
        self.rest = characters.as_str();
        next
    }

    /// What follows a backslash.
    fn escape(&mut self, form: &mut String) {
        let decoded = match self.next_char() {
            Some('u') => match self.code_point() {
                Ok(character) => character,
                Err(half) => {
                    let _ = write!(form, "\\u{half:04x}"); // writing to a String does not fail
                    return;
                }
            },
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(other) => other,
            None => return,
        };
        match decoded {
            '"' | '\\' => form.extend(['\\', decoded]),
            control if control < ' ' => {
                let _ = write!(form, "\\u{:04x}", u32::from(control));
            }
            plain => form.push(plain),
        }
    }

    /// The character of one escape, or of the two of a surrogate pair; `Err`: half of a pair.
    fn code_point(&mut self) -> Result<char, u32> {
        let first = self.hex();
        if let (0xD800..0xDC00, Some(after)) = (first, self.rest.strip_prefix("\\u")) {
            let mut second = Reader { rest: after };
            let low = second.hex();
            if (0xDC00..0xE000).contains(&low) {
                self.rest = second.rest;
                let pair = 0x1_0000 + ((first - 0xD800) << 10) + (low - 0xDC00);
                return char::from_u32(pair).ok_or(first);
            }
        }
        char::from_u32(first).ok_or(first)
    }

    fn hex(&mut self) -> u32 {
        let (digits, rest) = self.rest.split_at_checked(4).unwrap_or((self.rest, ""));
        self.rest = rest;
        u32::from_str_radix(digits, 16).unwrap_or_default()
    }

    /// A number, `true`, `false` or `null`. Takes something in any case, so that no text is read for ever.
    fn scalar(&mut self, form: &mut String) {
        let end = self.rest.find([',', ']', '}', ':', ' ', '\t', '\n', '\r']);
        let end = end.filter(|end| *end > 0).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        if text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            form.push_str(&number(text));
        } else {
            form.push_str(text);
        }
    }
}

/// The digits without zeros at either end, and the power of ten that they are multiplied by.
fn number(text: &str) -> String {
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => ("-", unsigned),
        None => ("", text),
    };
    let (decimal, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0');
    if digits.is_empty() {
        return "0".to_owned();
    }
    // An exponent beyond this is compared as it was written.
    let Ok(exponent) = exponent.parse::<i64>() else {
        return text.to_ascii_lowercase();
    };
    let significant = digits.trim_end_matches('0');
    let power = i128::from(exponent) - fraction.len() as i128 + (digits.len() - significant.len()) as i128;
    format!("{sign}{significant}e{power}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_that_say_the_same_are_the_same() {
        for (a, b) in [
            (r#"{"a": 1, "b" : [1, 2]}"#, r#"{"b":[1,2],"a":1}"#),
            ("1e3", "1000"),
            ("1.50", "15E-1"),
            ("-0", "0.0e7"),
            ("1e+2", "100"),
            (r#""\u0041\/""#, r#""A/""#),
            (r#""\ud83d\ude00""#, "\"😀\""),
            (r#""\n""#, r#""\u000A""#),
            (r#"{"\u0061":1}"#, r#"{"a":1}"#),
            ("[ ]", "[]"),
            (" true ", "true"),
        ] {
            assert!(same(a, b), "{a} {b}");
        }
    }

    #[test]
    fn texts_that_differ_are_not_the_same_though_a_float_or_a_map_would_not_tell() {
        for (a, b) in [
            ("1e-20000", "0"),
            ("1e-20000", "1e-20001"),
            (
                "1234567890123456789012345678901234567890",
                "1234567890123456789012345678901234567891",
            ),
            ("0.1", "0.10000000000000001"),
            (r#"{"d":1,"d":2}"#, r#"{"d":2}"#),
            (r#"{"d":1,"d":2}"#, r#"{"d":2,"d":1}"#),
            (r#""\ud800""#, r#""\ud801""#),
            (r#""\\ud800""#, r#""\ud800""#),
            (r#""\u0000""#, r#""""#),
            ("-1", "1"),
            ("1", r#""1""#),
            ("[[1],2]", "[1,[2]]"),
            ("[1,2]", "[2,1]"),
            ("{}", "[]"),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
    }

    #[test]
    fn a_value_stands_for_its_text_only_where_it_holds_all_of_it() {
        assert_eq!(
            exact_value(r#"{"b":1,"a":[2.5]}"#),
            serde_json::json!({"a": [2.5], "b": 1})
        );
        for text in ["1e-20000", r#"{"d":1,"d":2}"#, r#""\ud800""#, "1e999"] {
            assert_eq!(exact_value(text), Value::String(canonical(text)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_read_for_ever(text in "[\\[\\]{}:,\"\\\\u0dD8eE+. 1-]{0,40}") {
            canonical(&text);
        }

        #[test]
        fn escapes_and_space_change_nothing(text in any::<String>(), number: i64) {
            let plain = serde_json::json!({ "text": text, "n": [number] });
            let units: Vec<String> = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            let escaped = units.concat();
            let spelt = format!("{{ \"n\" : [ {number} ] ,\n\"text\":\"{escaped}\" }}");
            prop_assert!(same(&plain.to_string(), &spelt));
        }
    }
}
