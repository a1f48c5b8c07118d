//! Publishing a notice.

use holdfast_core::config::JobsSettings;
use holdfast_jobs::LedgerTx;
use holdfast_jobs::enqueue::{EnqueueError, EnqueuedJob, depth_of};
use holdfast_product::ANNOUNCEMENT_FRAME;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{NoticeError, Notices};
use crate::webhooks::{ENGINE_EVENTS, Event, EventType, RETRY_AFTER};
use holdfast_core::sql::dialect::on_either;

holdfast_core::ids! {
    /// Names a notice; a ULID. Its webhooks' `webhook-id` is `msg_` and this.
    NoticeId;
}

/// What happened, for the endpoints that listen to it.
#[derive(Debug, Clone)]
pub struct Notice {
    pub event_type: EventType,
    /// Any JSON.
    pub data: Box<RawValue>,
    /// Under the same key a notice is published once.
    pub key: Option<String>,
}

/// What became of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedNotice {
    pub id: NoticeId,
    /// How many endpoints it goes to.
    pub webhooks: u64,
    /// It already existed under this key; `id` is that of the first one.
    pub duplicate: bool,
}

impl Notice {
    /// What no job's payload could carry is refused, whether or not anybody listens.
    fn check(&self, limits: &JobsSettings) -> Result<(), NoticeError> {
        if ENGINE_EVENTS.contains(&self.event_type.as_str()) {
            return Err(NoticeError::Reserved(self.event_type.clone()));
        }
        let (text, most) = (
            self.data.get(),
            limits.max_payload_bytes.saturating_sub(ANNOUNCEMENT_FRAME),
        );
        if text.len() > most {
            return Err(NoticeError::TooLarge {
                bytes: text.len(),
                most,
            });
        }
        let deepest = depth_of(text);
        // One level is the payload's own.
        let most = limits.max_payload_depth.saturating_sub(1);
        if deepest > most {
            let reason = format!("is nested {deepest} deep; {most} is the most");
            return Err(NoticeError::InvalidData(reason));
        }
        Ok(())
    }

    /// What tells it from another one under the same key.
    fn fingerprint(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        hash.update(self.event_type.as_str());
        hash.update([0]);
        hash.update(self.data.get());
        hash.finalize().to_vec()
    }
}

type Row = (Uuid, Vec<u8>, i32);

impl Notices {
    /// Publishes a notice: every enabled endpoint that listens to it gets a delivery, in one transaction.
    ///
    /// # Errors
    /// Nothing was published, unless the commit's answer was lost: repeat it under the same key.
    pub async fn publish(&self, notice: &Notice) -> Result<PublishedNotice, NoticeError> {
        notice.check(&self.0.limits)?;
        let id = NoticeId::generate();
        let sql = &self.0.sql;
        let published = sql.within("publish a notice", async {
            let mut tx = sql.begin().await?;
            if !self.remember(tx.on(), id, notice).await? {
                return self.repeated(tx.on(), notice).await;
            }
            let event = Event::at(id.as_ulid(), notice.event_type.clone(), notice.data.clone());
            let told = match self.0.webhooks.publish_in(tx.on(), &event).await {
                Ok(told) => told,
                Err(error) => return Ok(Err(error.into())),
            };
            self.count(tx.on(), id, &told).await?;
            tx.commit().await?;
            self.0.webhooks.ring(&told);
            Ok(Ok(PublishedNotice {
                id,
                webhooks: told.len() as u64,
                duplicate: false,
            }))
        });
        published.await?
    }

    /// False: one of its key is remembered already. Waits for a publisher that uses it right now.
    async fn remember(&self, on: LedgerTx<'_>, id: NoticeId, notice: &Notice) -> Result<bool, sqlx::Error> {
        let text = "insert into holdfast_notices (id, key, fingerprint, event_type, webhooks, at)
            values ($1, $2, $3, $4, 0, @now) on conflict (key) do nothing";
        let written = on_either!(
            on,
            self.0.sql.named(),
            query(text),
            [
                id.as_uuid(),
                notice.key.as_deref(),
                notice.fingerprint(),
                notice.event_type.as_str()
            ],
            execute
        )?;
        Ok(written == 1)
    }

    async fn repeated(
        &self,
        on: LedgerTx<'_>,
        notice: &Notice,
    ) -> Result<Result<PublishedNotice, NoticeError>, sqlx::Error> {
        let text = "select id, fingerprint, webhooks from holdfast_notices where key = $1";
        let row = on_either!(
            on,
            self.0.sql.named(),
            query_as::<Row>(text),
            [notice.key.as_deref()],
            fetch_optional
        )?;
        let Some((id, fingerprint, webhooks)) = row else {
            // Pruned in this very moment: the repeated request publishes it anew.
            return Ok(Err(NoticeError::Enqueue(EnqueueError::Unavailable {
                certain: true,
                retry_after: RETRY_AFTER,
                source: None,
            })));
        };
        let id = NoticeId::from_uuid(id);
        if fingerprint != notice.fingerprint() {
            return Ok(Err(NoticeError::KeyReused(id)));
        }
        Ok(Ok(PublishedNotice {
            id,
            webhooks: u64::from(webhooks.unsigned_abs()),
            duplicate: true,
        }))
    }

    /// For a repeated request.
    async fn count(&self, on: LedgerTx<'_>, id: NoticeId, told: &[EnqueuedJob]) -> Result<(), sqlx::Error> {
        let count = i32::try_from(told.len()).unwrap_or(i32::MAX);
        let text = "update holdfast_notices set webhooks = $2 where id = $1";
        on_either!(
            on,
            self.0.sql.named(),
            query(text),
            [id.as_uuid(), count],
            execute
        )?;
        Ok(())
    }
}
