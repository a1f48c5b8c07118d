//! What is there, before anything is touched.

use url::Url;

use super::Options;
use super::documents::{Deployment, Domains, Instance, ProjectPlan, Status};
use super::railway::{Railway, RailwayError};

/// The oldest CLI that has every command used here.
const OLDEST_CLI: (u32, u32) = (5, 0);

/// `railway config plan --detailed-exit-code`: changes are pending.
const CHANGES_PENDING: i32 = 2;

/// The service that has the public address.
const PUBLIC_SERVICE: &str = "api";

/// The project as it is.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) name: String,
    pub(crate) environment: String,
    pub(crate) cli: String,
    pub(crate) account: Option<String>,
    services: Vec<Instance>,
    /// What `.railway/railway.ts` would change; `None` if nothing.
    pub(crate) pending: Option<Vec<String>>,
}

impl Project {
    /// The deployment that serves now.
    pub(crate) fn serving(&self, service: &str) -> Option<&Deployment> {
        let instance = self.services.iter().find(|known| known.service_name == service)?;
        let serves = |deployment: &&Deployment| matches!(deployment.status.as_str(), "SUCCESS" | "SLEEPING");
        instance
            .active_deployments
            .iter()
            .find(serves)
            .or_else(|| instance.latest_deployment.as_ref().filter(serves))
    }

    pub(crate) fn public_address(&self) -> Option<Url> {
        let api = self
            .services
            .iter()
            .find(|known| known.service_name == PUBLIC_SERVICE)?;
        let Domains {
            custom_domains,
            service_domains,
        } = api.domains.as_ref()?;
        let domain = custom_domains.first().or_else(|| service_domains.first())?;
        Url::parse(&format!("https://{}", domain.domain)).ok()
    }
}

pub(crate) async fn look(railway: &Railway, options: &Options) -> Result<Project, RailwayError> {
    let cli = version(railway).await?;
    let account = account(railway, options).await?;
    let (name, environment, services) = project(railway, options).await?;
    for wanted in &options.services {
        if !services.iter().any(|known| known.service_name == *wanted) {
            return Err(RailwayError::Lacks(lacking(
                wanted,
                &environment,
                &services,
                options,
            )));
        }
    }
    Ok(Project {
        name,
        environment,
        cli,
        account,
        services,
        pending: pending(railway, options).await?,
    })
}

async fn version(railway: &Railway) -> Result<String, RailwayError> {
    let said = railway.text(&["--version".to_owned()]).await?;
    let found = said.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    let mut parts = found.split('.').map(|part| part.parse::<u32>().ok());
    let unknown = || RailwayError::Unknown {
        command: "railway --version".to_owned(),
        reason: "no version in it".to_owned(),
    };
    let (Some(Some(major)), Some(Some(minor))) = (parts.next(), parts.next()) else {
        return Err(unknown());
    };
    if (major, minor) < OLDEST_CLI {
        return Err(RailwayError::Outdated {
            found,
            wanted: format!("{}.{}", OLDEST_CLI.0, OLDEST_CLI.1),
        });
    }
    Ok(found)
}

/// Who deploys; nobody can say for a project's token.
async fn account(railway: &Railway, options: &Options) -> Result<Option<String>, RailwayError> {
    #[derive(serde::Deserialize)]
    struct Whoami {
        email: String,
    }
    match (&options.project_token, &options.account_token) {
        (Some(_), Some(_)) => Err(RailwayError::TwoTokens),
        (Some(_), None) => Ok(None),
        (None, _) => {
            let command = ["whoami".to_owned(), "--json".to_owned()];
            let Whoami { email } = railway.json(&command).await?;
            Ok(Some(email))
        }
    }
}

async fn project(
    railway: &Railway,
    options: &Options,
) -> Result<(String, String, Vec<Instance>), RailwayError> {
    let status: Status = railway.json(&options.status()).await?;
    let wanted = &options.environment;
    let environment = status
        .environments
        .nodes()
        .find(|known| known.name == *wanted || known.id == *wanted)
        .ok_or_else(|| {
            RailwayError::Lacks(format!(
                "the project {} has no environment {wanted}: give --environment",
                status.name
            ))
        })?;
    let services = environment.service_instances.nodes().collect();
    Ok((status.name, environment.name, services))
}

async fn pending(railway: &Railway, options: &Options) -> Result<Option<Vec<String>>, RailwayError> {
    if !options.has_project_file() {
        return Ok(None);
    }
    let (plan, code): (ProjectPlan, i32) = railway
        .json_and_code(&Options::project_plan(), &[0, CHANGES_PENDING])
        .await?;
    Ok((code == CHANGES_PENDING).then(|| plan.lines()))
}

fn lacking(wanted: &str, environment: &str, services: &[Instance], options: &Options) -> String {
    let names: Vec<&str> = services.iter().map(|known| known.service_name.as_str()).collect();
    let there = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    };
    let cure = if options.project.is_some() {
        "check --project"
    } else {
        "`railway config apply` makes it from .railway/railway.ts, or name others with --service"
    };
    format!("{environment} has no service {wanted} (there is {there}): {cure}")
}
