//! The personal data of notifications: preferences, mails that were sent, suppressions, the digest, logged deliveries.
//!
//! - Mail records go by the addresses that are proven to be the user's, never by whom a mail went to: what anybody may write
//!   down as an address owns nothing.
//! - A suppression outlasts its user, under a keyed hash of the address.
//! - A user of the application without an account is known here once preferences were set for its id.
//! - A mail to an account whose row is gone is not sent: its job completes, and says so.
//! - A delivery that is under way while its user is deleted may still write its row, which ages out with the others.

use std::collections::BTreeSet;

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_core::sql::dialect::{moment, on_either, read_either, rows};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use holdfast_jobs::{Job, Jobs, LedgerTx};
use holdfast_product::mail_address::spellings;
use holdfast_product::{
    DELETED_ACCOUNT, DeletionCounts, ExportPage, Person, PersonalData, Process, UserName,
};
use serde_json::{Value, json};
use ulid::Ulid;
use uuid::Uuid;

use crate::mail::{ITEM, ItemRow, MAX_DIGEST_ITEMS, Mail, NotifyDigest, NotifyEmail, item};
use crate::preferences::{audit_target, key_of, parsed};
use crate::webhooks::{NotifyWebhook, without_user};

/// Rows of one page of an export.
const PAGE: usize = 1_000;

/// Logged requests that are read at once.
const DELIVERIES: usize = 50;

/// By the user: the addresses that are theirs.
const OWN: &str = "select address from holdfast_addresses where user_id = $1 and proof in ('admin', 'link')";

const DOCUMENT: &str = "select document from holdfast_preferences where user_id = $1";

const IS_STORED: &str = "select name from holdfast_application_users where id = $1";

/// By the user. The first says whether a user of the application was stored.
const USER_ROWS: [&str; 4] = [
    "delete from holdfast_application_users where id = $1",
    "delete from holdfast_preferences where user_id = $1",
    "delete from holdfast_addresses where user_id = $1",
    "delete from holdfast_digest_items where user_id = $1",
];

/// By the address.
const MAILS: &str = "delete from holdfast_mails where address = $1";

/// By the address and its hash: what suppresses goes on to suppress, and links go on to unsubscribe.
const SUPPRESSIONS: [&str; 2] = [
    "insert into holdfast_mail_suppressions (address, list, reason, at)
     select $2, list, 'suppressed before the user was deleted', at from holdfast_mail_suppressions where address = $1
     on conflict (address, list) do nothing",
    "update holdfast_mail_tokens set address = $2 where address = $1 and not exists (
        select 1 from holdfast_mail_tokens as t where t.address = $2 and t.list = holdfast_mail_tokens.list)",
];

/// By the address, after that.
const LEFT: [&str; 2] = [
    "delete from holdfast_mail_suppressions where address = $1",
    "delete from holdfast_mail_tokens where address = $1",
];

/// By the address.
const PROVEN: &str =
    "select address from holdfast_addresses where address = $1 and proof is not null limit 1";

/// What a user published, by the beginning of the keys.
const KEYS: &str =
    "update holdfast_notices set key = null where substr(key, 1, 5) = 'user-' and substr(key, 1, 31) = $1";

/// Logged requests that may name the user anywhere in their data: by the id of the row before, and the name as JSON writes
/// it. Texts with an escape may spell it otherwise.
const LOGGED: &str = "select id, request from holdfast_webhook_deliveries
    where id > $1 and (@find(request, $2) > 0 or @find(request, '\\u') > 0) order by id limit $3";
const REWRITE: &str =
    "update holdfast_webhook_deliveries set request = $2, response = null, error = null where id = $1";

/// Where an export goes on in a list by address: the address' place, and the last text of the page before.
type AddressCursor = (usize, String);

#[derive(Debug)]
pub(crate) struct NotifyData {
    sql: Sql,
    jobs: Jobs,
    /// Its suppressions, and the hash under which they outlast their user.
    mail: Mail,
}

impl NotifyData {
    pub(crate) fn new(process: Process<'_>) -> Self {
        Self {
            sql: Sql::new(process.database, &process.settings.database),
            jobs: process.jobs.clone(),
            mail: Mail::new(process.settings, process.database, process.jobs.clone()),
        }
    }

    async fn run(&self, on: LedgerTx<'_>, text: &'static str, value: &str) -> Result<u64, sqlx::Error> {
        on_either!(on, self.sql.named(), query(text), [value], execute)
    }

    async fn replace(
        &self,
        on: LedgerTx<'_>,
        text: &'static str,
        value: &str,
        new: &str,
    ) -> Result<u64, sqlx::Error> {
        on_either!(on, self.sql.named(), query(text), [value, new], execute)
    }

    /// Preferences, proven addresses and the digest, and the name in the audit log. Returns 1 for a user of the application who was
    /// stored; the name of an account is taken out of the audit log with the account.
    async fn rows_of(&self, mut on: LedgerTx<'_>, user: &UserName) -> Result<u64, sqlx::Error> {
        let (key, mut stored) = (key_of(user), 0);
        for (place, text) in USER_ROWS.into_iter().enumerate() {
            let gone = on_either!(on.reborrow(), self.sql.named(), query(text), [key], execute)?;
            if place == 0 {
                stored = gone;
            }
        }
        if stored > 0 {
            let name = format!("application/deleted-{}", Ulid(rand::random()));
            let audit = self.jobs.audit();
            audit.rename_user(on, &audit_target(user), &name).await?;
        }
        Ok(stored)
    }

    /// Jobs that have not run will find that there is no such user, and say so.
    async fn jobs_of(&self, mut on: LedgerTx<'_>, user: &str, everywhere: bool) -> Result<u64, sqlx::Error> {
        let nobody = json!({ "user": DELETED_ACCOUNT }).to_string();
        let mail = json!({ "user": DELETED_ACCOUNT, "template": "deleted" }).to_string();
        let mut changed = 0;
        for (kind, payload) in [(NotifyEmail::KIND, &mail), (NotifyDigest::KIND, &nobody)] {
            changed += self
                .jobs
                .replace_payloads_of(on.reborrow(), kind, user, payload)
                .await?;
        }
        let rewrite = |text: &str| without_user(text, user, everywhere);
        changed += self
            .jobs
            .rewrite_payloads(on, NotifyWebhook::KIND, user, rewrite)
            .await?;
        Ok(changed)
    }

    /// Logged requests go on to say what was sent, but not about whom.
    async fn deliveries_of(
        &self,
        mut on: LedgerTx<'_>,
        user: &str,
        everywhere: bool,
    ) -> Result<u64, sqlx::Error> {
        let quoted = json!(user).to_string();
        let (mut before, mut changed) = (Uuid::nil(), 0);
        loop {
            let page = on_either!(
                on.reborrow(),
                self.sql.named(),
                query_as::<(Uuid, String)>(LOGGED),
                [before, quoted.trim_matches('"'), rows(DELIVERIES)],
                fetch_all
            )?;
            for (id, text) in &page {
                if let Some(new) = without_user(text, user, everywhere) {
                    changed += on_either!(
                        on.reborrow(),
                        self.sql.named(),
                        query(REWRITE),
                        [id, &new],
                        execute
                    )?;
                }
            }
            match page.last() {
                Some((id, _)) if page.len() == DELIVERIES => before = *id,
                _ => return Ok(changed),
            }
        }
    }

    async fn delete_spelling(
        &self,
        mut on: LedgerTx<'_>,
        spelling: &str,
        hashed: &str,
    ) -> Result<u64, sqlx::Error> {
        let mut gone = self.run(on.reborrow(), MAILS, spelling).await?;
        let [keep_suppressions, keep_links] = SUPPRESSIONS;
        self.replace(on.reborrow(), keep_suppressions, spelling, hashed)
            .await?;
        gone += self.replace(on.reborrow(), keep_links, spelling, hashed).await?;
        for text in LEFT {
            gone += self.run(on.reborrow(), text, spelling).await?;
        }
        Ok(gone)
    }

    async fn preferences_of(&self, user: &UserName) -> Result<Value, LedgerError> {
        let found = read_either!(
            self.sql,
            "export preferences",
            query_as::<(String,)>(DOCUMENT),
            [key_of(user)],
            fetch_optional
        )?;
        Ok(match found {
            Some((document,)) => json!(parsed(&document)?.text()),
            None => Value::Null,
        })
    }

    async fn mails(&self, address: &str, after: &str) -> Result<Vec<(String, Value)>, LedgerError> {
        let text = "select key, sent, @ms(at) from holdfast_mails
            where address = $1 and key > $2 order by key limit $3";
        let found = read_either!(
            self.sql,
            "export what was mailed",
            query_as::<(String, bool, i64)>(text),
            [address, after, rows(PAGE)],
            fetch_all
        )?;
        let shown = |(key, sent, at): (String, bool, i64)| {
            let item = json!({ "address": address, "key": key, "sent": sent, "at": moment(at) });
            (key, item)
        };
        Ok(found.into_iter().map(shown).collect())
    }

    async fn suppressions(&self, address: &str, after: &str) -> Result<Vec<(String, Value)>, LedgerError> {
        // A list has a name; the one without stands for every mail, and sorts before all others.
        let text = "select list, reason, @ms(at) from holdfast_mail_suppressions
            where address = $1 and (list > $2 or ($2 = '' and list = '')) order by list limit $3";
        let found = read_either!(
            self.sql,
            "export suppressions",
            query_as::<(String, String, i64)>(text),
            [address, after, rows(PAGE)],
            fetch_all
        )?;
        let shown = |(list, reason, at): (String, String, i64)| {
            let named = Some(&list).filter(|list| !list.is_empty());
            let item = json!({ "address": address, "list": named, "reason": reason, "at": moment(at) });
            (list, item)
        };
        Ok(found.into_iter().map(shown).collect())
    }

    async fn digest(&self, user: &UserName) -> Result<ExportPage, LedgerError> {
        let text =
            format!("select {ITEM} from holdfast_digest_items where user_id = $1 order by id limit $2");
        let found = read_either!(
            self.sql,
            "export a digest",
            query_as::<ItemRow>(&text),
            [key_of(user), rows(MAX_DIGEST_ITEMS)],
            fetch_all
        )?;
        let encryption = self.jobs.encryption();
        let items = found
            .into_iter()
            .map(|row| Ok::<_, LedgerError>(json!(item(encryption, row)?)));
        Ok(ExportPage {
            items: items.collect::<Result<_, _>>()?,
            next: None,
        })
    }

    /// A page of a list that goes by address.
    async fn page_by_address(
        &self,
        list: &str,
        person: &Person,
        after: Option<&Value>,
    ) -> Result<ExportPage, LedgerError> {
        let after: Option<AddressCursor> = after.and_then(|value| serde_json::from_value(value.clone()).ok());
        let (place, text) = after.unwrap_or_default();
        let Some(address) = person.addresses.iter().nth(place) else {
            return Ok(ExportPage::default());
        };
        let found = match list {
            "mails" => self.mails(address, &text).await?,
            _ => self.suppressions(address, &text).await?,
        };
        let last = found.last().filter(|_| found.len() == PAGE);
        let next: AddressCursor = match last {
            Some((text, _)) => (place, text.clone()),
            None => (place + 1, String::new()),
        };
        Ok(ExportPage {
            next: (next.0 < person.addresses.len()).then(|| json!(next)),
            items: found.into_iter().map(|(_, item)| item).collect(),
        })
    }
}

impl PersonalData for NotifyData {
    fn name(&self) -> &'static str {
        "notify"
    }

    fn is_known<'a>(&'a self, user: &'a UserName) -> BoxFuture<'a, Result<bool, LedgerError>> {
        async move {
            let found = read_either!(
                self.sql,
                "find a user's preferences",
                query_as::<(String,)>(IS_STORED),
                [key_of(user)],
                fetch_optional
            )?;
            Ok(found.is_some())
        }
        .boxed()
    }

    fn addresses<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        person: &'a Person,
    ) -> BoxFuture<'a, Result<Vec<String>, sqlx::Error>> {
        async move {
            let found = on_either!(
                tx,
                self.sql.named(),
                query_as::<(String,)>(OWN),
                [key_of(&person.name)],
                fetch_all
            )?;
            Ok(found.into_iter().map(|(address,)| address).collect())
        }
        .boxed()
    }

    fn values<'a>(
        &'a self,
        person: &'a Person,
    ) -> BoxFuture<'a, Result<Vec<(&'static str, Value)>, LedgerError>> {
        async move {
            let preferences = self.preferences_of(&person.name).await?;
            Ok(vec![("preferences", preferences)])
        }
        .boxed()
    }

    fn lists(&self) -> &'static [&'static str] {
        &["mails", "suppressions", "digest"]
    }

    fn page<'a>(
        &'a self,
        list: &'static str,
        person: &'a Person,
        after: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<ExportPage, LedgerError>> {
        match list {
            "digest" => self.digest(&person.name).boxed(),
            list => self.page_by_address(list, person, after).boxed(),
        }
    }

    /// The key that hashes addresses is read now: the transaction may hold the one connection that writes.
    fn prepare(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move { self.mail.hashed_address("").await.map(drop) }.boxed()
    }

    fn delete<'a>(
        &'a self,
        mut tx: LedgerTx<'a>,
        person: &'a Person,
    ) -> BoxFuture<'a, Result<DeletionCounts, sqlx::Error>> {
        async move {
            let user = person.name.as_str();
            let everywhere = person.account.is_some();
            if let Some(account) = person.account {
                self.run(tx.reborrow(), KEYS, &format!("user-{account}")).await?;
            }
            let stored = self.rows_of(tx.reborrow(), &person.name).await?;
            let jobs = self.jobs_of(tx.reborrow(), user, everywhere).await?;
            let deliveries = self.deliveries_of(tx, user, everywhere).await?;
            let mut counts = DeletionCounts::of(&[("jobs", jobs), ("deliveries", deliveries)]);
            if stored > 0 {
                counts.add(&DeletionCounts::of(&[("preferences", stored)]));
            }
            Ok(counts)
        }
        .boxed()
    }

    fn uses_address<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        address: &'a str,
    ) -> BoxFuture<'a, Result<bool, sqlx::Error>> {
        async move {
            let named = self.sql.named();
            let found = on_either!(
                tx,
                named,
                query_as::<(String,)>(PROVEN),
                [address],
                fetch_optional
            )?;
            Ok(found.is_some())
        }
        .boxed()
    }

    fn delete_address<'a>(
        &'a self,
        mut tx: LedgerTx<'a>,
        address: &'a str,
    ) -> BoxFuture<'a, Result<DeletionCounts, sqlx::Error>> {
        async move {
            let hashed = self.mail.hashed_address(address).await;
            let hashed = hashed.map_err(|error| sqlx::Error::Encode(error.into()))?;
            let all = address
                .parse()
                .map_or_else(|_| vec![address.to_owned()], |one| spellings(&one).into());
            let mut gone = 0;
            for spelling in all.into_iter().collect::<BTreeSet<_>>() {
                gone += self.delete_spelling(tx.reborrow(), &spelling, &hashed).await?;
            }
            Ok(DeletionCounts::of(&[("mail", gone)]))
        }
        .boxed()
    }
}
