//! The settings of the `http.request` kind, and of every other request to an address that a user gave.

use super::super::allowed_host::AllowedHost;
use super::super::declare::{bytes, count, flag, list};
use super::super::reader::Reader;
use crate::settings;

settings! {
    ["http_request"]
    /// The `http.request` kind.
    #[derive(Debug, Clone)]
    pub struct HttpRequestSettings {
        /// Whether private, loopback and link-local targets are allowed. Off, so that a payload cannot reach the internal network.
        allow_private: bool = flag(false);
        /// Hosts of the private network that are allowed nevertheless, 100 at most: names, "*.suffix" for all names below one,
        /// addresses, networks; such as ["*.railway.internal", "reports", "10.0.0.5", "fd12::/16"]. A name may lead to private and
        /// loopback addresses; a link-local one (cloud metadata) must be listed itself. API, worker and beat need the same list.
        allow_hosts: Vec<AllowedHost> = list().then(allowed_hosts);
        /// Largest part of a response that is read, in bytes, {range}. 1 MiB.
        max_response_bytes: usize = bytes(1_048_576, 0..=67_108_864);
        /// Largest number of redirects that are followed, {range}; each target is checked.
        max_redirects: usize = count(5, 0..=20);
    }
}

fn allowed_hosts(reader: &mut Reader<'_>, path: &str, texts: Vec<String>) -> Vec<AllowedHost> {
    const MOST: usize = 100;
    if texts.len() > MOST {
        reader.fault_once(path, || {
            let problem = format!("{} entries are more than {MOST}", texts.len());
            (problem, "give networks, or suffixes of names".to_owned())
        });
    }
    let mut hosts = Vec::with_capacity(texts.len());
    for text in texts {
        match text.parse() {
            Ok(host) => hosts.push(host),
            Err(error) => reader.fault_once(path, || {
                let fix = "give hosts such as [\"*.railway.internal\", \"reports\", \"10.0.0.5\", \"10.1.0.0/16\"], without \
                           scheme, port and path; allow_private = true allows all of them";
                (format!("{text:?} is refused: {error}"), fix.to_owned())
            }),
        }
    }
    hosts
}
