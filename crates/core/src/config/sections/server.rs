//! The settings of the HTTP listener.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use super::super::declare::{bytes, count, list, seconds, secret, text};
use super::super::reader::Reader;
use crate::settings;

settings! {
    ["server"]
    /// The HTTP listener of any service (`api`'s routes, `worker`'s health routes).
    #[derive(Debug, Clone)]
    pub struct ServerSettings {
        /// Address to listen on. "[::]" is every IPv6 and IPv4 address, which Railway's private network needs.
        host: String = text("[::]").then(check_host);
        /// TCP port, {range}. 0 takes a free one, for tests.
        port: u16 = count(8080, 0..=u16::MAX).variables(&["PORT"]);
        /// The bootstrap admin key, a secret. Without any key a development server answers on loopback only, and a production one
        /// does not start.
        api_key: Option<SecretString> = secret().variables(&["HOLDFAST_API_KEY"]).then(check_api_key);
        /// Largest request body in bytes, {range}. 16 MiB holds a batch of 10,000 jobs of 1.6 KB.
        max_body_bytes: usize = bytes(16_777_216, 1024..=1_073_741_824);
        /// Most bytes of request bodies in memory over all requests, {range}; requests beyond are answered 503. A parsed body takes
        /// about twice its bytes: 64 MiB fits a container of 256 MiB.
        max_body_bytes_in_flight: usize = bytes(67_108_864, 1_048_576..=1_099_511_627_776);
        /// Longest duration of a request, in seconds, {range}; a long poll adds its own wait. Above the database's acquire timeout
        /// and Redis' command timeout, so that their failures are reported as such and not as a slow request.
        request_timeout: Duration = seconds(10.0, 0.1..=300.0);
        /// Grace period after a stop signal, in seconds, {range}: running requests and jobs may continue. Render and Heroku kill
        /// after 30; set the platform's own draining time above this.
        grace: Duration = seconds(25.0, 0.0..=3600.0);
        /// Longest `?wait=` of a job query in seconds, {range}. Most proxies end an idle request after 60.
        max_wait: Duration = seconds(60.0, 0.0..=300.0);
        /// HTTP threads, {range}. Few are enough, because handlers wait more than they compute.
        http_workers: usize = count(2, 1..=256);
        /// Most connections at the same time, {range}. 0: as many as the limit of open files leaves room for, 8,192 at most. When
        /// all are taken, the connection that was idle longest is closed for a new one.
        max_connections: usize = count(0, 0..=1_000_000);
        /// Most connections of one address (of one /64 network with IPv6), {range}. 0: a quarter of all, 512 at most. Loopback
        /// addresses are not counted, nor are those of trusted proxies, whose connections carry all clients.
        max_connections_per_address: usize = count(0, 0..=1_000_000);
        /// How many proxies in front of the server each add an entry to X-Forwarded-For, {range}: a client's address is the entry
        /// that the outermost of them wrote. 0 ignores the header and uses the connection's address. On Railway the default is 1.
        trusted_proxies: usize = count(0, 0..=10);
        /// Networks from which those proxies connect, such as 203.0.113.0/24: X-Forwarded-For of any other connection is
        /// ignored. Empty: loopback, private, shared (100.64.0.0/10), link-local and unique local addresses.
        trusted_proxy_networks: Vec<IpNet> = list().then(networks);
    }
    and {
        /// The server of a worker or beat, which has health and metrics alone, binds loopback: no key guards it.
        health_on_loopback: bool = |_: &mut Reader<'_>| false;
    }
}

impl ServerSettings {
    /// Whether a connection from this address is a trusted proxy's, so that its `X-Forwarded-For` is believed.
    pub fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        let networks = &self.trusted_proxy_networks;
        self.trusted_proxies > 0
            && (networks.iter().any(|network| network.contains(&peer))
                || (networks.is_empty() && is_internal(peer)))
    }
}

/// Addresses that no client on the Internet connects from.
fn is_internal(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            address.is_loopback() || address.is_private() || address.is_link_local() || is_shared
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

/// Networks in CIDR notation, or single addresses.
fn networks(reader: &mut Reader<'_>, path: &str, texts: Vec<String>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in texts {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        match text.parse::<IpNet>().or_else(|_| address()) {
            Ok(network) => networks.push(network),
            Err(_) => reader.fault_once(path, || {
                (
                    format!("{text:?} is no network"),
                    "give addresses or networks such as [\"10.0.0.0/8\"]".to_owned(),
                )
            }),
        }
    }
    networks
}

fn check_host(reader: &mut Reader<'_>, path: &str, host: String) -> String {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(&host);
    let is_name = !bare.is_empty()
        && bare
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    if bare.parse::<IpAddr>().is_err() && !is_name {
        let fix = "give an address without a port, such as \"[::]\" or \"127.0.0.1\"".to_owned();
        reader.fault_once(path, || {
            (format!("{host:?} is neither an address nor a host name"), fix)
        });
    }
    host
}

/// It travels in a header, where nothing but printable ASCII would arrive.
fn check_api_key(reader: &mut Reader<'_>, path: &str, key: Option<SecretString>) -> Option<SecretString> {
    let is_printable = |key: &SecretString| key.expose_secret().chars().all(|c| c.is_ascii_graphic());
    if !key.as_ref().is_none_or(is_printable) {
        let problem = "the key has blanks or characters beyond ASCII".to_owned();
        reader.fault_once(path, || {
            (problem, "generate one: openssl rand -hex 32".to_owned())
        });
    }
    key
}
