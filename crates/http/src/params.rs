//! What a request says outside its body: path, query and headers, each parsed by hand so that every fault is named.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use actix_web::HttpRequest;
use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use crate::problem::{FieldFault, Problem, ProblemKind, quote};

/// Most faults of one query that are told.
const MAX_FAULTS: usize = 20;

/// The header that makes a repeated enqueue harmless.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// Longest `Idempotency-Key`, in bytes. It is stored behind the name of the caller.
const MAX_IDEMPOTENCY_KEY: usize = 200;

/// The id that the path names.
pub fn path_id<T: FromStr<Err: fmt::Display>>(request: &HttpRequest) -> Result<T, Problem> {
    let text = path_text(request, "id");
    text.parse().map_err(|error| {
        Problem::field(
            ProblemKind::InvalidId,
            "id",
            format!("{} is {error}", quote(&text)),
        )
    })
}

/// The queue or the schedule that the path names.
pub fn path_name(request: &HttpRequest) -> String {
    path_text(request, "name").into_owned()
}

/// A parameter of the path. The router decodes it except for `%`, `/` and `+`, so that a name with a slash is one segment: these are
/// decoded here.
pub fn path_text<'a>(request: &'a HttpRequest, parameter: &str) -> Cow<'a, str> {
    let text = request.match_info().get(parameter).unwrap_or_default();
    percent_decode_str(text).decode_utf8_lossy()
}

/// The parameters of a query, and every fault found in them so far.
#[derive(Debug)]
pub struct Params {
    given: Vec<(String, String)>,
    known: &'static [&'static str],
    faults: Vec<FieldFault>,
}

impl Params {
    pub fn of(request: &HttpRequest, known: &'static [&'static str]) -> Self {
        let given: Vec<_> = form_urlencoded::parse(request.query_string().as_bytes())
            .into_owned()
            .collect();
        let mut params = Self {
            given,
            known,
            faults: Vec::new(),
        };
        params.check_names();
        params
    }

    fn check_names(&mut self) {
        for (place, (name, _)) in self.given.iter().enumerate() {
            let reason = if !self.known.contains(&name.as_str()) {
                match self.known {
                    [] => "unknown: this route takes no parameters".to_owned(),
                    known => format!("unknown: expected one of {}", known.join(", ")),
                }
            } else if self.given[..place].iter().any(|(earlier, _)| earlier == name) {
                "given more than once".to_owned()
            } else {
                continue;
            };
            if self.faults.len() < MAX_FAULTS {
                self.faults
                    .push(FieldFault::new(name.chars().take(80).collect::<String>(), reason));
            }
        }
    }

    /// A parameter's text; an empty one counts as left out.
    pub fn text(&self, name: &str) -> Option<&str> {
        debug_assert!(self.known.contains(&name), "{name} is not declared");
        self.given
            .iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    }

    /// A parameter as a value; a fault if it is not one.
    pub fn parsed<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let parsed = self.text(name)?.parse::<T>();
        parsed.map_err(|error| self.fault(name, error.to_string())).ok()
    }

    /// Seconds, perhaps with a fraction, up to `most`.
    pub fn seconds(&mut self, name: &str, most: Duration) -> Option<Duration> {
        let text = self.text(name)?;
        let seconds = text
            .parse()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let within = seconds.filter(|seconds| *seconds <= most);
        if within.is_none() {
            let reason = format!(
                "{} is not a number of seconds from 0 to {}",
                quote(text),
                most.as_secs_f64()
            );
            self.fault(name, reason);
        }
        within
    }

    /// A whole number within bounds.
    pub fn count(&mut self, name: &str, least: usize, most: usize) -> Option<usize> {
        let text = self.text(name)?;
        let within = text.parse().ok().filter(|number| (least..=most).contains(number));
        if within.is_none() {
            let reason = format!("{} is not a whole number from {least} to {most}", quote(text));
            self.fault(name, reason);
        }
        within
    }

    /// A number within bounds.
    pub fn number(&mut self, name: &str, least: f64, most: f64) -> Option<f64> {
        let text = self.text(name)?;
        // A NaN is in no range.
        let within = text
            .parse()
            .ok()
            .filter(|number: &f64| (least..=most).contains(number));
        if within.is_none() {
            let reason = format!("{} is not a number from {least} to {most}", quote(text));
            self.fault(name, reason);
        }
        within
    }

    /// A moment as RFC 3339 writes it.
    pub fn moment(&mut self, name: &str) -> Option<DateTime<Utc>> {
        let text = self.text(name)?;
        let moment = DateTime::parse_from_rfc3339(text).map(|at| at.to_utc());
        if moment.is_err() {
            let reason = format!(
                "{} is not an RFC 3339 time such as 2030-01-31T12:00:00Z (write a + as %2B)",
                quote(text)
            );
            self.fault(name, reason);
        }
        moment.ok()
    }

    /// A text of bounded length.
    pub fn short_text(&mut self, name: &str, most: usize) -> Option<String> {
        let text = self.text(name)?.to_owned();
        if text.len() > most {
            self.fault(name, format!("longer than {most} bytes"));
            return None;
        }
        Some(text)
    }

    pub fn fault(&mut self, name: &str, reason: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(FieldFault::new(name, reason));
        }
    }

    /// Every fault at once.
    pub fn finish(self) -> Result<(), Problem> {
        if self.faults.is_empty() {
            return Ok(());
        }
        Err(Problem::faults(ProblemKind::InvalidParameter, self.faults))
    }
}

/// The `Idempotency-Key` of a request, as the client words it.
pub fn idempotency_key(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    let mut values = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        let reason = "given more than once: which of them makes a repetition harmless cannot be told";
        return Err(Problem::field(
            ProblemKind::InvalidHeader,
            IDEMPOTENCY_KEY,
            reason,
        ));
    }
    value
        .to_str()
        .ok()
        // A header's value may have tabs.
        .filter(|key| (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) && !key.contains('\t'))
        .map(Some)
        .ok_or_else(|| {
            let reason = format!("must be 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters");
            Problem::field(ProblemKind::InvalidHeader, IDEMPOTENCY_KEY, reason)
        })
}

/// The W3C trace context of a request, if it is one. What is not must be ignored, says the recommendation.
pub fn traceparent(request: &HttpRequest) -> Option<String> {
    let text = request.headers().get("traceparent")?.to_str().ok()?;
    is_traceparent(text).then(|| text.to_owned())
}

fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length: usize| {
        part.len() == length
            && part
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let nonzero = |part: &str| part.bytes().any(|byte| byte != b'0');
    match parts.as_slice() {
        [version @ "00", trace, parent, flags] => {
            hex(version, 2)
                && hex(trace, 32)
                && hex(parent, 16)
                && hex(flags, 2)
                && nonzero(trace)
                && nonzero(parent)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn params(query: &str) -> Params {
        let request = TestRequest::with_uri(&format!("/?{query}")).to_http_request();
        Params::of(&request, &["limit", "wait", "queue"])
    }

    #[test]
    fn every_fault_of_a_query_is_found_at_once() {
        let mut params = params("limit=0&wait=-1&queu=x&queue=a&queue=b");
        assert_eq!(params.count("limit", 1, 1_000), None);
        assert_eq!(params.seconds("wait", Duration::from_mins(1)), None);
        let fields: Vec<_> = params.faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["queu", "queue", "limit", "wait"]);
        assert!(params.finish().is_err());
    }

    #[test]
    fn good_parameters_are_read() {
        let mut params = params("limit=5&wait=1.5&queue=a%20b");
        assert_eq!(params.count("limit", 1, 1_000), Some(5));
        assert_eq!(
            params.seconds("wait", Duration::from_mins(1)),
            Some(Duration::from_millis(1_500))
        );
        assert_eq!(params.text("queue"), Some("a b"));
        assert!(params.finish().is_ok());
        for odd in ["wait=NaN", "wait=1e99", "wait=61", "wait=x"] {
            let mut params = self::params(odd);
            assert_eq!(params.seconds("wait", Duration::from_mins(1)), None);
            assert!(params.finish().is_err(), "{odd}");
        }
    }

    #[test]
    fn only_a_trace_context_is_one() {
        assert!(is_traceparent(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        ));
        for odd in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(!is_traceparent(odd), "{odd}");
        }
    }
}
