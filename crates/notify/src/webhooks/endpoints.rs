//! The table `holdfast_webhooks`: what owners do with their endpoints, each time with an entry in the audit log; and what a
//! delivery needs to know of one.

use std::sync::PoisonError;
use std::time::Duration;

use holdfast_jobs::LedgerTx;
use holdfast_jobs::audit::{AuditContext, AuditEntry};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::rotation::{SealedColumn, SealedForm};
use secrecy::SecretString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use super::model::{WebhookDraft, WebhookFault, WebhookId, WebhookRecord};
use super::{ENDPOINT_TTL, MAX_ENGINE_WEBHOOKS, MAX_WEBHOOKS, SigningSecret, WebhookError, Webhooks};
use crate::action;
use holdfast_core::sql::dialect::{millis, moment, on_either, read_either, rows};
use holdfast_outbound::shown;

/// Longest that the secret before a rotation signs.
const MAX_GRACE: Duration = Duration::from_hours(30 * 24);

/// An endpoint that was just made, with the only showing of its secret.
#[derive(Debug)]
pub struct MadeWebhook {
    pub webhook: WebhookRecord,
    pub secret: SigningSecret,
}

/// A secret that was just changed, with its only showing.
#[derive(Debug)]
pub struct RotatedSecret {
    pub webhook: WebhookRecord,
    pub secret: SigningSecret,
}

/// What a delivery needs to know of an endpoint, and since when it is known.
#[derive(Debug, Clone)]
pub(super) struct CachedEndpoint {
    /// `None`: there is no such endpoint.
    pub(super) endpoint: Option<Endpoint>,
    read_at: Instant,
}

#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) url: Url,
    pub(super) enabled: bool,
    pub(super) disabled_reason: Option<String>,
    pub(super) secret: SigningSecret,
    previous: Option<(SigningSecret, Instant)>,
}

impl Endpoint {
    /// The secrets that sign now, the newest first.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &SigningSecret> {
        let now = Instant::now();
        let previous = self.previous.as_ref().filter(|(_, until)| *until > now);
        std::iter::once(&self.secret).chain(previous.map(|(secret, _)| secret))
    }
}

type Row = (
    Uuid,
    String,
    String,
    String,
    String,
    String,
    bool,
    Option<String>,
    Option<i64>,
    Option<i64>,
    i64,
    i64,
);

const COLUMNS: &str =
    "id, url, description, events, kinds, queues, enabled, disabled_reason, @ms(failing_since),
    case when previous_until > @now then @ms(previous_until) end, @ms(created_at), @ms(updated_at)";

/// The columns that are encrypted where there are keys. A rotation of a secret moves it to the second one as it is, so both are one place.
pub(crate) const SEALED: &[SealedColumn] = &[
    SECRET_COLUMN,
    SealedColumn {
        column: "previous_secret",
        ..SECRET_COLUMN
    },
];

const SECRET_COLUMN: SealedColumn = SealedColumn {
    table: "holdfast_webhooks",
    key: "id",
    column: "secret",
    place: "secret",
    form: SealedForm::Text,
};

/// The secret, the one before it, and for how many milliseconds that one is still good.
type SecretsRow = (String, bool, Option<String>, String, Option<String>, Option<i64>);

const SECRETS: &str = "select url, enabled, disabled_reason, secret, previous_secret,
    @ms(previous_until) - @ms(@now) from holdfast_webhooks where id = $1";

impl Webhooks {
    /// Makes an endpoint; with a secret of its owner's own, or a fresh one.
    pub async fn create(
        &self,
        by: &AuditContext,
        draft: &WebhookDraft,
        secret: Option<&SecretString>,
    ) -> Result<MadeWebhook, WebhookError> {
        self.check_address(draft)?;
        self.check_places(draft, None).await?;
        let secret = own_or_fresh(secret)?;
        let id = WebhookId::generate();
        let sealed = self.sealed(id, &secret);
        let sql = &self.0.sql;
        let made = sql
            .within("make a webhook", async {
                let mut tx = sql.begin().await?;
                let written = insert(tx.on(), sql.named(), id, draft, &sealed).await?;
                if written == 0 {
                    return Ok(None);
                }
                let entry = AuditEntry::new(action::WEBHOOK_CREATE)
                    .target(id)
                    .details(details(draft));
                self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
                let made = select(tx.on(), sql.named(), Some(id), None, 1).await?.pop();
                tx.commit().await?;
                Ok(made)
            })
            .await?;
        let webhook = made.ok_or(WebhookError::TooMany)?;
        self.0.jobs.observers().changed();
        Ok(MadeWebhook { webhook, secret })
    }

    /// Endpoints in the order of their making, later than `after`.
    pub async fn list(
        &self,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Vec<WebhookRecord>, WebhookError> {
        let sql = &self.0.sql;
        let listed = sql.within("list webhooks", async {
            let mut tx = sql.begin_read().await?;
            let listed = select(tx.on(), sql.named(), None, after, limit).await?;
            tx.commit().await?;
            Ok(listed)
        });
        Ok(listed.await?)
    }

    pub async fn get(&self, id: WebhookId) -> Result<WebhookRecord, WebhookError> {
        let sql = &self.0.sql;
        let found = sql.within("read a webhook", async {
            let mut tx = sql.begin_read().await?;
            let found = select(tx.on(), sql.named(), Some(id), None, 1).await?;
            tx.commit().await?;
            Ok(found)
        });
        found.await?.pop().ok_or(WebhookError::Unknown(id))
    }

    /// Replaces everything about an endpoint but its secret. Whatever it was disabled for is forgotten.
    pub async fn put(
        &self,
        by: &AuditContext,
        id: WebhookId,
        draft: &WebhookDraft,
    ) -> Result<WebhookRecord, WebhookError> {
        self.check_address(draft)?;
        self.check_places(draft, Some(id)).await?;
        let text = "update holdfast_webhooks
            set url = $2, description = $3, events = $4, enabled = $5, kinds = $6, queues = $7, disabled_reason = null,
                failing_since = null, updated_at = @now
            where id = $1";
        let entry = AuditEntry::new(action::WEBHOOK_UPDATE)
            .target(id)
            .details(details(draft));
        let sql = &self.0.sql;
        let put = sql.within("change a webhook", async {
            let mut tx = sql.begin().await?;
            let bound = (id.as_uuid(), draft.url.as_str(), &draft.description);
            let changed = on_either!(
                tx.on(),
                sql.named(),
                query(text),
                [
                    bound.0,
                    bound.1,
                    bound.2,
                    list_text(&draft.events),
                    draft.enabled,
                    list_text(&draft.scope.kinds),
                    list_text(&draft.scope.queues)
                ],
                execute
            )?;
            self.finish_change(tx, by, id, changed, &entry).await
        });
        put.await?.ok_or(WebhookError::Unknown(id))
    }

    /// Jobs that wait for it will be discarded; its log of deliveries ages out.
    pub async fn delete(&self, by: &AuditContext, id: WebhookId) -> Result<(), WebhookError> {
        let sql = &self.0.sql;
        let gone = sql.within("delete a webhook", async {
            let mut tx = sql.begin().await?;
            let text = "delete from holdfast_webhooks where id = $1";
            let gone = on_either!(tx.on(), sql.named(), query(text), [id.as_uuid()], execute)?;
            if gone > 0 {
                let entry = AuditEntry::new(action::WEBHOOK_DELETE).target(id);
                self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
            }
            tx.commit().await?;
            Ok(gone > 0)
        });
        let gone = gone.await?;
        self.forget(id);
        gone.then_some(()).ok_or(WebhookError::Unknown(id))
    }

    /// Gives an endpoint another secret; the one before signs as well for the period of grace. One from before an earlier
    /// rotation ends now.
    pub async fn rotate(
        &self,
        by: &AuditContext,
        id: WebhookId,
        secret: Option<&SecretString>,
        grace: Duration,
    ) -> Result<RotatedSecret, WebhookError> {
        if grace > MAX_GRACE {
            let reason = format!("is more than {} seconds (thirty days)", MAX_GRACE.as_secs());
            return Err(WebhookFault::new("grace_seconds", reason).into());
        }
        let secret = own_or_fresh(secret)?;
        let text = "update holdfast_webhooks
            set previous_secret = case when $3 > 0 then secret end,
                previous_until = case when $3 > 0 then @ahead($3) end,
                secret = $2, updated_at = @now
            where id = $1";
        let sealed = self.sealed(id, &secret);
        let entry = AuditEntry::new(action::WEBHOOK_ROTATE)
            .target(id)
            .details(json!({"grace_seconds": grace.as_secs_f64()}));
        let sql = &self.0.sql;
        let rotated = sql.within("rotate the secret of a webhook", async {
            let mut tx = sql.begin().await?;
            let changed = on_either!(
                tx.on(),
                sql.named(),
                query(text),
                [id.as_uuid(), &sealed, millis(grace)],
                execute
            )?;
            self.finish_change(tx, by, id, changed, &entry).await
        });
        let webhook = rotated.await?.ok_or(WebhookError::Unknown(id))?;
        Ok(RotatedSecret { webhook, secret })
    }

    /// Records a change, and reads what it made; `None` if there was nothing to change.
    async fn finish_change(
        &self,
        mut tx: holdfast_jobs::sql::OwnTx,
        by: &AuditContext,
        id: WebhookId,
        changed: u64,
        entry: &AuditEntry,
    ) -> Result<Option<WebhookRecord>, sqlx::Error> {
        if changed == 0 {
            return Ok(None);
        }
        self.0.jobs.audit().record_in(tx.on(), by, entry).await?;
        let named = self.0.sql.named();
        let record = select(tx.on(), named, Some(id), None, 1).await?.pop();
        tx.commit().await?;
        self.forget(id);
        Ok(record)
    }

    /// What the URL says by itself is checked now; what its name leads to, each time something is sent.
    fn check_address(&self, draft: &WebhookDraft) -> Result<(), WebhookFault> {
        self.0
            .policy
            .check_url(&draft.url)
            .map_err(|refused| WebhookFault::new("url", format!("leads to {refused}")))
    }

    /// An event for each job makes as many deliveries as there are endpoints, so these are few.
    async fn check_places(&self, draft: &WebhookDraft, own: Option<WebhookId>) -> Result<(), WebhookError> {
        if !draft.enabled || !draft.takes_engine_events() {
            return Ok(());
        }
        let others = self.subscriptions().await?;
        let others = others.iter().filter(|other| Some(other.webhook) != own).count();
        if others < MAX_ENGINE_WEBHOOKS {
            return Ok(());
        }
        let reason = format!(
            "{MAX_ENGINE_WEBHOOKS} enabled webhooks are sent events of jobs, batches, schedules or queues, which is the limit"
        );
        Err(WebhookFault::new("events", reason).into())
    }

    /// The endpoint as it was [`ENDPOINT_TTL`] ago at most.
    pub(super) async fn endpoint(&self, id: WebhookId) -> Result<Option<Endpoint>, LedgerError> {
        if let Some(known) = self.known(id) {
            return Ok(known.endpoint);
        }
        // From before the question on, so that it is never believed for longer.
        let read_at = Instant::now();
        let row = read_either!(
            self.0.sql,
            "read the secret of a webhook",
            query_as::<SecretsRow>(SECRETS),
            [id.as_uuid()],
            fetch_optional
        )?;
        let endpoint = row.map(|row| self.endpoint_of(id, row, read_at)).transpose()?;
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_WEBHOOKS {
            known.clear();
        }
        let entry = CachedEndpoint {
            endpoint: endpoint.clone(),
            read_at,
        };
        known.insert(id, entry);
        Ok(endpoint)
    }

    fn sealed(&self, id: WebhookId, secret: &SigningSecret) -> String {
        let row = id.as_uuid().to_string();
        self.0
            .jobs
            .encryption()
            .seal_text(&SECRET_COLUMN.column(&row), secret.expose())
    }

    fn opened(&self, id: WebhookId, stored: String) -> Result<SigningSecret, LedgerError> {
        let row = id.as_uuid().to_string();
        let opened = self
            .0
            .jobs
            .encryption()
            .open_text(&SECRET_COLUMN.column(&row), stored);
        opened
            .map(SigningSecret::stored)
            .map_err(|source| LedgerError::Sealed {
                what: "the secret of a webhook",
                source,
            })
    }

    fn endpoint_of(&self, id: WebhookId, row: SecretsRow, read_at: Instant) -> Result<Endpoint, LedgerError> {
        let (url, enabled, disabled_reason, secret, previous, good_for) = row;
        let url =
            Url::parse(&url).map_err(|error| LedgerError::Corrupt(format!("a webhook's URL: {error}")))?;
        let good_for = good_for
            .and_then(|ms| u64::try_from(ms).ok())
            .map(Duration::from_millis);
        let previous = previous
            .zip(good_for)
            .map(|(secret, good_for)| Ok((self.opened(id, secret)?, read_at + good_for)));
        Ok(Endpoint {
            url,
            enabled,
            disabled_reason,
            secret: self.opened(id, secret)?,
            previous: previous.transpose()?,
        })
    }

    fn known(&self, id: WebhookId) -> Option<CachedEndpoint> {
        let known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&id)
            .filter(|known| known.read_at.elapsed() < ENDPOINT_TTL)
            .cloned()
    }

    /// What this process has just changed it knows at once.
    pub(super) fn forget(&self, id: WebhookId) {
        self.0.jobs.observers().changed();
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&id);
    }
}

fn own_or_fresh(own: Option<&SecretString>) -> Result<SigningSecret, WebhookFault> {
    match own {
        Some(text) => Ok(SigningSecret::parse(text)?),
        None => Ok(SigningSecret::generate()),
    }
}

/// For the audit log: origin and path of the URL, since its query may be a secret.
fn details(draft: &WebhookDraft) -> serde_json::Value {
    json!({
        "url": shown(&draft.url),
        "events": draft.events,
        "kinds": draft.scope.kinds,
        "queues": draft.scope.queues,
        "enabled": draft.enabled,
    })
}

fn list_text(texts: &[impl Serialize]) -> String {
    // A list of texts always encodes.
    serde_json::to_string(texts).unwrap_or_default()
}

/// Unless there are too many already; how many were written.
async fn insert(
    on: LedgerTx<'_>,
    named: bool,
    id: WebhookId,
    draft: &WebhookDraft,
    sealed_secret: &str,
) -> Result<u64, sqlx::Error> {
    let text = "insert into holdfast_webhooks (id, url, description, events, secret, enabled, kinds, queues, created_at,
            updated_at)
        select $1, $2, $3, $4, $5, $6, $8, $9, @now, @now
        where (select count(*) from holdfast_webhooks) < $7";
    on_either!(
        on,
        named,
        query(text),
        [
            id.as_uuid(),
            draft.url.as_str(),
            &draft.description,
            list_text(&draft.events),
            sealed_secret,
            draft.enabled,
            rows(MAX_WEBHOOKS),
            list_text(&draft.scope.kinds),
            list_text(&draft.scope.queues)
        ],
        execute
    )
}

/// One endpoint, or those later than `after`.
async fn select(
    on: LedgerTx<'_>,
    named: bool,
    id: Option<WebhookId>,
    after: Option<WebhookId>,
    limit: usize,
) -> Result<Vec<WebhookRecord>, sqlx::Error> {
    let which = match (id, after) {
        (Some(_), _) => "id = $1",
        (None, Some(_)) => "id > $1",
        (None, None) => "$1 is not null",
    };
    let bound = id.or(after).map_or(Uuid::nil(), WebhookId::as_uuid);
    let text = format!("select {COLUMNS} from holdfast_webhooks where {which} order by id limit $2");
    let found = on_either!(on, named, query_as::<Row>(&text), [bound, rows(limit)], fetch_all)?;
    found.into_iter().map(record).collect()
}

fn record(row: Row) -> Result<WebhookRecord, sqlx::Error> {
    let (
        id,
        url,
        description,
        events,
        kinds,
        queues,
        enabled,
        disabled_reason,
        failing,
        previous,
        created,
        updated,
    ) = row;
    Ok(WebhookRecord {
        id: WebhookId::from_uuid(id),
        url,
        description,
        events: decoded(&events)?,
        kinds: decoded(&kinds)?,
        queues: decoded(&queues)?,
        enabled,
        disabled_reason,
        failing_since: failing.map(moment),
        previous_secret_until: previous.map(moment),
        created_at: moment(created),
        updated_at: moment(updated),
    })
}

pub(super) fn decoded<T: DeserializeOwned>(json: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(json).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
