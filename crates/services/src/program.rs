//! What one program runs: the kinds and resources of the products, and those that the program adds.
//!
//! Every service and every command of one program is given the same value, so that all of them know the same kinds. The
//! programs of Holdfast itself are [`Program::default`]; an application's kinds are registered by `holdfast::App`.
//!
//! # When things fail
//! A kind that cannot be registered (its name is taken or no name, its queue is no queue name) is a fault of the
//! configuration: [`Program::settings`] reports all of them with the settings' own faults, and nothing starts.

use std::collections::BTreeMap;

use holdfast_core::config::{
    self, Additions, ConfigFault, ConfigFaults, MAX_KIND_NAME, Settings, is_queue_name,
};
use holdfast_jobs::{Job, Registry, Resources};
use holdfast_product::ProductError;

/// The kinds and resources of one program.
#[derive(Debug, Clone, Default)]
pub struct Program {
    kinds: Vec<OwnKind>,
    resources: Resources,
}

/// A kind that is none of the products'.
#[derive(Debug, Clone, Copy)]
struct OwnKind {
    name: &'static str,
    queue: &'static str,
    /// The type's path, for faults.
    type_name: &'static str,
    register: fn(Registry) -> Registry,
    schema_fault: fn() -> Option<String>,
}

impl Program {
    /// Adds a kind.
    #[must_use]
    pub fn register<J: Job>(mut self) -> Self {
        self.kinds.push(OwnKind {
            name: J::KIND,
            queue: J::QUEUE,
            type_name: std::any::type_name::<J>(),
            register: Registry::register::<J>,
            schema_fault: || {
                let registry = Registry::new().register::<J>();
                let schemas = registry.get(J::KIND)?.schemas();
                schemas.fault().map(str::to_owned)
            },
        });
        self
    }

    /// Adds what the handlers of the program's kinds share, by its type; an earlier value of the type is replaced.
    #[must_use]
    pub fn with<T: Send + Sync + 'static>(mut self, resource: T) -> Self {
        self.resources = self.resources.with(resource);
        self
    }

    /// The settings of this process. A queue that a kind names and no setting mentions exists with the defaults.
    ///
    /// # Errors
    /// Every fault of the program's kinds, or else every fault of the configuration.
    pub fn settings(&self) -> Result<Settings, ConfigFaults> {
        ConfigFaults::check(self.faults())?;
        let queues: Vec<&str> = self.kinds.iter().map(|kind| kind.queue).collect();
        config::load(Additions {
            queues: &queues,
            sections: &crate::sections(),
        })
    }

    /// Every kind of a process with these settings.
    ///
    /// # Panics
    /// If two types claim one name, which [`Program::settings`] reports first.
    pub fn registry(&self, settings: &Settings) -> Registry {
        let of_products = crate::registry_for(settings);
        self.kinds
            .iter()
            .fold(of_products, |registry, kind| (kind.register)(registry))
    }

    /// What the handlers of a process share. Build it once for each process.
    ///
    /// # Errors
    /// As [`crate::resources`].
    pub fn resources(&self, settings: &Settings) -> Result<Resources, ProductError> {
        Ok(crate::resources(settings)?.with_all(&self.resources))
    }

    /// What is wrong with the program's own kinds.
    fn faults(&self) -> Vec<ConfigFault> {
        let of_products = crate::registry();
        let mut owners = BTreeMap::new();
        let mut faults = Vec::new();
        for kind in &self.kinds {
            if !is_kind_name(kind.name) {
                let problem = "this is not the name of a kind".to_owned();
                let fix =
                    format!("set KIND to 1 to {MAX_KIND_NAME} bytes without spaces, such as \"invite.send\"");
                faults.push(kind.fault(problem, fix));
            }
            if !is_queue_name(kind.queue) {
                let problem = format!("{:?} is not a queue name", kind.queue);
                let fix = "set QUEUE to a lower-case letter, then up to 62 of a-z, 0-9, _ and -".to_owned();
                faults.push(kind.fault(problem, fix));
            }
            if let Some(fault) = (kind.schema_fault)() {
                let problem = format!("the JSON Schema of its payload is invalid: {fault}");
                let fix =
                    "derive JsonSchema, or mend the schema that the type or a field gives by hand".to_owned();
                faults.push(kind.fault(problem, fix));
            }
            let owner = match of_products.get(kind.name) {
                Some(_) => Some("Holdfast"),
                None => owners.insert(kind.name, kind.type_name),
            };
            if let Some(owner) = owner {
                let problem = format!("{owner} has a kind of this name already");
                let fix = "register each type once, and choose another KIND".to_owned();
                faults.push(kind.fault(problem, fix));
            }
        }
        faults
    }
}

impl OwnKind {
    fn fault(&self, problem: String, fix: String) -> ConfigFault {
        ConfigFault {
            setting: format!("the kind {:?}", self.name),
            source: self.type_name.to_owned(),
            problem,
            fix,
        }
    }
}

/// It is part of URLs, log lines and metric labels.
fn is_kind_name(name: &str) -> bool {
    let has_space = name.chars().any(|c| c.is_whitespace() || c.is_control());
    (1..=MAX_KIND_NAME).contains(&name.len()) && !has_space
}

#[cfg(test)]
mod tests {
    use holdfast_core::config::{Sources, load_from};
    use holdfast_jobs::{JobContext, JobError};
    use holdfast_outbound::Outbound;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;

    /// A kind whose constants the test chooses.
    macro_rules! kind {
        ($type:ident, $kind:literal, $queue:literal) => {
            #[derive(Serialize, Deserialize, JsonSchema)]
            struct $type {}

            impl Job for $type {
                const KIND: &'static str = $kind;
                const QUEUE: &'static str = $queue;
                type Output = ();

                async fn run(self, _: JobContext) -> Result<(), JobError> {
                    Ok(())
                }
            }
        };
    }

    kind!(SendInvite, "invite.send", "invites");
    kind!(Namesake, "invite.send", "invites");
    kind!(Echo, "debug.echo", "default");
    kind!(Spaced, "send invite", "invites");
    kind!(Shouting, "invite.shout", "Invites");

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct InvalidKindSchema {
        #[schemars(pattern("("))]
        to: String,
    }

    impl Job for InvalidKindSchema {
        const KIND: &'static str = "invite.misdescribed";
        type Output = ();

        async fn run(self, _: JobContext) -> Result<(), JobError> {
            Ok(())
        }
    }

    #[test]
    fn a_kind_whose_schema_is_invalid_is_a_fault_that_says_what_is_wrong() {
        let found = problems(&Program::default().register::<InvalidKindSchema>());
        let [(setting, problem)] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(setting, "the kind \"invite.misdescribed\"");
        assert!(
            problem.starts_with("the JSON Schema of its payload is invalid: "),
            "{problem}"
        );
    }

    fn problems(program: &Program) -> Vec<(String, String)> {
        let faults = program.faults().into_iter();
        faults.map(|fault| (fault.setting, fault.problem)).collect()
    }

    fn problem(setting: &str, problem: &str) -> (String, String) {
        (setting.to_owned(), problem.to_owned())
    }

    #[test]
    fn a_program_knows_the_kinds_and_resources_of_the_products_and_its_own() {
        let settings = load_from(Sources::default()).unwrap();
        let program = Program::default().register::<SendInvite>().with(7_u32);
        assert!(problems(&program).is_empty());
        let registry = program.registry(&settings);
        assert!(registry.get("invite.send").is_some() && registry.get("http.request").is_some());
        let resources = program.resources(&settings).unwrap();
        assert_eq!(resources.get::<u32>().as_deref(), Some(&7));
        assert!(resources.get::<Outbound>().is_some());
    }

    #[test]
    fn a_kind_that_cannot_be_registered_is_a_fault_and_no_panic() {
        let program = Program::default()
            .register::<SendInvite>()
            .register::<Namesake>()
            .register::<Echo>()
            .register::<Spaced>()
            .register::<Shouting>();
        let owner = format!(
            "{} has a kind of this name already",
            std::any::type_name::<SendInvite>()
        );
        assert_eq!(
            problems(&program),
            [
                problem("the kind \"invite.send\"", &owner),
                problem(
                    "the kind \"debug.echo\"",
                    "Holdfast has a kind of this name already"
                ),
                problem("the kind \"send invite\"", "this is not the name of a kind"),
                problem("the kind \"invite.shout\"", "\"Invites\" is not a queue name"),
            ]
        );
        assert_eq!(program.settings().unwrap_err().exit_code(), 64);
    }
}
