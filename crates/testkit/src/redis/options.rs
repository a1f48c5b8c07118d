//! How a test's Redis server is set up.

use std::fmt::Write as _;

/// What survives a restart of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing.
    #[default]
    None,
    /// Every acknowledged write (`appendfsync always`).
    AofAlways,
    /// What the kernel was given: all of it after SIGKILL, up to a second less after a power cut.
    AofEverysec,
    /// The last snapshot; a graceful end writes one, SIGKILL does not.
    Rdb,
}

/// `maxmemory-policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    NoEviction,
    AllKeysLru,
    AllKeysLfu,
    AllKeysRandom,
    VolatileLru,
    VolatileTtl,
}

impl Eviction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoEviction => "noeviction",
            Self::AllKeysLru => "allkeys-lru",
            Self::AllKeysLfu => "allkeys-lfu",
            Self::AllKeysRandom => "allkeys-random",
            Self::VolatileLru => "volatile-lru",
            Self::VolatileTtl => "volatile-ttl",
        }
    }
}

/// The settings a server starts with, and returns to at every restart. The default persists nothing, has no
/// memory limit and no password.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    persistence: Persistence,
    maxmemory: Option<(u64, Eviction)>,
    pub(super) password: Option<String>,
    extra: Vec<(String, String)>,
    /// Run as a Sentinel.
    pub(super) sentinel: bool,
    /// A cluster of this node alone.
    pub(super) lone_cluster: bool,
}

impl RedisOptions {
    pub fn persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    pub fn maxmemory(mut self, bytes: u64, policy: Eviction) -> Self {
        self.maxmemory = Some((bytes, policy));
        self
    }

    /// `requirepass`; one word without quotes or spaces.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Any other line of redis.conf.
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.extra.push((name.into(), value.into()));
        self
    }

    /// A Sentinel instead of a server that holds data.
    pub(super) fn sentinel(mut self) -> Self {
        self.sentinel = true;
        self
    }

    /// Makes it a cluster of one node, which owns every slot, unless it is part of something already.
    pub(super) fn with_every_slot(mut self) -> Self {
        const PARTS: [&str; 4] = ["cluster-enabled", "databases", "replica-priority", "replicaof"];
        let is_part = self.extra.iter().any(|(name, _)| PARTS.contains(&name.as_str()));
        if !self.sentinel && !is_part {
            self.lone_cluster = true;
            self = self.config("cluster-enabled", "yes");
        }
        self
    }

    pub(super) fn persists(&self) -> bool {
        self.persistence != Persistence::None
    }

    pub(super) fn has_aof(&self) -> bool {
        matches!(
            self.persistence,
            Persistence::AofAlways | Persistence::AofEverysec
        )
    }

    /// The text of redis.conf.
    pub(super) fn render(&self, port: u16, data_dir: &str) -> String {
        let mut conf =
            format!("bind 127.0.0.1\nport {port}\ndaemonize no\nprotected-mode no\ndir \"{data_dir}\"\n");
        conf.push_str(match self.persistence {
            Persistence::None => "save \"\"\nappendonly no\n",
            Persistence::AofAlways => "save \"\"\nappendonly yes\nappendfsync always\n",
            Persistence::AofEverysec => "save \"\"\nappendonly yes\nappendfsync everysec\n",
            Persistence::Rdb => "save 60 1\nappendonly no\n",
        });
        if let Some((bytes, policy)) = self.maxmemory {
            let _ = write!(conf, "maxmemory {bytes}\nmaxmemory-policy {}\n", policy.as_str());
        }
        if let Some(password) = &self.password {
            let _ = writeln!(conf, "requirepass {password}");
        }
        for (name, value) in &self.extra {
            let _ = writeln!(conf, "{name} {value}");
        }
        conf
    }
}
