//! What operators do with sources: each change and its entry in the audit log are one transaction.

use holdfast_jobs::audit::{AuditContext, AuditEntry};
use holdfast_jobs::ledger::LedgerError;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Sources;
use super::source::{MAX_SOURCES, NewSource, SourceFault, SourceId, SourceRecord};
use super::store::{COLUMNS, Row, SourceError, record, stored_definition};
use crate::action;
use holdfast_core::sql::dialect::{on_either, read_either};
use holdfast_product::redaction::redacted_feed;

impl Sources {
    /// Makes a source, which is discovered at once if it is enabled.
    pub async fn create(&self, by: &AuditContext, source: &NewSource) -> Result<SourceRecord, SourceError> {
        self.check(source)?;
        if self.count().await? >= MAX_SOURCES {
            return Err(SourceError::TooMany);
        }
        let id = SourceId::generate();
        let encryption = self.0.jobs.encryption();
        let definition = stored_definition(encryption, id.as_uuid(), &source.definition)?;
        let text = format!(
            "insert into holdfast_sources (id, name, definition, enabled, next_run_at, created_at, updated_at)
             values ($1, $2, $3, $4, case when $4 then @tick(0) end, @now, @now)
             on conflict (name) do nothing returning {COLUMNS}"
        );
        let sql = &self.0.sql;
        let made = sql
            .within("make a source", async {
                let mut tx = sql.begin().await?;
                let made = on_either!(
                    tx.on(),
                    sql.named(),
                    query_as::<Row>(&text),
                    [id.as_uuid(), &source.name, &definition, source.enabled],
                    fetch_optional
                )?;
                if made.is_some() {
                    let entry = entry(action::SOURCE_CREATE, id).details(details(source));
                    self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
                }
                tx.commit().await?;
                Ok(made)
            })
            .await?;
        let made = made.ok_or_else(|| SourceError::NameTaken(source.name.clone()))?;
        Ok(record(encryption, made)?)
    }

    /// Puts another source in the place of one, under its id. It is discovered anew, at once.
    pub async fn replace(
        &self,
        by: &AuditContext,
        id: SourceId,
        source: &NewSource,
    ) -> Result<SourceRecord, SourceError> {
        self.check(source)?;
        if self.named(&source.name).await?.is_some_and(|other| other != id) {
            return Err(SourceError::NameTaken(source.name.clone()));
        }
        let encryption = self.0.jobs.encryption();
        let definition = stored_definition(encryption, id.as_uuid(), &source.definition)?;
        let text = format!(
            "update holdfast_sources set name = $2, definition = $3, enabled = $4, revision = revision + 1,
                 next_run_at = case when $4 then @tick(0) end, etag = null, last_modified = null, failures = 0,
                 updated_at = @now
             where id = $1 returning {COLUMNS}"
        );
        let sql = &self.0.sql;
        let replaced = sql
            .within("replace a source", async {
                let mut tx = sql.begin().await?;
                let replaced = on_either!(
                    tx.on(),
                    sql.named(),
                    query_as::<Row>(&text),
                    [id.as_uuid(), &source.name, &definition, source.enabled],
                    fetch_optional
                )?;
                if replaced.is_some() {
                    let entry = entry(action::SOURCE_UPDATE, id).details(details(source));
                    self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
                }
                tx.commit().await?;
                Ok(replaced)
            })
            .await?;
        Ok(record(encryption, replaced.ok_or(SourceError::Unknown(id))?)?)
    }

    /// Its events stay stored until they are over.
    pub async fn delete(&self, by: &AuditContext, id: SourceId) -> Result<(), SourceError> {
        let sql = &self.0.sql;
        let gone = sql
            .within("delete a source", async {
                let mut tx = sql.begin().await?;
                let gone = on_either!(
                    tx.on(),
                    sql.named(),
                    query("delete from holdfast_sources where id = $1"),
                    [id.as_uuid()],
                    execute
                )?;
                if gone > 0 {
                    let entry = entry(action::SOURCE_DELETE, id);
                    self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
                }
                tx.commit().await?;
                Ok(gone)
            })
            .await?;
        if gone == 0 {
            return Err(SourceError::Unknown(id));
        }
        Ok(())
    }

    fn check(&self, source: &NewSource) -> Result<(), SourceError> {
        let mut faults = source.faults(&self.0.settings);
        if faults.is_empty() {
            faults.extend(self.refused_address(source));
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(SourceError::Invalid(faults))
    }

    /// A host that can never be reached: see [`AddressPolicy::check_url`](holdfast_outbound::AddressPolicy::check_url).
    fn refused_address(&self, source: &NewSource) -> Option<SourceFault> {
        let refused = self.0.policy.check_url(&source.definition.address()?).err()?;
        Some(SourceFault {
            field: "url".to_owned(),
            reason: format!("leads to {refused}"),
        })
    }

    async fn count(&self) -> Result<i64, LedgerError> {
        let text = "select count(*) from holdfast_sources";
        read_either!(
            self.0.sql,
            "count sources",
            query_scalar::<i64>(text),
            [],
            fetch_one
        )
    }

    async fn named(&self, name: &str) -> Result<Option<SourceId>, LedgerError> {
        let text = "select id from holdfast_sources where name = $1";
        let found = read_either!(
            self.0.sql,
            "look for a source",
            query_as::<(Uuid,)>(text),
            [name],
            fetch_optional
        )?;
        Ok(found.map(|(id,)| SourceId::from_uuid(id)))
    }
}

fn entry(action: &'static str, id: SourceId) -> AuditEntry {
    AuditEntry::new(action).target(id)
}

/// For the audit log: the host of the URL, since its path may be a secret.
fn details(source: &NewSource) -> Value {
    let definition = &source.definition;
    let url = definition.url.as_deref().map(redacted_feed);
    json!({
        "name": source.name, "kind": definition.kind, "url": url,
        "subreddit": definition.subreddit, "interval_seconds": definition.interval_seconds, "enabled": source.enabled,
    })
}
