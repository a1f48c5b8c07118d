//! Whether a request comes from this machine: asked where a server has no API key.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::http::header::{self, HeaderValue};

use crate::problem::{Problem, ProblemKind};

/// Headers that proxies add: a request that has one may come from another machine.
const FORWARDING: [&str; 7] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
];

/// What to do about a request from elsewhere.
const HINT: &str =
    "is not this machine; set HOLDFAST_API_KEY, or make a key with `holdfast keys create`, to serve others";

/// A page on the Internet can make a browser on this machine send requests here, by a form or by a DNS name that resolves to
/// 127.0.0.1, and a proxy on this machine forwards requests of other machines. `Origin`, `Host`, `Sec-Fetch-Site` and the headers
/// that proxies add reveal them. A value that cannot be read is refused.
pub(crate) fn refuse_other_origins(request: &HttpRequest) -> Result<(), Problem> {
    let untrusted =
        |name: &str, reason: &str| Err(Problem::field(ProblemKind::UntrustedOrigin, name, reason));
    let headers = request.headers();
    if let Some(name) = FORWARDING.iter().find(|name| headers.contains_key(**name)) {
        return untrusted(
            name,
            "was added by a proxy: set HOLDFAST_API_KEY to serve others than this machine",
        );
    }
    let mut authority = None;
    for (name, header) in [("Host", header::HOST), ("Origin", header::ORIGIN)] {
        let mut values = headers.get_all(header);
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return untrusted(name, "is given more than once");
        }
        let Ok(text) = value.to_str() else {
            return untrusted(name, "cannot be read");
        };
        let given = text.split_once("://").map_or(text, |(_, rest)| rest);
        if !is_this_machine(given) {
            return untrusted(name, HINT);
        }
        // A page of another port on this machine is another origin.
        if *authority.get_or_insert(given) != given {
            return untrusted(name, "is another origin than the one that is asked");
        }
    }
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return untrusted("Sec-Fetch-Site", "says that another site's page has sent this");
    }
    Ok(())
}

/// Whether a `Host`, or the authority of an `Origin`, names this machine by a loopback address or as `localhost`.
pub fn is_this_machine(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for local in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
        ] {
            assert!(is_this_machine(local), "{local}");
        }
        for other in [
            "example.com",
            "localhost.example.com:8080",
            "10.0.0.1:80",
            "[2001:db8::1]:80",
            "null",
            "",
        ] {
            assert!(!is_this_machine(other), "{other}");
        }
    }
}
