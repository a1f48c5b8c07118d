//! What a product stores about a user, and how that is exported and deleted.
//!
//! # A deletion, step by step
//! 1. [`prepare`](PersonalData::prepare) of every product, outside of any transaction.
//! 2. One transaction, in which the account is locked, and then, for every product in the order of the list:
//!    [`addresses`](PersonalData::addresses); once the account is gone [`delete`](PersonalData::delete); and for each address
//!    that nobody else [uses](PersonalData::uses_address), [`delete_address`](PersonalData::delete_address).
//! 3. After the commit [`deleted`](PersonalData::deleted): what is cached.
//!
//! A failure rolls everything back. Whoever composes these steps names no product.

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use serde_json::Value;

use crate::user::{AccountId, UserName};

/// A user whose data is exported or deleted.
#[derive(Debug, Clone)]
pub struct Person {
    pub name: UserName,
    /// The account of that name, where it is one.
    pub account: Option<AccountId>,
    /// The mail addresses that are proven to be the user's, in their normal form.
    pub addresses: BTreeSet<String>,
}

/// How many rows of what a deletion has changed, by the name under which it is reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeletionCounts(BTreeMap<&'static str, u64>);

impl DeletionCounts {
    #[must_use]
    pub fn of(counts: &[(&'static str, u64)]) -> Self {
        let mut sum = Self::default();
        for &(name, count) in counts {
            *sum.0.entry(name).or_default() += count;
        }
        sum
    }

    pub fn add(&mut self, other: &Self) {
        for (&name, &count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// Takes a count out; 0 where nothing was counted.
    pub fn take(&mut self, name: &str) -> u64 {
        self.0.remove(name).unwrap_or_default()
    }

    /// What was not taken out.
    pub fn into_rest(self) -> BTreeMap<&'static str, u64> {
        self.0
    }
}

/// A part of a list of an export.
#[derive(Debug, Default)]
pub struct ExportPage {
    pub items: Vec<Value>,
    /// What the next page is asked for with; `None`: this was the last one.
    pub next: Option<Value>,
}

/// The personal data of one product.
pub trait PersonalData: Send + Sync {
    /// The product's.
    fn name(&self) -> &'static str;

    /// Whether anything is stored about a user who has no account.
    fn is_known<'a>(&'a self, user: &'a UserName) -> BoxFuture<'a, Result<bool, LedgerError>>;

    /// The addresses that are proven to be the user's, as they are stored.
    fn addresses<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        person: &'a Person,
    ) -> BoxFuture<'a, Result<Vec<String>, sqlx::Error>> {
        let _ = (tx, person);
        async { Ok(Vec::new()) }.boxed()
    }

    /// The single values of an export, by name.
    fn values<'a>(
        &'a self,
        person: &'a Person,
    ) -> BoxFuture<'a, Result<Vec<(&'static str, Value)>, LedgerError>> {
        let _ = person;
        async { Ok(Vec::new()) }.boxed()
    }

    /// The names of the lists of an export.
    fn lists(&self) -> &'static [&'static str] {
        &[]
    }

    /// A page of one of these lists; `after` is [`ExportPage::next`] of the page before.
    fn page<'a>(
        &'a self,
        list: &'static str,
        person: &'a Person,
        after: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<ExportPage, LedgerError>> {
        let _ = (list, person, after);
        async { Ok(ExportPage::default()) }.boxed()
    }

    /// Reads what a deletion needs and a transaction that writes must not wait for.
    fn prepare(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        async { Ok(()) }.boxed()
    }

    /// Deletes what is the user's, and takes the name out of what stays.
    fn delete<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        person: &'a Person,
    ) -> BoxFuture<'a, Result<DeletionCounts, sqlx::Error>>;

    /// Whether anybody gets mail at this address, in its normal form, as far as this product stores.
    fn uses_address<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        address: &'a str,
    ) -> BoxFuture<'a, Result<bool, sqlx::Error>> {
        let _ = (tx, address);
        async { Ok(false) }.boxed()
    }

    /// Deletes what is stored about an address, in its normal form.
    fn delete_address<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        address: &'a str,
    ) -> BoxFuture<'a, Result<DeletionCounts, sqlx::Error>> {
        let _ = (tx, address);
        async { Ok(DeletionCounts::default()) }.boxed()
    }

    /// The deletion is committed: drops what is cached.
    fn deleted<'a>(&'a self, user: &'a UserName) -> BoxFuture<'a, ()> {
        let _ = user;
        async {}.boxed()
    }
}
