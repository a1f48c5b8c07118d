//! Moves what waits in the Redis of another job system into an API: once, and resumable.
//!
//! # States of an entry
//! *waiting* in its place → *taken*, in the import's list of that place → *gone*, once the API has accepted a job for it; or back to
//! *waiting*, if it is no job that can be moved. Each step is one command of Redis, so an entry is in one place at every moment.
//!
//! # Invariants
//! - An entry is taken before it is posted, so a worker of the other system that still runs cannot run it too.
//! - Each post has an `Idempotency-Key` made of the entry. What was accepted and not yet removed when an import was interrupted is
//!   posted again by the next one, and answered with the first job, as long as that is stored.
//! - A dry run, and an import that keeps the entries, take nothing.
//!
//! # When things fail
//! - *The API is unavailable*: it is tried for a minute; then the import ends, and what is taken stays so. Run it again.
//! - *An entry is refused, or cannot be read*: it goes back to its place at the end, and is listed with the reason.
//! - *The import dies*: as in the first case.
//!
//! Running jobs stay where they are. What Celery's workers had prefetched is moved only while no worker waits for jobs: it may be theirs.

mod bullmq;
mod celery;
mod names;
mod sidekiq;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use holdfast_control::wire::{AcceptedJob, JobBody, KindBody, QueueBody, RetryBody};
use holdfast_core::backoff::Backoff;
use holdfast_http::wire::Seconds;
use redis::RedisError;
use reqwest::StatusCode;
use secrecy::SecretString;
use serde::Serialize;
use tokio::time::Instant;

use self::store::{Entry, Place, Shape, Store};
use crate::client::{Api, ApiError};

/// Posts under way at once: the API makes one statement of those that come together.
const CONCURRENT: usize = 32;

/// How long an API that does not answer is tried.
const PATIENCE: Duration = Duration::from_mins(1);

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Entries of one place that cannot be imported, at most: they are held in memory until the place has been read.
const MOST_LEFT: usize = 10_000;

/// Entries that are listed with the reason why they stay.
const LISTED: usize = 100;

/// Whose Redis it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    Celery,
    Sidekiq,
    Bullmq,
}

/// What is imported, and how.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    pub system: System,
    pub redis: SecretString,
    /// Of the other system. Empty: all.
    pub queues: BTreeSet<String>,
    /// `None`: as the job is called there.
    pub kind: Option<String>,
    /// `None`: as the queue is called there.
    pub queue: Option<String>,
    /// Only counts.
    pub dry_run: bool,
    /// Leaves the entries where they are.
    pub keep: bool,
}

impl ImportOptions {
    fn wants(&self, queue: &str) -> bool {
        self.queues.is_empty() || self.queues.contains(queue)
    }

    fn takes(&self) -> bool {
        !self.dry_run && !self.keep
    }
}

/// Why an import ended early. What it has taken is imported by the next one.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the Redis of the other system does not answer as it should")]
    Redis(#[from] RedisError),
    #[error("the import ended early; run it again, it goes on where it was")]
    Api(#[from] ApiError),
}

/// A place where jobs waited.
#[derive(Debug, Default, Serialize)]
pub struct ImportedPlace {
    /// The key in Redis.
    pub place: String,
    pub found: u64,
    /// Accepted as new jobs; in a dry run those that would be posted.
    pub accepted: u64,
    /// Accepted before, by an import that was interrupted.
    pub duplicates: u64,
    /// They stay where they are.
    pub left: u64,
}

/// An entry that stays where it is.
#[derive(Debug, Serialize)]
pub struct LeftEntry {
    pub place: String,
    /// As far as it can be read.
    pub start: String,
    pub reason: String,
}

/// What an import did.
#[derive(Debug, Default, Serialize)]
pub struct ImportReport {
    pub dry_run: bool,
    pub places: Vec<ImportedPlace>,
    /// The first hundred.
    pub left: Vec<LeftEntry>,
    pub kinds: BTreeSet<String>,
    pub queues: BTreeSet<String>,
    pub notes: Vec<String>,
}

impl ImportReport {
    pub fn left_behind(&self) -> u64 {
        self.places.iter().map(|place| place.left).sum()
    }
}

/// The job that an entry becomes.
struct FoundJob {
    key: String,
    id: String,
    body: JobBody,
    /// Keys of Redis that belong to it alone.
    keys: Vec<String>,
}

/// A kind as it is declared if there is none.
struct NewKind<'a> {
    name: &'a str,
    queue: &'a str,
    timeout_seconds: Option<u64>,
    max_attempts: Option<u32>,
}

/// What became of an entry.
enum PostResult {
    Accepted { duplicate: bool },
    Left(String),
}

/// Imports, or counts what there is to import.
pub async fn import(api: &Api, options: &ImportOptions) -> Result<ImportReport, ImportError> {
    let mut import = Import {
        api,
        options,
        store: Store::open(&options.redis).await?,
        bindings: BTreeMap::new(),
        report: ImportReport {
            dry_run: options.dry_run,
            ..ImportReport::default()
        },
    };
    if options.system == System::Celery {
        import.bindings = celery::bindings(&mut import.store).await?;
    }
    for place in import.places().await? {
        if options.takes() {
            import.move_all(&place).await?;
        } else {
            import.read_all(&place).await?;
        }
    }
    Ok(import.report)
}

struct Import<'a> {
    api: &'a Api,
    options: &'a ImportOptions,
    store: Store,
    /// Celery's.
    bindings: BTreeMap<(String, String), String>,
    report: ImportReport,
}

impl Import<'_> {
    /// Those of interrupted imports, too: they may be empty otherwise.
    async fn places(&mut self) -> Result<Vec<Place>, ImportError> {
        let (store, options) = (&mut self.store, self.options);
        let mut places = match options.system {
            System::Celery => celery::places(store, options).await?,
            System::Sidekiq => sidekiq::places(store, options).await?,
            System::Bullmq => bullmq::places(store, options).await?,
        };
        for key in store.interrupted().await? {
            let place = match options.system {
                System::Celery => Some(celery::place_of(&key)),
                System::Sidekiq => Some(sidekiq::place_of(&key)),
                System::Bullmq => bullmq::place_of(&key),
            };
            places.extend(place.filter(|place| options.wants(&place.queue) || place.queue.is_empty()));
        }
        places.sort_by(|one, other| one.key.cmp(&other.key));
        places.dedup();
        let waiting = store.blocked_clients().await?;
        if waiting > 0 {
            let stays = places.iter().any(|place| place.shape == Shape::Unacked) && options.takes();
            if stays {
                places.retain(|place| place.shape != Shape::Unacked);
            }
            self.report.notes.push(format!(
                "{waiting} clients wait for jobs in this Redis: stop the workers of the other system{}",
                if stays {
                    ", and import again for what they have prefetched (unacked)"
                } else {
                    ""
                }
            ));
        }
        Ok(places)
    }

    /// Takes entries, posts them, and removes those that were accepted.
    async fn move_all(&mut self, place: &Place) -> Result<(), ImportError> {
        let mut counts = ImportedPlace {
            place: place.key.clone(),
            ..ImportedPlace::default()
        };
        let mut left: Vec<Entry> = Vec::new();
        while left.len() < MOST_LEFT {
            let entries = self.store.taken(place, left.len()).await?;
            if entries.is_empty() {
                if !self.store.take(place).await? {
                    break;
                }
                continue;
            }
            counts.found += entries.len() as u64;
            for (entry, keys, posted) in self.post_all(place, entries).await? {
                match posted {
                    PostResult::Accepted { duplicate } => {
                        self.store.remove(place, &entry, &keys).await?;
                        if duplicate {
                            counts.duplicates += 1;
                        } else {
                            counts.accepted += 1;
                        }
                    }
                    PostResult::Left(reason) => {
                        self.note_left(place, &entry, reason);
                        left.push(entry);
                    }
                }
            }
        }
        if left.len() >= MOST_LEFT {
            self.report.notes.push(format!(
                "{} has {} entries or more that cannot be imported: what is behind them was not looked at",
                place.key,
                left.len()
            ));
        }
        counts.left = left.len() as u64;
        // The oldest last: it is to be at the end that is taken from first.
        for entry in left.iter().rev() {
            self.store.give_back(place, entry).await?;
        }
        self.report.places.push(counts);
        Ok(())
    }

    /// Reads entries where they are; posts them unless this is a dry run.
    async fn read_all(&mut self, place: &Place) -> Result<(), ImportError> {
        let held = self.store.held(place).await?;
        if held > 0 {
            let note = format!(
                "an interrupted import holds {held} entries of {}; import again without --keep",
                place.key
            );
            self.report.notes.push(note);
        }
        let mut counts = ImportedPlace {
            place: place.key.clone(),
            ..ImportedPlace::default()
        };
        loop {
            let entries = self.store.peek(place, counts.found as usize).await?;
            if entries.is_empty() {
                break;
            }
            counts.found += entries.len() as u64;
            for (entry, _, posted) in self.post_all(place, entries).await? {
                match posted {
                    PostResult::Accepted { duplicate: true } => counts.duplicates += 1,
                    PostResult::Accepted { duplicate: false } => counts.accepted += 1,
                    PostResult::Left(reason) => {
                        self.note_left(place, &entry, reason);
                        counts.left += 1;
                    }
                }
            }
        }
        self.report.places.push(counts);
        Ok(())
    }

    fn note_left(&mut self, place: &Place, entry: &Entry, reason: String) {
        if self.report.left.len() < LISTED {
            self.report.left.push(LeftEntry {
                place: place.key.clone(),
                start: entry.text.chars().take(40).collect(),
                reason,
            });
        }
    }

    /// What became of each entry, in order.
    async fn post_all(
        &mut self,
        place: &Place,
        entries: Vec<Entry>,
    ) -> Result<Vec<(Entry, Vec<String>, PostResult)>, ImportError> {
        let mut read = Vec::with_capacity(entries.len());
        for entry in entries {
            let job = self.job(place, &entry).await?;
            if let Ok(job) = &job {
                self.declare(job).await?;
            }
            read.push((entry, job));
        }
        let (api, dry_run) = (self.api, self.options.dry_run);
        let posts = read.into_iter().map(|(entry, job)| async move {
            let (keys, posted) = match job {
                Err(reason) => (Vec::new(), PostResult::Left(reason)),
                Ok(job) if dry_run => (job.keys, PostResult::Accepted { duplicate: false }),
                Ok(job) => {
                    let posted = post(api, &job).await?;
                    (job.keys, posted)
                }
            };
            Ok::<_, ImportError>((entry, keys, posted))
        });
        let posts: Vec<_> = futures::stream::iter(posts).buffered(CONCURRENT).collect().await;
        posts.into_iter().collect()
    }

    async fn job(&mut self, place: &Place, entry: &Entry) -> Result<Result<FoundJob, String>, ImportError> {
        Ok(match self.options.system {
            System::Celery => celery::job(place, entry, &self.bindings, self.options),
            System::Sidekiq => sidekiq::job(place, entry, self.options),
            System::Bullmq => {
                let hash = self.store.hash(&bullmq::hash_key(place, entry)).await?;
                bullmq::job(place, entry, &hash, self.options)
            }
        })
    }

    /// Declares the queue and the kind of a job where they do not exist; each once.
    async fn declare(&mut self, job: &FoundJob) -> Result<(), ImportError> {
        let queue = job.body.queue.clone().unwrap_or_default();
        if self.report.queues.insert(queue.clone()) && !self.options.dry_run {
            let declared = self
                .api
                .put_json(&["v1", "queues", &queue], &QueueBody::default())
                .await;
            // One of the configuration needs no declaration. What is wrong with a name is said of its jobs.
            unless_refused(declared.map(drop))?;
        }
        let kind = &job.body.kind;
        if self.report.kinds.insert(kind.clone()) && !self.options.dry_run {
            let new = match self.options.system {
                System::Celery if kind == celery::KIND.name => celery::KIND,
                _ => NewKind {
                    name: kind,
                    queue: &queue,
                    timeout_seconds: None,
                    max_attempts: None,
                },
            };
            unless_refused(declare_kind(self.api, &new).await)?;
        }
        Ok(())
    }
}

async fn declare_kind(api: &Api, kind: &NewKind<'_>) -> Result<(), ApiError> {
    let path = ["v1", "kinds", kind.name];
    match api.get(&path, &[]).await {
        Err(error) if !error.is_not_found() && error.status() != Some(StatusCode::FORBIDDEN) => {
            return Err(error);
        }
        Err(_) => {}
        Ok(_) => return Ok(()),
    }
    let body = KindBody {
        queue: kind.queue.to_owned(),
        timeout_seconds: kind
            .timeout_seconds
            .map(|seconds| Seconds(Duration::from_secs(seconds))),
        retry: RetryBody {
            max_attempts: kind.max_attempts,
            ..RetryBody::default()
        },
        payload_schema: None,
        result_schema: None,
        description: None,
        redact: Vec::new(),
    };
    api.put_json(&path, &body).await.map(drop)
}

/// What the API refuses for the name's sake is found out again with each job of that name, and told there.
fn unless_refused(declared: Result<(), ApiError>) -> Result<(), ApiError> {
    match declared {
        Err(error)
            if matches!(
                error.status(),
                Some(StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Posts a job until the API takes or refuses it.
async fn post(api: &Api, job: &FoundJob) -> Result<PostResult, ApiError> {
    let give_up = Instant::now() + PATIENCE;
    for attempt in 1.. {
        let answer = api.post_json(&["v1", "jobs"], &job.body, Some(&job.key)).await;
        match answer {
            Ok(document) => {
                let accepted: AcceptedJob = api.read(&document)?;
                return Ok(PostResult::Accepted {
                    duplicate: accepted.duplicate,
                });
            }
            Err(error) if is_about_the_job(&error) => {
                return Ok(PostResult::Left(format!("job {:?}: {error}", job.id)));
            }
            Err(error) if !is_worth_a_try(&error) || Instant::now() >= give_up => return Err(error),
            Err(error) => {
                tracing::debug!(error = %error, attempt, "the API is asked again");
                tokio::time::sleep(BACKOFF.delay(attempt)).await;
            }
        }
    }
    Ok(PostResult::Left("it was tried too often".to_owned()))
}

fn is_about_the_job(error: &ApiError) -> bool {
    let about = [
        StatusCode::BAD_REQUEST,
        StatusCode::CONFLICT,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::UNPROCESSABLE_ENTITY,
    ];
    error.status().is_some_and(|status| about.contains(&status))
}

fn is_worth_a_try(error: &ApiError) -> bool {
    match error {
        ApiError::Unreachable { .. } | ApiError::Silent { .. } => true,
        _ => error
            .status()
            .is_some_and(|status| status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS),
    }
}
