//! Which addresses a job may reach.
//!
//! Jobs call URLs that somebody else wrote; a worker stands inside the private network, beside databases and the
//! cloud's metadata service. So only addresses of the public Internet are reachable, unless the operator permits
//! more. The lists follow the IANA special-purpose registries (RFC 6890 and its updates).
//!
//! IPv6 is read the other way round: only 2000::/3 has been given out as public, so everything else is refused
//! whether listed or not. Forms that carry an IPv4 address inside (mapped, NAT64, 6to4, Teredo) are refused
//! altogether, public or not: no public service is named by one, and each of them is a way around the IPv4 list.
//!
//! `http_request.allow_private` permits every address. `http_request.allow_hosts` permits networks, and names: a listed name may
//! lead to the ranges of [`INNER`], where the hosts of private networks are, and to no other special range. So whoever controls
//! a listed name cannot point it at the cloud's metadata service. What a name leads to is checked when it is resolved, for each
//! connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use holdfast_core::config::{AllowedHost, HttpRequestSettings};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)
}

const fn v6(high: [u16; 4], low: [u16; 4], prefix: u8) -> Ipv6Net {
    let address = Ipv6Addr::new(high[0], high[1], high[2], high[3], low[0], low[1], low[2], low[3]);
    Ipv6Net::new_assert(address, prefix)
}

const IPV4_REFUSED: [(Ipv4Net, &str); 15] = [
    (v4(0, 0, 0, 8), "an unspecified address"),
    (v4(10, 0, 0, 8), "a private address"),
    (v4(100, 64, 0, 10), "a carrier-grade NAT address"),
    (v4(127, 0, 0, 8), "a loopback address"),
    (v4(169, 254, 0, 16), "a link-local address"),
    (v4(172, 16, 0, 12), "a private address"),
    (v4(192, 0, 0, 24), "a protocol assignment"),
    (v4(192, 0, 2, 24), "a documentation address"),
    (v4(192, 88, 99, 24), "a 6to4 relay address"),
    (v4(192, 168, 0, 16), "a private address"),
    (v4(198, 18, 0, 15), "a benchmarking address"),
    (v4(198, 51, 100, 24), "a documentation address"),
    (v4(203, 0, 113, 24), "a documentation address"),
    (v4(224, 0, 0, 4), "a multicast address"),
    (v4(240, 0, 0, 4), "a reserved address"),
];

const IPV6_PUBLIC: Ipv6Net = v6([0x2000, 0, 0, 0], [0; 4], 3);

/// The first match names the reason.
const IPV6_REFUSED: [(Ipv6Net, &str); 16] = [
    (v6([0; 4], [0; 4], 128), "an unspecified address"),
    (v6([0; 4], [0, 0, 0, 1], 128), "a loopback address"),
    (v6([0; 4], [0, 0xffff, 0, 0], 96), "an IPv4-mapped address"),
    (v6([0; 4], [0; 4], 96), "an IPv4-compatible address"),
    (v6([0x64, 0xff9b, 0, 0], [0; 4], 96), "a NAT64 address"),
    (v6([0x64, 0xff9b, 1, 0], [0; 4], 48), "a NAT64 address"),
    (v6([0x100, 0, 0, 0], [0; 4], 64), "a discard-only address"),
    (v6([0x2001, 0, 0, 0], [0; 4], 32), "a Teredo address"),
    (v6([0x2001, 0, 0, 0], [0; 4], 23), "a protocol assignment"),
    (v6([0x2001, 0xdb8, 0, 0], [0; 4], 32), "a documentation address"),
    (v6([0x2002, 0, 0, 0], [0; 4], 16), "a 6to4 address"),
    (v6([0x3fff, 0, 0, 0], [0; 4], 20), "a documentation address"),
    (v6([0xfc00, 0, 0, 0], [0; 4], 7), "a private address"),
    (v6([0xfe80, 0, 0, 0], [0; 4], 10), "a link-local address"),
    (v6([0xfec0, 0, 0, 0], [0; 4], 10), "a site-local address"),
    (v6([0xff00, 0, 0, 0], [0; 4], 8), "a multicast address"),
];

/// The ranges that a listed name may lead to.
const INNER: [&str; 4] = [
    "a private address",
    "a carrier-grade NAT address",
    "a loopback address",
    "a site-local address",
];

/// Why `ip` is not of the public Internet; `None` if it is.
fn special(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => IPV4_REFUSED
            .iter()
            .find(|(net, _)| net.contains(&ip))
            .map(|(_, name)| *name),
        IpAddr::V6(ip) => IPV6_REFUSED
            .iter()
            .find(|(net, _)| net.contains(&ip))
            .map(|(_, name)| *name)
            .or_else(|| (!IPV6_PUBLIC.contains(&ip)).then_some("a reserved address")),
    }
}

/// The address is none that a job may reach. It names the range and not the address: what a name resolves to
/// inside the private network is not the producer's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}, which neither http_request.allow_hosts nor http_request.allow_private permits")]
pub struct RefusedAddress(&'static str);

/// What may be reached: the public Internet, the permitted ranges, and what the listed names lead to.
#[derive(Debug, Clone)]
pub struct AddressPolicy {
    permitted: Arc<[IpNet]>,
    listed: Arc<[AllowedHost]>,
}

impl AddressPolicy {
    /// The public Internet.
    pub fn public_only() -> Self {
        Self::permitting([])
    }

    /// The public Internet, and `ranges`.
    pub fn permitting(ranges: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            permitted: ranges.into_iter().collect(),
            listed: Arc::default(),
        }
    }

    /// Everything: for development, or a worker that is meant to call its neighbours.
    pub fn anything() -> Self {
        Self::permitting([
            IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
        ])
    }

    /// What the settings of `http.request` permit.
    pub fn of(settings: &HttpRequestSettings) -> Self {
        if settings.allow_private {
            return Self::anything();
        }
        let networks = settings.allow_hosts.iter().filter_map(|host| match host {
            AllowedHost::Network(network) => Some(*network),
            AllowedHost::Name(_) | AllowedHost::Suffix(_) => None,
        });
        Self {
            listed: settings.allow_hosts.clone().into(),
            ..Self::permitting(networks)
        }
    }

    pub fn check(&self, ip: IpAddr) -> Result<(), RefusedAddress> {
        match special(ip) {
            Some(range) if !self.permitted.iter().any(|net| net.contains(&ip)) => Err(RefusedAddress(range)),
            _ => Ok(()),
        }
    }

    /// Checks an address to which a name was resolved.
    pub fn check_resolved(&self, name: &str, ip: IpAddr) -> Result<(), RefusedAddress> {
        self.check(ip).or_else(|refused| {
            let is_permitted =
                INNER.contains(&refused.0) && self.listed.iter().any(|host| host.matches_name(name));
            if is_permitted { Ok(()) } else { Err(refused) }
        })
    }

    /// Checks what can be known of a URL without resolving its name: a host that is an address, and the names that mean this
    /// machine (RFC 6761, section 6.3). Other names are checked where they are resolved.
    ///
    /// The `url` crate reads every spelling that a resolver would (`0x7f.1`, `2130706433`, `017700000001`) as the
    /// address it means, so there is only one spelling left to check.
    pub fn check_url(&self, url: &Url) -> Result<(), RefusedAddress> {
        match url.host() {
            Some(Host::Ipv4(ip)) => self.check(ip.into()),
            Some(Host::Ipv6(ip)) => self.check(ip.into()),
            Some(Host::Domain(name)) if is_this_machine(name) => self
                .check_resolved(name, Ipv4Addr::LOCALHOST.into())
                .or_else(|_| self.check_resolved(name, Ipv6Addr::LOCALHOST.into())),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }
}

fn is_this_machine(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> Option<&'static str> {
        AddressPolicy::public_only()
            .check(address.parse().unwrap())
            .err()
            .map(|RefusedAddress(range)| range)
    }

    #[test]
    fn the_public_internet_is_reachable() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2a00:1450:4001::1",
            "3ffe::1",
        ] {
            assert_eq!(refused(address), None, "{address}");
        }
    }

    #[test]
    fn every_special_range_is_refused_from_its_first_address_to_its_last() {
        for (address, range) in [
            ("0.0.0.0", "an unspecified address"),
            ("0.255.255.255", "an unspecified address"),
            ("10.0.0.0", "a private address"),
            ("10.255.255.255", "a private address"),
            ("100.64.0.0", "a carrier-grade NAT address"),
            ("100.127.255.255", "a carrier-grade NAT address"),
            ("127.0.0.1", "a loopback address"),
            ("127.255.255.255", "a loopback address"),
            ("169.254.169.254", "a link-local address"),
            ("172.16.0.0", "a private address"),
            ("172.31.255.255", "a private address"),
            ("192.0.0.1", "a protocol assignment"),
            ("192.0.2.1", "a documentation address"),
            ("192.88.99.1", "a 6to4 relay address"),
            ("192.168.255.255", "a private address"),
            ("198.19.255.255", "a benchmarking address"),
            ("198.51.100.1", "a documentation address"),
            ("203.0.113.1", "a documentation address"),
            ("224.0.0.1", "a multicast address"),
            ("239.255.255.255", "a multicast address"),
            ("240.0.0.1", "a reserved address"),
            ("255.255.255.255", "a reserved address"),
            ("::", "an unspecified address"),
            ("::1", "a loopback address"),
            ("::ffff:127.0.0.1", "an IPv4-mapped address"),
            ("::ffff:8.8.8.8", "an IPv4-mapped address"),
            ("::7f00:1", "an IPv4-compatible address"),
            ("64:ff9b::7f00:1", "a NAT64 address"),
            ("64:ff9b:1::a00:1", "a NAT64 address"),
            ("100::1", "a discard-only address"),
            ("2001:0:53aa:64c::1", "a Teredo address"),
            ("2001:2::1", "a protocol assignment"),
            ("2001:20::1", "a protocol assignment"),
            ("2001:db8::1", "a documentation address"),
            ("2002:7f00:1::", "a 6to4 address"),
            ("3fff::1", "a documentation address"),
            ("5f00::1", "a reserved address"),
            ("fc00::1", "a private address"),
            ("fdff:ffff::1", "a private address"),
            ("fe80::1", "a link-local address"),
            ("fec0::1", "a site-local address"),
            ("ff02::1", "a multicast address"),
        ] {
            assert_eq!(refused(address), Some(range), "{address}");
        }
    }

    fn listing(hosts: &[&str]) -> AddressPolicy {
        AddressPolicy::of(&HttpRequestSettings {
            allow_private: false,
            allow_hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            max_response_bytes: 0,
            max_redirects: 0,
        })
    }

    #[test]
    fn a_listed_name_leads_to_private_networks_and_to_no_other_special_range() {
        let policy = listing(&["*.railway.internal", "10.0.0.5"]);
        for (name, address, is_permitted) in [
            ("api.railway.internal", "fd12::1", true),
            ("api.railway.internal", "10.0.0.1", true),
            ("api.railway.internal", "100.64.0.1", true),
            ("api.railway.internal", "127.0.0.1", true),
            ("api.railway.internal", "8.8.8.8", true),
            ("api.railway.internal", "169.254.169.254", false),
            ("api.railway.internal", "fe80::1", false),
            ("api.railway.internal", "::ffff:10.0.0.1", false),
            ("api.railway.internal", "0.0.0.0", false),
            ("railway.internal", "fd12::1", false),
            ("evil.example", "10.0.0.1", false),
            // A listed address may be reached by any name.
            ("evil.example", "10.0.0.5", true),
        ] {
            let checked = policy.check_resolved(name, address.parse().unwrap());
            assert_eq!(checked.is_ok(), is_permitted, "{name} {address}");
        }
    }

    #[test]
    fn a_url_is_refused_before_a_look_up_where_its_host_says_enough() {
        let url = |host: &str| Url::parse(&format!("http://{host}:8080/x")).unwrap();
        for (listed, host, is_permitted) in [
            (&[][..], "0x7f.1", false),
            (&[], "2130706433", false),
            (&[], "[::ffff:10.0.0.1]", false),
            (&[], "localhost", false),
            (&[], "LOCALHOST.", false),
            (&[], "a.localhost", false),
            (&[], "localhost.example.com", true),
            (&[], "api.railway.internal", true),
            (&["localhost"], "localhost", true),
            (&["localhost"], "127.0.0.1", false),
            (&["127.0.0.1"], "localhost", true),
            (&["::1"], "localhost", true),
            (&["*.localhost"], "a.localhost", true),
            (&["*.localhost"], "localhost", false),
            (&["10.0.0.0/8"], "0x0a000001", true),
            (&["10.0.0.0/8"], "11.0.0.1", true),
            (&["10.0.0.0/8"], "192.168.0.1", false),
        ] {
            let checked = listing(listed).check_url(&url(host));
            assert_eq!(checked.is_ok(), is_permitted, "{listed:?} {host}");
        }
    }

    #[test]
    fn a_permitted_range_opens_itself_alone() {
        let policy = AddressPolicy::permitting(["10.1.0.0/16".parse().unwrap()]);
        assert_eq!(policy.check("10.1.2.3".parse().unwrap()), Ok(()));
        assert!(policy.check("10.2.2.3".parse().unwrap()).is_err());
        assert!(policy.check("::1".parse().unwrap()).is_err());
        for address in ["127.0.0.1", "::1", "10.2.3.4", "fd00::1", "8.8.8.8"] {
            assert_eq!(
                AddressPolicy::anything().check(address.parse().unwrap()),
                Ok(()),
                "{address}"
            );
        }
    }
}
