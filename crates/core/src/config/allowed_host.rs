//! One entry of `http_request.allow_hosts`: a host of a private network that jobs may call.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use url::Host;

/// Which hosts an entry permits. Names are in their ASCII form, in lower case, without a final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedHost {
    /// A host of exactly this name.
    Name(String),
    /// Every host below this name: `*.railway.internal` is stored as `railway.internal`.
    Suffix(String),
    /// Every address of a network; a single address is a network of one.
    Network(IpNet),
}

/// A text is no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAllowedHost(&'static str);

impl AllowedHost {
    /// Whether a name of this entry is meant. A URL's name is in its ASCII form and in lower case already.
    pub fn matches_name(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        match self {
            Self::Name(own) => own == name,
            Self::Suffix(suffix) => name
                .strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Self::Network(_) => false,
        }
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*.{suffix}"),
            Self::Network(network) => network.fmt(f),
        }
    }
}

impl FromStr for AllowedHost {
    type Err = InvalidAllowedHost;

    fn from_str(text: &str) -> Result<Self, InvalidAllowedHost> {
        if text.trim_matches(['*', '.']).is_empty() {
            return Err(InvalidAllowedHost("it names no host"));
        }
        if text.contains('/') {
            return network(text).map(Self::Network);
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            return match host(suffix)? {
                Host::Domain(suffix) => Ok(Self::Suffix(suffix)),
                Host::Ipv4(_) | Host::Ipv6(_) => Err(InvalidAllowedHost(
                    "a * before an address means nothing: give a network",
                )),
            };
        }
        Ok(match host(text)? {
            Host::Domain(name) => Self::Name(name),
            Host::Ipv4(address) => Self::Network(IpAddr::from(address).into()),
            Host::Ipv6(address) => Self::Network(IpAddr::from(address).into()),
        })
    }
}

fn network(text: &str) -> Result<IpNet, InvalidAllowedHost> {
    let network: IpNet = text
        .parse()
        .map_err(|_| InvalidAllowedHost("it is neither a host nor a network"))?;
    if network.trunc() != network {
        return Err(InvalidAllowedHost(
            "the address has bits beyond the length of its prefix",
        ));
    }
    Ok(network)
}

/// As URLs read it: in every spelling of an address.
fn host(text: &str) -> Result<Host, InvalidAllowedHost> {
    if let Ok(address) = text.parse::<std::net::Ipv6Addr>() {
        return Ok(Host::Ipv6(address));
    }
    let invalid = InvalidAllowedHost("it is neither a host nor a network");
    match Host::parse(text) {
        Ok(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(&name);
            let is_label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            };
            if name.len() <= 253 && name.split('.').all(is_label) {
                Ok(Host::Domain(name.to_owned()))
            } else {
                Err(invalid)
            }
        }
        Ok(address) => Ok(address),
        Err(_) => Err(invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<String> {
        text.parse::<AllowedHost>().ok().map(|host| host.to_string())
    }

    #[test]
    fn an_entry_is_a_name_a_suffix_an_address_or_a_network() {
        for (text, meant) in [
            ("db", "db"),
            ("API.Railway.Internal.", "api.railway.internal"),
            ("*.railway.internal", "*.railway.internal"),
            ("*.Bücher.internal", "*.xn--bcher-kva.internal"),
            ("10.0.0.5", "10.0.0.5/32"),
            ("0x0a.5", "10.0.0.5/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("fd00::1", "fd00::1/128"),
            ("[fd00::1]", "fd00::1/128"),
            ("fd00::/8", "fd00::/8"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(meant), "{text}");
        }
    }

    #[test]
    fn what_names_no_host_is_refused() {
        for text in [
            "",
            "*",
            "*.",
            ".",
            "*.*",
            "a.*",
            "*a.internal",
            "*.*.internal",
            "*.10.0.0.5",
            "http://db",
            "db:8080",
            "db/",
            "user@db",
            "a b",
            "a..b",
            "10.0.0.5/8",
            "10.0.0.0/33",
            "999.0.0.1",
        ] {
            assert!(text.parse::<AllowedHost>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_suffix_means_hosts_below_it_and_not_itself() {
        let suffix: AllowedHost = "*.railway.internal".parse().unwrap();
        for (name, matches) in [
            ("api.railway.internal", true),
            ("api.railway.internal.", true),
            ("a.b.railway.internal", true),
            ("railway.internal", false),
            (".railway.internal", false),
            ("evilrailway.internal", false),
            ("api.railway.internal.example.com", false),
        ] {
            assert_eq!(suffix.matches_name(name), matches, "{name}");
        }
        let name: AllowedHost = "db".parse().unwrap();
        assert!(name.matches_name("db") && name.matches_name("db.") && !name.matches_name("a.db"));
    }
}
