//! Logs: one JSON object a line on stdout in production, readable lines in a terminal.
//!
//! A JSON line has `timestamp` (RFC 3339, UTC), `level` (`debug`, `info`, `warn`, `error`), `message`, `target` and
//! `service` on top, beside them the event's fields and those of the spans around it, inner ones winning. That is
//! the form in which Railway and its kind index a line. Stdout, not stderr, whose every line they call an error.
//! A line that cannot be written is lost: a log must never stop a service.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::Once;

use chrono::SecondsFormat;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, span};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock;
use crate::config::{LogFormat, LogSettings};

type Fields = BTreeMap<&'static str, Value>;

/// What a span keeps of its fields until its events are written.
struct SpanFields(Fields);

/// Starts logging for this process. Later calls change nothing, nor does a call where somebody else has installed
/// a subscriber: `holdfast dev` and the tests run several services in one process.
pub(super) fn init(settings: &LogSettings, service: &'static str) {
    // The level was checked with the rest of the configuration; `info` stands in for one that was not.
    let filter =
        EnvFilter::try_new(with_quiet_parts(&settings.level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let installed = match settings.format {
        LogFormat::Json => registry.with(JsonLines::new(service, std::io::stdout)).try_init(),
        LogFormat::Pretty => registry.with(readable()).try_init(),
    };
    if installed.is_ok() {
        log_panics();
    }
}

/// At the usual level, parts whose news is ours already: a stop, a start and an outage are told once, by the service.
/// What the settings say of a part comes later, and wins.
fn with_quiet_parts(level: &str) -> String {
    const QUIET: &str = "actix_server=warn,actix_http=off,sqlx::pool=error,sqlx_core::pool=error";
    let usual = level
        .split(',')
        .any(|directive| directive.eq_ignore_ascii_case("info"));
    if usual {
        format!("{QUIET},{level}")
    } else {
        level.to_owned()
    }
}

/// Checks an `EnvFilter` directive: levels, and `target=level` pairs. The error says which part is wrong.
pub fn check_level(level: &str) -> Result<(), String> {
    for directive in level.split(',') {
        let name = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        // A filter would take a misspelt level for the name of a target, and then log nothing else.
        let known = ["trace", "debug", "info", "warn", "error", "off"];
        if !known.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(format!("{name:?} is not a level"));
        }
    }
    EnvFilter::try_new(level)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn readable<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer();
    // Left alone the layer colours, unless NO_COLOR is set: right for a terminal only.
    if std::io::stdout().is_terminal() {
        layer
    } else {
        layer.with_ansi(false)
    }
}

/// Panics become events, so that they are one line too. The default hook's text on stderr would be many.
fn log_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let message = panic.payload_as_str().unwrap_or("a panic without a text");
            let location = panic.location().map(ToString::to_string).unwrap_or_default();
            let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
            tracing::error!(
                panic.location = location,
                panic.thread = thread,
                "panicked: {message}"
            );
        }));
    });
}

/// Writes events as JSON, one to a line.
struct JsonLines<W> {
    service: &'static str,
    output: W,
}

impl<W, O> JsonLines<W>
where
    W: Fn() -> O,
    O: Write,
{
    fn new(service: &'static str, output: W) -> Self {
        Self { service, output }
    }

    fn write(&self, mut fields: Fields, event: &Event<'_>) {
        let metadata = event.metadata();
        fields.insert(
            "timestamp",
            clock::now().to_rfc3339_opts(SecondsFormat::Micros, true).into(),
        );
        fields.insert("level", level_name(*metadata.level()).into());
        fields.insert("target", metadata.target().into());
        fields.insert("service", self.service.into());
        fields.entry("message").or_insert_with(|| metadata.name().into());
        let Ok(mut line) = serde_json::to_vec(&fields) else {
            return;
        };
        line.push(b'\n');
        // One write for each line: lines of several threads do not mix. There is nowhere to report a failure.
        let _ = (self.output)().write_all(&line);
    }
}

/// Four levels are what platforms know; a trace is a debug line to them.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}

impl<S, W, O> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn() -> O + 'static,
    O: Write,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::new();
            attributes.record(&mut Collect(&mut fields));
            span.extensions_mut().replace(SpanFields(fields));
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(SpanFields(fields)) = span.extensions_mut().get_mut()
        {
            values.record(&mut Collect(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new();
        for span in context.event_scope(event).into_iter().flat_map(Scope::from_root) {
            if let Some(SpanFields(of_span)) = span.extensions().get() {
                fields.extend(of_span.iter().map(|(name, value)| (*name, value.clone())));
            }
            fields.insert("span", span.name().into());
        }
        event.record(&mut Collect(&mut fields));
        self.write(fields, event);
    }
}

/// Takes fields as JSON values; what is neither number, text nor truth is taken as its `Debug`.
struct Collect<'a>(&'a mut Fields);

impl Visit for Collect<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.into());
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.0.insert(field.name(), text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(log: impl FnOnce()) -> Vec<serde_json::Map<String, Value>> {
        let buffer = Buffer::default();
        let output = buffer.clone();
        let subscriber =
            tracing_subscriber::registry().with(JsonLines::new("worker", move || output.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let bytes = buffer.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_line_has_what_platforms_index_on_top() {
        let lines = lines_of(|| tracing::warn!(queue.depth = 7, ok = false, "the queue\nis long"));
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert_eq!(line["message"], "the queue\nis long");
        assert_eq!(line["level"], "warn");
        assert_eq!(line["service"], "worker");
        assert_eq!(line["target"], module_path!());
        assert_eq!(line["queue.depth"], 7);
        assert_eq!(line["ok"], false);
        let timestamp = line["timestamp"].as_str().unwrap();
        assert!(timestamp.ends_with('Z'));
        assert!(chrono::DateTime::parse_from_rfc3339(timestamp).is_ok());
    }

    #[test]
    fn span_fields_are_on_the_line_and_inner_ones_win() {
        let lines = lines_of(|| {
            let outer = tracing::info_span!(
                "job",
                job.id = "01J",
                attempt = 1,
                outcome = tracing::field::Empty
            );
            outer.record("outcome", "done");
            outer.in_scope(|| {
                tracing::info_span!("step", attempt = 2)
                    .in_scope(|| tracing::info!(step = "fetch", "working"));
            });
        });
        let line = &lines[0];
        assert_eq!(line["job.id"], "01J");
        assert_eq!(line["attempt"], 2);
        assert_eq!(line["outcome"], "done");
        assert_eq!(line["step"], "fetch");
        assert_eq!(line["span"], "step");
    }

    #[test]
    fn no_field_can_pose_as_level_or_time() {
        let lines = lines_of(|| tracing::error!(level = "debug", timestamp = "yesterday", "failed"));
        assert_eq!(lines[0]["level"], "error");
        assert_ne!(lines[0]["timestamp"], "yesterday");
    }

    #[test]
    fn the_four_levels_are_written_in_lower_case() {
        let lines = lines_of(|| {
            tracing::trace!("t");
            tracing::debug!("d");
            tracing::info!("i");
            tracing::error!("e");
        });
        let levels: Vec<&str> = lines.iter().map(|line| line["level"].as_str().unwrap()).collect();
        assert_eq!(levels, ["debug", "debug", "info", "error"]);
    }

    #[test]
    fn an_error_field_keeps_its_causes() {
        let cause = io::Error::other("the disk is full");
        let error = crate::sql::SqlError::Driver(sqlx::Error::Io(cause));
        let lines = lines_of(|| tracing::error!(error = &error as &dyn std::error::Error, "failed"));
        assert!(lines[0]["error"].as_str().unwrap().contains("the disk is full"));
    }

    #[test]
    fn misspelt_levels_are_told_apart_from_targets() {
        for level in [
            "info",
            "WARN",
            "info,sqlx=warn",
            "debug,holdfast_core::sql=trace",
            "off",
        ] {
            assert_eq!(check_level(level), Ok(()), "{level}");
        }
        for level in ["inof", "", "info,", "info, sqlx=warn", "sqlx=loud", "info;debug"] {
            assert!(check_level(level).is_err(), "{level:?}");
        }
    }

    #[test]
    fn parts_are_quiet_at_the_usual_level_and_whatever_the_settings_say_wins() {
        assert_eq!(
            with_quiet_parts("info"),
            "actix_server=warn,actix_http=off,sqlx::pool=error,sqlx_core::pool=error,info"
        );
        assert_eq!(with_quiet_parts("debug"), "debug");
        assert_eq!(with_quiet_parts("error"), "error");
        assert!(with_quiet_parts("info,actix_server=info").ends_with("actix_server=info"));
        assert!(EnvFilter::try_new(with_quiet_parts("info,actix_server=info")).is_ok());
    }

    #[test]
    fn logging_may_be_started_twice() {
        let settings = LogSettings {
            level: "info".to_owned(),
            format: LogFormat::Json,
        };
        init(&settings, "api");
        init(&settings, "worker");
    }
}
