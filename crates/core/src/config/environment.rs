//! What the environment says: conventional names, `HOLDFAST__SECTION__KEY`, and what platforms offer.
//!
//! - `HOLDFAST__SECTION__KEY` sets any setting and wins over a conventional name for the same one.
//! - Conventional names (`DATABASE_URL`, `REDIS_URL`, …) come next. Both win over the file.
//! - Pieces that a platform offers (`PGHOST`, `REDISHOST`, `RAILWAY_ENVIRONMENT_NAME`) only fill in what nobody
//!   else says: they are there whether or not somebody meant them.
//!
//! In development, `.env` adds variables that the process does not have (`dotenv.rs`).
//!
//! A variable that is set but empty counts as not set: that is what a reference to a missing service becomes.

use std::collections::{BTreeMap, BTreeSet};

use config::ValueKind;
use url::Url;

use super::dotenv;
use super::fault::{ConfigFault, nearest};
use super::layers::{Layer, misnamed};
use super::schema::{Schema, misnamed_queue, template_path};

/// Prefix of the names that reach every setting.
pub(super) const PREFIX: &str = "HOLDFAST__";

/// The path of the configuration file, which is no setting.
pub(super) const CONFIG_FILE_VARIABLE: &str = "HOLDFAST_CONFIG";

/// Which service a process runs when its command line names none, which is no setting of a service.
pub(super) const ROLE_VARIABLE: &str = "HOLDFAST_ROLE";

/// Which API the command line talks to, which is no setting of a service.
const CLI_TARGET_VARIABLE: &str = "HOLDFAST_URL";

/// Where a debug build shall die, which is no setting: see [`crate::failpoint`].
pub(super) const FAILPOINT_VARIABLE: &str = "HOLDFAST_FAILPOINT";

/// The variable by which every setting is reached.
pub(super) fn generic_variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_uppercase().replace('.', "__"))
}

/// The variables of one process.
pub(super) struct Variables<'a> {
    variables: &'a BTreeMap<String, String>,
    from_dotenv: &'a BTreeSet<String>,
}

impl<'a> Variables<'a> {
    pub(super) fn new(variables: &'a BTreeMap<String, String>, from_dotenv: &'a BTreeSet<String>) -> Self {
        Self {
            variables,
            from_dotenv,
        }
    }

    /// A variable, as faults name it.
    fn origin(&self, name: &str) -> String {
        match self.place(name) {
            dotenv::FILE => format!("{name} in {}", dotenv::FILE),
            _ => name.to_owned(),
        }
    }

    /// Where a variable is set, as faults name it.
    fn place(&self, name: &str) -> &'static str {
        if self.from_dotenv.contains(name) {
            dotenv::FILE
        } else {
            "the environment"
        }
    }

    /// The value without surrounding blanks; `None` if there is nothing else in it.
    fn get(&self, name: &str) -> Option<&'a str> {
        self.variables
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// What was said on purpose: it wins over the file.
    pub(super) fn layer(&self, schema: &Schema, faults: &mut Vec<ConfigFault>) -> Layer {
        let mut layer = Layer::default();
        // Later entries win, so the strongest name of a setting comes last.
        for setting in schema.declarations() {
            for name in setting.variables.iter().rev() {
                if let Some(text) = self.get(name) {
                    read_into(
                        &mut layer,
                        &setting.path,
                        &self.origin(name),
                        text,
                        schema,
                        faults,
                    );
                }
            }
        }
        for name in self.variables.keys().filter(|name| name.starts_with("HOLDFAST_")) {
            let Some(text) = self.get(name) else { continue };
            match path_of(name).filter(|path| schema.default_of(path).is_some()) {
                Some(path) => read_into(&mut layer, &path, &self.origin(name), text, schema, faults),
                None => faults.extend(misspelt(name, self.place(name), schema)),
            }
        }
        layer
    }

    /// What the platform offers unasked: the file and every variable that means a setting win over it.
    pub(super) fn platform_layer(&self) -> Layer {
        let mut layer = Layer::default();
        if self.get("RAILWAY_ENVIRONMENT_NAME").is_some() {
            let production = ValueKind::String("production".to_owned());
            layer.insert("environment", production, "RAILWAY_ENVIRONMENT_NAME");
            // Every request to a Railway service comes through its edge.
            layer.insert(
                "server.trusted_proxies",
                ValueKind::I64(1),
                "RAILWAY_ENVIRONMENT_NAME",
            );
        }
        if let Some(url) = self.postgres_url() {
            layer.insert("database.url", ValueKind::String(url.into()), "PGHOST");
        }
        if let Some(url) = self.redis_url() {
            layer.insert("redis.url", ValueKind::String(url.into()), "REDISHOST");
        }
        layer
    }

    /// Both the host and the database must be named: a lone PGHOST is somebody's psql, not a service's database.
    fn postgres_url(&self) -> Option<Url> {
        let (host, database) = (self.get("PGHOST")?, self.get("PGDATABASE")?);
        let server = Server {
            host,
            port: self.get("PGPORT"),
            user: self.get("PGUSER").unwrap_or("postgres"),
            password: self.get("PGPASSWORD"),
        };
        let mut url = server.url("postgres")?;
        url.set_path(database);
        if let Some(mode) = self.get("PGSSLMODE") {
            url.query_pairs_mut().append_pair("sslmode", mode);
        }
        Some(url)
    }

    fn redis_url(&self) -> Option<Url> {
        let server = Server {
            host: self.get("REDISHOST")?,
            port: self.get("REDISPORT"),
            user: self.get("REDISUSER").unwrap_or_default(),
            password: self.get("REDISPASSWORD").or_else(|| self.get("REDIS_PASSWORD")),
        };
        server.url("redis")
    }
}

/// A server in pieces.
struct Server<'a> {
    host: &'a str,
    port: Option<&'a str>,
    user: &'a str,
    password: Option<&'a str>,
}

impl Server<'_> {
    /// `None` where the pieces make no URL.
    fn url(&self, scheme: &str) -> Option<Url> {
        let bare_ipv6 = self.host.contains(':') && !self.host.starts_with('[');
        let host = if bare_ipv6 {
            format!("[{}]", self.host)
        } else {
            self.host.to_owned()
        };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let mut url = Url::parse(&format!("{scheme}://{host}{port}")).ok()?;
        url.set_username(self.user).ok()?;
        url.set_password(self.password).ok()?;
        Some(url)
    }
}

/// `HOLDFAST__WORKER__BATCH_SIZE` → `worker.batch_size`.
fn path_of(name: &str) -> Option<String> {
    Some(name.strip_prefix(PREFIX)?.to_lowercase().replace("__", "."))
}

/// A `HOLDFAST_…` variable that sets nothing. Those that are not near any name may belong to somebody else.
fn misspelt(name: &str, place: &str, schema: &Schema) -> Option<ConfigFault> {
    let known: Vec<&str> = schema
        .declarations()
        .flat_map(|setting| setting.variables)
        .copied()
        .filter(|known| known.starts_with("HOLDFAST_"))
        .chain([
            CONFIG_FILE_VARIABLE,
            FAILPOINT_VARIABLE,
            CLI_TARGET_VARIABLE,
            ROLE_VARIABLE,
        ])
        .collect();
    if known.contains(&name) {
        return None;
    }
    let generic: Vec<String> = schema
        .paths_near(
            &name
                .to_lowercase()
                .trim_start_matches("holdfast__")
                .replace("__", "."),
        )
        .iter()
        .map(|path| generic_variable(path))
        .collect();
    let is_ours = name.starts_with(PREFIX);
    let candidates = known.into_iter().chain(generic.iter().map(String::as_str));
    let meant = nearest(name, candidates);
    if !is_ours && meant.is_none() {
        return None;
    }
    Some(ConfigFault {
        setting: name.to_owned(),
        source: place.to_owned(),
        problem: "this variable sets nothing".to_owned(),
        fix: match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("unset it, or name a setting: {PREFIX}SECTION__KEY"),
        },
    })
}

/// Reads a variable's text as the type its setting has.
fn read_into(
    layer: &mut Layer,
    path: &str,
    name: &str,
    text: &str,
    schema: &Schema,
    faults: &mut Vec<ConfigFault>,
) {
    if let Some(queue) = misnamed_queue(path) {
        faults.push(misnamed(path, queue, name));
        return;
    }
    let Some(default) = schema.default_of(&template_path(path)) else {
        return;
    };
    match parse(text, default) {
        Ok(kind) => layer.insert(path, kind, name),
        Err(expected) => faults.push(ConfigFault {
            setting: path.to_owned(),
            source: name.to_owned(),
            problem: format!("{text:?} is not {expected}"),
            fix: format!("set it to {expected}, such as the default {default}"),
        }),
    }
}

/// The value, or what was expected. No secret is of a type that can fail here.
fn parse(text: &str, like: &ValueKind) -> Result<ValueKind, &'static str> {
    match like {
        ValueKind::Boolean(_) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(ValueKind::Boolean(true)),
            "false" | "0" | "no" | "off" => Ok(ValueKind::Boolean(false)),
            _ => Err("true or false"),
        },
        ValueKind::I64(_) | ValueKind::Float(_) => parse_number(text).ok_or("a number"),
        ValueKind::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(items.map(str::to_owned).collect::<Vec<_>>().into())
        }
        _ => Ok(ValueKind::String(text.to_owned())),
    }
}

fn parse_number(text: &str) -> Option<ValueKind> {
    let whole = text.parse().ok().map(ValueKind::I64);
    whole.or_else(|| text.parse().ok().map(ValueKind::Float))
}
