//! The table `holdfast_mail_templates`: what mails are written from. In SQL, so that every worker has the same.

use chrono::{DateTime, Utc};
use holdfast_jobs::audit::{AuditContext, AuditEntry};
use serde::Serialize;

use super::{MAX_TEMPLATES, Mail, MailError};
use crate::action;
use crate::names::{MAX_NAME, is_name};
use holdfast_core::sql::dialect::{moment, on_either, read_either, rows};

/// Longest part of a template, in bytes.
const MAX_PART: usize = 131_072;

/// What a mail is written from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MailTemplate {
    pub subject: String,
    /// The plain text, which every mail has.
    pub text: String,
    pub html: Option<String>,
}

/// A template as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MailTemplateRecord {
    pub name: String,
    #[serde(flatten)]
    pub template: MailTemplate,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

type Row = (String, String, String, Option<String>, i64, i64);

const COLUMNS: &str = "name, subject, body, html, @ms(created_at), @ms(updated_at)";

impl Mail {
    /// Makes or replaces a template.
    pub async fn put_template(
        &self,
        by: &AuditContext,
        name: &str,
        template: &MailTemplate,
    ) -> Result<MailTemplateRecord, MailError> {
        check(name, template)?;
        let put = "insert into holdfast_mail_templates (name, subject, body, html, created_at, updated_at)
            select $1, $2, $3, $4, @now, @now
            where (select count(*) from holdfast_mail_templates) < $5
               or exists (select 1 from holdfast_mail_templates where name = $1)
            on conflict (name) do update set subject = excluded.subject, body = excluded.body, html = excluded.html,
                                             updated_at = excluded.updated_at";
        let sql = &self.0.sql;
        let written = sql.within("put a mail template", async {
            let mut tx = sql.begin().await?;
            let written = on_either!(
                tx.on(),
                sql.named(),
                query(put),
                [
                    name,
                    &template.subject,
                    &template.text,
                    template.html.as_deref(),
                    rows(MAX_TEMPLATES)
                ],
                execute
            )?;
            if written > 0 {
                let entry = AuditEntry::new(action::MAIL_TEMPLATE_PUT).target(name);
                self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
            }
            tx.commit().await?;
            Ok(written)
        });
        if written.await? == 0 {
            return Err(MailError::TooManyTemplates);
        }
        self.template(name).await
    }

    pub async fn template(&self, name: &str) -> Result<MailTemplateRecord, MailError> {
        let found = self.select_templates("name = $1", name, 1).await?.pop();
        found.ok_or_else(|| MailError::UnknownTemplate(name.to_owned()))
    }

    /// The template in the reader's language where there is one: for `de-at` that is `name.de-at`, `name.de` or `name`.
    pub(super) async fn template_in(
        &self,
        name: &str,
        language: Option<&str>,
    ) -> Result<MailTemplateRecord, MailError> {
        for language in language.into_iter().flat_map(narrowest_first) {
            match self.template(&format!("{name}.{language}")).await {
                Err(MailError::UnknownTemplate(_)) => {}
                found => return found,
            }
        }
        self.template(name).await
    }

    /// By name, later than `after`.
    pub async fn templates(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<MailTemplateRecord>, MailError> {
        let after = after.unwrap_or_default();
        self.select_templates("name > $1", after, limit).await
    }

    pub async fn delete_template(&self, by: &AuditContext, name: &str) -> Result<(), MailError> {
        let sql = &self.0.sql;
        let gone = sql.within("delete a mail template", async {
            let mut tx = sql.begin().await?;
            let text = "delete from holdfast_mail_templates where name = $1";
            let gone = on_either!(tx.on(), sql.named(), query(text), [name], execute)?;
            if gone > 0 {
                let entry = AuditEntry::new(action::MAIL_TEMPLATE_DELETE).target(name);
                self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
            }
            tx.commit().await?;
            Ok(gone)
        });
        match gone.await? {
            0 => Err(MailError::UnknownTemplate(name.to_owned())),
            _ => Ok(()),
        }
    }

    async fn select_templates(
        &self,
        which: &'static str,
        name: &str,
        limit: usize,
    ) -> Result<Vec<MailTemplateRecord>, MailError> {
        let text =
            format!("select {COLUMNS} from holdfast_mail_templates where {which} order by name limit $2");
        let found = read_either!(
            self.0.sql,
            "read mail templates",
            query_as::<Row>(&text),
            [name, rows(limit)],
            fetch_all
        )?;
        Ok(found.into_iter().map(record).collect())
    }
}

/// `zh-hant-hk`, `zh-hant`, `zh`.
fn narrowest_first(language: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(language), |tag| tag.rsplit_once('-').map(|(wider, _)| wider))
}

fn check(name: &str, template: &MailTemplate) -> Result<(), MailError> {
    let invalid = |field, reason: String| Err(MailError::Invalid { field, reason });
    if !is_name(name) {
        let reason = format!("must be 1 to {MAX_NAME} of a-z, 0-9, _, - and .");
        return invalid("name", reason);
    }
    let html = template.html.as_deref().unwrap_or_default();
    for (field, text) in [
        ("subject", &*template.subject),
        ("text", &*template.text),
        ("html", html),
    ] {
        if text.len() > MAX_PART {
            return invalid(field, format!("is longer than {MAX_PART} bytes"));
        }
        if text.contains('\0') {
            return invalid(field, "holds a NUL, which no database text can store".to_owned());
        }
    }
    template
        .check()
        .or_else(|(field, reason)| invalid(field, format!("is not a valid template: {reason}")))
}

fn record((name, subject, text, html, created, updated): Row) -> MailTemplateRecord {
    MailTemplateRecord {
        name,
        template: MailTemplate { subject, text, html },
        created_at: moment(created),
        updated_at: moment(updated),
    }
}
