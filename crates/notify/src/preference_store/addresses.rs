//! Which mail addresses are a user's own: the table `holdfast_addresses`.
//!
//! # States
//! An address that a user sets is *unconfirmed*: it receives a mail with a link and nothing else. It becomes *confirmed* when the
//! form behind the link is sent, or when an admin sets it. Addresses from before confirmations existed are *earlier*: they receive
//! mail, but nothing is exported or deleted by them. A user name that is an address is confirmed, because an admin chose it.
//!
//! # Invariants
//! - A link is valid for [`LINK_LIFETIME`], for one address of one user; it is signed and contains neither in readable form.
//! - Opening a link changes nothing; the button of the page does. Confirming twice changes nothing.
//! - An address receives one confirmation mail in [`ASK_AGAIN`] per user, and [`MAX_ASKED`] a day over all users; a user causes
//!   [`MAX_ASKED`] a day over all addresses.
//! - A user has at most [`MAX_ADDRESSES`] rows; the oldest is deleted for a new one.
//!
//! # When things fail
//! *No `notifications.public_url`*: no link can be made, and only an admin can confirm. *SQL is unavailable*: nothing is set or
//! confirmed.
//! The mail is a job like any other, in the transaction that sets the address.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::Mac as _;
use holdfast_core::clock;
use holdfast_jobs::LedgerTx;
use holdfast_jobs::audit::{Actor, AuditContext, AuditEntry, action};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::OwnTx;
use lettre::Address;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{PreferenceError, PreferenceStore};
use crate::mail::{CONFIRM_TEMPLATE, NotifyEmail};
use crate::preferences::{PreferenceFault, account_name, key_of};
use holdfast_core::sql::dialect::{millis, on_either, read_either, rows};
use holdfast_product::mail_address::normalised;
use holdfast_product::{AccountId, AddressAuthority, UserName};

/// How long a link works.
const LINK_LIFETIME: Duration = Duration::from_hours(48);

/// Between two mails to one address for one user.
const ASK_AGAIN: Duration = Duration::from_hours(1);

/// Most addresses that are asked for one user, and most users for whom one address is asked, in [`DAY`].
const MAX_ASKED: i64 = 5;
const DAY: Duration = Duration::from_hours(24);

/// Most addresses of one user that are remembered.
const MAX_ADDRESSES: usize = 10;

/// The key of this installation that signs links.
const KEY: &str = "accounts.confirmations";

/// Bytes of a link's token: the user, until when in seconds, the address' hash, and the signature of these.
const USER: usize = 16;
const UNTIL: usize = 8;
const ADDRESS: usize = 16;
const SIGNED: usize = USER + UNTIL + ADDRESS;
const SIGNATURE: usize = 32;

/// Whether the address of a user's preferences is theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressState {
    Confirmed,
    /// Nothing but the confirmation mail goes there.
    Unconfirmed,
    /// Named before there were confirmations: mail goes there, and nothing is exported or deleted by it.
    Earlier,
}

/// The user and the address that a confirmation link belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmedAddress {
    /// The user's name.
    pub user: String,
    pub address: String,
}

/// An address that is to be confirmed by mail.
struct Claim<'a> {
    /// The user's.
    name: &'a str,
    address: &'a Address,
    link: Option<&'a str>,
    /// The user has named it before.
    is_known: bool,
}

impl AddressState {
    fn of(proof: Option<&str>) -> Self {
        match proof {
            Some("admin" | "link") => Self::Confirmed,
            Some(_) => Self::Earlier,
            None => Self::Unconfirmed,
        }
    }
}

/// By the user and an address.
const PROOF: &str = "select proof from holdfast_addresses where user_id = $1 and address = $2";

const CONFIRM: &str = "insert into holdfast_addresses (user_id, address, proof, asked_at, proven_at)
    values ($1, $2, $3, @now, @now)
    on conflict (user_id, address) do update set proof = excluded.proof, proven_at = excluded.proven_at";

const CLAIM: &str = "insert into holdfast_addresses (user_id, address, asked_at) values ($1, $2, @now)
    on conflict (user_id, address) do update set asked_at = excluded.asked_at
    where holdfast_addresses.asked_at < @ago($3) or holdfast_addresses.proof = 'earlier'";

/// By the user, an address, and how many of the others may stay.
const MAKE_ROOM: &str = "delete from holdfast_addresses where user_id = $1 and address in (
    select address from holdfast_addresses where user_id = $1 and address <> $2
    order by asked_at desc, address limit 1000 offset $3)";

const ASKED: &str = "select count(*) from holdfast_addresses
    where (user_id = $1 or address = $2) and proof is null and asked_at > @ago($3)";

impl PreferenceStore {
    /// Records the address of new preferences in their transaction, and enqueues the confirmation mail unless an admin set it.
    pub(super) async fn claim_address(
        &self,
        tx: &mut OwnTx,
        user: &UserName,
        address: &Address,
        link: Option<&str>,
        authority: AddressAuthority,
    ) -> Result<AddressState, PreferenceError> {
        let normal = normalised(address);
        let name = account_name(tx.on(), self.0.sql.named(), user)
            .await
            .map_err(failed)?;
        let is_name = name
            .as_ref()
            .and_then(|name| name.parse::<Address>().ok())
            .is_some_and(|name| normalised(&name) == normal);
        let key = key_of(user);
        let known = self.proof_in(tx.on(), key, &normal).await.map_err(failed)?;
        let proof = known.as_ref().and_then(|proof| proof.as_deref());
        if AddressState::of(proof) == AddressState::Confirmed {
            return Ok(AddressState::Confirmed);
        }
        if authority == AddressAuthority::Admin || is_name {
            self.confirm_in(tx.on(), key, &normal, "admin")
                .await
                .map_err(failed)?;
            self.make_room_in(tx.on(), key, &normal).await.map_err(failed)?;
            return Ok(AddressState::Confirmed);
        }
        let claim = Claim {
            name: name.as_deref().unwrap_or(user.as_str()),
            address,
            link,
            is_known: known.is_some(),
        };
        self.ask(tx, user, claim).await?;
        Ok(AddressState::of(proof))
    }

    /// Enqueues the confirmation mail, unless one was enqueued within [`ASK_AGAIN`].
    async fn ask(&self, tx: &mut OwnTx, user: &UserName, claim: Claim<'_>) -> Result<(), PreferenceError> {
        let key = key_of(user);
        let normal = normalised(claim.address);
        let named = self.0.sql.named();
        let asked = on_either!(
            tx.on(),
            named,
            query_as::<(i64,)>(ASKED),
            [key, &normal, millis(DAY)],
            fetch_optional
        );
        let asked = asked.map_err(failed)?.map_or(0, |(asked,)| asked);
        if asked >= MAX_ASKED && !claim.is_known {
            let reason = format!(
                "{MAX_ASKED} confirmation mails were sent for this user or to this address within a day: try again tomorrow, or ask an admin to set the address"
            );
            return Err(PreferenceError::Invalid(vec![PreferenceFault {
                field: "address".to_owned(),
                reason,
            }]));
        }
        let again = millis(ASK_AGAIN);
        let claimed = on_either!(tx.on(), named, query(CLAIM), [key, &normal, again], execute);
        self.make_room_in(tx.on(), key, &normal).await.map_err(failed)?;
        if claimed.map_err(failed)? == 0 {
            return Ok(());
        }
        let Some(link) = claim.link else {
            tracing::debug!(user.id = %user, "an address cannot be confirmed by mail: notifications.public_url is not set");
            return Ok(());
        };
        let mail = NotifyEmail {
            to: Some(claim.address.to_string()),
            user: Some(user.clone()),
            template: CONFIRM_TEMPLATE.to_owned(),
            data: json!({ "link": link, "user": claim.name, "hours": LINK_LIFETIME.as_secs() / 3_600 }),
            list: None,
            reply_to: None,
            key: None,
        };
        self.0.jobs.enqueue_in(tx.on(), self.0.jobs.enqueue(mail)).await?;
        Ok(())
    }

    /// What a link would confirm; `None`: it was not signed here, has expired, or the user no longer has that address.
    ///
    /// # Errors
    /// SQL is unavailable.
    pub async fn confirmation(&self, token: &str) -> Result<Option<ConfirmedAddress>, PreferenceError> {
        let Some((id, hash)) = self.read_token(token).await? else {
            return Ok(None);
        };
        let text = "select a.address, u.name from holdfast_addresses as a
            join holdfast_users as u on u.id = a.user_id where a.user_id = $1 order by a.address limit $2";
        let found = read_either!(
            self.0.sql,
            "read whose address is to be confirmed",
            query_as::<(String, String)>(text),
            [id.as_uuid(), rows(MAX_ADDRESSES + 1)],
            fetch_all
        )?;
        let asked = found.into_iter().find(|(address, _)| hash_of(address) == hash);
        Ok(asked.map(|(address, user)| ConfirmedAddress { user, address }))
    }

    /// Marks the address as confirmed by its owner. Doing it again changes nothing. `None`: see
    /// [`confirmation`](Self::confirmation).
    ///
    /// # Errors
    /// SQL is unavailable.
    pub async fn confirm(&self, token: &str) -> Result<Option<ConfirmedAddress>, PreferenceError> {
        let Some((id, _)) = self.read_token(token).await? else {
            return Ok(None);
        };
        let Some(asked) = self.confirmation(token).await? else {
            return Ok(None);
        };
        let by = AuditContext::new(Actor::user(id));
        let entry = AuditEntry::new(action::USER_UPDATE)
            .target(id)
            .details(json!({ "changed": "address", "confirmed": true }));
        let sql = &self.0.sql;
        let done = sql.within("confirm an address", async {
            let mut tx = sql.begin().await?;
            let known = self.proof_in(tx.on(), id.as_uuid(), &asked.address).await?;
            let Some(proof) = known else {
                return Ok(false);
            };
            if AddressState::of(proof.as_deref()) != AddressState::Confirmed {
                self.confirm_in(tx.on(), id.as_uuid(), &asked.address, "link")
                    .await?;
                self.0.jobs.audit().record_in(tx.on(), &by, &entry).await?;
            }
            tx.commit().await?;
            Ok(true)
        });
        Ok(done.await?.then_some(asked))
    }

    /// Whether the address of these preferences is confirmed.
    pub(super) async fn address_state(
        &self,
        key: Uuid,
        address: Option<&Address>,
    ) -> Result<Option<AddressState>, LedgerError> {
        let Some(address) = address else {
            return Ok(None);
        };
        let normal = normalised(address);
        let found = read_either!(
            self.0.sql,
            "read whether an address is confirmed",
            query_as::<(Option<String>,)>(PROOF),
            [key, &normal],
            fetch_optional
        )?;
        let proof = found.and_then(|(proof,)| proof);
        Ok(Some(AddressState::of(proof.as_deref())))
    }

    async fn proof_in(
        &self,
        on: LedgerTx<'_>,
        key: Uuid,
        normal: &str,
    ) -> Result<Option<Option<String>>, sqlx::Error> {
        let named = self.0.sql.named();
        let found = on_either!(
            on,
            named,
            query_as::<(Option<String>,)>(PROOF),
            [key, normal],
            fetch_optional
        )?;
        Ok(found.map(|(proof,)| proof))
    }

    async fn confirm_in(
        &self,
        on: LedgerTx<'_>,
        key: Uuid,
        normal: &str,
        proof: &str,
    ) -> Result<(), sqlx::Error> {
        let named = self.0.sql.named();
        on_either!(on, named, query(CONFIRM), [key, normal, proof], execute)?;
        Ok(())
    }

    async fn make_room_in(&self, on: LedgerTx<'_>, key: Uuid, normal: &str) -> Result<(), sqlx::Error> {
        let named = self.0.sql.named();
        let others = rows(MAX_ADDRESSES - 1);
        on_either!(on, named, query(MAKE_ROOM), [key, normal, others], execute)?;
        Ok(())
    }

    /// Where the owner of an address confirms it. Reads the key that signs: not inside a transaction.
    pub(super) async fn link(&self, key: Uuid, address: &Address) -> Result<Option<String>, LedgerError> {
        let Some(base) = &self.0.public_url else {
            return Ok(None);
        };
        let until = clock::unix_millis() / 1_000 + LINK_LIFETIME.as_secs();
        let mut token = Vec::with_capacity(SIGNED + SIGNATURE);
        token.extend_from_slice(key.as_bytes());
        token.extend_from_slice(&until.to_be_bytes());
        token.extend_from_slice(&hash_of(&normalised(address)));
        let mac = self
            .0
            .confirmations_key
            .mac(&self.0.sql, self.0.jobs.encryption(), KEY, &token)
            .await?;
        token.extend_from_slice(&mac.finalize().into_bytes());
        let base = base.as_str().trim_end_matches('/');
        Ok(Some(format!(
            "{base}/v1/confirm-address/{}",
            BASE64.encode(token)
        )))
    }

    /// The user and the hash of the address, if we have signed it and its time has not passed.
    async fn read_token(&self, token: &str) -> Result<Option<(AccountId, [u8; ADDRESS])>, LedgerError> {
        let Some(token) = BASE64
            .decode(token)
            .ok()
            .filter(|token| token.len() == SIGNED + SIGNATURE)
        else {
            return Ok(None);
        };
        let (signed, signature) = token.split_at(SIGNED);
        let mac = self
            .0
            .confirmations_key
            .mac(&self.0.sql, self.0.jobs.encryption(), KEY, signed)
            .await?;
        if mac.verify_slice(signature).is_err() {
            return Ok(None);
        }
        let (user, rest) = signed.split_at(USER);
        let (until, hash) = rest.split_at(UNTIL);
        let until = until.try_into().map(u64::from_be_bytes).unwrap_or_default();
        let (Ok(user), Ok(hash)) = (Uuid::from_slice(user), hash.try_into()) else {
            return Ok(None);
        };
        let is_in_time = clock::unix_millis() / 1_000 <= until;
        Ok(is_in_time.then_some((AccountId::from_uuid(user), hash)))
    }
}

fn hash_of(normal: &str) -> [u8; ADDRESS] {
    let digest = Sha256::digest(normal.as_bytes());
    digest.first_chunk().copied().unwrap_or_default()
}

fn failed(source: sqlx::Error) -> LedgerError {
    LedgerError::Sql {
        doing: "set a user's address",
        source,
    }
}
