//! Whose request it is, as far as an address tells.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use actix_web::HttpRequest;

/// The client's address: the connection's, or what the outermost trusted proxy saw. Every proxy adds the address that it
/// sees behind what the client itself may have written, so it is counted from the end. Of an IPv6 address the network
/// counts: whoever has one has all of its addresses.
pub fn client_address(request: &HttpRequest, trusted_proxies: usize) -> IpAddr {
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
        let entry = entries.get(entries.len().saturating_sub(trusted_proxies))?;
        parse(entry)
    };
    let address = match trusted_proxies {
        0 => peer,
        _ => forwarded().unwrap_or(peer),
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

    use super::*;

    fn seen(forwarded: &str, trusted_proxies: usize) -> String {
        let request = TestRequest::default()
            .peer_addr("10.0.0.1:1234".parse().unwrap())
            .insert_header(("x-forwarded-for", forwarded))
            .to_http_request();
        client_address(&request, trusted_proxies).to_string()
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
