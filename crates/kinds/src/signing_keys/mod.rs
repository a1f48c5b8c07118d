//! The signing key of this installation: what `http.request` jobs with `sign` are signed with.
//!
//! # States
//! There is no key, or a *current* one, and for a time after a rotation a *previous* one, which signs too: a request then
//! carries both signatures, so receivers may switch at any time within the grace period.
//!
//! # Invariants
//! - A secret is shown once, in the answer that makes it. It is stored as it is, because it has to sign, or encrypted where there are
//!   keys, and appears in no list, log or error.
//! - Without a key nothing is sent that should be signed: the attempt fails, says what to do, and is retried.
//! - Each change and its entry in the audit log are one transaction. Of two rotations at the same time one follows the other,
//!   by a lock of the table.
//! - A worker uses a changed key after [`KEYS_TTL`] at most.
//!
//! # When things fail
//! *SQL is unavailable while a job is to be signed*: the attempt fails as any that cannot reach SQL, and is retried.

mod problems;
mod routes;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::sql::Database;
use holdfast_core::sql::dialect::{millis, moment, on_either, read_either};
use holdfast_jobs::audit::{AuditContext, AuditEntry};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::rotation::{SealedColumn, SealedForm};
use holdfast_jobs::sql::Sql;
use holdfast_jobs::{JobError, Jobs, LedgerTx};
use holdfast_outbound::{InvalidSecret, SigningSecret};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::action;

pub use self::problems::SigningKeyProblem;
pub use self::routes::{ROUTES, RotateSigningKey, SigningKeyList, SigningKeyWithSecret, SigningKeysState};

/// Longest that a worker signs with keys that have changed.
pub const KEYS_TTL: Duration = Duration::from_secs(1);

/// Longest that the key before a rotation signs.
pub const MAX_GRACE: Duration = Duration::from_hours(30 * 24);

holdfast_core::ids! {
    /// Names a signing key; a ULID.
    SigningKeyId;
}

/// A signing key without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SigningKey {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    pub id: SigningKeyId,
    pub created_at: DateTime<Utc>,
    /// Null: the current key. Otherwise the key before the last rotation, which signs until this time.
    pub signs_until: Option<DateTime<Utc>>,
}

/// Why signing keys were not changed or read.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    #[error("{0}")]
    InvalidSecret(#[from] InvalidSecret),
    #[error("is more than {} seconds (thirty days)", MAX_GRACE.as_secs())]
    GraceTooLong,
    #[error("there is no signing key {0}")]
    Unknown(SigningKeyId),
    #[error("a signing key exists: rotate it")]
    Exists,
    #[error(transparent)]
    Sql(#[from] LedgerError),
}

/// The signing keys of one database. Cheap to clone.
#[derive(Clone)]
pub struct SigningKeys(Arc<Inner>);

struct Inner {
    sql: Sql,
    jobs: Jobs,
    /// Held while it is read, so that the jobs of a worker ask the database once.
    known: Mutex<Option<KnownKeys>>,
}

struct KnownKeys {
    /// The newest first; those that end, with when.
    secrets: Vec<(SigningSecret, Option<Instant>)>,
    read_at: Instant,
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKeys").finish_non_exhaustive()
    }
}

/// The columns that are encrypted where there are keys.
pub(crate) const SEALED: &[SealedColumn] = &[SECRET_COLUMN];

const SECRET_COLUMN: SealedColumn = SealedColumn {
    table: "holdfast_signing_keys",
    key: "id",
    column: "secret",
    place: "secret",
    form: SealedForm::Text,
};

type Row = (Uuid, i64, Option<i64>);

const COLUMNS: &str = "id, @ms(created_at), @ms(expires_at)";

/// Whether a key signs now; the current one first.
const IN_FORCE: &str = "slot = 'current' or expires_at > @now";

impl SigningKeys {
    /// It reaches nothing yet.
    pub fn new(settings: &holdfast_core::config::Settings, database: &Database, jobs: Jobs) -> Self {
        Self(Arc::new(Inner {
            sql: Sql::new(database, &settings.database),
            jobs,
            known: Mutex::default(),
        }))
    }

    /// The keys that sign now, the current one first.
    pub async fn list(&self) -> Result<Vec<SigningKey>, LedgerError> {
        let text = format!("select {COLUMNS} from holdfast_signing_keys where {IN_FORCE} order by slot");
        let rows = read_either!(
            self.0.sql,
            "list signing keys",
            query_as::<Row>(&text),
            [],
            fetch_all
        )?;
        Ok(rows.into_iter().map(key).collect())
    }

    /// Makes the first key; with a secret of the caller's own, or a generated one.
    pub async fn create(
        &self,
        by: &AuditContext,
        secret: Option<&SecretString>,
    ) -> Result<(SigningKey, SigningSecret), SigningKeyError> {
        let secret = own_or_generated(secret)?;
        let made = self.put(by, action::SIGNING_KEY_CREATE, &secret, None).await?;
        Ok((made.ok_or(SigningKeyError::Exists)?, secret))
    }

    /// Puts another key in the place of the current one, which signs as well for the grace period; one from before an earlier
    /// rotation ends now. Makes the first key where there is none.
    pub async fn rotate(
        &self,
        by: &AuditContext,
        secret: Option<&SecretString>,
        grace: Duration,
    ) -> Result<(SigningKey, SigningSecret), SigningKeyError> {
        if grace > MAX_GRACE {
            return Err(SigningKeyError::GraceTooLong);
        }
        let secret = own_or_generated(secret)?;
        let made = self
            .put(by, action::SIGNING_KEY_ROTATE, &secret, Some(grace))
            .await?;
        let taken =
            || LedgerError::Corrupt("the place of the current key was taken after it was freed".to_owned());
        Ok((made.ok_or_else(taken)?, secret))
    }

    /// Ends a key now. Without a current one, jobs that are to be signed wait for the next.
    pub async fn delete(&self, by: &AuditContext, id: SigningKeyId) -> Result<(), SigningKeyError> {
        let sql = &self.0.sql;
        let gone = sql.within("delete a signing key", async {
            let mut tx = sql.begin().await?;
            let text = format!("delete from holdfast_signing_keys where id = $1 and ({IN_FORCE})");
            let gone = on_either!(tx.on(), sql.named(), query(&text), [id.as_uuid()], execute)?;
            if gone > 0 {
                let entry = AuditEntry::new(action::SIGNING_KEY_DELETE).target(id);
                self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
            }
            tx.commit().await?;
            Ok(gone > 0)
        });
        let gone = gone.await?;
        *self.0.known.lock().await = None;
        gone.then_some(()).ok_or(SigningKeyError::Unknown(id))
    }

    /// Writes a new current key, after the one before it has moved, or if there is none. `None`: there is one now.
    async fn put(
        &self,
        by: &AuditContext,
        action: &'static str,
        secret: &SigningSecret,
        grace: Option<Duration>,
    ) -> Result<Option<SigningKey>, LedgerError> {
        let sql = &self.0.sql;
        let put = sql.within("write a signing key", async {
            let mut tx = sql.begin().await?;
            if let Some(grace) = grace {
                retire_current(tx.on(), sql.named(), grace).await?;
            }
            let id = SigningKeyId::generate();
            let text = format!(
                "insert into holdfast_signing_keys (id, slot, secret, created_at) values ($1, 'current', $2, @now)
                 on conflict (slot) do nothing returning {COLUMNS}"
            );
            let made = on_either!(
                tx.on(),
                sql.named(),
                query_as::<Row>(&text),
                [id.as_uuid(), self.sealed(id, secret)],
                fetch_optional
            )?;
            if made.is_some() {
                let grace = grace.map(|grace| json!({"grace_seconds": grace.as_secs_f64()}));
                let entry = AuditEntry::new(action).target(id);
                let entry = match grace {
                    Some(details) => entry.details(details),
                    None => entry,
                };
                self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
                tx.commit().await?;
            }
            Ok(made)
        });
        let made = put.await?;
        *self.0.known.lock().await = None;
        Ok(made.map(key))
    }

    /// The secrets that sign now, the newest first, as they were [`KEYS_TTL`] ago at most.
    ///
    /// # Errors
    /// Transient: there is no key, or SQL is unavailable.
    pub async fn secrets(&self) -> Result<Vec<SigningSecret>, JobError> {
        let mut known = self.0.known.lock().await;
        let fresh = known.take().filter(|known| known.read_at.elapsed() < KEYS_TTL);
        let keys = match fresh {
            Some(keys) => keys,
            None => self.read().await?,
        };
        let now = Instant::now();
        let secrets: Vec<SigningSecret> = keys
            .secrets
            .iter()
            .filter(|(_, until)| until.is_none_or(|until| until > now))
            .map(|(secret, _)| secret.clone())
            .collect();
        let has_current = keys.secrets.iter().any(|(_, until)| until.is_none());
        *known = Some(keys);
        if has_current {
            return Ok(secrets);
        }
        Err(JobError::transient(
            "the request is to be signed, and this installation has no signing key: create one with POST /v1/signing-keys or \
             holdfast signing-keys create",
        ))
    }

    async fn read(&self) -> Result<KnownKeys, LedgerError> {
        // From before the question on, so that a key is never believed for longer.
        let read_at = Instant::now();
        let text = format!(
            "select id, secret, @ms(expires_at) - @ms(@now) from holdfast_signing_keys where {IN_FORCE} order by slot"
        );
        let rows = read_either!(
            self.0.sql,
            "read the signing keys",
            query_as::<(Uuid, String, Option<i64>)>(&text),
            [],
            fetch_all
        )?;
        let secrets = rows.into_iter().map(|(id, secret, left)| {
            let left = left.map(|left| Duration::from_millis(u64::try_from(left).unwrap_or_default()));
            let secret = self.opened(id, secret)?;
            Ok((SigningSecret::stored(secret), left.map(|left| read_at + left)))
        });
        Ok(KnownKeys {
            secrets: secrets.collect::<Result<_, LedgerError>>()?,
            read_at,
        })
    }

    fn sealed(&self, id: SigningKeyId, secret: &SigningSecret) -> String {
        let row = id.as_uuid().to_string();
        self.0
            .jobs
            .encryption()
            .seal_text(&SECRET_COLUMN.column(&row), secret.expose())
    }

    fn opened(&self, id: Uuid, stored: String) -> Result<String, LedgerError> {
        let opened = self
            .0
            .jobs
            .encryption()
            .open_text(&SECRET_COLUMN.column(&id.to_string()), stored);
        opened.map_err(|source| LedgerError::Sealed {
            what: "a signing key",
            source,
        })
    }
}

/// Frees the slot of the current key. Rotations take turns: one that frees the slot of the previous key and moves the current one there
/// must not meet another's. (SQLite has one writer.)
async fn retire_current(mut on: LedgerTx<'_>, named: bool, grace: Duration) -> Result<(), sqlx::Error> {
    if let LedgerTx::Postgres(on) = on.reborrow() {
        let take_turn = "lock table holdfast_signing_keys in share row exclusive mode";
        sqlx::query(take_turn).persistent(named).execute(on).await?;
    }
    let drop_previous = "delete from holdfast_signing_keys where slot = 'previous'";
    on_either!(on.reborrow(), named, query(drop_previous), [], execute)?;
    if grace.is_zero() {
        let drop_current = "delete from holdfast_signing_keys where slot = 'current'";
        on_either!(on, named, query(drop_current), [], execute)?;
    } else {
        let retire = "update holdfast_signing_keys set slot = 'previous', expires_at = @ahead($1) where slot = 'current'";
        on_either!(on, named, query(retire), [millis(grace)], execute)?;
    }
    Ok(())
}

fn own_or_generated(own: Option<&SecretString>) -> Result<SigningSecret, InvalidSecret> {
    own.map_or_else(|| Ok(SigningSecret::generate()), SigningSecret::parse)
}

fn key((id, created, expires): Row) -> SigningKey {
    SigningKey {
        id: SigningKeyId::from_uuid(id),
        created_at: moment(created),
        signs_until: expires.map(moment),
    }
}
