//! Railway: the replicas of a service in one region, by its GraphQL API.
//!
//! A change is two calls, as Railway's own CLI makes them (`railway scale`): the instance's configuration is updated, then deployed. If the
//! second fails, the replicas are read as before, and the next round repeats both.

use std::time::Duration;

use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use url::Url;

use super::{DriverError, Replicas, answer, client, shown};
use crate::settings::AutoscaleSettings;

const API: &str = "https://backboard.railway.com/graphql/v2";

const INSTANCE: &str = "query Instance($environment: String!, $service: String!) { \
    serviceInstance(environmentId: $environment, serviceId: $service) { \
    numReplicas latestDeployment { status meta } } }";

const UPDATE: &str = "mutation Update($environment: String!, $service: String!, $input: ServiceInstanceUpdateInput!) { \
    serviceInstanceUpdate(environmentId: $environment, serviceId: $service, input: $input) }";

const DEPLOY: &str = "mutation Deploy($environment: String!, $service: String!) { \
    serviceInstanceDeployV2(environmentId: $environment, serviceId: $service) }";

/// Statuses of a deployment that is over.
const SETTLED: [&str; 6] = ["SUCCESS", "SLEEPING", "CRASHED", "FAILED", "REMOVED", "SKIPPED"];

/// A client of one environment.
#[derive(Debug)]
pub struct Railway {
    client: Client,
    timeout: Duration,
    url: Url,
    environment: String,
    token: SecretString,
}

#[derive(Debug, Deserialize)]
struct Answer<T> {
    data: Option<T>,
    #[serde(default)]
    errors: Vec<GraphqlError>,
}

#[derive(Debug, Deserialize)]
struct GraphqlError {
    message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    service_instance: Option<ServiceInstance>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceInstance {
    num_replicas: Option<u32>,
    latest_deployment: Option<Deployment>,
}

#[derive(Debug, Deserialize)]
struct Deployment {
    status: String,
    #[serde(default)]
    meta: Value,
}

impl ServiceInstance {
    /// The regions of the latest deployment, with the replicas of each.
    fn regions(&self) -> Option<&Map<String, Value>> {
        let meta = &self.latest_deployment.as_ref()?.meta;
        let regions = meta
            .pointer("/serviceManifest/deploy/multiRegionConfig")?
            .as_object()?;
        (!regions.is_empty()).then_some(regions)
    }
}

impl Railway {
    pub(super) fn new(settings: &AutoscaleSettings) -> Result<Self, DriverError> {
        let own = &settings.railway;
        let public = || Url::parse(API).map_err(|error| DriverError::Unknown(error.to_string()));
        Ok(Self {
            client: client(settings.timeout, None)?,
            timeout: settings.timeout,
            url: own.url.clone().map_or_else(public, Ok)?,
            environment: own.environment.clone(),
            token: own.token.clone().unwrap_or_default(),
        })
    }

    pub(super) async fn replicas(&self, service: &str) -> Result<Replicas, DriverError> {
        let instance = self.instance(service).await?;
        if let Some(deployment) = &instance.latest_deployment
            && !SETTLED.contains(&deployment.status.as_str())
        {
            return Ok(Replicas::Changing(format!(
                "a deployment is {}",
                shown(&deployment.status)
            )));
        }
        let replicas = match instance.regions() {
            None => instance.num_replicas.unwrap_or(1),
            Some(regions) => replicas_of(one_region(service, regions)?.1),
        };
        Ok(Replicas::Wanted(replicas))
    }

    pub(super) async fn set(&self, service: &str, replicas: u32) -> Result<(), DriverError> {
        let instance = self.instance(service).await?;
        let input = match instance.regions() {
            None => json!({ "numReplicas": replicas }),
            Some(regions) => {
                let (region, _) = one_region(service, regions)?;
                json!({ "multiRegionConfig": { region: { "numReplicas": replicas } } })
            }
        };
        let _: Value = self.call(UPDATE, service, Some(input)).await?;
        let _: Value = self.call(DEPLOY, service, None).await?;
        Ok(())
    }

    async fn instance(&self, service: &str) -> Result<ServiceInstance, DriverError> {
        let found: Instance = self.call(INSTANCE, service, None).await?;
        let lacks = || DriverError::Unknown(format!("the environment has no service {service}"));
        found.service_instance.ok_or_else(lacks)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        query: &str,
        service: &str,
        input: Option<Value>,
    ) -> Result<T, DriverError> {
        let mut variables = json!({ "environment": self.environment, "service": service });
        if let Some(input) = input {
            variables["input"] = input;
        }
        let request = self
            .client
            .post(self.url.clone())
            .header("project-access-token", self.token.expose_secret())
            .header("content-type", "application/json")
            .body(json!({ "query": query, "variables": variables }).to_string());
        let Answer { data, errors } = answer(request, self.timeout).await?;
        match (errors.first(), data) {
            (Some(error), _) => Err(DriverError::Unknown(shown(&error.message))),
            (None, Some(data)) => Ok(data),
            (None, None) => Err(DriverError::Unknown("it has no data".to_owned())),
        }
    }
}

fn replicas_of(region: &Value) -> u32 {
    let replicas = region.get("numReplicas").and_then(Value::as_u64).unwrap_or(1);
    u32::try_from(replicas).unwrap_or(u32::MAX)
}

/// How replicas are divided among regions is not ours to decide.
fn one_region<'r>(
    service: &str,
    regions: &'r Map<String, Value>,
) -> Result<(&'r String, &'r Value), DriverError> {
    let mut running = regions.iter().filter(|(_, region)| !region.is_null());
    match (running.next(), running.next()) {
        (Some(region), None) => Ok(region),
        _ => Err(DriverError::Unknown(format!(
            "the service {service} does not run in exactly one region"
        ))),
    }
}
