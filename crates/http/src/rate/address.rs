//! The address of the client that sent a request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use actix_web::HttpRequest;
use holdfast_core::config::ServerSettings;

/// The client's address: the connection's or, where a trusted proxy connects, the one that the outermost trusted proxy saw. Every
/// proxy appends the address that it sees to what the client may have written, so entries are counted from the end. Of an IPv6
/// address it is the /64 network, because a client has all addresses of its network.
pub fn client_address(request: &HttpRequest, server: &ServerSettings) -> IpAddr {
    let peer = request
        .peer_addr()
        .map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip());
    let forwarded = || {
        let values = request.headers().get_all("x-forwarded-for");
        let entries: Vec<&str> = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .collect();
        let entry = entries.get(entries.len().saturating_sub(server.trusted_proxies))?;
        parse(entry)
    };
    let address = if server.is_trusted_proxy(peer) {
        forwarded().unwrap_or(peer)
    } else {
        peer
    };
    network(address)
}

/// With or without a port.
fn parse(entry: &str) -> Option<IpAddr> {
    let bare = entry.trim_start_matches('[').trim_end_matches(']');
    let socket = || entry.parse::<SocketAddr>().map(|socket| socket.ip());
    bare.parse().or_else(|_| socket()).ok()
}

/// Of an IPv6 address its /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use holdfast_core::config::{Sources, load_from};

    use super::*;

    fn seen(forwarded: &str, trusted_proxies: usize) -> String {
        seen_by("10.0.0.1:1234", forwarded, trusted_proxies, &[])
    }

    fn seen_by(peer: &str, forwarded: &str, trusted_proxies: usize, networks: &[&str]) -> String {
        let mut server = load_from(Sources::default()).unwrap().server;
        server.trusted_proxies = trusted_proxies;
        server.trusted_proxy_networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let request = TestRequest::default()
            .peer_addr(peer.parse().unwrap())
            .insert_header(("x-forwarded-for", forwarded))
            .to_http_request();
        client_address(&request, &server).to_string()
    }

    #[test]
    fn who_connects_from_elsewhere_is_believed_nothing() {
        for (peer, networks, is_believed) in [
            ("10.0.0.1:1", &[][..], true),
            ("100.64.0.7:1", &[], true),
            ("[fd12::1]:1", &[], true),
            ("[::ffff:10.0.0.1]:1", &[], true),
            ("198.51.100.7:1", &[], false),
            ("100.128.0.1:1", &[], false),
            ("[2001:db8::1]:1", &[], false),
            ("198.51.100.7:1", &["198.51.100.0/24"], true),
            ("[2001:db8::1]:1", &["2001:db8::/32"], true),
            ("10.0.0.1:1", &["198.51.100.0/24"], false),
        ] {
            let seen = seen_by(peer, "203.0.113.9", 1, networks);
            assert_eq!(seen == "203.0.113.9", is_believed, "{peer} {networks:?}: {seen}");
        }
    }

    #[test]
    fn only_what_trusted_proxies_wrote_is_believed() {
        let forged = "1.1.1.1, 203.0.113.9, 10.9.9.9";
        assert_eq!(seen(forged, 0), "10.0.0.1");
        assert_eq!(seen(forged, 1), "10.9.9.9");
        assert_eq!(seen(forged, 2), "203.0.113.9");
        assert_eq!(seen("nonsense", 1), "10.0.0.1");
        assert_eq!(seen("", 1), "10.0.0.1");
        assert_eq!(seen("203.0.113.9:4711", 1), "203.0.113.9");
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        assert_eq!(seen("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::");
        assert_eq!(seen("[2001:db8:1:2:3:4:5:6]:443", 1), "2001:db8:1:2::");
        assert_eq!(seen("::ffff:203.0.113.9", 1), "203.0.113.9");
    }
}
