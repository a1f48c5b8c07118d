//! One request of a call, and the one that a redirect makes of it.
//!
//! The rules are those of browsers (Fetch, "HTTP-redirect fetch"), with two that suit a machine better: on another
//! origin only headers that describe the content survive, because a secret may hide in any other (`X-Api-Key`
//! as well as `Authorization`); and a user or password that a server puts into a `Location` is not used.

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, LOCATION};
use reqwest::{Method, Request, StatusCode};
use url::Url;

use super::fault::CallFault;
use super::{Call, shown};

/// Headers that another origin may see.
const KEPT_ACROSS_ORIGINS: [&str; 19] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "date",
    "holdfast-attempt",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "prefer",
    "range",
    "user-agent",
];

/// Whether a header describes the content, or else may hold a secret.
pub fn is_public(name: &HeaderName) -> bool {
    KEPT_ACROSS_ORIGINS.contains(&name.as_str())
}

#[derive(Clone)]
pub(super) struct Hop {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
}

impl Hop {
    pub(super) fn first(call: &Call) -> Self {
        Self {
            method: call.method.clone(),
            url: call.url.clone(),
            headers: call.headers.clone(),
            body: call.body.clone(),
        }
    }

    pub(super) fn request(&self) -> Request {
        let mut request = Request::new(self.method.clone(), self.url.clone());
        *request.headers_mut() = self.headers.clone();
        *request.body_mut() = self.body.clone().map(Into::into);
        request
    }

    /// The next request, if the answer is a redirect.
    ///
    /// # Errors
    /// The redirect does not lead to an `http` or `https` URL.
    pub(super) fn redirected(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<Option<Self>, CallFault> {
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let Some(location) = headers.get(LOCATION) else {
            return Ok(None);
        };
        let fault = |reason| CallFault::Astray {
            target: shown(&self.url),
            status,
            reason,
        };
        let location = std::str::from_utf8(location.as_bytes()).map_err(|_| fault("an invalid URL"))?;
        let mut url = self.url.join(location).map_err(|_| fault("an invalid URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(fault("a scheme other than http and https"));
        }
        // Neither can fail for a URL with a host, which these schemes always have.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(Some(self.to(url, status)))
    }

    fn to(&self, url: Url, status: StatusCode) -> Self {
        let mut next = Self { url, ..self.clone() };
        if next.url.origin() != self.url.origin() {
            next.retain_headers(is_public);
        }
        if turns_into_get(status, &self.method) {
            next.method = Method::GET;
            next.body = None;
            next.retain_headers(|name| !name.as_str().starts_with("content-"));
        }
        next
    }

    fn retain_headers(&mut self, keep: impl Fn(&HeaderName) -> bool) {
        let dropped: Vec<HeaderName> = self.headers.keys().filter(|name| !keep(name)).cloned().collect();
        for name in dropped {
            self.headers.remove(name);
        }
    }
}

/// 303 means "look there"; 301 and 302 do so by custom for POST alone, so that a DELETE is not taken for done
/// because a GET succeeded.
fn turns_into_get(status: StatusCode, method: &Method) -> bool {
    match status {
        StatusCode::SEE_OTHER => *method != Method::HEAD,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => *method == Method::POST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn hop(method: Method) -> Hop {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("cookie", "session=1"),
            ("x-api-key", "secret"),
            ("content-type", "application/json"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let url = "https://one.example/a/b?c=d".parse().unwrap();
        Hop {
            method,
            url,
            headers,
            body: Some(Bytes::from_static(b"{}")),
        }
    }

    fn follow(hop: &Hop, status: u16, location: &str) -> Result<Option<Hop>, CallFault> {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, location.parse().unwrap());
        hop.redirected(StatusCode::from_u16(status).unwrap(), &headers)
    }

    fn names(hop: &Hop) -> Vec<&str> {
        let mut names: Vec<&str> = hop.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_method_after_a_redirect_follows_the_status() {
        for (status, before, after) in [
            (301, Method::POST, Method::GET),
            (302, Method::POST, Method::GET),
            (303, Method::POST, Method::GET),
            (303, Method::PUT, Method::GET),
            (303, Method::HEAD, Method::HEAD),
            (301, Method::DELETE, Method::DELETE),
            (302, Method::HEAD, Method::HEAD),
            (307, Method::POST, Method::POST),
            (308, Method::PATCH, Method::PATCH),
        ] {
            let next = follow(&hop(before.clone()), status, "/x").unwrap().unwrap();
            assert_eq!(next.method, after, "{status} {before}");
            assert_eq!(next.body.is_none(), after == Method::GET, "{status} {before}");
            assert_eq!(
                next.headers.contains_key("content-type"),
                after != Method::GET,
                "{status} {before}"
            );
        }
    }

    #[test]
    fn secrets_stay_on_their_origin() {
        let from = hop(Method::POST);
        let same = follow(&from, 307, "../c").unwrap().unwrap();
        assert_eq!(same.url.as_str(), "https://one.example/c");
        assert_eq!(
            names(&same),
            ["accept", "authorization", "content-type", "cookie", "x-api-key"]
        );
        for elsewhere in [
            "https://two.example/",
            "https://one.example:8443/",
            "http://one.example/",
            "//two.example",
        ] {
            let next = follow(&from, 307, elsewhere).unwrap().unwrap();
            assert_eq!(names(&next), ["accept", "content-type"], "{elsewhere}");
        }
    }

    #[test]
    fn a_redirect_cannot_bring_credentials_of_its_own() {
        let next = follow(&hop(Method::GET), 302, "https://user:word@two.example/")
            .unwrap()
            .unwrap();
        assert_eq!(next.url.as_str(), "https://two.example/");
    }

    #[test]
    fn a_redirect_to_another_scheme_or_to_nonsense_is_a_fault() {
        for location in [
            "ftp://one.example/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "https://",
            "http://[::1",
        ] {
            assert!(
                matches!(
                    follow(&hop(Method::GET), 302, location),
                    Err(CallFault::Astray { .. })
                ),
                "{location}"
            );
        }
        assert!(matches!(follow(&hop(Method::GET), 304, "/x"), Ok(None)));
        assert!(matches!(
            hop(Method::GET).redirected(StatusCode::FOUND, &HeaderMap::new()),
            Ok(None)
        ));
    }
}
