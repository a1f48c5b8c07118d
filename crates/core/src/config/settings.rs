//! The settings of a Holdfast process, as parsed and checked values.
//!
//! A value of [`Settings`] exists only if every setting in it is sound: [`super::load`] reports all faults at once and returns
//! nothing otherwise.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::declare::{Section, choice, secret};
use super::reader::Reader;
use super::sections::{
    AuditSettings, AuthSettings, BeatSettings, CacheSettings, ConsoleSettings, DatabaseSettings,
    HttpRequestSettings, JobsSettings, KindSettings, LogSettings, MetricsSettings, QueueSettings,
    RateLimitSettings, RedisSettings, ScheduleSettings, ServedBy, ServerSettings, TracesSettings,
    WorkerSettings, queues,
};
use super::{conflicts, tables};
use crate::encryption::{Encryption, InvalidKeys};
use crate::settings;

/// Where the process runs; production refuses what is merely convenient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    Development,
    Production,
}

const ENVIRONMENTS: [(&str, Environment); 2] = [
    ("development", Environment::Development),
    ("production", Environment::Production),
];

settings! {
    [""]
    /// Everything a Holdfast process can be told.
    #[derive(Debug, Clone)]
    pub struct Settings {
        /// Where the process runs: "development" or "production". On Railway the default is production. In production a service
        /// does not start without an API key and a configured database.
        environment: Environment = choice("development", &ENVIRONMENTS).variables(&["HOLDFAST_ENV"]).then(note_environment);
        /// Keys as ID:KEY,ID:KEY…, a secret: an id is 1 to 32 of a-z, 0-9 and -, a key is 32 bytes in base64 (openssl rand -base64
        /// 32). The first key encrypts, all of them decrypt. Every process needs all keys that stored values name. Empty: nothing
        /// is encrypted.
        encryption: Encryption = secret().named("encryption.keys").variables(&["HOLDFAST_ENCRYPTION_KEYS"]).then(encryption);
    }
    sections {
        server: ServerSettings;
        database: DatabaseSettings;
        redis: RedisSettings;
        cache: CacheSettings;
        jobs: JobsSettings;
        queue_defaults: QueueSettings;
        worker: WorkerSettings;
        beat: BeatSettings;
        http_request: HttpRequestSettings;
        audit: AuditSettings;
        auth: AuthSettings;
        rate_limit: RateLimitSettings;
        metrics: MetricsSettings;
        traces: TracesSettings;
        console: ConsoleSettings;
        log: LogSettings;
    }
    and {
        /// `[queues.NAME]`, each with the defaults where it sets nothing.
        queues: BTreeMap<String, QueueSettings> = queues;
        /// `[schedules.NAME]`.
        schedules: BTreeMap<String, ScheduleSettings> = tables::schedules;
        /// `[kinds."NAME"]`.
        kinds: BTreeMap<String, KindSettings> = tables::kinds;
        /// The platform of a process in development mode whose environment was not set. It serves this machine alone.
        undeclared_platform: Option<&'static str> = |_: &mut Reader<'_>| None;
        /// See [`Settings::section`].
        products: ProductSettings = |_: &mut Reader<'_>| ProductSettings::default();
    }
    check = conflicts::check;
}

fn note_environment(reader: &mut Reader<'_>, _: &str, environment: Environment) -> Environment {
    reader.note_environment(environment);
    environment
}

fn encryption(reader: &mut Reader<'_>, path: &str, keys: Option<SecretString>) -> Encryption {
    let Some(text) = keys else {
        return Encryption::default();
    };
    text.expose_secret().parse().unwrap_or_else(|fault: InvalidKeys| {
        let fix = format!(
            "set {} to ID:KEY,ID:KEY… with ids of a-z, 0-9 and -, and keys of 32 bytes in base64: openssl rand -base64 32",
            reader.variable_of(path)
        );
        reader.fault_once(path, || (fault.to_string(), fix));
        Encryption::default()
    })
}

/// The sections of products, by their types.
#[derive(Clone, Default)]
pub struct ProductSettings(BTreeMap<TypeId, Arc<dyn Any + Send + Sync>>);

/// How many only: the types that are known here have no names.
impl fmt::Debug for ProductSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProductSettings").field(&self.0.len()).finish()
    }
}

impl ProductSettings {
    pub(super) fn insert(&mut self, (id, section): (TypeId, Arc<dyn Any + Send + Sync>)) {
        self.0.insert(id, section);
    }
}

impl Settings {
    /// The settings of a product. Its defaults where it was not among the sections that were loaded: then every value of it in the
    /// sources was refused as unknown, so the defaults are what is set.
    pub fn section<S: Section>(&self) -> S {
        let found = self.products.0.get(&TypeId::of::<S>());
        let found = found.and_then(|section| section.downcast_ref::<S>());
        found.cloned().unwrap_or_else(super::defaults_of)
    }

    /// The same settings with another section of a product.
    #[must_use]
    pub fn with_section<S: Section>(mut self, section: S) -> Self {
        self.products.insert((TypeId::of::<S>(), Arc::new(section)));
        self
    }

    /// The directory an embedded SQLite database lives in, if the database is embedded.
    pub fn embedded_path(&self) -> Option<PathBuf> {
        self.database
            .url
            .expose_secret()
            .strip_prefix("sqlite://")
            .map(|rest| PathBuf::from(rest.split('?').next().unwrap_or(rest)))
    }

    pub fn is_production(&self) -> bool {
        self.environment == Environment::Production
    }

    /// Whether this process has to serve loopback alone, because it runs on a platform and its environment was not set. The log
    /// says so.
    pub fn report_undeclared_platform(&self) -> bool {
        let Some(platform) = self.undeclared_platform else {
            return false;
        };
        tracing::warn!(
            "this process runs on {platform} and HOLDFAST_ENV is not set: it listens on loopback only; set \
             HOLDFAST_ENV=production, or HOLDFAST_ENV=development to serve other machines in development mode"
        );
        true
    }

    /// The queues this worker process serves, by name. Those of pull workers are none of them.
    pub fn served_queues(&self) -> impl Iterator<Item = (&String, &QueueSettings)> {
        self.queues
            .iter()
            .filter(|(_, queue)| queue.served_by == ServedBy::Rust)
            .filter(|(name, _)| self.worker.queues.is_empty() || self.worker.queues.contains(name))
    }
}
