//! Deleting a user: all of it, in one transaction.
//!
//! Mail records go by the addresses that are proven to be the user's ([`super::addresses`]), unless somebody else gets mail there
//! too. Suppressions stay, under a keyed hash of the address. Whom jobs send to is not looked at: only for which user they are.

use std::collections::BTreeSet;

use holdfast_jobs::audit::{Actor, AuditEntry, By, action};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::OwnTx;
use lettre::Address;
use lettre::message::Mailbox;
use serde::Serialize;
use serde_json::json;
use ulid::Ulid;
use uuid::Uuid;

use super::addresses::OWN;
use super::naming::without_user;
use super::{AccountError, AccountId, Accounts};
use crate::dialect::{self, on_either, read_either};
use crate::interactions::UserName;
use crate::mail::{normalised, spellings};

/// What a deletion has removed, or left under no name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Deleted {
    /// There was an account, which is gone with its preferences, its digest and its sessions.
    pub account: bool,
    pub interactions: u64,
    pub subscriptions: u64,
    /// Rows about mail: what was sent, suppressions, links.
    pub mail: u64,
    /// Attempts of webhooks that told of the user, and say now that it was somebody.
    pub deliveries: u64,
    /// That name the user no more. Those that have not run will do nothing.
    pub jobs: u64,
    /// Entries that say now that somebody did it: those of a viewer. Whoever may do more stays named by the id.
    pub audit: u64,
    /// API keys that the user had made, and that were revoked with the user.
    pub keys: u64,
}

/// How a user is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// The API keys that the user made end too.
    pub revoke_keys: bool,
}

/// An API key in force that a user made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MadeKey {
    pub id: Ulid,
    pub name: String,
    pub scopes: String,
}

/// The role that can only read.
const VIEWER: &str = "viewer";

/// What jobs name instead of a user: no account has this id.
const NOBODY: &str = "00000000000000000000000000";

/// By the user's name.
const INTERACTIONS: &str = "delete from holdfast_interactions where user_id = $1";
const SUBSCRIPTIONS: &str = "delete from holdfast_subscriptions where user_id = $1";

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

/// By the user's name: where an admin has said that news go.
pub(super) const SUBSCRIBED: &str = "select distinct email from holdfast_subscriptions where user_id = $1 and email is not null and email_proven";

/// By the address, once the user's own account and subscriptions are gone: who else gets mail there.
const SHARED: &str = "select name from holdfast_users where name = $1
    union all select address from holdfast_addresses where address = $1 and proof is not null
    union all select user_id from holdfast_subscriptions where email is not null and @address(email) = $1 limit 1";

/// By the user's name, a kind, and a payload for it that names nobody.
const JOBS: &str = "update holdfast_jobs
    set payload = cast($3 as @json), unique_key = null, idempotency_key = null, limit_key = null, result = null, errors = null
    where kind = $2 and kind in ('notify.email', 'notify.digest', 'ml.recommend') and @field(payload, 'user') = $1";

/// What may name the user anywhere in its data, and is read through: by the id of the row before, and the name as JSON
/// writes it. Texts with an escape may spell it otherwise.
const WEBHOOK_JOBS: Named = Named {
    read: "select id, @text(payload) from holdfast_jobs
        where kind = 'notify.webhook' and id > $1 and (@find(@text(payload), $2) > 0 or @find(@text(payload), '\\u') > 0)
        order by id limit $3",
    write: "update holdfast_jobs set payload = cast($2 as @json), result = null, errors = null where id = $1",
};
const DELIVERIES: Named = Named {
    read: "select id, request from holdfast_webhook_deliveries
        where id > $1 and (@find(request, $2) > 0 or @find(request, '\\u') > 0) order by id limit $3",
    write: "update holdfast_webhook_deliveries set request = $2, response = null, error = null where id = $1",
};

/// Rows read at once: each may hold a payload of 256 KiB.
const PAGE: usize = 50;

/// How rows are read whose JSON may name the user, and how one is written again: by its id, and the new text.
#[derive(Debug, Clone, Copy)]
struct Named {
    read: &'static str,
    write: &'static str,
}

/// What the user enqueued and published, by the beginning of the keys.
const KEYS: [&str; 3] = [
    "update holdfast_jobs set idempotency_key = null
     where substr(idempotency_key, 1, 5) = 'user-' and substr(idempotency_key, 1, 31) = $1",
    "update holdfast_batches set idempotency_key = null
     where substr(idempotency_key, 1, 5) = 'user-' and substr(idempotency_key, 1, 31) = $1",
    "update holdfast_notices set key = null where substr(key, 1, 5) = 'user-' and substr(key, 1, 31) = $1",
];

/// By the actor of before and of from now on.
const ACTOR: &str = "update holdfast_audit set actor = $2, operation_key = null where actor = $1";
/// By the target of before and of from now on.
const TARGET: &str = "update holdfast_audit set target = $2
     where action in ('user.create', 'user.update', 'user.delete') and target = $1";

/// By the actor who made them.
const MADE_KEYS: &str =
    "select id, name, scopes from holdfast_api_keys where created_by = $1 and revoked_at is null order by id";
const REVOKE_KEYS: &str =
    "update holdfast_api_keys set revoked_at = @now where created_by = $1 and revoked_at is null";

/// Raises the version, and so locks the row.
const LOCK: &str =
    "update holdfast_users set token_version = token_version + 1 where id = $1 returning name, role";
/// Preferences and what waits for the digest go with it.
const ACCOUNT: &str = "delete from holdfast_users where id = $1";

/// A deletion under way.
struct Deletion<'a> {
    accounts: &'a Accounts,
    tx: OwnTx,
    named: bool,
    user: &'a str,
    options: DeleteOptions,
    /// The user could do more than read: the audit log goes on to name the id.
    is_privileged: bool,
    done: Deleted,
}

impl Accounts {
    /// The API keys in force that a user made, oldest first.
    ///
    /// # Errors
    /// SQL is away.
    pub async fn made_keys(&self, user: &UserName) -> Result<Vec<MadeKey>, LedgerError> {
        let found = read_either!(
            self.0.sql,
            "read the keys that a user made",
            query_as::<(Uuid, String, String)>(MADE_KEYS),
            [format!("user/{user}")],
            fetch_all
        )?;
        let key = |(id, name, scopes): (Uuid, String, String)| MadeKey {
            id: Ulid(id.as_u128()),
            name,
            scopes,
        };
        Ok(found.into_iter().map(key).collect())
    }

    /// Deletes all that is about a user, who may be an account or a name of the application's own.
    ///
    /// Sessions end with the account, within ten seconds; whoever has them at hand ends them at once.
    ///
    /// # Errors
    /// Nothing was deleted, unless the commit's answer was lost: ask again. `Unknown`: nothing is known of such a user.
    pub async fn delete(
        &self,
        by: &By,
        user: &UserName,
        options: DeleteOptions,
    ) -> Result<Deleted, AccountError> {
        let sql = &self.0.sql;
        // The key is read now: the transaction below may hold the one connection that writes.
        self.0.mail.hashed_address("").await?;
        let done = sql.within("delete a user", async {
            let mut deletion = Deletion {
                accounts: self,
                tx: sql.begin().await?,
                named: sql.named(),
                user: user.as_str(),
                options,
                is_privileged: false,
                done: Deleted::default(),
            };
            Box::pin(deletion.all(user.as_str().parse().ok())).await?;
            let Deletion {
                mut tx,
                done,
                is_privileged,
                ..
            } = deletion;
            if done == Deleted::default() {
                return Ok(None);
            }
            let (by, entry) = audited(by, user, done, is_privileged);
            self.0.jobs.audit().record_in(tx.on(), &by, &entry).await?;
            tx.commit().await?;
            Ok(Some(done))
        });
        let done = done
            .await?
            .ok_or_else(|| AccountError::Unknown(user.to_string()))?;
        self.0.recommender.drop_list(user).await;
        Ok(done)
    }
}

/// The entry says that somebody was deleted and not who: also where one has deleted oneself. Of a user who could do more than
/// read it names the id.
fn audited(by: &By, user: &UserName, done: Deleted, is_privileged: bool) -> (By, AuditEntry) {
    let entry = AuditEntry::new(action::USER_DELETE).details(json!(done));
    let mut by = by.clone();
    if is_privileged {
        return (by, entry.target(user));
    }
    if by.actor == Actor::user(user) {
        by.actor = Actor::user("deleted");
    }
    (by, entry.target("deleted"))
}

impl Deletion<'_> {
    async fn all(&mut self, account: Option<AccountId>) -> Result<(), sqlx::Error> {
        let mut addresses = match account {
            Some(id) => self.account(id).await?,
            None => BTreeSet::new(),
        };
        addresses.extend(self.subscribed().await?);
        self.done.interactions = self.run(INTERACTIONS, self.user).await?;
        self.done.subscriptions = self.run(SUBSCRIPTIONS, self.user).await?;
        for address in &addresses {
            if !self.is_shared(address).await? {
                self.address(address).await?;
            }
        }
        self.user_jobs().await?;
        self.done.jobs += self.unname(WEBHOOK_JOBS, account.is_some()).await?;
        self.done.deliveries += self.unname(DELIVERIES, account.is_some()).await?;
        Ok(())
    }

    /// The account itself, and what others wrote of it; its addresses.
    async fn account(&mut self, id: AccountId) -> Result<BTreeSet<String>, sqlx::Error> {
        let (uuid, named) = (id.as_uuid(), self.named);
        let found = on_either!(
            self.tx.on(),
            named,
            query_as::<(String, String)>(LOCK),
            [uuid],
            fetch_optional
        )?;
        let Some((name, role)) = found else {
            return Ok(BTreeSet::new());
        };
        self.done.account = true;
        self.is_privileged = role != VIEWER;
        let own = on_either!(self.tx.on(), named, query_as::<(String,)>(OWN), [uuid], fetch_all)?;
        self.audit(id, &name).await?;
        for keys in KEYS {
            self.run(keys, &format!("user-{id}")).await?;
        }
        if self.options.revoke_keys {
            self.done.keys = self.run(REVOKE_KEYS, &format!("user/{id}")).await?;
        }
        on_either!(self.tx.on(), named, query(ACCOUNT), [uuid], execute)?;
        Ok(addresses(&name, own.into_iter().map(|(address,)| address)))
    }

    /// Takes the name out of the audit log; and the id, where the user could only read.
    async fn audit(&mut self, id: AccountId, name: &str) -> Result<(), sqlx::Error> {
        let somebody = if self.is_privileged {
            id.to_string()
        } else {
            format!("deleted-{}", Ulid(rand::random()))
        };
        for one in [id.to_string(), name.to_owned()] {
            if one == somebody {
                continue;
            }
            let (before, after) = (format!("user/{one}"), format!("user/{somebody}"));
            self.done.audit += self.rename(ACTOR, &before, &after).await?;
            self.done.audit += self.rename(TARGET, &one, &somebody).await?;
        }
        Ok(())
    }

    /// Where the user's subscriptions are told, by mail.
    async fn subscribed(&mut self) -> Result<BTreeSet<String>, sqlx::Error> {
        let found = on_either!(
            self.tx.on(),
            self.named,
            query_as::<(String,)>(SUBSCRIBED),
            [self.user],
            fetch_all
        )?;
        Ok(mailboxes(found).collect())
    }

    /// Whether somebody else gets mail there, so that what is known of the address stays.
    async fn is_shared(&mut self, address: &str) -> Result<bool, sqlx::Error> {
        let found = on_either!(
            self.tx.on(),
            self.named,
            query_as::<(String,)>(SHARED),
            [address],
            fetch_optional
        )?;
        Ok(found.is_some())
    }

    async fn address(&mut self, address: &str) -> Result<(), sqlx::Error> {
        let hashed = self.accounts.0.mail.hashed_address(address).await;
        let hashed = hashed.map_err(|error| sqlx::Error::Encode(error.into()))?;
        let all = address
            .parse()
            .map_or_else(|_| vec![address.to_owned()], |one| spellings(&one).into());
        for spelling in all.into_iter().collect::<BTreeSet<_>>() {
            self.done.mail += self.run(MAILS, &spelling).await?;
            let [keep_suppressions, keep_links] = SUPPRESSIONS;
            self.rename(keep_suppressions, &spelling, &hashed).await?;
            self.done.mail += self.rename(keep_links, &spelling, &hashed).await?;
            for text in LEFT {
                self.done.mail += self.run(text, &spelling).await?;
            }
        }
        Ok(())
    }

    async fn user_jobs(&mut self) -> Result<(), sqlx::Error> {
        let payloads = [
            ("notify.email", mail_to_nobody()),
            ("notify.digest", json!({ "user": NOBODY }).to_string()),
            ("ml.recommend", json!({ "user": NOBODY }).to_string()),
        ];
        for (kind, payload) in payloads {
            self.done.jobs += on_either!(
                self.tx.on(),
                self.named,
                query(JOBS),
                [self.user, kind, &payload],
                execute
            )?;
        }
        Ok(())
    }

    async fn unname(&mut self, rows: Named, everywhere: bool) -> Result<u64, sqlx::Error> {
        let quoted = json!(self.user).to_string();
        let spelt = quoted.trim_matches('"');
        let (mut before, mut changed) = (Uuid::nil(), 0);
        loop {
            let page = on_either!(
                self.tx.on(),
                self.named,
                query_as::<(Uuid, String)>(rows.read),
                [before, spelt, dialect::rows(PAGE)],
                fetch_all
            )?;
            for (id, text) in &page {
                if let Some(new) = without_user(text, self.user, everywhere) {
                    changed += on_either!(self.tx.on(), self.named, query(rows.write), [id, &new], execute)?;
                }
            }
            match page.last() {
                Some((id, _)) if page.len() == PAGE => before = *id,
                _ => return Ok(changed),
            }
        }
    }

    async fn run(&mut self, text: &'static str, which: &str) -> Result<u64, sqlx::Error> {
        on_either!(self.tx.on(), self.named, query(text), [which], execute)
    }

    async fn rename(&mut self, text: &'static str, which: &str, new: &str) -> Result<u64, sqlx::Error> {
        on_either!(self.tx.on(), self.named, query(text), [which, new], execute)
    }
}

/// Runs, finds that there is no such user, and says so.
fn mail_to_nobody() -> String {
    json!({ "user": NOBODY, "template": "deleted" }).to_string()
}

/// The addresses of subscriptions, in lower case.
pub(super) fn mailboxes(found: Vec<(String,)>) -> impl Iterator<Item = String> {
    let boxes = found
        .into_iter()
        .filter_map(|(text,)| text.parse::<Mailbox>().ok());
    boxes.map(|mailbox| normalised(&mailbox.email))
}

/// The addresses that are an account's own, in their normal form: its name is what an admin gave it.
pub(super) fn addresses(name: &str, own: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    let name = name.parse::<Address>().ok();
    let name = name.map(|address| normalised(&address));
    own.into_iter().chain(name).collect()
}
