//! What is going to be done, in order, and each command of it.

use std::path::Path;

use super::look::Project;
use super::rollback;
use super::{Migration, Options, railway};

const PROJECT_FILE: &str = ".railway/railway.ts";

/// The service whose pre-deploy command migrates.
const MIGRATING_SERVICE: &str = "api";

/// Deployments looked at for one id: more than anybody starts while one is under way.
const LISTED_DEPLOYMENTS: &str = "20";

#[derive(Debug)]
pub(crate) enum Step {
    Apply(Vec<String>),
    Migrate(Vec<String>),
    Deploy { service: String, up: Vec<String> },
}

#[derive(Debug)]
pub(crate) struct Plan {
    steps: Vec<Step>,
    /// Every command, reading and following included, in order.
    commands: Vec<String>,
    migration: Migration,
}

impl Plan {
    /// `applies`: the project differs from its file (or, in a dry run, might).
    pub(crate) fn of(options: &Options, applies: bool) -> Self {
        let mut steps = Vec::new();
        if applies {
            steps.push(Step::Apply(words(&["config", "apply", "--yes", "--json"])));
        }
        if options.migrate == Migration::Here {
            steps.push(Step::Migrate(options.migrate_here()));
        }
        steps.extend(options.in_order().into_iter().map(|service| Step::Deploy {
            up: options.up(service),
            service: service.to_owned(),
        }));
        let commands = commands(options, &steps);
        Self {
            steps,
            commands,
            migration: options.migrate,
        }
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(crate) fn commands(&self) -> &[String] {
        &self.commands
    }

    pub(crate) fn describe(&self, project: &Project) -> String {
        let mut lines = vec![format!(
            "Railway project {}, environment {} (CLI {}{})",
            project.name,
            project.environment,
            project.cli,
            project
                .account
                .as_ref()
                .map_or_else(String::new, |email| format!(", as {email}"))
        )];
        for step in &self.steps {
            lines.push(match step {
                Step::Apply(_) => {
                    let changes = project.pending.as_deref().unwrap_or_default();
                    format!("  change the project: {}", changes.join("; "))
                }
                Step::Migrate(_) => "  bring the schema up to date, from here".to_owned(),
                Step::Deploy { service, .. } => {
                    let migrates = self.migration == Migration::PreDeploy && service == MIGRATING_SERVICE;
                    let first = if migrates {
                        ", whose pre-deploy command brings the schema up to date"
                    } else {
                        ""
                    };
                    let now = project
                        .serving(service)
                        .map_or_else(|| "nothing yet".to_owned(), |serving| serving.id.clone());
                    format!("  deploy {service}{first} (serving now: {now})")
                }
            });
        }
        lines.join("\n")
    }
}

fn commands(options: &Options, steps: &[Step]) -> Vec<String> {
    const ID: &str = "DEPLOYMENT";
    let mut all = vec![words(&["--version"])];
    if options.project_token.is_none() {
        all.push(words(&["whoami", "--json"]));
    }
    all.push(options.status());
    if options.has_project_file() {
        all.push(Options::project_plan());
    }
    for step in steps {
        match step {
            Step::Apply(command) | Step::Migrate(command) => all.push(command.clone()),
            Step::Deploy { service, up } => {
                all.push(up.clone());
                all.push(options.list(service));
            }
        }
    }
    let mut lines: Vec<String> = all.iter().map(|command| railway::shown(command)).collect();
    if !options.no_check {
        let address = options
            .url
            .as_ref()
            .map_or("https://DOMAIN".to_owned(), ToString::to_string);
        lines.push(format!(
            "# then, as soon as it is healthy: holdfast validate --url {address}"
        ));
    }
    let logs = options.logs("SERVICE", ID, "--deployment", super::SHOWN_LOG_LINES);
    lines.push(format!("# on failure: {}", railway::shown(&logs)));
    if options.rollback {
        lines.push(format!("# and: {}", railway::shown(&rollback::command(ID))));
    }
    lines
}

/// The command lines, in one place.
impl Options {
    pub(crate) fn has_project_file(&self) -> bool {
        !self.no_config && Path::new(PROJECT_FILE).exists()
    }

    /// The order asked for; but who migrates goes first.
    fn in_order(&self) -> Vec<&str> {
        let mut services: Vec<&str> = Vec::new();
        for service in &self.services {
            if !services.contains(&service.as_str()) {
                services.push(service);
            }
        }
        if self.migrate == Migration::PreDeploy {
            services.sort_by_key(|service| *service != MIGRATING_SERVICE);
        }
        services
    }

    pub(crate) fn status(&self) -> Vec<String> {
        let mut command = words(&["status", "--json", "--environment", &self.environment]);
        if let Some(project) = &self.project {
            command.extend(words(&["--project", project]));
        }
        command
    }

    pub(crate) fn project_plan() -> Vec<String> {
        words(&["config", "plan", "--json", "--detailed-exit-code"])
    }

    fn up(&self, service: &str) -> Vec<String> {
        self.of_service(&["up", "--detach", "--json"], service)
    }

    /// With its variables, by this very program.
    fn migrate_here(&self) -> Vec<String> {
        let program =
            std::env::current_exe().map_or("holdfast".to_owned(), |path| path.display().to_string());
        let mut command = self.of_service(&["run", "--no-local"], MIGRATING_SERVICE);
        command.extend(words(&["--", &program, "migrate"]));
        command
    }

    pub(crate) fn list(&self, service: &str) -> Vec<String> {
        self.of_service(
            &["deployment", "list", "--json", "--limit", LISTED_DEPLOYMENTS],
            service,
        )
    }

    pub(crate) fn logs(&self, service: &str, deployment: &str, kind: &str, lines: usize) -> Vec<String> {
        let lines = lines.to_string();
        self.of_service(&["logs", deployment, kind, "--json", "--lines", &lines], service)
    }

    fn of_service(&self, command: &[&str], service: &str) -> Vec<String> {
        let mut command = words(command);
        command.extend(words(&["--service", service, "--environment", &self.environment]));
        if let Some(project) = &self.project {
            command.extend(words(&["--project", project]));
        }
        command
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
