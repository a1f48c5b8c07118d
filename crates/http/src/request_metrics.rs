//! What is counted of requests: how many, how long, and how they ended, by method, route pattern and status class.
//!
//! A route is the pattern of the table (`/v1/jobs/{id}`), never the path that a client wrote.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

use actix_web::dev::ServiceRequest;
use actix_web::http::{Method, StatusCode};
use holdfast_core::telemetry::catalogue;
use holdfast_core::telemetry::metrics::OTHER;
use metrics::{Counter, Histogram};

/// What is known of a request before it is routed.
#[derive(Debug)]
pub(crate) struct RequestMeter {
    method: &'static str,
    route: String,
    started: Instant,
}

impl RequestMeter {
    pub(crate) fn begin(request: &ServiceRequest, started: Instant) -> Self {
        Self {
            method: method_of(request.method()),
            route: request.match_pattern().unwrap_or_else(|| OTHER.to_owned()),
            started,
        }
    }

    pub(crate) fn route(&self) -> &str {
        &self.route
    }

    pub(crate) fn method(&self) -> &'static str {
        self.method
    }

    /// Checks and scrapes would drown the rest.
    pub(crate) fn is_traced(&self) -> bool {
        self.route.starts_with("/v1/")
    }

    /// Counts the request, answered with this status.
    pub(crate) fn end(&self, status: StatusCode) {
        let key = (self.method, class_of(status));
        HANDLES.with_borrow_mut(|handles| {
            let known = handles
                .get(&self.route)
                .is_some_and(|route| route.contains_key(&key));
            if !known {
                let made = Handles::of(self.method, &self.route, key.1);
                handles.entry(self.route.clone()).or_default().insert(key, made);
            }
            if let Some(handles) = handles.get(&self.route).and_then(|route| route.get(&key)) {
                handles.requests.increment(1);
                handles.duration.record(self.started.elapsed());
            }
        });
    }
}

struct Handles {
    requests: Counter,
    duration: Histogram,
}

impl Handles {
    fn of(method: &str, route: &str, class: &str) -> Self {
        Self {
            requests: catalogue::HTTP_REQUESTS.with([method, route, class]),
            duration: catalogue::HTTP_DURATION.with([method, route]),
        }
    }
}

type Routes = HashMap<String, HashMap<(&'static str, &'static str), Handles>>;

thread_local! {
    /// Of this HTTP thread: as many as there are routes, methods and classes.
    static HANDLES: RefCell<Routes> = RefCell::default();
}

/// Any word may be a method; only these are labels.
fn method_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => OTHER,
    }
}

fn class_of(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
