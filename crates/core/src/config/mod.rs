//! Configuration: declared defaults, then `holdfast.toml`, then the environment, which `.env` completes in development.
//!
//! The only place that reads the environment. A process loads its [`Settings`] once, before anything else; they
//! never change. If anything is wrong nothing starts: [`ConfigFaults`] tells every fault at once, each with the
//! setting, where its value came from, the problem and the fix, and the process ends with code 64. Unknown settings
//! are faults too, because a misspelt one would otherwise be a silent default. No secret appears in any of this.

mod allowed_host;
mod authorities;
mod conflicts;
pub mod declare;
mod docs;
mod dotenv;
mod environment;
mod fault;
mod layers;
mod limits;
mod platform;
mod reader;
mod redis_url;
mod schema;
mod sections;
mod settings;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

pub use allowed_host::{AllowedHost, InvalidAllowedHost};
pub use declare::{Declaration, ProductSection, Section, Setting};
pub use docs::{SettingDoc, settings_table};
pub use fault::{ConfigFault, ConfigFaults};
pub use limits::*;
pub use reader::Reader;
pub use redis_url::{RedisLayout, RedisUrl};
pub use sections::*;
pub use settings::{Environment, ProductSettings, Settings};

#[cfg(debug_assertions)]
use environment::FAILPOINT_VARIABLE;
use environment::{CONFIG_FILE_VARIABLE, ROLE_VARIABLE, Variables};
use layers::Layer;
pub use schema::is_queue_name;
use schema::{DEFAULTS_ORIGIN, Schema};
pub use tables::MAX_KIND_NAME;

/// The file that is read when [`CONFIG_FILE_VARIABLE`] names no other.
const CONFIG_FILE: &str = "holdfast.toml";

/// Queues that every program has.
const QUEUES: [&str; 4] = ["default", "events", "notifications", "ml"];

/// Names the origin of the queues that a program's kinds name.
const PROGRAM_ORIGIN: &str = "the program";

/// Where settings come from, apart from the defaults.
#[derive(Clone, Default)]
pub struct Sources {
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The configuration file: its path, as faults name it, and its text.
    pub file: Option<(PathBuf, String)>,
}

/// Names only: both hold secrets.
impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file.as_ref().map(|(path, _)| path);
        f.debug_struct("Sources")
            .field("env", &self.env.keys())
            .field("file", &file)
            .finish()
    }
}

/// The login under which this process runs, for the audit log; `unknown` where the environment does not tell.
pub fn login_name() -> String {
    let env = process_environment();
    ["USER", "LOGNAME", "USERNAME"]
        .iter()
        .find_map(|name| env.get(*name).filter(|login| !login.is_empty()))
        .map_or_else(|| "unknown".to_owned(), Clone::clone)
}

/// The service that this process is to run, in the words of `HOLDFAST_ROLE`; `None`: the variable is not set, or empty.
pub fn role() -> Option<String> {
    let role = process_environment().remove(ROLE_VARIABLE)?;
    let role = role.trim();
    (!role.is_empty()).then(|| role.to_owned())
}

/// What a program adds to the settings of the engine and its services.
#[derive(Debug, Clone, Copy, Default)]
pub struct Additions<'a> {
    /// The queues that its kinds name: one that no setting mentions exists with the defaults. The names must satisfy
    /// [`is_queue_name`].
    pub queues: &'a [&'a str],
    /// The sections of its products.
    pub sections: &'a [ProductSection],
}

/// Reads this process' environment, and `.env` and the configuration file of its working directory.
pub fn load(additions: Additions<'_>) -> Result<Settings, ConfigFaults> {
    let mut env = process_environment();
    platform::note_process(&mut env);
    let mut faults = Vec::new();
    let from_dotenv = dotenv::complete(&mut env, Path::new(dotenv::FILE));
    let from_dotenv = from_dotenv.unwrap_or_else(|fault| {
        faults.push(fault);
        BTreeSet::new()
    });
    let file = read_file(&env).unwrap_or_else(|fault| {
        faults.push(fault);
        None
    });
    assemble(Sources { env, file }, additions, &from_dotenv, faults)
}

/// One section as this process' environment words it (`HOLDFAST__SECTION__…`), and the defaults for the rest: for who asks
/// about one thing, and is not to be stopped by faults of another.
pub fn load_section(section: &str) -> Result<Settings, ConfigFaults> {
    let prefix = format!("{}{}__", environment::PREFIX, section.to_ascii_uppercase());
    let mut env = process_environment();
    env.retain(|name, _| name.starts_with(&prefix));
    load_from(Sources { env, file: None })
}

/// Reads given sources.
pub fn load_from(sources: Sources) -> Result<Settings, ConfigFaults> {
    load_from_with(sources, Additions::default())
}

/// Reads given sources for a program.
pub fn load_from_with(sources: Sources, additions: Additions<'_>) -> Result<Settings, ConfigFaults> {
    assemble(sources, additions, &BTreeSet::new(), Vec::new())
}

/// Every setting of the engine and its services, and those of products.
fn declarations(products: &[ProductSection]) -> Vec<Declaration> {
    let of_products = products.iter().flat_map(|section| (section.declarations)());
    Settings::declarations().into_iter().chain(of_products).collect()
}

/// From the sources to checked values. `from_dotenv`: the variables that the process' own environment does not have.
fn assemble(
    sources: Sources,
    additions: Additions<'_>,
    from_dotenv: &BTreeSet<String>,
    mut faults: Vec<ConfigFault>,
) -> Result<Settings, ConfigFaults> {
    let schema = Schema::of(declarations(additions.sections));
    let variables = Variables::new(&sources.env, from_dotenv);
    let mut stack = vec![
        Layer::of_defaults(&schema),
        Layer::of_queues(&QUEUES, DEFAULTS_ORIGIN),
        Layer::of_queues(additions.queues, PROGRAM_ORIGIN),
        variables.platform_layer(),
    ];
    if let Some((path, text)) = sources.file {
        stack.push(layers::of_file(&path, &text, &schema, &mut faults));
    }
    stack.push(variables.layer(&schema, &mut faults));
    // A layer that sets the environment chose it, even where it chose the default.
    let is_set = stack.iter().skip(1).any(|layer| layer.sets("environment"));
    let platform = platform::found(&sources.env).filter(|_| !is_set);
    let root = layers::merge(stack).map_err(|error| broken("the layers", error.to_string()))?;

    let mut reader = Reader::new(&root, &schema, faults);
    let mut settings = Settings::read(&mut reader);
    for section in additions.sections {
        settings.products.insert((section.read)(&mut reader));
    }
    settings.check(&mut reader, &settings);
    for section in additions.sections {
        (section.check)(&mut reader, &settings);
    }
    let mut settings = reader.finish(settings)?;
    settings.undeclared_platform = platform.filter(|_| !settings.is_production());
    let is_keyless = settings.server.api_key.is_none();
    settings.server.health_on_loopback =
        settings.undeclared_platform.is_some() || (is_keyless && !settings.is_production());
    Ok(settings)
}

/// A section where nothing is set. Its defaults are values that its readers take: a test of each section holds that.
fn defaults_of<S: Section>() -> S {
    let schema = Schema::of(S::declarations());
    let root = layers::merge(vec![Layer::of_defaults(&schema)]).unwrap_or_default();
    S::read(&mut Reader::new(&root, &schema, Vec::new()))
}

/// A fault of the program itself; the tests keep it from happening.
fn broken(source: &str, problem: String) -> ConfigFaults {
    ConfigFaults::of(ConfigFault {
        setting: "the configuration".to_owned(),
        source: source.to_owned(),
        problem,
        fix: "report this as a bug of Holdfast".to_owned(),
    })
}

/// `HOLDFAST_FAILPOINT`, in debug builds: the name of a point and at which passage the process dies there.
#[cfg(debug_assertions)]
#[allow(clippy::disallowed_methods, reason = "this is core/src/config")]
pub(crate) fn failpoint() -> Option<(String, u32)> {
    let text = std::env::var(FAILPOINT_VARIABLE).ok()?;
    let (point, times) = text.split_once(':').unwrap_or((&text, "1"));
    Some((point.to_owned(), times.parse().ok()?))
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the environment"
)]
fn process_environment() -> BTreeMap<String, String> {
    // `vars` would panic at a variable that is not UTF-8, be it of interest or not.
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .collect()
}

/// The file that was named must be there; the one in the working directory may be missing.
fn read_file(env: &BTreeMap<String, String>) -> Result<Option<(PathBuf, String)>, ConfigFault> {
    let named = env
        .get(CONFIG_FILE_VARIABLE)
        .filter(|path| !path.trim().is_empty());
    let path = PathBuf::from(named.map_or(CONFIG_FILE, |path| path.trim()));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => Ok(None),
        Err(error) => Err(ConfigFault {
            setting: "the file".to_owned(),
            source: path.display().to_string(),
            problem: format!("it cannot be read: {error}"),
            fix: match named {
                Some(_) => format!("correct {CONFIG_FILE_VARIABLE}, or unset it"),
                None => "make it readable, or remove it".to_owned(),
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(path: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(CONFIG_FILE_VARIABLE.to_owned(), path.to_owned())])
    }

    #[test]
    fn a_named_file_is_read_and_must_be_there() {
        let scratch = tempfile::TempDir::new().unwrap();
        let path = scratch.path().join("other.toml");
        let fault = read_file(&naming(path.to_str().unwrap())).unwrap_err();
        assert_eq!(fault.source, path.display().to_string());
        assert_eq!(fault.fix, "correct HOLDFAST_CONFIG, or unset it");
        std::fs::write(&path, "[worker]\n").unwrap();
        let file = read_file(&naming(path.to_str().unwrap())).unwrap();
        assert_eq!(file, Some((path, "[worker]\n".to_owned())));
    }

    #[test]
    fn the_file_of_the_working_directory_may_be_missing() {
        // The tests run in the crate's folder, which has none.
        assert_eq!(read_file(&BTreeMap::new()).unwrap(), None);
        assert_eq!(read_file(&naming(" ")).unwrap(), None);
    }
}
