//! How often somebody may ask: token buckets, shared by all processes over Redis.
//!
//! # Who and what
//! A [`Subject`] (an API key, a user, an address, an account that somebody tries to log in to) has one bucket for each
//! [`Class`]. A bucket holds at most its *burst* and fills at an even rate. A class without a limit has no buckets and
//! costs one look at an array.
//!
//! # How it is counted
//! Redis has the buckets ([`take.lua`](take.lua)). A process takes tokens out of them in leases, a tenth of a second's
//! worth at a time, so that a busy key costs ten calls a second and not one for each request; what is left of a lease
//! after [`LEASE`] is forfeited. A refusal is remembered until the next token is due, so a flood costs Redis nothing.
//!
//! # When things fail
//! While Redis is away, hangs or is not configured, each process counts by itself and grants its share: the limit
//! divided by `rate_limit.instances`. Nobody waits longer than one command's deadline, and only until the breaker
//! opens.
//!
//! # Invariants
//! - At most [`MAX_BUCKETS`] buckets are kept; idle ones are dropped first, and while all are busy newcomers of a class
//!   share one bucket. So neither addresses nor names, which a client can make up, fill the memory.
//! - What is limited is found out before anything is asked of the database, and logins before a password is hashed.

mod address;
mod bucket;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};
use holdfast_core::config::{ServerSettings, Settings};
use holdfast_core::redis::{GateError, RedisGate};
use redis::Script;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use ulid::Ulid;

pub use self::address::client_address;
pub use self::address::network;
use self::bucket::{Bucket, Grant};
use crate::problem::{Problem, ProblemKind};
use crate::scope::Scope;

/// Most buckets one process keeps, some 200 bytes each.
const MAX_BUCKETS: usize = 50_000;

/// Between two sweeps of idle buckets: a full table must not be walked for every newcomer.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// How long the tokens of a lease may be used.
const LEASE: Duration = Duration::from_secs(1);

/// How much of the rate is leased at once.
const LEASED: Duration = Duration::from_millis(100);

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));

/// `RateLimit-Policy: "read";q=100;w=10` and `RateLimit: "read";r=99;t=1`, as the IETF's draft (httpapi-ratelimit-headers)
/// words them: the quota and its window in seconds; what is left of it, and the seconds until it is whole again.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    Produce,
    Work,
    Read,
    Admin,
    /// Without a key that is known.
    Anonymous,
    LoginAccount,
    LoginAddress,
}

impl Class {
    const ALL: [Self; 7] = [
        Self::Produce,
        Self::Work,
        Self::Read,
        Self::Admin,
        Self::Anonymous,
        Self::LoginAccount,
        Self::LoginAddress,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Work => "work",
            Self::Read => "read",
            Self::Admin => "admin",
            Self::Anonymous => "anonymous",
            Self::LoginAccount => "login-account",
            Self::LoginAddress => "login",
        }
    }
}

impl From<Scope> for Class {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Produce => Self::Produce,
            Scope::Work => Self::Work,
            Scope::Read | Scope::ReadPayload => Self::Read,
            Scope::Admin => Self::Admin,
        }
    }
}

/// Whom a bucket belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    Bootstrap,
    Key(Ulid),
    User(Ulid),
    Address(IpAddr),
    /// The name of an account, hashed: it is what somebody typed, and need not exist.
    Account(u128),
    /// Newcomers while the table is full.
    Crowd,
}

impl Subject {
    pub fn account(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        let head = digest.first_chunk().copied().unwrap_or_default();
        Self::Account(u128::from_be_bytes(head))
    }

    fn key(self, class: Class) -> String {
        let class = class.as_str();
        match self {
            Self::Bootstrap => format!("holdfast:rate:{class}:bootstrap"),
            Self::Key(id) => format!("holdfast:rate:{class}:key:{id}"),
            Self::User(id) => format!("holdfast:rate:{class}:user:{id}"),
            Self::Address(address) => format!("holdfast:rate:{class}:address:{address}"),
            Self::Account(hash) => format!("holdfast:rate:{class}:account:{hash:032x}"),
            Self::Crowd => format!("holdfast:rate:{class}:crowd"),
        }
    }
}

/// The limit of one class.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Policy {
    /// Tokens a second.
    rate: f64,
    /// Most tokens at once.
    burst: f64,
    /// Tokens taken from Redis at once.
    lease: u32,
}

impl Policy {
    /// `None`: no limit.
    fn new(per_minute: u32, burst: Duration) -> Option<Self> {
        if per_minute == 0 {
            return None;
        }
        let rate = f64::from(per_minute) / 60.0;
        let burst = (rate * burst.as_secs_f64()).floor().max(1.0);
        let lease = (rate * LEASED.as_secs_f64()).min(burst / 4.0).max(1.0) as u32;
        Some(Self { rate, burst, lease })
    }

    /// What one of so many processes grants by itself.
    fn share(self, instances: u32) -> Self {
        let instances = f64::from(instances);
        Self {
            rate: self.rate / instances,
            burst: (self.burst / instances).max(1.0),
            ..self
        }
    }

    fn window_seconds(&self) -> u64 {
        (self.burst / self.rate).ceil() as u64
    }
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// The class has no limit.
    Unlimited,
    Granted(BucketStatus),
    Refused {
        status: BucketStatus,
        /// Until a token is there again.
        retry_after: Duration,
    },
}

/// The state of a bucket after a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BucketStatus {
    class: Class,
    quota: u64,
    window_seconds: u64,
    left: u64,
    whole_in_seconds: u64,
}

/// Every limit of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RateLimits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policies: [Option<Policy>; Class::ALL.len()],
    instances: u32,
    gate: RedisGate,
    buckets: Mutex<Buckets>,
    server: ServerSettings,
    runtime: Handle,
}

#[derive(Debug)]
struct Buckets {
    held: HashMap<(Class, Subject), Arc<Bucket>>,
    swept_at: Instant,
}

impl RateLimits {
    /// Counts over this gate. Call it inside tokio.
    pub fn new(settings: &Settings, gate: RedisGate) -> Self {
        let (limits, auth) = (&settings.rate_limit, &settings.auth);
        let minute = Duration::from_mins(1);
        let policies = Class::ALL.map(|class| match class {
            Class::Produce => Policy::new(limits.produce_per_minute, limits.burst),
            Class::Work => Policy::new(limits.work_per_minute, limits.burst),
            Class::Read => Policy::new(limits.read_per_minute, limits.burst),
            Class::Admin => Policy::new(limits.admin_per_minute, limits.burst),
            Class::Anonymous => Policy::new(limits.anonymous_per_minute, limits.burst),
            Class::LoginAccount => Policy::new(auth.login_per_account_per_minute, minute),
            Class::LoginAddress => Policy::new(auth.login_per_address_per_minute, minute),
        });
        Self(Arc::new(Inner {
            policies,
            instances: limits.instances,
            gate,
            buckets: Mutex::new(Buckets {
                held: HashMap::new(),
                swept_at: Instant::now(),
            }),
            server: settings.server.clone(),
            runtime: Handle::current(),
        }))
    }

    /// Who asks, as far as an address tells.
    pub fn address_of(&self, request: &HttpRequest) -> Subject {
        Subject::Address(client_address(request, &self.0.server))
    }

    /// Takes a token if that can be decided at once.
    pub fn try_take(&self, class: Class, subject: Subject) -> Option<Verdict> {
        let Some(policy) = self.0.policy(class) else {
            return Some(Verdict::Unlimited);
        };
        let bucket = self.0.bucket(class, subject);
        self.0.decide_alone(&bucket, class, policy)
    }

    /// Takes a token, or says when there is one.
    pub async fn take(&self, class: Class, subject: Subject) -> Verdict {
        let Some(policy) = self.0.policy(class) else {
            return Verdict::Unlimited;
        };
        let bucket = self.0.bucket(class, subject);
        if let Some(verdict) = self.0.decide_alone(&bucket, class, policy) {
            return verdict;
        }
        // One asks Redis for all who wait here.
        let _turn = bucket.turn().await;
        if let Some(verdict) = self.0.decide_alone(&bucket, class, policy) {
            return verdict;
        }
        let granted = match self.0.lease(class, subject, policy).await {
            Ok(answer) => bucket.receive(answer, Instant::now()),
            Err(_) => bucket.take_share(policy.share(self.0.instances), Instant::now()),
        };
        verdict(class, policy, granted)
    }
}

impl Inner {
    fn policy(&self, class: Class) -> Option<Policy> {
        self.policies[class as usize]
    }

    /// Out of the lease, or a refusal that is known to last; while Redis is away, out of this process' share.
    fn decide_alone(&self, bucket: &Bucket, class: Class, policy: Policy) -> Option<Verdict> {
        let now = Instant::now();
        let granted = if self.gate.mode().is_normal() {
            bucket.take_leased(now)?
        } else {
            bucket.take_share(policy.share(self.instances), now)
        };
        Some(verdict(class, policy, granted))
    }

    /// Asks Redis, on the process' own runtime.
    async fn lease(&self, class: Class, subject: Subject, policy: Policy) -> Result<[u64; 3], GateError> {
        let (gate, key) = (self.gate.clone(), subject.key(class));
        let asking = self.runtime.spawn(async move {
            gate.run("rate.take", |mut connection| async move {
                let mut call = TAKE.key(key);
                call.arg(policy.rate).arg(policy.burst).arg(policy.lease);
                call.invoke_async(&mut connection).await
            })
            .await
        });
        let answered = AbortOnDropHandle::new(asking).await;
        answered.unwrap_or(Err(GateError::NotConfigured))
    }

    fn bucket(&self, class: Class, subject: Subject) -> Arc<Bucket> {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.held.get(&(class, subject)) {
            return Arc::clone(bucket);
        }
        if buckets.held.len() >= MAX_BUCKETS && now.duration_since(buckets.swept_at) >= SWEEP_PERIOD {
            buckets.swept_at = now;
            let policies = &self.policies;
            buckets.held.retain(|(class, _), bucket| {
                let full_after = policies[*class as usize].map_or(0.0, |policy| policy.burst / policy.rate);
                !bucket.is_idle(now, Duration::from_secs_f64(full_after).max(LEASE))
            });
        }
        // The crowds are a few more than the limit.
        let owner = if buckets.held.len() >= MAX_BUCKETS {
            Subject::Crowd
        } else {
            subject
        };
        let fresh = || {
            let share = self
                .policy(class)
                .map_or(1.0, |policy| policy.share(self.instances).burst);
            Arc::new(Bucket::new(share, now))
        };
        Arc::clone(buckets.held.entry((class, owner)).or_insert_with(fresh))
    }
}

fn verdict(class: Class, policy: Policy, granted: Grant) -> Verdict {
    let left = granted.left.clamp(0.0, policy.burst);
    let status = BucketStatus {
        class,
        quota: policy.burst as u64,
        window_seconds: policy.window_seconds(),
        left: left as u64,
        whole_in_seconds: ((policy.burst - left) / policy.rate).ceil() as u64,
    };
    match granted.retry_after {
        None => Verdict::Granted(status),
        Some(retry_after) => Verdict::Refused { status, retry_after },
    }
}

impl Verdict {
    /// Notes the headers on the request, from where the middleware takes them to the answer; refuses where that is the
    /// verdict.
    pub fn enforce(self, request: &HttpRequest) -> Result<(), Problem> {
        match self {
            Self::Unlimited => Ok(()),
            Self::Granted(status) => {
                request.extensions_mut().insert(status);
                Ok(())
            }
            Self::Refused { status, retry_after } => {
                request.extensions_mut().insert(status);
                Err(status.problem(retry_after))
            }
        }
    }

    /// The same without the headers: the bucket may be that of another caller.
    pub fn enforce_silently(self) -> Result<(), Problem> {
        match self {
            Self::Unlimited | Self::Granted(_) => Ok(()),
            Self::Refused { status, retry_after } => Err(status.problem(retry_after)),
        }
    }
}

impl BucketStatus {
    fn problem(&self, retry_after: Duration) -> Problem {
        let detail = match self.class {
            Class::LoginAccount | Class::LoginAddress => {
                "too many logins were tried: wait as long as Retry-After says; right and wrong passwords count alike"
                    .to_owned()
            }
            Class::Anonymous => "too many requests without a key that is known: wait as long as Retry-After says".to_owned(),
            class => format!(
                "{} of such requests ({}) may come at once, and {} in {} s: wait as long as Retry-After says",
                self.quota,
                class.as_str(),
                self.quota,
                self.window_seconds
            ),
        };
        Problem::new(ProblemKind::TooManyRequests, detail).retry_after(retry_after)
    }

    pub fn headers(&self) -> [(HeaderName, Option<HeaderValue>); 2] {
        let Self {
            class,
            quota,
            window_seconds,
            left,
            whole_in_seconds,
        } = self;
        let name = class.as_str();
        let policy = format!("\"{name}\";q={quota};w={window_seconds}");
        let limit = format!("\"{name}\";r={left};t={whole_in_seconds}");
        [
            (POLICY, HeaderValue::try_from(policy).ok()),
            (LIMIT, HeaderValue::try_from(limit).ok()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::config::{Sources, load_from};
    use holdfast_core::redis::Role;

    use super::*;

    fn limits(env: &[(&str, &str)]) -> RateLimits {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = load_from(Sources {
            env: env.collect(),
            file: None,
        })
        .unwrap();
        let gate = RedisGate::open(Role::Cache, None, &settings.redis).unwrap();
        RateLimits::new(&settings, gate)
    }

    #[tokio::test]
    async fn a_class_without_a_limit_has_no_buckets() {
        let limits = limits(&[]);
        assert_eq!(
            limits.take(Class::Produce, Subject::Bootstrap).await,
            Verdict::Unlimited
        );
        assert!(limits.0.buckets.lock().unwrap().held.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_alone_grants_its_share_and_refills_evenly() {
        let limits = limits(&[
            ("HOLDFAST__RATE_LIMIT__READ_PER_MINUTE", "120"),
            ("HOLDFAST__RATE_LIMIT__INSTANCES", "2"),
        ]);
        let mut granted = 0;
        while let Verdict::Granted(_) = limits.take(Class::Read, Subject::Bootstrap).await {
            granted += 1;
        }
        assert_eq!(granted, 10, "half of 120 a minute for 10 s");
        let Verdict::Refused { retry_after, .. } = limits.take(Class::Read, Subject::Bootstrap).await else {
            panic!("it must be refused");
        };
        assert!(retry_after <= Duration::from_secs(1), "{retry_after:?}");
        tokio::time::advance(Duration::from_millis(1_001)).await;
        assert!(matches!(
            limits.take(Class::Read, Subject::Bootstrap).await,
            Verdict::Granted(_)
        ));
        // Somebody else has a bucket of one's own.
        assert!(matches!(
            limits.take(Class::Read, Subject::Key(Ulid(7))).await,
            Verdict::Granted(_)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_subjects_do_not_fill_the_memory() {
        let limits = limits(&[("HOLDFAST__RATE_LIMIT__ANONYMOUS_PER_MINUTE", "60")]);
        for n in 0..MAX_BUCKETS as u32 + 100 {
            let address = Subject::Address(std::net::Ipv4Addr::from(n).into());
            limits.take(Class::Anonymous, address).await;
        }
        assert_eq!(limits.0.buckets.lock().unwrap().held.len(), MAX_BUCKETS + 1);
        tokio::time::advance(Duration::from_mins(5)).await;
        limits.take(Class::Anonymous, Subject::Bootstrap).await;
        assert_eq!(limits.0.buckets.lock().unwrap().held.len(), 1);
    }
}
