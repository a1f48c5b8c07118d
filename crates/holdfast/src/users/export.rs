//! All that is kept about a user, as one JSON document that is read and written piece by piece.

use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use holdfast_jobs::ledger::LedgerError;
use serde::Serialize;
use serde_json::{Value, json};
use ulid::Ulid;
use uuid::Uuid;

use super::delete::{SUBSCRIBED, addresses, mailboxes};
use super::store::parsed;
use super::{AccountError, AccountId, Accounts, PreferencesText};
use crate::dialect::{moment, read_either, rows};
use crate::interactions::{Action, UserName};
use crate::mail::{ITEM, ItemRow, MAX_DIGEST_ITEMS, item};

/// Rows of one piece.
const PAGE: usize = 1_000;

/// The lists of the document, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Subscriptions,
    Interactions,
    Mails,
    Suppressions,
    Digest,
}

impl Section {
    const ALL: [Self; 5] = [
        Self::Subscriptions,
        Self::Interactions,
        Self::Mails,
        Self::Suppressions,
        Self::Digest,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Subscriptions => "subscriptions",
            Self::Interactions => "interactions",
            Self::Mails => "mails",
            Self::Suppressions => "suppressions",
            Self::Digest => "digest",
        }
    }
}

/// The last row of a page, by whatever its section is sorted.
#[derive(Debug, Clone, Default)]
struct Cursor {
    at: i64,
    id: Uuid,
    kind: i16,
    text: String,
    /// Which of the user's addresses.
    address: usize,
}

/// A page of a section.
struct Page {
    items: Vec<Value>,
    next: Option<Cursor>,
}

/// An export under way: [`Export::next`] until there is nothing more.
pub struct Export {
    accounts: Accounts,
    user: UserName,
    account: Option<AccountId>,
    addresses: Vec<String>,
    head: Option<Bytes>,
    /// How many sections are written; one more than there are: so is the end.
    section: usize,
    cursor: Cursor,
    /// The section's name is written.
    opened: bool,
    /// An item of the section is written.
    begun: bool,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("section", &self.section)
            .finish_non_exhaustive()
    }
}

/// An account without its password's hash.
#[derive(Serialize)]
struct AccountView {
    id: AccountId,
    name: String,
    role: String,
    disabled_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

type AccountRow = (String, String, Option<i64>, i64, i64, Option<String>);

impl Accounts {
    /// Begins an export, of an account or of a name of the application's own.
    ///
    /// # Errors
    /// `Unknown`: nothing is known of such a user.
    pub async fn export(&self, user: &UserName) -> Result<Export, AccountError> {
        let id = user.as_str().parse::<AccountId>().ok();
        let row = match id {
            Some(id) => self.account_row(id).await?,
            None => None,
        };
        let account = id.filter(|_| row.is_some());
        if account.is_none() && !self.is_known(user).await? {
            return Err(AccountError::Unknown(user.to_string()));
        }
        let mut known = self.subscribed(user).await?;
        let mut preferences: Option<PreferencesText> = None;
        let view = match (account, row) {
            (Some(id), Some((name, role, disabled, created, updated, document))) => {
                if let Some(document) = &document {
                    preferences = Some(parsed(document)?.text());
                }
                known.extend(addresses(&name, self.own_addresses(id).await?));
                Some(AccountView {
                    id,
                    name,
                    role,
                    disabled_at: disabled.map(moment),
                    created_at: moment(created),
                    updated_at: moment(updated),
                })
            }
            _ => None,
        };
        known.sort_unstable();
        known.dedup();
        let head = json!({
            "user": user.as_str(),
            "account": view,
            "preferences": preferences,
            "keys": self.made_keys(user).await?,
            "recommendations": self.0.recommender.make(user).await?,
        });
        let mut head = head.to_string();
        // The lists come behind it, in the same object.
        head.pop();
        Ok(Export {
            accounts: self.clone(),
            user: user.clone(),
            account,
            addresses: known,
            head: Some(head.into()),
            section: 0,
            cursor: Cursor::default(),
            opened: false,
            begun: false,
        })
    }

    async fn account_row(&self, id: AccountId) -> Result<Option<AccountRow>, LedgerError> {
        let text =
            "select u.name, u.role, @ms(u.disabled_at), @ms(u.created_at), @ms(u.updated_at), p.document
            from holdfast_users as u left join holdfast_preferences as p on p.user_id = u.id where u.id = $1";
        read_either!(
            self.0.sql,
            "read an account",
            query_as::<AccountRow>(text),
            [id.as_uuid()],
            fetch_optional
        )
    }

    async fn subscribed(&self, user: &UserName) -> Result<Vec<String>, LedgerError> {
        let found = read_either!(
            self.0.sql,
            "read the addresses of subscriptions",
            query_as::<(String,)>(SUBSCRIBED),
            [user.as_str()],
            fetch_all
        )?;
        Ok(mailboxes(found).collect())
    }

    /// Whether a name that has no account did or wants anything.
    async fn is_known(&self, user: &UserName) -> Result<bool, LedgerError> {
        let text = "select user_id from holdfast_interactions where user_id = $1
            union all select user_id from holdfast_subscriptions where user_id = $1 limit 1";
        let found = read_either!(
            self.0.sql,
            "look for a user",
            query_as::<(String,)>(text),
            [user.as_str()],
            fetch_optional
        )?;
        Ok(found.is_some())
    }
}

impl Export {
    /// The next piece of the document; `None`: that was all of it.
    ///
    /// # Errors
    /// What was read so far is no whole document.
    pub async fn next(&mut self) -> Result<Option<Bytes>, LedgerError> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        let Some(&section) = Section::ALL.get(self.section) else {
            let is_end = self.section == Section::ALL.len();
            self.section = Section::ALL.len() + 1;
            return Ok(is_end.then(|| Bytes::from_static(b"}")));
        };
        let page = self.page(section).await?;
        let mut text = String::new();
        if !self.opened {
            text = format!(",\"{}\":[", section.name());
            self.opened = true;
        }
        for item in page.items {
            if self.begun {
                text.push(',');
            }
            text.push_str(&item.to_string());
            self.begun = true;
        }
        if let Some(next) = page.next {
            self.cursor = next;
        } else {
            text.push(']');
            self.section += 1;
            self.cursor = Cursor::default();
            (self.opened, self.begun) = (false, false);
        }
        Ok(Some(text.into()))
    }

    async fn page(&self, section: Section) -> Result<Page, LedgerError> {
        match section {
            Section::Subscriptions => self.subscriptions().await,
            Section::Interactions => self.interactions().await,
            Section::Mails => self.mails().await,
            Section::Suppressions => self.suppressions().await,
            Section::Digest => self.digest().await,
        }
    }

    async fn subscriptions(&self) -> Result<Page, LedgerError> {
        let text = "select id, email, filter, @ms(created_at) from holdfast_subscriptions
            where user_id = $1 and id > $2 order by id limit $3";
        let found = read_either!(
            self.accounts.0.sql,
            "export subscriptions",
            query_as::<(Uuid, Option<String>, String, i64)>(text),
            [self.user.as_str(), self.cursor.id, rows(PAGE)],
            fetch_all
        )?;
        let next = full(&found).map(|&(id, ..)| Cursor {
            id,
            ..Cursor::default()
        });
        let items = found.into_iter().map(|(id, email, filter, created)| {
            // Ours, and JSON; a text that is none is told as it is.
            let filter = serde_json::from_str(&filter).unwrap_or(Value::String(filter));
            json!({ "id": Ulid(id.as_u128()), "email": email, "filter": filter, "created_at": moment(created) })
        });
        Ok(Page {
            items: items.collect(),
            next,
        })
    }

    async fn interactions(&self) -> Result<Page, LedgerError> {
        let text = "select @ms(at), event_id, kind from holdfast_interactions
            where user_id = $1 and (at, event_id, kind) > (@at($2), $3, $4) order by at, event_id, kind limit $5";
        let (sql, after) = (&self.accounts.0.sql, &self.cursor);
        let found = read_either!(
            sql,
            "export interactions",
            query_as::<(i64, Uuid, i16)>(text),
            [self.user.as_str(), after.at, after.id, after.kind, rows(PAGE)],
            fetch_all
        )?;
        let next = full(&found).map(|&(at, id, kind)| Cursor {
            at,
            id,
            kind,
            ..Cursor::default()
        });
        let items = found.into_iter().map(|(at, event, kind)| {
            let action = Action::from_number(kind).map(Action::as_str);
            json!({ "event": Ulid(event.as_u128()), "action": action, "at": moment(at) })
        });
        Ok(Page {
            items: items.collect(),
            next,
        })
    }

    async fn mails(&self) -> Result<Page, LedgerError> {
        let text = "select key, sent, @ms(at) from holdfast_mails
            where address = $1 and key > $2 order by key limit $3";
        let Some(address) = self.addresses.get(self.cursor.address) else {
            return Ok(Page::end());
        };
        let found = read_either!(
            self.accounts.0.sql,
            "export what was mailed",
            query_as::<(String, bool, i64)>(text),
            [address, &self.cursor.text, rows(PAGE)],
            fetch_all
        )?;
        let next = self.next_address(full(&found).map(|(key, ..)| key.clone()));
        let items = found
            .into_iter()
            .map(|(key, sent, at)| json!({ "address": address, "key": key, "sent": sent, "at": moment(at) }));
        Ok(Page {
            items: items.collect(),
            next,
        })
    }

    async fn suppressions(&self) -> Result<Page, LedgerError> {
        // A list has a name; the one without stands for every mail, and sorts before all others.
        let text = "select list, reason, @ms(at) from holdfast_mail_suppressions
            where address = $1 and (list > $2 or ($2 = '' and list = '')) order by list limit $3";
        let Some(address) = self.addresses.get(self.cursor.address) else {
            return Ok(Page::end());
        };
        let found = read_either!(
            self.accounts.0.sql,
            "export suppressions",
            query_as::<(String, String, i64)>(text),
            [address, &self.cursor.text, rows(PAGE)],
            fetch_all
        )?;
        let next = self.next_address(full(&found).map(|(list, ..)| list.clone()));
        let items = found.into_iter().map(|(list, reason, at)| {
            let list = Some(list).filter(|list| !list.is_empty());
            json!({ "address": address, "list": list, "reason": reason, "at": moment(at) })
        });
        Ok(Page {
            items: items.collect(),
            next,
        })
    }

    async fn digest(&self) -> Result<Page, LedgerError> {
        let Some(account) = self.account else {
            return Ok(Page::end());
        };
        let text =
            format!("select {ITEM} from holdfast_digest_items where user_id = $1 order by id limit $2");
        let found = read_either!(
            self.accounts.0.sql,
            "export a digest",
            query_as::<ItemRow>(&text),
            [account.as_uuid(), rows(MAX_DIGEST_ITEMS)],
            fetch_all
        )?;
        let items = found.into_iter().map(|row| json!(item(row)));
        Ok(Page {
            items: items.collect(),
            next: None,
        })
    }

    /// Behind the last text of a full page, or at the next address.
    fn next_address(&self, last: Option<String>) -> Option<Cursor> {
        let address = self.cursor.address;
        let next = match last {
            Some(text) => Cursor {
                text,
                address,
                ..Cursor::default()
            },
            None => Cursor {
                address: address + 1,
                ..Cursor::default()
            },
        };
        (next.address < self.addresses.len()).then_some(next)
    }
}

impl Page {
    fn end() -> Self {
        Self {
            items: Vec::new(),
            next: None,
        }
    }
}

/// The last row of a full page, behind which there may be more.
fn full<T>(rows: &[T]) -> Option<&T> {
    rows.last().filter(|_| rows.len() == PAGE)
}
