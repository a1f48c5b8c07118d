//! Templates: minijinja, where what is undefined is an error. HTML is escaped, text and subjects are not.
//!
//! A part is limited while it is written: it goes into a writer that fails beyond [`MAX_PART`], and intermediate values are limited
//! too ([`super::bounds`]). Rendering computes, so it runs on a blocking thread.

use std::collections::BTreeSet;
use std::io;

use holdfast_jobs::JobError;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::bounds::{bound, check_growth};
use super::templates::MailTemplate;

/// Steps of one rendering: a template is no program, and one that loops for ever ends here.
const FUEL: u64 = 1_000_000;

/// Most bytes of one part of a mail.
const MAX_PART: usize = 1_048_576;

/// A mail, written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RenderedMail {
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: Option<String>,
}

/// Why a template could not be written out.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenderError {
    #[error("the {part} of the template needs {}, which the data lacks", .names.join(", "))]
    Undefined { part: &'static str, names: Vec<String> },
    #[error("the {part} of the template cannot be written out")]
    Failed {
        part: &'static str,
        #[source]
        source: Error,
    },
    #[error("the {part} of the template may make texts of any length: {reason}")]
    Growth { part: &'static str, reason: String },
    #[error("the {part} of the mail is longer than {MAX_PART} bytes")]
    TooLong { part: &'static str },
    #[error("the subject holds a line break or another control character")]
    Subject,
}

impl MailTemplate {
    /// Whether every part is a template; the first that is none, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        for (part, name, text) in self.parts() {
            check_growth(text).map_err(|reason| (part, reason))?;
            let environment = environment();
            if let Err(error) = environment.template_from_named_str(name, text) {
                return Err((part, described(&error)));
            }
        }
        Ok(())
    }

    /// Renders the mail on a blocking thread.
    pub(super) async fn render_off_thread(self, data: serde_json::Value) -> Result<RenderedMail, JobError> {
        let writing = tokio::task::spawn_blocking(move || self.render(&data));
        let written = writing.await.map_err(JobError::transient)?;
        written.map_err(JobError::permanent)
    }

    /// Writes the mail out of the data.
    pub(super) fn render(&self, data: &serde_json::Value) -> Result<RenderedMail, RenderError> {
        let data = Value::from_serialize(data);
        let subject = part("subject", "subject.txt", &self.subject, &data)?;
        if subject.chars().any(char::is_control) {
            return Err(RenderError::Subject);
        }
        let html = self.html.as_deref();
        Ok(RenderedMail {
            subject,
            text: part("text", "text.txt", &self.text, &data)?,
            html: html
                .map(|html| part("html", "html.html", html, &data))
                .transpose()?,
        })
    }

    fn parts(&self) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
        let html = self.html.as_deref().map(|html| ("html", "html.html", html));
        [
            ("subject", "subject.txt", self.subject.as_str()),
            ("text", "text.txt", self.text.as_str()),
        ]
        .into_iter()
        .chain(html)
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    bound(&mut environment);
    environment
}

fn part(part: &'static str, name: &str, text: &str, data: &Value) -> Result<String, RenderError> {
    let environment = environment();
    let failed = |source| RenderError::Failed { part, source };
    let template = environment.template_from_named_str(name, text).map_err(failed)?;
    check_growth(text).map_err(|reason| RenderError::Growth { part, reason })?;
    let mut writer = BoundedWriter::default();
    let rendered = template.render_captured_to(data, &mut writer).map(drop);
    if writer.is_full {
        return Err(RenderError::TooLong { part });
    }
    rendered.map_err(|error| {
        let names = if error.kind() == ErrorKind::UndefinedError {
            lacking(&template.undeclared_variables(true), data)
        } else {
            Vec::new()
        };
        if names.is_empty() {
            failed(error)
        } else {
            RenderError::Undefined { part, names }
        }
    })?;
    String::from_utf8(writer.written).map_err(|_| RenderError::TooLong { part })
}

/// Takes up to [`MAX_PART`] bytes.
#[derive(Default)]
struct BoundedWriter {
    written: Vec<u8>,
    is_full: bool,
}

impl io::Write for BoundedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written.len() + bytes.len() > MAX_PART {
            self.is_full = true;
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a template asks for that the data has not, as far as it can be told from its text.
fn lacking(asked: &std::collections::HashSet<String>, data: &Value) -> Vec<String> {
    let is_there = |path: &str| {
        let found = path.split('.').try_fold(data.clone(), |value, name| {
            let inner = value.get_attr(name).ok()?;
            (!inner.is_undefined()).then_some(inner)
        });
        found.is_some()
    };
    let sorted: BTreeSet<&String> = asked.iter().filter(|path| !is_there(path)).collect();
    sorted.into_iter().cloned().collect()
}

/// With its line, and without the text around it.
fn described(error: &Error) -> String {
    let detail = error.detail().unwrap_or_default();
    match error.line() {
        Some(line) => format!("line {line}: {}: {detail}", error.kind()),
        None => format!("{}: {detail}", error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(subject: &str, text: &str, html: Option<&str>) -> MailTemplate {
        MailTemplate {
            subject: subject.to_owned(),
            text: text.to_owned(),
            html: html.map(str::to_owned),
        }
    }

    #[test]
    fn html_is_escaped_and_text_is_not() {
        let template = template(
            "For {{ name }}",
            "{% for n in list %}{{ n }} {% endfor %}",
            Some("<b>{{ name }}</b>"),
        );
        let written = template
            .render(&json!({"name": "<Ada & Co>", "list": [1, "<2>"]}))
            .unwrap();
        assert_eq!(written.subject, "For <Ada & Co>");
        assert_eq!(written.text, "1 <2> ");
        assert_eq!(written.html.as_deref(), Some("<b>&lt;Ada &amp; Co&gt;</b>"));
    }

    #[test]
    fn what_is_undefined_is_named() {
        for (text, data, says) in [
            (
                "{{ name }}",
                json!({}),
                "the text of the template needs name, which the data lacks",
            ),
            (
                "{{ user.name }} {{ b }} {{ a }}",
                json!({"user": {}, "b": 1}),
                "the text of the template needs a, user.name, which the data lacks",
            ),
            (
                "{% if gone %}x{% endif %}",
                json!({}),
                "the text of the template needs gone, which the data lacks",
            ),
        ] {
            let error = template("", text, None).render(&data).unwrap_err();
            assert_eq!(error.to_string(), says);
        }
        let inside = template("", "a\n{% for x in list %}{{ x.y }}{% endfor %}", None);
        let error = inside.render(&json!({"list": [{}]})).unwrap_err();
        assert!(
            matches!(error, RenderError::Failed { part: "text", .. }),
            "{error}"
        );
    }

    #[test]
    fn a_template_can_neither_break_out_nor_run_for_ever() {
        let injected = template("Hi {{ name }}", "", None);
        let error = injected
            .render(&json!({"name": "x\r\nBcc: all@example.com"}))
            .unwrap_err();
        assert!(matches!(error, RenderError::Subject), "{error}");
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(template("", endless, None).render(&json!({})).is_err());
        let long = template("", "{{ a }}{{ a }}", None);
        let error = long.render(&json!({"a": "x".repeat(MAX_PART)})).unwrap_err();
        assert!(matches!(error, RenderError::TooLong { part: "text" }), "{error}");
    }

    #[test]
    fn a_mail_is_bounded_while_it_is_written_and_not_after() {
        let name = "n".repeat(100_000);
        let items: Vec<_> = (0..20_000).collect();
        let data = json!({"items": items, "name": name, "wide": 10_000_000_000_u64});
        for text in [
            "{% for item in items %}{{ item }} for {{ name }}\n{% endfor %}",
            "{{ items | join(name) }}",
            "{{ name | replace('n', name) }}",
            "{{ name | indent(wide) }}{{ 'a\nb' | indent(wide, true) }}",
            "{{ 'a\nb' | indent(width=wide) }}",
            "{{ '%1000000000d' | format(1) }}",
            "{{ '%*d' | format(wide, 1) }}",
            "{% set all %}{% for item in items %}{{ name }}{% endfor %}{% endset %}{{ all | length }}",
            "{% filter upper %}{% for item in items %}{{ name }}{% endfor %}{% endfilter %}",
            "{% macro m() %}{% for item in items %}{{ name }}{% endfor %}{% endmacro %}{{ m() | length }}",
            "{{ items | batch(wide, name) | length }}",
            "{{ [name] * 1000000000 }}",
            "{{ ([name] * 1000000000) | join }}",
            "{{ ([name] * 1000000000) | list | length }}",
        ] {
            let error = template("", text, None).render(&data).unwrap_err();
            let is_bound = matches!(error, RenderError::TooLong { .. } | RenderError::Failed { .. });
            assert!(is_bound, "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_template_says_so_with_its_line() {
        for (text, line) in [("{{ a", 1), ("a\n{% for %}", 2), ("\n\n{% nonsense %}", 3)] {
            let (part, reason) = template("", text, None).check().unwrap_err();
            assert_eq!(part, "text");
            assert!(reason.starts_with(&format!("line {line}: ")), "{reason}");
        }
        assert_eq!(template("{{ a }}", "{{ b }}", Some("{{ c }}")).check(), Ok(()));
    }
}
