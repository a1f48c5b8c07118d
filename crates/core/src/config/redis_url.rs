//! The URL of Redis: one server, the nodes of a cluster, or the Sentinels that name a master.
//!
//! | URL | |
//! | --- | --- |
//! | `redis://[user:password@]host[:6379][/database]`, `unix:///path` | one server |
//! | `redis+cluster://[user:password@]host[:6379],…` | a cluster; any of its nodes, three or so |
//! | `redis+sentinel://[user:password@]host[:26379],…/service[/database]` | the Sentinels of a master |
//!
//! `rediss` instead of `redis` means TLS, to the Sentinels too. User and password are those of the servers that hold the
//! data; the Sentinels' own are the query parameters `sentinel_user` and `sentinel_password`. Whatever a URL cannot hold
//! is percent-encoded. All other query parameters are those of redis-rs (`protocol=resp3`).
//!
//! The texts of the errors contain nothing of the URL, which holds a password.

use std::fmt;

use url::Url;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
/// More hosts than this in a URL are a mistake: the rest of a cluster is found through any of them.
const MOST_HOSTS: usize = 32;

const SENTINEL_USER: &str = "sentinel_user";
const SENTINEL_PASSWORD: &str = "sentinel_password";

/// What stands behind the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisLayout {
    Server,
    Cluster,
    Sentinel {
        /// The name under which the Sentinels watch the master.
        service: String,
    },
}

/// A URL of Redis, taken apart. Its `Debug` shows no credentials.
#[derive(Clone)]
pub struct RedisUrl {
    layout: RedisLayout,
    /// One for each host of the URL, as URLs of single servers.
    hosts: Vec<Url>,
    /// A server that holds data: its login, its database, and the first host.
    data: Url,
}

impl RedisUrl {
    /// # Errors
    /// The problem, in words that contain nothing of the URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Self::single(text);
        };
        match scheme {
            "redis+cluster" => Self::cluster("redis", rest),
            "rediss+cluster" => Self::cluster("rediss", rest),
            "redis+sentinel" => Self::sentinel("redis", rest),
            "rediss+sentinel" => Self::sentinel("rediss", rest),
            _ => Self::single(text),
        }
    }

    fn single(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("the Redis URL cannot be used: {error}"))?;
        let database = url.path().trim_start_matches('/');
        match url.scheme() {
            "redis" | "rediss" if url.host_str().is_some_and(|host| host.contains(',')) => {
                Err("the Redis URL names several hosts, which needs redis+cluster:// or redis+sentinel://".to_owned())
            }
            "redis" | "rediss" if url.host_str().is_none_or(str::is_empty) => {
                Err("the Redis URL names no host".to_owned())
            }
            "redis" | "rediss" if !database.is_empty() && database.parse::<u16>().is_err() => {
                Err("the path of the Redis URL is not a database number".to_owned())
            }
            "unix" if database.is_empty() => Err("the Redis URL names no socket".to_owned()),
            "redis" | "rediss" | "unix" => Ok(Self {
                layout: RedisLayout::Server,
                hosts: vec![url.clone()],
                data: url,
            }),
            _ => Err(
                "the Redis URL must start with redis://, rediss://, redis+cluster://, redis+sentinel:// or unix://"
                    .to_owned(),
            ),
        }
    }

    fn cluster(scheme: &str, rest: &str) -> Result<Self, String> {
        let parts = Parts::of(rest);
        if !matches!(parts.path, "" | "0") {
            return Err(
                "the URL of a Redis Cluster has a path, but a cluster has only database 0".to_owned(),
            );
        }
        let hosts = parts.hosts(|host| {
            let url = format!("{scheme}://{}{host}/?{}", parts.login, parts.query);
            url_of(&url, REDIS_PORT)
        })?;
        Ok(Self {
            layout: RedisLayout::Cluster,
            data: hosts[0].clone(),
            hosts,
        })
    }

    fn sentinel(scheme: &str, rest: &str) -> Result<Self, String> {
        let parts = Parts::of(rest);
        let (service, database) = parts.path.split_once('/').unwrap_or((parts.path, ""));
        if service.is_empty() {
            return Err("the URL of the Sentinels names no service".to_owned());
        }
        if !database.is_empty() && database.parse::<u16>().is_err() {
            return Err("the path of the Sentinels' URL does not end in a database number".to_owned());
        }
        let (own, others) = parts.sentinel_login()?;
        let hosts = parts.hosts(|host| {
            let mut url = url_of(&format!("{scheme}://{host}"), SENTINEL_PORT)?;
            url.set_username(&own.user).map_err(|()| cannot_be_used())?;
            url.set_password(own.password.as_deref())
                .map_err(|()| cannot_be_used())?;
            Ok(url)
        })?;
        let first = parts.authority.split(',').next().unwrap_or_default();
        let data = format!("{scheme}://{}{first}/{database}?{others}", parts.login);
        Ok(Self {
            layout: RedisLayout::Sentinel {
                service: decoded(service)?,
            },
            hosts,
            data: url_of(&data, REDIS_PORT)?,
        })
    }

    pub fn layout(&self) -> &RedisLayout {
        &self.layout
    }

    /// A URL of a single server for each host, which holds the login for it. Secrets.
    pub(crate) fn hosts(&self) -> &[Url] {
        &self.hosts
    }

    /// The URL of a server that holds data. Its host is right only for a single server. A secret.
    pub(crate) fn data(&self) -> &Url {
        &self.data
    }

    /// Hosts and ports, or the path of the socket: nothing secret.
    pub fn server(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(address).collect();
        let hosts = hosts.join(",");
        match &self.layout {
            RedisLayout::Sentinel { service } => format!("{hosts}/{service}"),
            RedisLayout::Server | RedisLayout::Cluster => hosts,
        }
    }

    /// Host and port of each host of the URL; none for a socket.
    pub fn addresses(&self) -> Vec<(String, u16)> {
        let pair = |url: &Url| Some((host(url)?, url.port().unwrap_or(REDIS_PORT)));
        self.hosts.iter().filter_map(pair).collect()
    }

    pub fn is_encrypted(&self) -> bool {
        self.data.scheme() == "rediss"
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisUrl")
            .field("layout", &self.layout)
            .field("server", &self.server())
            .finish_non_exhaustive()
    }
}

/// What follows the scheme of a URL with several hosts.
struct Parts<'a> {
    /// With its `@`, if there is one.
    login: String,
    /// The hosts, commas between them.
    authority: &'a str,
    /// Without the slashes around it.
    path: &'a str,
    query: &'a str,
}

/// The Sentinels' own login.
#[derive(Default)]
struct Login {
    user: String,
    password: Option<String>,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Self {
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, authority) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (format!("{login}@"), hosts),
            None => (String::new(), authority),
        };
        Self {
            login,
            authority,
            path: path.trim_matches('/'),
            query,
        }
    }

    fn hosts(&self, url: impl Fn(&str) -> Result<Url, String>) -> Result<Vec<Url>, String> {
        let hosts: Vec<&str> = self.authority.split(',').map(str::trim).collect();
        if hosts.iter().any(|host| host.is_empty()) {
            return Err("the Redis URL names an empty host".to_owned());
        }
        if hosts.len() > MOST_HOSTS {
            return Err(format!("the Redis URL names more than {MOST_HOSTS} hosts"));
        }
        hosts.into_iter().map(url).collect()
    }

    /// The Sentinels' login, and the query without it.
    fn sentinel_login(&self) -> Result<(Login, String), String> {
        let mut own = Login::default();
        let mut others = Vec::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((SENTINEL_USER, user)) => own.user = decoded(user)?,
                Some((SENTINEL_PASSWORD, password)) => own.password = Some(decoded(password)?),
                _ => others.push(pair),
            }
        }
        Ok((own, others.join("&")))
    }
}

/// A URL of a single server, with its port written out.
fn url_of(text: &str, port: u16) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("the Redis URL cannot be used: {error}"))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err("the Redis URL names no host".to_owned());
    }
    if url.port().is_none() {
        url.set_port(Some(port)).map_err(|()| cannot_be_used())?;
    }
    Ok(url)
}

fn host(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}

fn address(url: &Url) -> String {
    match url.host_str() {
        Some(host) if !host.is_empty() => format!("{host}:{}", url.port().unwrap_or(REDIS_PORT)),
        _ => url.path().to_owned(),
    }
}

/// Undoes the percent-encoding.
fn decoded(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let code = text.get(at + 1..at + 3).ok_or_else(cannot_be_used)?;
            plain.push(u8::from_str_radix(code, 16).map_err(|_| cannot_be_used())?);
            at += 3;
        } else {
            plain.push(byte);
            at += 1;
        }
    }
    String::from_utf8(plain).map_err(|_| cannot_be_used())
}

fn cannot_be_used() -> String {
    "the Redis URL cannot be used: its percent-encoding is broken".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> RedisUrl {
        RedisUrl::parse(url).unwrap()
    }

    #[test]
    fn a_cluster_has_several_hosts_and_one_login() {
        let url = parsed("rediss+cluster://user:p%40ss@a,b:7001,[::1]:7002/?protocol=resp3");
        assert_eq!(*url.layout(), RedisLayout::Cluster);
        assert_eq!(url.server(), "a:6379,b:7001,[::1]:7002");
        assert_eq!(url.addresses()[2], ("::1".to_owned(), 7002));
        assert!(url.is_encrypted());
        for host in url.hosts() {
            assert_eq!((host.username(), host.password()), ("user", Some("p%40ss")));
            assert_eq!(host.query(), Some("protocol=resp3"));
        }
    }

    #[test]
    fn sentinels_have_a_login_of_their_own() {
        let url = parsed(
            "redis+sentinel://app:data@s1,s2:26380/my%20master/3?sentinel_user=guard&sentinel_password=a%2Fb%40c&protocol=resp3",
        );
        assert_eq!(
            *url.layout(),
            RedisLayout::Sentinel {
                service: "my master".to_owned()
            }
        );
        assert_eq!(url.server(), "s1:26379,s2:26380/my master");
        let sentinel = &url.hosts()[0];
        assert_eq!(
            (sentinel.username(), sentinel.password()),
            ("guard", Some("a%2Fb%40c"))
        );
        let data = url.data();
        assert_eq!((data.username(), data.password()), ("app", Some("data")));
        assert_eq!((data.path(), data.query()), ("/3", Some("protocol=resp3")));
        let bare = parsed("redis+sentinel://:data@s1/main");
        assert_eq!(bare.hosts()[0].password(), None);
    }

    #[test]
    fn what_is_wrong_is_named_and_the_password_is_not() {
        for (url, problem) in [
            ("redis+cluster://:secret@/", "empty host"),
            ("redis+cluster://:secret@a,,b", "empty host"),
            ("redis+cluster://:secret@a:port", "cannot be used"),
            ("redis+cluster://:secret@a/3", "only database 0"),
            ("redis+sentinel://:secret@a,b", "names no service"),
            ("redis+sentinel://:secret@a/main/x", "database number"),
            (
                "redis+sentinel://a/main?sentinel_password=secret%",
                "percent-encoding",
            ),
            ("redis://:secret@a,b", "several hosts"),
            ("redis+other://:secret@a", "must start with"),
            ("http://:secret@a", "must start with"),
            ("redis://", "no host"),
            ("redis://:secret@a/x", "database number"),
            ("secret", "cannot be used"),
        ] {
            let told = RedisUrl::parse(url).unwrap_err();
            assert!(told.contains(problem), "{url}: {told}");
            assert!(!told.contains("secret"), "{told}");
        }
        let shown = format!("{:?}", parsed("redis+cluster://:secret@a,b"));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn one_server_stays_as_it_was() {
        assert_eq!(parsed("redis://:pw@host/1").server(), "host:6379");
        assert_eq!(parsed("unix:///run/redis.sock").server(), "/run/redis.sock");
        assert!(parsed("unix:///run/redis.sock").addresses().is_empty());
    }
}
