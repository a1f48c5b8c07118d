//! The kinds: `ml.train` makes the model, `ml.recommend` makes a user's list.

use std::time::Duration;

use holdfast_jobs::{Job, JobContext, JobError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ListSource, Recommender, TrainingReport};
use holdfast_product::UserName;

const QUEUE: &str = "ml";

/// Trains what has changed since the last training. Made for a schedule; two at once do no harm but to the time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MlTrain {
    /// Train from scratch, whatever has changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

impl Job for MlTrain {
    const KIND: &'static str = "ml.train";
    const QUEUE: &'static str = QUEUE;
    type Output = TrainingReport;

    fn example() -> Option<Self> {
        Some(Self { full: true })
    }

    fn timeout() -> Option<Duration> {
        Some(Duration::from_mins(15))
    }

    async fn run(self, context: JobContext) -> Result<TrainingReport, JobError> {
        let recommender = context.resource::<Recommender>()?;
        recommender.train_job(self.full, &context).await
    }
}

/// Makes a user's list and caches it, so that it is there when it is asked for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MlRecommend {
    /// The application's id of the user.
    pub user: UserName,
}

/// What `ml.recommend` made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Recommended")]
pub struct RecommendReport {
    pub source: ListSource,
    pub items: usize,
}

impl Job for MlRecommend {
    const KIND: &'static str = "ml.recommend";
    const QUEUE: &'static str = QUEUE;
    type Output = RecommendReport;

    fn example() -> Option<Self> {
        let user = "user-17".parse().ok()?;
        Some(Self { user })
    }

    fn timeout() -> Option<Duration> {
        Some(Duration::from_mins(1))
    }

    async fn run(self, context: JobContext) -> Result<RecommendReport, JobError> {
        let recommender = context.resource::<Recommender>()?;
        let list = recommender.refresh(&self.user).await?;
        Ok(RecommendReport {
            source: list.source,
            items: list.items.len(),
        })
    }
}
