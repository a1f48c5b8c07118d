//! The filter of the job list, as the person typed it: `kind:mail.send state:discarded error:"timed out"`.
//!
//! The API reads it (`GET /v1/jobs?q=`). Here it is only taken apart into its terms, so that a link can add, replace or remove one.

/// The terms of a filter, each as it was typed.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter(Vec<String>);

impl Filter {
    pub(super) fn parse(text: &str) -> Self {
        let mut terms = Vec::new();
        let mut term = String::new();
        let (mut in_quotes, mut is_escaped) = (false, false);
        for c in text.chars() {
            match c {
                _ if is_escaped => is_escaped = false,
                '\\' if in_quotes => is_escaped = true,
                '"' => in_quotes = !in_quotes,
                c if c.is_whitespace() && !in_quotes => {
                    if !term.is_empty() {
                        terms.push(std::mem::take(&mut term));
                    }
                    continue;
                }
                _ => {}
            }
            term.push(c);
        }
        if !term.is_empty() {
            terms.push(term);
        }
        Self(terms)
    }

    /// What is asked of a field, if it is asked once.
    pub(super) fn value(&self, field: &str) -> Option<&str> {
        let mut values = self.0.iter().filter_map(|term| value_of(term, field));
        values.next().filter(|_| values.next().is_none())
    }

    /// The filter as parameters of their own, if it asks for single values of columns only: every version of the API reads these.
    pub(super) fn columns(&self) -> Option<Vec<(&'static str, String)>> {
        const COLUMNS: [&str; 4] = ["queue", "state", "kind", "batch"];
        let mut found: Vec<(&'static str, String)> = Vec::new();
        for term in &self.0 {
            let column = COLUMNS
                .into_iter()
                .find(|column| value_of(term, column).is_some())?;
            let value = value_of(term, column)?;
            if value.is_empty()
                || value.contains(['"', ',', '*'])
                || found.iter().any(|(name, _)| *name == column)
            {
                return None;
            }
            found.push((column, value.to_owned()));
        }
        Some(found)
    }

    /// The filter with another value of a field, or with none.
    pub(super) fn with(&self, field: &str, value: &str) -> String {
        let mut terms: Vec<String> = self
            .0
            .iter()
            .filter(|term| value_of(term, field).is_none())
            .cloned()
            .collect();
        if !value.is_empty() {
            terms.insert(0, format!("{field}:{}", quoted(value)));
        }
        terms.join(" ")
    }
}

fn value_of<'a>(term: &'a str, field: &str) -> Option<&'a str> {
    term.strip_prefix(field)?.strip_prefix(':')
}

/// A value as a filter writes it: in quotation marks where it has more than letters, digits and a few signs.
pub(super) fn quoted(value: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "._-*/@+".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) {
        return value.to_owned();
    }
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_is_replaced_and_the_others_stay() {
        let filter = Filter::parse(r#"kind:mail.send  error:"timed \"out\"" state:running"#);
        assert_eq!(filter.value("state"), Some("running"));
        assert_eq!(filter.value("queue"), None);
        assert_eq!(
            filter.with("state", "discarded"),
            r#"state:discarded kind:mail.send error:"timed \"out\"""#
        );
        assert_eq!(
            filter.with("state", ""),
            r#"kind:mail.send error:"timed \"out\"""#
        );
        assert_eq!(quoted("a b"), "\"a b\"");
    }
}
