//! Kubernetes: the scale subresource of Deployments.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::{DriverError, Replicas, answer, client};
use crate::settings::AutoscaleSettings;

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The name of the API inside a cluster.
const IN_CLUSTER: &str = "https://kubernetes.default.svc";

/// A client of the API of a cluster.
#[derive(Debug)]
pub struct Kubernetes {
    client: Client,
    timeout: Duration,
    base: Url,
    namespace: String,
    /// `None`: that of the service account. It is replaced about every hour, so it is read for each call.
    token: Option<SecretString>,
}

/// The part of a `Scale` that is read. A spec of no replicas has no field.
#[derive(Debug, Deserialize)]
struct Scale {
    spec: Option<ScaleSpec>,
}

#[derive(Debug, Deserialize)]
struct ScaleSpec {
    #[serde(default)]
    replicas: u32,
}

impl Kubernetes {
    pub(super) fn new(settings: &AutoscaleSettings) -> Result<Self, DriverError> {
        let own = &settings.kubernetes;
        let in_cluster = || Url::parse(IN_CLUSTER).map_err(|error| DriverError::Unknown(error.to_string()));
        let base = own.url.clone().map_or_else(in_cluster, Ok)?;
        let authority = match &own.ca_certificate {
            Some(pem) => Some(Arc::clone(pem)),
            None if own.url.is_none() => Some(read("ca.crt")?.into()),
            None => None,
        };
        let namespace = match own.namespace.as_str() {
            "" => read("namespace")?.trim().to_owned(),
            namespace => namespace.to_owned(),
        };
        Ok(Self {
            client: client(settings.timeout, authority.as_deref())?,
            timeout: settings.timeout,
            base,
            namespace,
            token: own.token.clone(),
        })
    }

    pub(super) async fn replicas(&self, deployment: &str) -> Result<Replicas, DriverError> {
        let scale = answer(self.request(Method::GET, deployment)?, self.timeout).await?;
        Ok(Replicas::Wanted(wanted(scale)?))
    }

    pub(super) async fn set(&self, deployment: &str, replicas: u32) -> Result<(), DriverError> {
        let body = json!({"spec": {"replicas": replicas}}).to_string();
        let request = self
            .request(Method::PATCH, deployment)?
            .header("content-type", "application/merge-patch+json")
            .body(body);
        let now = wanted(answer(request, self.timeout).await?)?;
        if now == replicas {
            return Ok(());
        }
        Err(DriverError::Unknown(format!(
            "{replicas} replicas were asked for, and {now} are wanted"
        )))
    }

    fn request(&self, method: Method, deployment: &str) -> Result<RequestBuilder, DriverError> {
        let mut url = self.base.clone();
        let path = [
            "apis",
            "apps",
            "v1",
            "namespaces",
            &self.namespace,
            "deployments",
            deployment,
            "scale",
        ];
        url.path_segments_mut()
            .map_err(|()| DriverError::Unknown("the URL has no path".to_owned()))?
            .pop_if_empty()
            .extend(path);
        let token = match &self.token {
            Some(token) => token.clone(),
            None => SecretString::from(read("token")?.trim().to_owned()),
        };
        let request = self
            .client
            .request(method, url)
            .header("accept", "application/json");
        Ok(request.bearer_auth(token.expose_secret()))
    }
}

fn wanted(scale: Scale) -> Result<u32, DriverError> {
    let spec = scale
        .spec
        .ok_or_else(|| DriverError::Unknown("it has no spec".to_owned()))?;
    Ok(spec.replicas)
}

fn read(file: &str) -> Result<String, DriverError> {
    let path = format!("{SERVICE_ACCOUNT}/{file}");
    std::fs::read_to_string(&path).map_err(|source| DriverError::ServiceAccount { path, source })
}
