//! The settings of autoscaling.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::declare::{
    certificates, choice, count, flag, list, optional_url, seconds, secret, text,
};
use holdfast_core::config::{Reader, Settings};
use holdfast_core::settings;
use secrecy::SecretString;
use url::Url;

/// Most services.
const MAX_SERVICES: usize = 50;

/// Largest number of replicas of a service.
const MAX_REPLICAS: u32 = 10_000;

/// What changes the number of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverChoice {
    Off,
    Kubernetes,
    Railway,
}

const DRIVERS: [(&str, DriverChoice); 3] = [
    ("off", DriverChoice::Off),
    ("kubernetes", DriverChoice::Kubernetes),
    ("railway", DriverChoice::Railway),
];

settings! {
    ["autoscale"]
    /// Autoscaling: a beat sets how many replicas of the workers a platform runs.
    #[derive(Debug, Clone)]
    pub struct AutoscaleSettings {
        /// What changes the number of replicas: "kubernetes", "railway" or "off".
        driver: DriverChoice = choice("off", &DRIVERS);
        /// Whether decisions are only logged and counted, and nothing is changed.
        dry_run: bool = flag(false);
        /// The services to scale, each as NAME=MIN-MAX or NAME=MIN-MAX:QUEUE+QUEUE, such as "holdfast-worker=0-20" or
        /// "media-worker=1-5:media+thumbnails". The name of a Deployment, or the id of a Railway service. Without queues: all of
        /// the queues that Rust workers serve. In the environment: with commas between.
        services: Vec<ScaledService> = list().then(services);
        /// Period of the decisions, in seconds, {range}. A waiting job of a service without replicas is noticed within it.
        interval: Duration = seconds(15.0, 1.0..=3600.0);
        /// A backlog is to be worked off within this time, in seconds, {range}. Shorter means more replicas.
        drain: Duration = seconds(60.0, 1.0..=86_400.0);
        /// How long the need must be lower before replicas are taken away, in seconds, {range}.
        cooldown: Duration = seconds(300.0, 0.0..=86_400.0);
        /// Largest number of replicas that one change adds, {range}; more only to double them.
        max_step: u32 = count(4, 1..=1_000);
        /// Longest duration of one call to the platform, in seconds, {range}.
        timeout: Duration = seconds(10.0, 0.1..=120.0);
    }
    sections {
        /// Of the driver `kubernetes`.
        kubernetes: KubernetesSettings;
        /// Of the driver `railway`.
        railway: RailwaySettings;
    }
    check = check;
}

settings! {
    ["autoscale.kubernetes"]
    /// How the API of Kubernetes is reached. The defaults are those of a pod with a mounted service account.
    #[derive(Debug, Clone)]
    pub struct KubernetesSettings {
        /// URL of the API. Empty: <https://kubernetes.default.svc>.
        url: Option<Url> = optional_url("give a URL such as https://kubernetes.default.svc");
        /// Bearer token, a secret. Empty: the token of the pod's service account, read anew for each call.
        token: Option<SecretString> = secret();
        /// Certificate authority of the API: a PEM text, or the path of a file that holds one. Empty: that of the pod's service
        /// account.
        ca_certificate: Option<Arc<str>> = certificates();
        /// Namespace of the Deployments. Empty: that of the pod.
        namespace: String = text("");
    }
}

settings! {
    ["autoscale.railway"]
    /// How the API of Railway is reached. Each change of the number of replicas is a deployment of the service.
    #[derive(Debug, Clone)]
    pub struct RailwaySettings {
        /// URL of the GraphQL API. Empty: <https://backboard.railway.com/graphql/v2>.
        url: Option<Url> = optional_url("give a URL such as https://backboard.railway.com/graphql/v2");
        /// Token of the project, a secret.
        token: Option<SecretString> = secret();
        /// Id of the environment. Railway sets RAILWAY_ENVIRONMENT_ID itself.
        environment: String = text("").variables(&["RAILWAY_ENVIRONMENT_ID"]);
    }
}

/// A service whose replicas are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaledService {
    pub name: String,
    pub min: u32,
    pub max: u32,
    /// Empty: the queues of Rust workers.
    pub queues: Vec<String>,
}

/// A text is no service to scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidService {
    #[error("it is not NAME=MIN-MAX, or NAME=MIN-MAX:QUEUE+QUEUE")]
    Form,
    #[error("the name is not 1 to 63 of a-z, 0-9 and -")]
    Name,
    #[error("MIN and MAX are not whole numbers with MIN not above MAX, and MAX from 1 to {MAX_REPLICAS}")]
    Bounds,
    #[error("a queue has no name")]
    Queue,
}

impl FromStr for ScaledService {
    type Err = InvalidService;

    fn from_str(text: &str) -> Result<Self, InvalidService> {
        let (name, rest) = text.split_once('=').ok_or(InvalidService::Form)?;
        let (range, queues) = match rest.split_once(':') {
            Some((range, queues)) => (range, queues.split('+').map(str::trim).collect()),
            None => (rest, Vec::new()),
        };
        let (min, max) = range.split_once('-').ok_or(InvalidService::Form)?;
        let name = name.trim();
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 63 || !name.chars().all(is_part) {
            return Err(InvalidService::Name);
        }
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| InvalidService::Bounds);
        let (min, max) = (number(min)?, number(max)?);
        if min > max || !(1..=MAX_REPLICAS).contains(&max) {
            return Err(InvalidService::Bounds);
        }
        if queues.iter().any(|queue| queue.is_empty()) {
            return Err(InvalidService::Queue);
        }
        Ok(Self {
            name: name.to_owned(),
            min,
            max,
            queues: queues.into_iter().map(ToOwned::to_owned).collect(),
        })
    }
}

impl fmt::Display for ScaledService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}-{}", self.name, self.min, self.max)?;
        if !self.queues.is_empty() {
            write!(f, ":{}", self.queues.join("+"))?;
        }
        Ok(())
    }
}

fn services(reader: &mut Reader<'_>, path: &str, texts: Vec<String>) -> Vec<ScaledService> {
    let mut services: Vec<ScaledService> = Vec::new();
    let fix = "write services such as \"holdfast-worker=0-20\" or \"media-worker=1-5:media\"";
    for text in texts {
        match text.parse::<ScaledService>() {
            Ok(service) if services.iter().any(|known| known.name == service.name) => {
                let problem = format!("the service {:?} is named twice", service.name);
                reader.fault_once(path, || (problem, "name each service once".to_owned()));
            }
            Ok(service) => services.push(service),
            Err(error) => reader.fault_once(path, || (format!("{text:?}: {error}"), fix.to_owned())),
        }
    }
    if services.len() > MAX_SERVICES {
        let problem = format!("there are more than {MAX_SERVICES} services");
        reader.fault_once(path, || (problem, "name fewer".to_owned()));
    }
    services
}

fn check(settings: &AutoscaleSettings, reader: &mut Reader<'_>, _: &Settings) {
    if settings.driver == DriverChoice::Off {
        return;
    }
    if settings.services.is_empty() {
        reader.fault_once("autoscale.services", || {
            let fix = "name the services to scale, such as \"holdfast-worker=0-20\", or set autoscale.driver to \"off\"";
            ("there is no service to scale".to_owned(), fix.to_owned())
        });
    }
    if settings.driver != DriverChoice::Railway {
        return;
    }
    if settings.railway.token.is_none() {
        reader.fault_once("autoscale.railway.token", || {
            let fix = "set it to a token of the project, from its settings";
            ("the driver \"railway\" needs a token".to_owned(), fix.to_owned())
        });
    }
    if settings.railway.environment.is_empty() {
        reader.fault_once("autoscale.railway.environment", || {
            let fix = "set it to the id of the project's environment";
            (
                "the driver \"railway\" needs an environment".to_owned(),
                fix.to_owned(),
            )
        });
    }
    if let Some(service) = settings.services.iter().find(|service| service.min == 0) {
        reader.fault_once("autoscale.services", || {
            let problem = format!("Railway runs at least one replica, and {service} has none at least");
            (problem, "set its MIN to 1 or more".to_owned())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_read_with_its_bounds_and_queues() {
        let service: ScaledService = "media-worker=1-5:media+thumbs".parse().unwrap();
        assert_eq!((service.min, service.max), (1, 5));
        assert_eq!(service.queues, ["media", "thumbs"]);
        for text in ["w=0-20", "media-worker=1-5:media+thumbs"] {
            assert_eq!(text.parse::<ScaledService>().unwrap().to_string(), text);
        }
        for (text, fault) in [
            ("worker", InvalidService::Form),
            ("worker=3", InvalidService::Form),
            ("=0-1", InvalidService::Name),
            ("../x=0-1", InvalidService::Name),
            ("worker=2-1", InvalidService::Bounds),
            ("worker=0-0", InvalidService::Bounds),
            ("worker=0-x", InvalidService::Bounds),
            ("worker=0-1:", InvalidService::Queue),
        ] {
            assert_eq!(text.parse::<ScaledService>(), Err(fault), "{text}");
        }
    }
}
