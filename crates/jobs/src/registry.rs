//! The kinds a process knows: what each accepts, and how it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::value::RawValue;

use crate::job::{Job, JobContext, JobError, PayloadFault};
use crate::job_schema::KindSchemas;
use crate::marks::Marks;
use crate::meters::KindMeters;
use crate::retry::RetryPolicy;

type Check = Arc<dyn Fn(&RawValue) -> Result<(), PayloadFault> + Send + Sync>;
type Run = fn(&RawValue, JobContext) -> BoxFuture<'static, Result<Option<Box<RawValue>>, JobError>>;

/// One kind, with its type erased.
#[derive(Clone)]
pub struct Kind {
    pub name: &'static str,
    pub queue: &'static str,
    pub timeout: Option<Duration>,
    pub retry: Option<RetryPolicy>,
    /// See [`Job::secret_fields`].
    pub marks: Arc<Marks>,
    schemas: Arc<LazyLock<KindSchemas>>,
    check: Check,
    /// See [`Registry::restrict`].
    restriction: Option<Check>,
    run: Run,
    pub(crate) meters: KindMeters,
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kind")
            .field("name", &self.name)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl Kind {
    fn of<J: Job>() -> Self {
        Self {
            name: J::KIND,
            queue: J::QUEUE,
            timeout: J::timeout(),
            retry: J::retry(),
            marks: Arc::new(marks_of::<J>()),
            meters: KindMeters::of(J::KIND),
            schemas: Arc::new(LazyLock::new(KindSchemas::of::<J>)),
            check: Arc::new(|payload| parse::<J>(payload).and_then(|job| job.validate())),
            restriction: None,
            run: |payload, ctx| {
                let parsed = parse::<J>(payload);
                async move {
                    // Checked at enqueue; a payload that stopped parsing since then will not start again.
                    let job = parsed.map_err(|fault| JobError::permanent(format!("payload: {fault}")))?;
                    let output = job.run(ctx).await?;
                    let raw = serde_json::value::to_raw_value(&output)
                        .map_err(|error| JobError::permanent(format!("result cannot be encoded: {error}")))?;
                    Ok(Some(raw).filter(|raw| raw.get() != "null"))
                }
                .boxed()
            },
        }
    }

    /// The JSON Schemas of its payload and its result.
    pub fn schemas(&self) -> &KindSchemas {
        &self.schemas
    }

    /// Whether a payload is one that this kind runs, and one that its schema describes.
    pub fn check(&self, payload: &RawValue) -> Result<(), PayloadFault> {
        self.check_type(payload)?;
        self.schemas.check(payload)
    }

    /// Whether the type of the payload takes it, whatever the schema says: the part of [`Kind::check`] that names faults in the words
    /// of the kind.
    pub fn check_type(&self, payload: &RawValue) -> Result<(), PayloadFault> {
        (self.check)(payload)
    }

    /// Whether this process accepts a payload that [`Job::validate`] has accepted.
    pub(crate) fn check_restriction(&self, payload: &RawValue) -> Result<(), PayloadFault> {
        self.restriction.as_ref().map_or(Ok(()), |check| check(payload))
    }

    pub(crate) fn run(
        &self,
        payload: &RawValue,
        ctx: JobContext,
    ) -> BoxFuture<'static, Result<Option<Box<RawValue>>, JobError>> {
        (self.run)(payload, ctx)
    }
}

/// A path that cannot be read does not say what it was to hide.
fn marks_of<J: Job>() -> Marks {
    match Marks::of_fields(J::secret_fields()) {
        Ok(marks) => marks,
        Err((field, invalid)) => panic!("the secret field {field:?} of the kind {} {invalid}", J::KIND),
    }
}

fn parse<J: Job>(payload: &RawValue) -> Result<J, PayloadFault> {
    let mut deserializer = serde_json::Deserializer::from_str(payload.get());
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        PayloadFault::new(
            if path == "." { String::new() } else { path },
            error.into_inner().to_string(),
        )
    })
}

/// Every kind of a process, by name. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<BTreeMap<&'static str, Kind>>);

impl Registry {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind.
    ///
    /// # Panics
    /// If two types claim one name, or a path of [`Job::secret_fields`] cannot be read: a fault of the program, found at its first start.
    #[must_use]
    pub fn register<J: Job>(self) -> Self {
        let mut kinds = Arc::unwrap_or_clone(self.0);
        let previous = kinds.insert(J::KIND, Kind::of::<J>());
        assert!(previous.is_none(), "two job types are called {}", J::KIND);
        Self(Arc::new(kinds))
    }

    /// Adds a check to a registered kind: payloads that [`Job::validate`] accepts and that a process with these settings will
    /// never run are refused when they are enqueued. The check must not wait.
    ///
    /// # Panics
    /// If the kind is not registered: a fault of the program, found at its first start.
    #[must_use]
    pub fn restrict<J: Job>(
        self,
        restriction: impl Fn(&J) -> Result<(), PayloadFault> + Send + Sync + 'static,
    ) -> Self {
        let mut kinds = Arc::unwrap_or_clone(self.0);
        let kind = kinds.get_mut(J::KIND);
        assert!(kind.is_some(), "no job type is called {}", J::KIND);
        if let Some(kind) = kind {
            let restriction = Arc::new(restriction);
            let of_typed = Arc::clone(&restriction);
            kind.check = Arc::new(move |payload| {
                let job = parse::<J>(payload)?;
                job.validate()?;
                restriction(&job)
            });
            kind.restriction = Some(Arc::new(move |payload| of_typed(&parse::<J>(payload)?)));
        }
        Self(Arc::new(kinds))
    }

    pub fn get(&self, kind: &str) -> Option<&Kind> {
        self.0.get(kind)
    }

    pub fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct NestedPayload {
        headers: BTreeMap<String, u32>,
        #[serde(default)]
        next: Option<Box<NestedPayload>>,
    }

    impl Job for NestedPayload {
        const KIND: &'static str = "test.nested";
        type Output = ();

        async fn run(self, _: JobContext) -> Result<(), JobError> {
            Ok(())
        }
    }

    #[test]
    fn a_payload_fault_names_the_path() {
        let registry = Registry::new().register::<NestedPayload>();
        let kind = registry.get("test.nested").unwrap();
        let bad: Box<RawValue> = serde_json::from_str(r#"{"headers":{"accept":"x"}}"#).unwrap();
        assert_eq!(kind.check(&bad).unwrap_err().field, "headers.accept");
        let good: Box<RawValue> = serde_json::from_str(r#"{"headers":{"accept":1}}"#).unwrap();
        assert_eq!(kind.check(&good), Ok(()));
        assert!(registry.get("test.other").is_none());
    }

    #[test]
    fn a_payload_that_its_schema_forbids_is_refused_although_its_type_takes_it() {
        let registry = Registry::new().register::<NestedPayload>();
        let kind = registry.get("test.nested").unwrap();
        for (payload, field) in [
            // Serde takes a list for an object, by the order of the fields.
            (r#"[{"accept":1}]"#, ""),
            (r#"{"headers":{},"next":[{}]}"#, "next"),
        ] {
            let payload: Box<RawValue> = serde_json::from_str(payload).unwrap();
            assert_eq!(kind.check_type(&payload), Ok(()));
            assert_eq!(kind.check(&payload).unwrap_err().field, field);
        }
        let nested: Box<RawValue> =
            serde_json::from_str(r#"{"headers":{},"next":{"headers":{"a":1}}}"#).unwrap();
        assert_eq!(kind.check(&nested), Ok(()));
        assert_eq!(kind.schemas().fault(), None);
        assert!(kind.schemas().result.is_none(), "it returns nothing");
    }

    #[test]
    fn an_integer_of_a_schema_has_the_bounds_of_its_type() {
        let registry = Registry::new().register::<NestedPayload>();
        let schema = &registry.get("test.nested").unwrap().schemas().payload;
        let schema: serde_json::Value = serde_json::from_str(schema.get()).unwrap();
        let number = schema
            .pointer("/properties/headers/additionalProperties")
            .unwrap();
        assert_eq!(number["maximum"], u32::MAX);
        assert_eq!(number["minimum"], 0);
    }
}
