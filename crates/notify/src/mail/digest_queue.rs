//! The table `holdfast_digest_items`: mail that waits for its reader's digest. Its states: [`super::digest`].

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_core::encryption::Encryption;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::rotation::{SealedColumn, SealedForm};
use serde::Serialize;
use ulid::Ulid;
use uuid::Uuid;

use super::Mail;
use super::render::RenderedMail;
use super::send::DELETED;
use crate::preferences;
use holdfast_core::sql::dialect::{millis, moment, on_either, read_either, rows, write_either};
use holdfast_product::{AccountId, UserName};

/// Most items that wait for one user, and so most of one mail.
pub const MAX_DIGEST_ITEMS: usize = 300;

/// Longest text and subject of an item, in characters: all items together are to fit into one mail.
pub(super) const MAX_TEXT: usize = 300;
pub(super) const MAX_SUBJECT: usize = 200;

/// When a digest is made again whose job has not sent it.
const AGAIN: Duration = Duration::from_hours(1);

/// Users of one look.
pub(super) const STEP: usize = 100;

/// A mail that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DigestItem {
    pub list: String,
    pub subject: String,
    /// The beginning of the plain text.
    pub text: String,
    pub at: DateTime<Utc>,
    pub due_at: DateTime<Utc>,
}

pub(crate) type ItemRow = (Uuid, String, String, String, i64, i64);

/// Of an [`ItemRow`].
pub(crate) const ITEM: &str = "id, list, subject, body, @ms(at), @ms(due_at)";

/// The columns that are encrypted where there are keys: both may repeat the `data` of a mail.
pub(crate) const SEALED: &[SealedColumn] = &[SUBJECT, BODY];

const SUBJECT: SealedColumn = SealedColumn {
    table: "holdfast_digest_items",
    key: "id",
    column: "subject",
    place: "subject",
    form: SealedForm::Text,
};

const BODY: SealedColumn = SealedColumn {
    column: "body",
    place: "body",
    ..SUBJECT
};

pub(crate) fn item(
    encryption: &Encryption,
    (id, list, subject, text, at, due): ItemRow,
) -> Result<DigestItem, LedgerError> {
    let row = id.to_string();
    let opened = |column: &SealedColumn, stored| {
        let opened = encryption.open_text(&column.column(&row), stored);
        opened.map_err(|source| LedgerError::Sealed {
            what: "a mail that waits for a digest",
            source,
        })
    };
    Ok(DigestItem {
        list,
        subject: opened(&SUBJECT, subject)?,
        text: opened(&BODY, text)?,
        at: moment(at),
        due_at: moment(due),
    })
}

/// For whose digest a mail is put aside.
pub(super) struct DigestEntry {
    pub(super) user: UserName,
    pub(super) list: String,
    pub(super) due: DateTime<Utc>,
}

/// What became of a mail that was to be put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueOutcome {
    /// It is there, now or already.
    Waits,
    Full,
    /// The user is deleted.
    Gone,
}

impl QueueOutcome {
    pub(super) fn told(self) -> &'static str {
        match self {
            Self::Waits => "put aside for the digest",
            Self::Full => "the user's digest is full",
            Self::Gone => DELETED,
        }
    }
}

impl Mail {
    /// Puts a mail aside for its reader's digest; under one key once.
    pub(super) async fn put_aside(
        &self,
        aside: &DigestEntry,
        key: &str,
        written: &RenderedMail,
    ) -> Result<QueueOutcome, LedgerError> {
        let put = "insert into holdfast_digest_items (id, user_id, key, list, subject, body, at, due_at)
            select $1, $2, $3, $4, $5, $6, @now, @at($7)
            where (select count(*) from holdfast_digest_items where user_id = $2) < $8
            on conflict (user_id, key) do nothing";
        let look = "select key from holdfast_digest_items where user_id = $1 and key = $2";
        let id = Uuid::from_u128(Ulid::from_parts(clock::unix_millis(), rand::random::<u128>()).0);
        let (encryption, row) = (self.0.jobs.encryption(), id.to_string());
        let sealed = |column: &SealedColumn, text: &str, most| {
            encryption.seal_text(&column.column(&row), &excerpt(text, most))
        };
        let (subject, text) = (
            sealed(&SUBJECT, &written.subject, MAX_SUBJECT),
            sealed(&BODY, &written.text, MAX_TEXT),
        );
        let user = preferences::key_of(&aside.user);
        let sql = &self.0.sql;
        sql.within("put a mail aside", async {
            let mut tx = sql.begin().await?;
            if !preferences::hold(tx.on(), sql.named(), &aside.user).await? {
                return Ok(QueueOutcome::Gone);
            }
            let put = on_either!(
                tx.on(),
                sql.named(),
                query(put),
                [
                    id,
                    user,
                    key,
                    &aside.list,
                    &subject,
                    &text,
                    aside.due.timestamp_millis(),
                    rows(MAX_DIGEST_ITEMS)
                ],
                execute
            )?;
            let there = on_either!(
                tx.on(),
                sql.named(),
                query_as::<(String,)>(look),
                [user, key],
                fetch_optional
            )?;
            tx.commit().await?;
            Ok(match (put, there) {
                (0, None) => QueueOutcome::Full,
                _ => QueueOutcome::Waits,
            })
        })
        .await
    }

    /// The user's open batch, or a new one of all that waits, with its items, oldest first.
    pub(super) async fn take_batch(&self, user: &UserName) -> Result<(Uuid, Vec<DigestItem>), LedgerError> {
        let open = "select batch from holdfast_digest_items where user_id = $1 and batch is not null limit 1";
        let take = "update holdfast_digest_items set batch = $2 where user_id = $1 and batch is null";
        let list =
            format!("select {ITEM} from holdfast_digest_items where user_id = $1 and batch = $2 order by id");
        let fresh = Uuid::from_u128(Ulid::from_parts(clock::unix_millis(), rand::random::<u128>()).0);
        let (id, sql) = (preferences::key_of(user), &self.0.sql);
        let found = sql.within("take what waits for a digest", async {
            let mut tx = sql.begin().await?;
            let open = on_either!(
                tx.on(),
                sql.named(),
                query_as::<(Uuid,)>(open),
                [id],
                fetch_optional
            )?;
            let batch = open.map_or(fresh, |(batch,)| batch);
            if open.is_none() {
                on_either!(tx.on(), sql.named(), query(take), [id, fresh], execute)?;
            }
            let items = on_either!(
                tx.on(),
                sql.named(),
                query_as::<ItemRow>(&list),
                [id, batch],
                fetch_all
            )?;
            tx.commit().await?;
            Ok((batch, items))
        });
        let (batch, items) = found.await?;
        let items = items.into_iter().map(|row| item(self.0.jobs.encryption(), row));
        Ok((batch, items.collect::<Result<_, _>>()?))
    }

    /// `sent`: the key and the address under which it was, which is noted in the same transaction.
    pub(super) async fn end_batch(
        &self,
        user: &UserName,
        batch: Uuid,
        sent: Option<(&str, &str)>,
    ) -> Result<(), LedgerError> {
        let text = "delete from holdfast_digest_items where user_id = $1 and batch = $2";
        let sql = &self.0.sql;
        sql.within("end a digest", async {
            let mut tx = sql.begin().await?;
            if let Some((key, address)) = sent {
                self.note_sent_in(tx.on(), key, address).await?;
            }
            on_either!(
                tx.on(),
                sql.named(),
                query(text),
                [preferences::key_of(user), batch],
                execute
            )?;
            tx.commit().await
        })
        .await
    }

    /// Deletes what waits for a user who is no longer stored: nothing of it is sent. How many items there were.
    pub(super) async fn drop_digest(&self, user: &UserName) -> Result<usize, LedgerError> {
        let gone = write_either!(
            self.0.sql,
            "drop a digest",
            query("delete from holdfast_digest_items where user_id = $1"),
            [preferences::key_of(user)],
            execute
        )?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }

    /// Whose digests are due, and since when, in milliseconds since the epoch.
    pub(super) async fn due_digests(&self) -> Result<Vec<(UserName, i64)>, LedgerError> {
        let text = "select d.user_id, a.name, @ms(d.due) from (
                select user_id, min(due_at) as due from holdfast_digest_items where due_at <= @now group by user_id
            ) as d left join holdfast_application_users as a on a.id = d.user_id order by d.due limit $1";
        let found = read_either!(
            self.0.sql,
            "find due digests",
            query_as::<(Uuid, Option<String>, i64)>(text),
            [rows(STEP)],
            fetch_all
        )?;
        let digest = |(key, name, due): (Uuid, Option<String>, i64)| {
            let name = name.and_then(|name| name.parse().ok());
            (name.unwrap_or_else(|| AccountId::from_uuid(key).into()), due)
        };
        Ok(found.into_iter().map(digest).collect())
    }

    /// A user's digest has its job; if that comes to nothing, there is another one later.
    pub(super) async fn move_on(&self, user: &UserName) -> Result<(), LedgerError> {
        let text =
            "update holdfast_digest_items set due_at = @ahead($2) where user_id = $1 and due_at <= @now";
        let sql = &self.0.sql;
        sql.within("move a digest on", async {
            let mut tx = sql.begin().await?;
            on_either!(
                tx.on(),
                sql.named(),
                query(text),
                [preferences::key_of(user), millis(AGAIN)],
                execute
            )?;
            tx.commit().await
        })
        .await
    }
}

/// The beginning of a text.
fn excerpt(text: &str, most: usize) -> String {
    let text = text.trim_end();
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_ends_between_characters() {
        assert_eq!(excerpt("short \n", MAX_TEXT), "short");
        let cut = excerpt(&"ä".repeat(MAX_TEXT + 1), MAX_TEXT);
        assert!(cut.chars().count() == MAX_TEXT + 1 && cut.ends_with('…'));
    }
}
