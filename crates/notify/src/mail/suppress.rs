//! Who gets no mail, and the links by which people say so.
//!
//! A suppression is of one list, by the link in a mail, or of all mail, because the address does not exist or an operator
//! says so. A link holds a random token that stands for (address, list): it says nothing about either, and works for as long
//! as the table does.
//!
//! A suppression outlasts the user whose address it is: it ends by an admin's release and by nothing else. Where a user is
//! deleted the address is replaced by its HMAC under a key of this installation, which still suppresses and says nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use chrono::{DateTime, Utc};
use holdfast_jobs::LedgerTx;
use holdfast_jobs::audit::{AuditContext, AuditEntry};
use holdfast_jobs::ledger::LedgerError;
use lettre::Address;
use serde::Serialize;

use hmac::Mac as _;

use super::{Mail, MailError};
use crate::action;
use holdfast_core::sql::dialect::{moment, on_either, read_either, rows};
use holdfast_product::mail_address::{composed, normalised, spellings};

/// Every list.
pub(super) const ALL_MAIL: &str = "";

/// The key of this installation under which addresses are hashed.
const SUPPRESSIONS_KEY: &str = "mail.suppressions";

/// What a hashed address begins with; no address does.
const HASHED: &str = "hmac-sha256:";

/// Bytes of a token.
const TOKEN_BYTES: usize = 24;

/// Longest reason that is kept, in bytes.
const MAX_REASON: usize = 512;

/// Why an address that unsubscribed gets nothing.
const UNSUBSCRIBED: &str = "unsubscribed";

/// An address that receives no mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suppression {
    /// In its normal form; `hmac-sha256:…` where its user is deleted.
    pub address: String,
    /// `None`: it gets no mail at all.
    pub list: Option<String>,
    pub reason: String,
    pub at: DateTime<Utc>,
}

/// What a link has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsubscribeResult {
    pub list: String,
}

type Row = (String, String, String, i64);

impl Mail {
    /// Why this address gets no mail of this list; `None` if it does.
    pub(super) async fn suppressed(
        &self,
        address: &Address,
        list: Option<&str>,
    ) -> Result<Option<String>, LedgerError> {
        let text = "select reason from holdfast_mail_suppressions
            where address in ($1, $2, $3, $4) and list in ($5, $6) order by list limit 1";
        let [normal, unicode, given] = spellings(address);
        let hashed = self.hashed_address(&normal).await?;
        let found = read_either!(
            self.0.sql,
            "look whether an address is suppressed",
            query_as::<(String,)>(text),
            [
                &normal,
                &unicode,
                &given,
                &hashed,
                ALL_MAIL,
                list.unwrap_or(ALL_MAIL)
            ],
            fetch_optional
        )?;
        Ok(found.map(|(reason,)| reason))
    }

    /// What takes the place of a normal form whose user is deleted.
    pub(crate) async fn hashed_address(&self, normal: &str) -> Result<String, LedgerError> {
        let key = &self.0.suppressions_key;
        let mac = key
            .mac(
                &self.0.sql,
                self.0.jobs.encryption(),
                SUPPRESSIONS_KEY,
                normal.as_bytes(),
            )
            .await?;
        Ok(format!("{HASHED}{}", BASE64.encode(mac.finalize().into_bytes())))
    }

    /// No mail goes to this address any more. What was said first stands.
    pub(super) async fn suppress_all(&self, address: &str, reason: &str) -> Result<(), LedgerError> {
        let sql = &self.0.sql;
        sql.within("suppress an address", async {
            let mut tx = sql.begin().await?;
            insert(tx.on(), sql.named(), address, ALL_MAIL, reason).await?;
            tx.commit().await
        })
        .await
    }

    /// An operator suppresses an address: of one list, or altogether.
    pub async fn suppress(
        &self,
        by: &AuditContext,
        address: &str,
        list: Option<&str>,
        reason: &str,
    ) -> Result<(), MailError> {
        let address = normalised(&parsed(address)?);
        let invalid = |field, reason: &str| {
            let reason = reason.to_owned();
            Err(MailError::Invalid { field, reason })
        };
        if reason.len() > MAX_REASON || reason.contains('\0') {
            return invalid("reason", "must have 512 bytes at most, and no NUL");
        }
        if list.is_some_and(|list| !crate::names::is_name(list)) {
            return invalid("list", "must be 1 to 100 of a-z, 0-9, _, - and .");
        }
        let entry = AuditEntry::new(action::MAIL_SUPPRESS).details(serde_json::json!({ "list": list }));
        let sql = &self.0.sql;
        let done = sql.within("suppress an address", async {
            let mut tx = sql.begin().await?;
            insert(tx.on(), sql.named(), &address, list.unwrap_or(ALL_MAIL), reason).await?;
            self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
            tx.commit().await
        });
        Ok(done.await?)
    }

    /// The address gets mail again: of one list, or, without one, of everything that it did not unsubscribe from by itself.
    pub async fn release(
        &self,
        by: &AuditContext,
        address: &str,
        list: Option<&str>,
    ) -> Result<(), MailError> {
        let [normal, unicode, given] = spellings(&parsed(address)?);
        let hashed = self.hashed_address(&normal).await?;
        let text = "delete from holdfast_mail_suppressions where address in ($1, $2, $3, $4) and list = $5";
        let entry = AuditEntry::new(action::MAIL_RELEASE).details(serde_json::json!({ "list": list }));
        let sql = &self.0.sql;
        let gone = sql.within("release a suppressed address", async {
            let mut tx = sql.begin().await?;
            let list = list.unwrap_or(ALL_MAIL);
            let gone = on_either!(
                tx.on(),
                sql.named(),
                query(text),
                [&normal, &unicode, &given, &hashed, list],
                execute
            )?;
            if gone > 0 {
                self.0.jobs.audit().record_in(tx.on(), by, &entry).await?;
            }
            tx.commit().await?;
            Ok(gone)
        });
        match gone.await? {
            0 => Err(MailError::NotSuppressed(address.to_owned())),
            _ => Ok(()),
        }
    }

    /// In the order of addresses and lists, later than `after`.
    pub async fn suppressions(
        &self,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Result<Vec<Suppression>, MailError> {
        let text = "select address, list, reason, @ms(at) from holdfast_mail_suppressions
            where (address, list) > ($1, $2) or $3 order by address, list limit $4";
        let (address, list) = after.unwrap_or_default();
        let found = read_either!(
            self.0.sql,
            "list suppressed addresses",
            query_as::<Row>(text),
            [address, list, after.is_none(), rows(limit)],
            fetch_all
        )?;
        let suppression = |(address, list, reason, at): Row| Suppression {
            address,
            list: Some(list).filter(|list| list != ALL_MAIL),
            reason,
            at: moment(at),
        };
        Ok(found.into_iter().map(suppression).collect())
    }

    /// Where the reader may unsubscribe: always the same for (address, list). None where nobody has said how this
    /// installation is reached.
    pub async fn unsubscribe_link(&self, address: &str, list: &str) -> Result<Option<String>, LedgerError> {
        let Some(base) = &self.0.settings.public_url else {
            return Ok(None);
        };
        let token = self.token(address, list).await?;
        let base = base.as_str().trim_end_matches('/');
        Ok(Some(format!("{base}/v1/unsubscribe/{token}")))
    }

    /// The token of (address, list): always the same.
    async fn token(&self, address: &str, list: &str) -> Result<String, LedgerError> {
        let fresh: [u8; TOKEN_BYTES] = rand::random();
        let make = "insert into holdfast_mail_tokens (token, address, list) values ($1, $2, $3)
            on conflict (address, list) do nothing";
        let look = "select token from holdfast_mail_tokens where address = $1 and list = $2";
        let sql = &self.0.sql;
        let found = sql.within("make the link of a mail", async {
            let mut tx = sql.begin().await?;
            on_either!(
                tx.on(),
                sql.named(),
                query(make),
                [BASE64.encode(fresh), address, list],
                execute
            )?;
            let found = on_either!(
                tx.on(),
                sql.named(),
                query_as::<(String,)>(look),
                [address, list],
                fetch_optional
            )?;
            tx.commit().await?;
            Ok(found)
        });
        let found = found.await?;
        found
            .map(|(token,)| token)
            .ok_or_else(|| LedgerError::Corrupt("the link of a mail is gone at once".to_owned()))
    }

    /// Which list a token is for; `None`: it is no token.
    pub async fn token_list(&self, token: &str) -> Result<Option<String>, MailError> {
        Ok(self.token_of(token).await?.map(|(_, list)| list))
    }

    /// Takes the address of a token from its list. Doing it again changes nothing. `None`: it is no token.
    pub async fn unsubscribe(&self, token: &str) -> Result<Option<UnsubscribeResult>, MailError> {
        let Some((address, list)) = self.token_of(token).await? else {
            return Ok(None);
        };
        let sql = &self.0.sql;
        let done = sql.within("unsubscribe an address", async {
            let mut tx = sql.begin().await?;
            insert(tx.on(), sql.named(), &address, &list, UNSUBSCRIBED).await?;
            tx.commit().await
        });
        done.await?;
        Ok(Some(UnsubscribeResult { list }))
    }

    async fn token_of(&self, token: &str) -> Result<Option<(String, String)>, LedgerError> {
        let text = "select address, list from holdfast_mail_tokens where token = $1";
        read_either!(
            self.0.sql,
            "read the link of a mail",
            query_as::<(String, String)>(text),
            [token],
            fetch_optional
        )
    }
}

async fn insert(
    on: LedgerTx<'_>,
    named: bool,
    address: &str,
    list: &str,
    reason: &str,
) -> Result<(), sqlx::Error> {
    let text = "insert into holdfast_mail_suppressions (address, list, reason, at) values ($1, $2, $3, @now)
        on conflict (address, list) do nothing";
    let reason: String = reason.chars().filter(|c| *c != '\0').take(MAX_REASON).collect();
    on_either!(on, named, query(text), [address, list, &reason], execute)?;
    Ok(())
}

fn parsed(address: &str) -> Result<Address, MailError> {
    composed::<Address>(address).map_err(|error| MailError::Invalid {
        field: "address",
        reason: format!("is not a mail address: {error}"),
    })
}
