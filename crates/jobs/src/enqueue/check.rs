//! From what a producer says to a job that can be written: every check, in one pass, before anything is stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_core::config::{JobsSettings, QueueSettings, ServedBy};
use holdfast_core::encryption::{Encryption, SEALED_PREFIX};
use serde_json::value::RawValue;

use super::{Fault, FaultCode, JobRequest, MAX_DELAY, MAX_KEY_BYTES, MAX_TIMEOUT, tags};
use crate::declared::{Declarations, DeclaredKind};
use crate::id::JobId;
use crate::job::PayloadFault;
use crate::ledger::{NewJob, Options, RunAt};
use crate::link::{Link, MAX_LINKS};
use crate::marks::{Marks, sealed};
use crate::meters::KindMeters;
use crate::registry::{Kind, Registry};
use crate::retry::{MAX_ATTEMPTS_LIMIT, RetryPolicies, RetryPolicy};

/// Where the text came from: a producer's own JSON is distrusted, what serde has just written is well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Text,
    Typed,
}

/// A kind of the program, or a declared one.
#[derive(Debug, Clone)]
pub(crate) enum KnownKind<'r> {
    Coded(&'r Kind),
    Declared(Arc<DeclaredKind>),
}

impl KnownKind<'_> {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Coded(kind) => kind.name,
            Self::Declared(kind) => &kind.name,
        }
    }

    pub(crate) fn queue(&self) -> &str {
        match self {
            Self::Coded(kind) => kind.queue,
            Self::Declared(kind) => &kind.definition.queue,
        }
    }

    fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Coded(kind) => kind.timeout,
            Self::Declared(kind) => kind.timeout(),
        }
    }

    /// Its policy on this queue.
    pub(crate) fn policy(&self, retries: &RetryPolicies, queue: &str) -> RetryPolicy {
        match self {
            Self::Coded(kind) => retries.of(kind.name, kind.retry, queue),
            Self::Declared(kind) => retries.of_declared(kind, queue),
        }
    }

    pub(crate) fn check(&self, payload: &RawValue) -> Result<(), PayloadFault> {
        match self {
            Self::Coded(kind) => kind.check(payload),
            Self::Declared(kind) => kind.check_payload(payload),
        }
    }

    /// What [`KnownKind::check`] checks beyond the kind's own `validate`, which has checked a typed job.
    fn check_restriction(&self, payload: &RawValue) -> Result<(), PayloadFault> {
        match self {
            Self::Coded(kind) => kind.check_restriction(payload),
            Self::Declared(_) => Ok(()),
        }
    }

    /// Its secret fields.
    pub(crate) fn marks(&self) -> &Marks {
        match self {
            Self::Coded(kind) => &kind.marks,
            Self::Declared(kind) => kind.marks(),
        }
    }

    pub(crate) fn meters(&self) -> &KindMeters {
        match self {
            Self::Coded(kind) => &kind.meters,
            Self::Declared(kind) => &kind.meters,
        }
    }
}

#[derive(Debug)]
pub(super) struct Checker {
    pub registry: Registry,
    pub declared: Declarations,
    pub queues: BTreeMap<String, QueueSettings>,
    pub settings: JobsSettings,
    pub retries: RetryPolicies,
    pub encryption: Encryption,
}

impl Checker {
    /// The kind, as this process knows it now: [`Declarations::look_up`] comes first.
    pub(super) fn known_kind(&self, name: &str) -> Option<KnownKind<'_>> {
        match self.registry.get(name) {
            Some(kind) => Some(KnownKind::Coded(kind)),
            None => self
                .declared
                .snapshot()
                .kinds
                .get(name)
                .cloned()
                .map(KnownKind::Declared),
        }
    }

    pub(super) fn check(&self, request: JobRequest, origin: Origin) -> Result<NewJob, Fault> {
        self.check_link(request, origin, 0)
    }

    /// A job that another's end enqueues: a callback, with what follows it.
    pub(super) fn check_callback(&self, request: JobRequest, origin: Origin) -> Result<Link, Fault> {
        let weight = Weight::of(&request);
        let link = Link::of(self.check_link(request, origin, 1)?);
        self.check_weight(weight)?;
        Ok(link)
    }

    /// What follows a job; `place` is the first link's, from 1.
    fn check_then(
        &self,
        then: Option<Box<JobRequest>>,
        origin: Origin,
        place: usize,
    ) -> Result<Option<Box<Link>>, Fault> {
        let Some(then) = then else { return Ok(None) };
        if place > MAX_LINKS {
            let reason = format!("at most {MAX_LINKS} jobs may follow one another");
            return Err(Fault::field("then", reason));
        }
        let weight = Weight::of(&then);
        let job = self
            .check_link(*then, origin, place)
            .map_err(|fault| fault.under("then"))?;
        if place == 1 {
            self.check_weight(weight).map_err(|fault| fault.under("then"))?;
        }
        Ok(Some(Box::new(Link::of(job))))
    }

    /// What waits behind a job travels with it, so all of it together may be as large as one payload.
    fn check_weight(&self, Weight { links, bytes }: Weight) -> Result<(), Fault> {
        let most = self.settings.max_payload_bytes;
        if bytes <= most {
            return Ok(());
        }
        let reason = format!(
            "the payloads of the {links} jobs that follow one another have {bytes} bytes together, which are more than the \
             {most} allowed"
        );
        Err(Fault::new(FaultCode::PayloadTooLarge, "payload", reason))
    }

    /// A job at its place in a chain; 0 is one that waits for no other.
    fn check_link(&self, mut request: JobRequest, origin: Origin, place: usize) -> Result<NewJob, Fault> {
        if place > 0 {
            check_follower(&request)?;
        }
        let kind = self.kind(&request.kind)?;
        let queue = self.queue(request.queue.as_deref(), &kind)?;
        self.check_payload(&request.payload, &kind, origin)?;
        let then = self.check_then(request.then.take(), origin, place + 1)?;
        let run_at = run_at(&request)?;
        check_moment("expires_at", request.expires_at)?;
        let policy = kind.policy(&self.retries, &queue);
        let max_attempts = max_attempts(request.max_attempts, policy)?;
        let timeout = timeout(
            request.timeout,
            kind.timeout().unwrap_or(self.settings.default_timeout),
        )?;
        check_key("unique_key", request.unique_key.as_deref())?;
        check_key("limit_key", request.limit_key.as_deref())?;
        check_key("Idempotency-Key", request.idempotency_key.as_deref())?;
        tags::check(&request.tags)?;
        Ok(NewJob {
            id: JobId::generate(),
            kind: Arc::from(kind.name()),
            queue,
            payload: Arc::from(self.sealed(&kind, request.payload)),
            priority: request.priority,
            run_at,
            max_attempts,
            timeout,
            unique_key: request.unique_key,
            idempotency_key: request.idempotency_key,
            limit_key: request.limit_key,
            options: Options {
                backoff: request.backoff,
                traceparent: request.traceparent,
                then,
                expires_at: request.expires_at,
                ..Options::default()
            },
            tags: request.tags,
            enqueued_by: request.enqueued_by,
            batch: None,
            attempt: 0,
            crashes: 0,
            errors: Vec::new(),
            doubtful: false,
            discarded: false,
            encryption: self.encryption.clone(),
        })
    }

    /// The payload as it is stored: with the secret fields of its kind encrypted, where there are keys.
    pub(super) fn sealed(&self, kind: &KnownKind<'_>, payload: Box<RawValue>) -> Box<RawValue> {
        sealed::seal(&self.encryption, kind.marks(), kind.name(), &payload).unwrap_or(payload)
    }

    pub(super) fn kind(&self, name: &str) -> Result<KnownKind<'_>, Fault> {
        self.known_kind(name).ok_or_else(|| {
            let coded = self.registry.kinds().map(|kind| kind.name.to_owned());
            let declared = self.declared.snapshot();
            let declared = declared.kinds.keys().map(ToString::to_string);
            let name: String = name.chars().take(80).collect();
            let reason = format!(
                "unknown kind {name:?}; this server knows {}",
                listed(coded.chain(declared))
            );
            Fault::new(FaultCode::UnknownKind, "kind", reason)
        })
    }

    pub(super) fn queue(&self, asked: Option<&str>, kind: &KnownKind<'_>) -> Result<Arc<str>, Fault> {
        let name = asked.unwrap_or(kind.queue());
        let fleet = match self.queues.get(name) {
            Some(queue) => Some(queue.served_by),
            None => self
                .declared
                .snapshot()
                .queues
                .contains(name)
                .then_some(ServedBy::Pull),
        };
        let fleet = fleet.ok_or_else(|| self.unknown_queue("queue", name))?;
        check_fleet(name, fleet, kind)?;
        Ok(Arc::from(name))
    }

    /// The fault of a name that is not a queue's; it lists the queues.
    pub(super) fn unknown_queue(&self, field: &str, name: &str) -> Fault {
        let configured = self.queues.keys().cloned();
        let declared = self.declared.snapshot();
        let declared = declared.queues.iter().map(ToString::to_string);
        let name: String = name.chars().take(80).collect();
        let reason = format!(
            "unknown queue {name:?}; there are {}",
            listed(configured.chain(declared))
        );
        Fault::new(FaultCode::UnknownQueue, field, reason)
    }

    pub(super) fn check_payload(
        &self,
        payload: &RawValue,
        kind: &KnownKind<'_>,
        origin: Origin,
    ) -> Result<(), Fault> {
        let text = payload.get();
        if text.len() > self.settings.max_payload_bytes {
            return Err(Fault::new(
                FaultCode::PayloadTooLarge,
                "payload",
                format!(
                    "{} bytes are more than the {} allowed",
                    text.len(),
                    self.settings.max_payload_bytes
                ),
            ));
        }
        let depth = depth_of(text);
        if depth > self.settings.max_payload_depth {
            return Err(Fault::new(
                FaultCode::PayloadTooDeep,
                "payload",
                format!(
                    "nested {depth} deep; {} is the most",
                    self.settings.max_payload_depth
                ),
            ));
        }
        if let Some(place) = sealed::first_sealed(text) {
            let reason =
                format!("begins with {SEALED_PREFIX:?}, which marks values that Holdfast has encrypted");
            return Err(Fault::new(FaultCode::InvalidPayload, field_of(&place), reason));
        }
        let checked = match origin {
            Origin::Text => kind.check(payload),
            Origin::Typed => kind.check_restriction(payload),
        };
        checked.map_err(|fault| Fault::new(FaultCode::InvalidPayload, field_of(&fault.field), fault.reason))
    }
}

/// A field of the payload, as faults name it.
pub(super) fn field_of(path: &str) -> String {
    if path.is_empty() {
        "payload".to_owned()
    } else {
        format!("payload.{path}")
    }
}

/// Of a job that waits for another's end, with all behind it.
#[derive(Clone, Copy)]
struct Weight {
    links: usize,
    /// Of payload, as it was sent: sealing adds a third to the fields that it seals.
    bytes: usize,
}

impl Weight {
    fn of(first: &JobRequest) -> Self {
        let all = || std::iter::successors(Some(first), |link| link.then.as_deref());
        Self {
            links: all().count(),
            bytes: all().map(|link| link.payload.get().len()).sum(),
        }
    }
}

/// Most names that a fault lists.
const LISTED: usize = 50;

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    match names.get(..LISTED) {
        Some(first) if names.len() > LISTED => {
            format!("{} and {} more", first.join(", "), names.len() - LISTED)
        }
        _ => names.join(", "),
    }
}

/// A claim takes jobs of every kind, so a job on a queue of the other fleet would never run. A queue of the program's own kind
/// may have been given to pull workers: its operator knows why.
fn check_fleet(queue: &str, fleet: ServedBy, kind: &KnownKind<'_>) -> Result<(), Fault> {
    let reason = match (kind, fleet) {
        (KnownKind::Declared(_), ServedBy::Rust) => format!(
            "{queue} is served by Rust workers, which do not run the declared kind {}; name a queue of pull workers, or \
             set queues.{queue}.served_by = \"pull\"",
            kind.name()
        ),
        (KnownKind::Coded(coded), ServedBy::Pull) if coded.queue != queue => format!(
            "{queue} is served by pull workers, and the kind {} runs on Rust workers; name one of their queues",
            coded.name
        ),
        _ => return Ok(()),
    };
    Err(Fault::field("queue", reason))
}

/// What a job cannot choose that waits for another's end.
fn check_follower(request: &JobRequest) -> Result<(), Fault> {
    if request.run_at.is_some() {
        let reason = "it is enqueued when the job before it has ended; give delay_seconds, counted from then";
        return Err(Fault::field("run_at", reason));
    }
    if request.expires_at.is_some() {
        let reason = "it is enqueued when the job before it has ended, whenever that is; leave it out";
        return Err(Fault::field("expires_at", reason));
    }
    if request.idempotency_key.is_some() {
        let reason = "it is enqueued once in any case; leave the key out, or give it to the first job";
        return Err(Fault::field("idempotency_key", reason));
    }
    Ok(())
}

pub(super) fn run_at(request: &JobRequest) -> Result<RunAt, Fault> {
    match (request.run_at, request.delay) {
        (Some(_), Some(_)) => Err(Fault::field(
            "run_at",
            "give either run_at or delay_seconds, not both",
        )),
        (None, None) => Ok(RunAt::Now),
        (None, Some(delay)) if delay > MAX_DELAY => Err(Fault::field(
            "delay_seconds",
            format!("at most {} (five years)", MAX_DELAY.as_secs()),
        )),
        (None, Some(delay)) => Ok(RunAt::In(delay)),
        (Some(at), None) => {
            check_moment("run_at", Some(at))?;
            Ok(RunAt::At(at))
        }
    }
}

/// From 1970 to five years from now.
fn check_moment(field: &str, at: Option<DateTime<Utc>>) -> Result<(), Fault> {
    let Some(at) = at else { return Ok(()) };
    let ahead = at.signed_duration_since(clock::now());
    if ahead.to_std().is_ok_and(|ahead| ahead > MAX_DELAY) {
        return Err(Fault::field(field, "at most five years ahead"));
    }
    if at.timestamp() < 0 {
        return Err(Fault::field(field, "must not be before 1970"));
    }
    Ok(())
}

pub(super) fn max_attempts(asked: Option<u32>, policy: RetryPolicy) -> Result<u32, Fault> {
    match asked {
        None => Ok(policy.max_attempts),
        Some(number) if (1..=MAX_ATTEMPTS_LIMIT).contains(&number) => Ok(number),
        Some(number) => Err(Fault::field(
            "max_attempts",
            format!("{number} is not between 1 and {MAX_ATTEMPTS_LIMIT}"),
        )),
    }
}

fn timeout(asked: Option<Duration>, default: Duration) -> Result<Duration, Fault> {
    match asked {
        None => Ok(default),
        Some(timeout) if timeout.is_zero() || timeout > MAX_TIMEOUT => Err(Fault::field(
            "timeout_seconds",
            format!("must be above 0 and at most {} (one day)", MAX_TIMEOUT.as_secs()),
        )),
        Some(timeout) => Ok(timeout),
    }
}

pub(super) fn check_key(field: &str, key: Option<&str>) -> Result<(), Fault> {
    match key {
        Some("") => Err(Fault::field(field, "must not be empty; leave it out instead")),
        Some(key) if key.len() > MAX_KEY_BYTES => Err(Fault::field(
            field,
            format!("{} bytes are more than the {MAX_KEY_BYTES} allowed", key.len()),
        )),
        Some(key) if key.chars().any(char::is_control) => {
            Err(Fault::field(field, "must not hold control characters"))
        }
        _ => Ok(()),
    }
}

/// How deep well-formed JSON text is nested.
pub fn depth_of(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string) = (0_usize, 0, false);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => {
                bytes.next();
            }
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_strings() {
        for (text, depth) in [
            ("1", 0),
            (r#"{"a":[[1]],"b":"]]}}\"[["}"#, 3),
            (r#"["\\",[]]"#, 2),
            (r#"["\u0000"]"#, 1),
        ] {
            assert_eq!(depth_of(text), depth, "{text}");
        }
    }
}
