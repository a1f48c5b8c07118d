//! Where commands about schedules go: to an API, or straight to the database. Both answer alike.

use std::time::Duration;

use holdfast_control::schedules::{ScheduleBody, ScheduleView};
use holdfast_core::redis::RedisGate;
use holdfast_jobs::audit::{Actor, By};
use holdfast_jobs::schedules::{ScheduleRecord, Schedules};
use serde::Deserialize;
use serde_json::Value;

use crate::args::TargetArgs;
use holdfast_ops::Failure;
use holdfast_ops::client::Api;
use holdfast_ops::local::{self, Local};
use holdfast_ops::target::{Accepted, accepted_document};

#[derive(Debug)]
pub(super) enum Target {
    Api(Api),
    Database { schedules: Schedules, gate: RedisGate },
}

impl Target {
    pub(super) async fn open(args: &TargetArgs) -> Result<Self, Failure> {
        if let Some(url) = &args.url {
            return Ok(Self::Api(Api::new(url.clone(), args.key.as_ref())?));
        }
        let local = Local::open().await?;
        let (jobs, gate) = local.jobs().await?;
        let schedules = Schedules::new(jobs, &local.database, &local.settings.database);
        Ok(Self::Database { schedules, gate })
    }

    pub(super) async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Value>, Failure> {
        match self {
            Self::Api(api) => {
                let mut query = vec![("limit", limit.to_string())];
                query.extend(after.map(|after| ("after", after.to_owned())));
                let page = api.get(&["v1", "schedules"], &query, Duration::ZERO).await?;
                match page.and_then(|mut page| page.get_mut("schedules").map(Value::take)) {
                    Some(Value::Array(schedules)) => Ok(schedules),
                    _ => Err(Failure::no("the answer is not a page of schedules")),
                }
            }
            Self::Database { schedules, .. } => {
                let found = schedules.list(after, limit).await?;
                found.into_iter().map(document).collect()
            }
        }
    }

    pub(super) async fn show(&self, name: &str) -> Result<Value, Failure> {
        match self {
            Self::Api(api) => known(
                name,
                api.get(&["v1", "schedules", name], &[], Duration::ZERO).await?,
            ),
            Self::Database { schedules, .. } => document(schedules.get(name).await?),
        }
    }

    pub(super) async fn add(&self, name: &str, body: Value, replace: bool) -> Result<Value, Failure> {
        match self {
            Self::Api(api) if replace => Ok(api.put_json(&["v1", "schedules", name], &body).await?),
            Self::Api(api) => Ok(api.post_json(&["v1", "schedules"], &body, None).await?),
            Self::Database { schedules, .. } => {
                let body = ScheduleBody::deserialize(body)
                    .map_err(|error| Failure::no(format!("the schedule cannot be read: {error}")))?;
                let definition = body.into_definition(name.to_owned());
                document(if replace {
                    schedules.put(&by(), definition).await?.into_record()
                } else {
                    schedules.create(&by(), definition).await?
                })
            }
        }
    }

    pub(super) async fn remove(&self, name: &str) -> Result<(), Failure> {
        match self {
            Self::Api(api) => known(name, api.delete(&["v1", "schedules", name]).await?).map(drop),
            Self::Database { schedules, .. } => Ok(schedules.delete(&by(), name).await?),
        }
    }

    pub(super) async fn switch(&self, name: &str, enabled: bool) -> Result<Value, Failure> {
        match self {
            Self::Api(api) => {
                let verb = if enabled { "enable" } else { "disable" };
                known(name, api.post(&["v1", "schedules", name, verb]).await?)
            }
            Self::Database { schedules, .. } => document(schedules.set_enabled(&by(), name, enabled).await?),
        }
    }

    pub(super) async fn run(&self, name: &str) -> Result<Accepted, Failure> {
        let accepted = match self {
            Self::Api(api) => known(name, api.post(&["v1", "schedules", name, "run"]).await?)?,
            Self::Database { schedules, gate } => {
                let accepted = schedules.run(&by(), name).await?;
                local::let_the_bell_ring(gate).await;
                accepted_document(&accepted)
            }
        };
        Accepted::of(accepted)
    }
}

/// Whoever sits at this machine.
fn by() -> By {
    By::new(Actor::cli())
}

fn known(name: &str, answer: Option<Value>) -> Result<Value, Failure> {
    answer.ok_or_else(|| Failure::no(format!("there is no schedule {name:?}")))
}

/// As the API words it.
fn document(record: ScheduleRecord) -> Result<Value, Failure> {
    serde_json::to_value(ScheduleView::from(record))
        .map_err(|error| Failure::no(format!("the schedule cannot be shown: {error}")))
}
