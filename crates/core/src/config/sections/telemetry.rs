//! The settings of logs and traces.

use secrecy::SecretString;
use url::Url;

use super::super::declare::{choice, optional_url, percent, secret, text};
use super::super::reader::Reader;
use crate::settings;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Pretty,
}

/// `None`: as the environment suggests.
const FORMATS: [(&str, Option<LogFormat>); 3] = [
    ("auto", None),
    ("json", Some(LogFormat::Json)),
    ("pretty", Some(LogFormat::Pretty)),
];

settings! {
    ["log"]
    /// The log.
    #[derive(Debug, Clone)]
    pub struct LogSettings {
        /// What is logged: trace, debug, info, warn, error or off, and `target=level` for parts: "info,sqlx=warn".
        level: String = text("info").variables(&["LOG_LEVEL"]).then(check_level);
        /// "json" (one object a line), "pretty" (for people), or "auto": json in production, pretty elsewhere.
        format: LogFormat = choice("auto", &FORMATS).then(by_environment);
    }
}

settings! {
    ["traces"]
    /// OpenTelemetry traces.
    #[derive(Debug, Clone)]
    pub struct TracesSettings {
        /// Where OpenTelemetry traces are sent: the base URL of an OTLP/HTTP collector, such as http://localhost:4318. Empty: no
        /// traces are sent; a request's trace context is still passed on to its job.
        endpoint: Option<Url> = optional_url(
            "give the base URL of an OTLP/HTTP collector, such as http://localhost:4318",
        )
        .variables(&["OTEL_EXPORTER_OTLP_ENDPOINT"]);
        /// Headers for the collector, `name=value` pairs with commas between: the token of a hosted one. A secret.
        headers: Option<SecretString> = secret().variables(&["OTEL_EXPORTER_OTLP_HEADERS"]);
        /// Share of new traces that are recorded, in percent, {range}. A trace that a request continues is recorded if its flag is
        /// set.
        sample_ratio: f64 = percent(100, 0..=100).named("sample_percent");
    }
}

fn check_level(reader: &mut Reader<'_>, path: &str, level: String) -> String {
    if let Err(problem) = crate::telemetry::check_level(&level) {
        let fix = "give a level (trace, debug, info, warn, error, off) and target=level pairs, with commas"
            .to_owned();
        reader.fault_once(path, || (problem, fix));
    }
    level
}

fn by_environment(reader: &mut Reader<'_>, _: &str, format: Option<LogFormat>) -> LogFormat {
    match format {
        Some(format) => format,
        None if reader.is_production() => LogFormat::Json,
        None => LogFormat::Pretty,
    }
}
