//! All that is stored about a user, as one JSON document that is read and written piece by piece.

use std::fmt;

use bytes::Bytes;
use holdfast_jobs::ledger::LedgerError;
use holdfast_product::{AccountId, Person, PersonalData, UserName};
use serde_json::{Map, Value, json};

use super::{UserData, UserDataError};

/// An export under way: [`Export::next`] until there is nothing more.
pub struct Export {
    data: UserData,
    person: Person,
    head: Option<Bytes>,
    /// The lists of the document, in their order: which product's, and which of its lists.
    lists: Vec<(usize, &'static str)>,
    /// How many lists are written; one more than there are: so is the end.
    written: usize,
    /// Behind what the next page of the list begins.
    after: Option<Value>,
    /// The list's name is written.
    opened: bool,
    /// An item of the list is written.
    begun: bool,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl UserData {
    /// Begins an export, of an account or of a name of the application's own.
    ///
    /// # Errors
    /// `Unknown`: nothing is known of such a user.
    pub async fn export(&self, user: &UserName) -> Result<Export, UserDataError> {
        let id = user.as_str().parse::<AccountId>().ok();
        let account = match id {
            Some(id) => self.read_account(id).await?,
            None => None,
        };
        if account.is_none() && !self.is_known(user).await? {
            return Err(UserDataError::Unknown(user.to_string()));
        }
        let mut person = Person {
            name: user.clone(),
            account: id.filter(|_| account.is_some()),
            addresses: std::collections::BTreeSet::new(),
        };
        let account_name = account.as_ref().map(|account| account.name.as_str());
        let sql = &self.0.sql;
        person.addresses = sql
            .within("read a user's addresses", async {
                let mut tx = sql.begin_read().await?;
                let found = self.addresses(&mut tx, &person, account_name).await?;
                tx.commit().await?;
                Ok(found)
            })
            .await?;
        let mut head = Map::new();
        head.insert("user".to_owned(), json!(user.as_str()));
        head.insert("account".to_owned(), json!(account));
        head.insert("keys".to_owned(), json!(self.made_keys(user).await?));
        for product in &self.0.products {
            let values = product.values(&person).await?;
            head.extend(values.into_iter().map(|(name, value)| (name.to_owned(), value)));
        }
        let mut head = Value::Object(head).to_string();
        // The lists come behind it, in the same object.
        head.pop();
        Ok(Export {
            lists: self.lists(),
            data: self.clone(),
            person,
            head: Some(head.into()),
            written: 0,
            after: None,
            opened: false,
            begun: false,
        })
    }

    fn lists(&self) -> Vec<(usize, &'static str)> {
        let products = self.0.products.iter().enumerate();
        products
            .flat_map(|(place, product)| product.lists().iter().map(move |list| (place, *list)))
            .collect()
    }

    /// Whether a product stores anything about a name that has no account.
    async fn is_known(&self, user: &UserName) -> Result<bool, LedgerError> {
        for product in &self.0.products {
            if product.is_known(user).await? {
                return Ok(true);
            }
        }
        Ok(false)
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
        let Some(&(place, list)) = self.lists.get(self.written) else {
            let is_end = self.written == self.lists.len();
            self.written = self.lists.len() + 1;
            return Ok(is_end.then(|| Bytes::from_static(b"}")));
        };
        let product: &dyn PersonalData = &*self.data.0.products[place];
        let page = product.page(list, &self.person, self.after.as_ref()).await?;
        let mut text = String::new();
        if !self.opened {
            text = format!(",\"{list}\":[");
            self.opened = true;
        }
        for item in page.items {
            if self.begun {
                text.push(',');
            }
            text.push_str(&item.to_string());
            self.begun = true;
        }
        self.after = page.next;
        if self.after.is_none() {
            text.push(']');
            self.written += 1;
            (self.opened, self.begun) = (false, false);
        }
        Ok(Some(text.into()))
    }
}
