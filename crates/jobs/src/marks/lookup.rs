//! The values that a path leads to in the text of a payload.

use super::json::{Cursor, said};
use super::path::{FieldPath, Part};

impl FieldPath {
    /// The texts of the values at this path in a well-formed document, in its order. Nothing where the document has another form.
    ///
    /// It recurses no deeper than the path is long.
    pub(crate) fn values<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut lookup = Lookup {
            path: self,
            text,
            cursor: Cursor::new(text),
            found: Vec::new(),
        };
        lookup.value(0);
        lookup.found
    }

    /// Whether one of the paths leads to a part of what the other one leads to, or both to the same.
    pub fn overlaps(&self, other: &Self) -> bool {
        let shared = self.len().min(other.len());
        (0..shared).all(|step| self.meets(other, step))
    }
}

struct Lookup<'p, 't> {
    path: &'p FieldPath,
    text: &'t str,
    cursor: Cursor<'t>,
    found: Vec<&'t str>,
}

impl Lookup<'_, '_> {
    /// Looks into the value that begins here, `step` steps along the path.
    fn value(&mut self, step: usize) {
        let first = self.cursor.peek();
        if step == self.path.len() {
            let start = self.cursor.at();
            self.cursor.skip_value();
            self.found.extend(self.text.get(start..self.cursor.at()));
            return;
        }
        match first {
            Some(b'{') => {
                self.cursor.pass();
                while self.cursor.peek() == Some(b'"') {
                    let name = said(self.cursor.string());
                    self.cursor.takes(b':');
                    self.part(step, Part::Member(&name));
                    self.cursor.takes(b',');
                }
                self.cursor.takes(b'}');
            }
            Some(b'[') => {
                self.cursor.pass();
                let mut item = 0;
                while self.cursor.peek().is_some_and(|byte| byte != b']') {
                    self.part(step, Part::Item(item));
                    self.cursor.takes(b',');
                    item += 1;
                }
                self.cursor.takes(b']');
            }
            _ => self.cursor.skip_value(),
        }
    }

    fn part(&mut self, step: usize, part: Part<'_>) {
        if self.path.leads_to(step, part) {
            self.value(step + 1);
        } else {
            self.cursor.skip_value();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> FieldPath {
        text.parse().unwrap()
    }

    #[test]
    fn a_path_finds_every_value_that_it_leads_to() {
        let document =
            r#"{"a": {"b": [1, {"c": "x"}], "b\u0032": 2}, "a.b": null, "d": [[1],[2]] , "a": {"b": 7}}"#;
        for (text, found) in [
            ("a.b", &[r#"[1, {"c": "x"}]"#, "7"][..]),
            ("a.b[].c", &[r#""x""#]),
            ("a.b[0]", &["1"]),
            ("a.b2", &["2"]),
            ("a.*", &[r#"[1, {"c": "x"}]"#, "2", "7"]),
            ("/a.b", &["null"]),
            ("d[][]", &["1", "2"]),
            ("d[1]", &["[2]"]),
            ("a.b.c", &[]),
            ("e", &[]),
        ] {
            assert_eq!(path(text).values(document), found, "{text}");
        }
        assert_eq!(path("").values("[1]"), ["[1]"]);
        assert!(path("a").values("3").is_empty());
    }

    #[test]
    fn paths_overlap_where_one_is_inside_the_other() {
        for (one, two) in [
            ("a", "a"),
            ("a", "a.b"),
            ("a.b", "/a/b/c"),
            ("items[].pin", "items[3].pin"),
            ("items[]", "/items/0/x"),
            ("h.*", "h.x"),
            ("", "a"),
        ] {
            assert!(path(one).overlaps(&path(two)), "{one} {two}");
            assert!(path(two).overlaps(&path(one)), "{two} {one}");
        }
        for (one, two) in [("a", "b"), ("a.b", "a.c"), ("i[1]", "i[2]"), ("a.b", "a[0]")] {
            assert!(!path(one).overlaps(&path(two)), "{one} {two}");
        }
    }
}
