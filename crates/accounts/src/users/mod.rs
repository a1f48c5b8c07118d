//! People who log in: made and managed by an operator, known by a name and a password.
//!
//! A user is *enabled* or *disabled*, and has one role. `token_version` is part of every session's token; a change of
//! password, of role, or of being enabled raises it, which ends the user's sessions. Every process keeps the versions in
//! memory ([`Mirror`]), so that happens within [`HARD_LIMIT`](crate::mirror::HARD_LIMIT) whether Redis is there or not.
//!
//! # Invariants
//! - A password exists as an argon2id hash in the table and nowhere else.
//! - A login takes one hash and gives one answer for an unknown name, a disabled user and a wrong password.
//! - A name is unique without regard to case. A user who is only to be kept out is disabled, which keeps the name taken; one
//!   who is deleted (`UserData`) leaves it free, and every entry of the audit log under another name, so that
//!   an entry never names two.
//!
//! # When things fail
//! With the database away nobody can log in (503); sessions that were begun go on, and a token whose user was never
//! read counts as what it says it is until it expires.

mod invitation;
mod password;
mod role;
mod store;
mod text;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use holdfast_core::failure::{FailureClass, SqlFailureKind, classify_sql};
use holdfast_core::sql::Database;
use holdfast_jobs::audit::AuditContext;
use secrecy::{ExposeSecret as _, SecretString};

pub use self::invitation::INVITATION_LIFETIME;
use self::password::{Busy, Hasher};
pub use self::password::{MAX_PASSWORD, MIN_PASSWORD};
pub use self::role::{Role, UnknownRole};
use self::store::{Change, UserStore};
pub use self::store::{User, UserId};
use crate::mirror::{Mirror, Table};
use crate::sql::StoreError;

/// Most users one installation may have: all of them are held in memory.
pub const MAX_USERS: usize = 10_000;

/// Longest name, in characters: that of an e-mail address.
pub const MAX_USER_NAME: usize = 254;

/// Why a user could not be made, found or let in.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error(
        "a name has 1 to {MAX_USER_NAME} characters, without blanks and invisible characters, and letters of one script"
    )]
    InvalidName,
    #[error(
        "a password has {MIN_PASSWORD} to {MAX_PASSWORD} bytes, at least four different characters, no control characters, and is \
         not a common one"
    )]
    InvalidPassword,
    #[error("a user of this name exists already")]
    NameTaken,
    #[error("there are {MAX_USERS} users already")]
    TooMany,
    /// More logins are under way than passwords can be checked.
    #[error("too many passwords are being checked")]
    Busy,
    /// Transient: try again.
    #[error("the database is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the database failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StoreError> for UserError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Sql(source) => match classify_sql(source) {
                failure if failure.kind == SqlFailureKind::Unique => Self::NameTaken,
                failure if failure.class == FailureClass::Transient => Self::Unavailable(error.into()),
                _ => Self::Failed(error.into()),
            },
            StoreError::TimedOut { .. } | StoreError::Unavailable { .. } => Self::Unavailable(error.into()),
        }
    }
}

impl From<Busy> for UserError {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

/// What is known of a user at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UserStatus {
    Enabled {
        version: i64,
        role: Role,
        name: Arc<str>,
    },
    /// Disabled, or there is no such user.
    Out,
    /// The table was never read, and cannot be now.
    Unknown,
}

/// Every user of an installation. Cheap to clone.
#[derive(Clone)]
pub struct Users {
    mirror: Mirror<UserTable>,
    hasher: Arc<Hasher>,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").finish_non_exhaustive()
    }
}

struct UserTable {
    store: UserStore,
}

#[derive(Default)]
struct KnownUsers(HashMap<UserId, ListedUser>);

struct ListedUser {
    name: Arc<str>,
    role: Role,
    version: i64,
    is_enabled: bool,
}

impl Users {
    /// Over the table, with this many passwords hashed at once. Call it inside tokio; it reaches nothing yet.
    pub fn new(database: Database, max_concurrent_hashes: usize) -> Self {
        Self {
            mirror: Mirror::new(UserTable {
                store: UserStore::new(database),
            }),
            hasher: Arc::new(Hasher::new(max_concurrent_hashes)),
        }
    }

    pub async fn create(
        &self,
        name: &str,
        role: Role,
        password: &SecretString,
        by: &AuditContext,
    ) -> Result<User, UserError> {
        let normal = text::new_name(name).ok_or(UserError::InvalidName)?;
        if !text::is_acceptable(password) {
            return Err(UserError::InvalidPassword);
        }
        if self.store().count().await? >= MAX_USERS {
            return Err(UserError::TooMany);
        }
        // A user of an older release may have the name in another spelling.
        if self.find(name).await?.is_some() {
            return Err(UserError::NameTaken);
        }
        let hash = self.hasher.hash(&text::prepared(password)).await?;
        let id = UserId::generate();
        self.store().insert(id, &normal, &hash, role, by).await?;
        self.store()
            .get(id)
            .await?
            .ok_or_else(|| UserError::Failed("the user is gone again".into()))
    }

    /// As the table has it now.
    pub(super) async fn get(&self, id: UserId) -> Result<Option<User>, UserError> {
        Ok(self.store().get(id).await?)
    }

    /// Every user, by name.
    pub async fn list(&self) -> Result<Vec<User>, UserError> {
        Ok(self.store().list(MAX_USERS).await?)
    }

    /// Ends the user's sessions too. `None`: there is no such user.
    pub async fn set_password(
        &self,
        name: &str,
        password: &SecretString,
        by: &AuditContext,
    ) -> Result<Option<User>, UserError> {
        if !text::is_acceptable(password) {
            return Err(UserError::InvalidPassword);
        }
        let hash = self.hasher.hash(&text::prepared(password)).await?;
        self.change(name, Change::Password(hash), by).await
    }

    /// Locks a user out or lets one in again; either way sessions from before have ended. `None`: there is no such
    /// user.
    pub async fn set_enabled(
        &self,
        name: &str,
        enabled: bool,
        by: &AuditContext,
    ) -> Result<Option<User>, UserError> {
        self.change(name, Change::Enabled(enabled), by).await
    }

    /// Ends the user's sessions too. `None`: there is no such user.
    pub async fn set_role(
        &self,
        name: &str,
        role: Role,
        by: &AuditContext,
    ) -> Result<Option<User>, UserError> {
        self.change(name, Change::Role(role), by).await
    }

    /// The user with this id, or else with this name. `None`: there is no such user.
    pub async fn named(&self, name_or_id: &str) -> Result<Option<User>, UserError> {
        Ok(self.named_with_hash(name_or_id).await?.map(|(user, _)| user))
    }

    async fn named_with_hash(&self, name_or_id: &str) -> Result<Option<(User, String)>, UserError> {
        if let Ok(id) = name_or_id.parse::<UserId>()
            && let Some(found) = self.store().get_with_hash(id).await?
        {
            return Ok(Some(found));
        }
        self.find(name_or_id).await
    }

    async fn change(
        &self,
        name_or_id: &str,
        change: Change,
        by: &AuditContext,
    ) -> Result<Option<User>, UserError> {
        match self.named(name_or_id).await? {
            Some(user) => Ok(self.store().change(&user.name, &change, by).await?),
            None => Ok(None),
        }
    }

    /// The user of this name in any of its spellings, with the password's hash. Looks for every spelling, also after it found one:
    /// the time must not reveal whether a user exists.
    async fn find(&self, name: &str) -> Result<Option<(User, String)>, UserError> {
        let mut found = None;
        for spelling in text::spellings(name) {
            let user = self.store().with_hash(&spelling).await?;
            found = found.or(user);
        }
        Ok(found)
    }

    /// The user with this name and password. Whatever is wrong, it takes one hash and tells nothing apart.
    pub(super) async fn verify(
        &self,
        name: &str,
        password: &SecretString,
    ) -> Result<Option<User>, UserError> {
        let found = self.find(name).await?;
        let hash = found.as_ref().map(|(_, hash)| hash.clone());
        let prepared = text::prepared(password);
        let mut is_right = self.hasher.verify(&prepared, hash.clone()).await?;
        // The hash may be of a release that did not normalise. Verified in either case, so that the time reveals nothing.
        if prepared.expose_secret() != password.expose_secret() {
            is_right |= self.hasher.verify(password, hash).await?;
        }
        let user = found.map(|(user, _)| user);
        Ok(user.filter(|user| is_right && user.disabled_at.is_none()))
    }

    /// The user's status now; no older than a session may outlive its end.
    pub(super) async fn status(&self, id: UserId) -> UserStatus {
        if let Some(Some(status)) = self.mirror.look(|users| users.status(id)) {
            return status;
        }
        let answer = self.mirror.look_again(|users| users.status(id)).await;
        match answer.found.flatten() {
            Some(status) if answer.is_usable => status,
            None if answer.is_current => UserStatus::Out,
            _ => UserStatus::Unknown,
        }
    }

    /// How often a password was hashed: for tests that hold one login against another.
    #[cfg(test)]
    pub(super) fn hashes(&self) -> u64 {
        self.hasher.runs()
    }

    fn store(&self) -> &UserStore {
        &self.mirror.table().store
    }
}

impl Table for UserTable {
    type Rows = KnownUsers;

    const NAME: &'static str = "users";

    async fn read(&self) -> Result<KnownUsers, StoreError> {
        let users = self.store.list(MAX_USERS).await?;
        let known = users.into_iter().map(|user| {
            let known = ListedUser {
                name: user.name.into(),
                role: user.role,
                version: user.token_version,
                is_enabled: user.disabled_at.is_none(),
            };
            (user.id, known)
        });
        Ok(KnownUsers(known.collect()))
    }
}

impl KnownUsers {
    fn status(&self, id: UserId) -> Option<UserStatus> {
        let user = self.0.get(&id)?;
        if !user.is_enabled {
            return Some(UserStatus::Out);
        }
        Some(UserStatus::Enabled {
            version: user.version,
            role: user.role,
            name: Arc::clone(&user.name),
        })
    }
}

pub(crate) use self::text::folded;

#[cfg(test)]
mod tests {
    use holdfast_core::config::{Sources, load_from};
    use holdfast_core::sql;
    use holdfast_jobs::audit::Actor;

    use super::*;

    async fn users(directory: &tempfile::TempDir) -> Users {
        let url = format!("sqlite://{}", directory.path().join("users.db").display());
        let env = [("DATABASE_URL".to_owned(), url)].into();
        let settings = load_from(Sources { env, file: None }).unwrap();
        sql::migrate(&settings.database).await.unwrap();
        Users::new(Database::open(&settings.database).unwrap(), 2)
    }

    fn by() -> AuditContext {
        AuditContext::new(Actor::cli())
    }

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    #[tokio::test]
    async fn unknown_disabled_and_wrong_cost_the_same_one_hash() {
        let directory = tempfile::tempdir().unwrap();
        let users = users(&directory).await;
        let right = secret("correct horse battery");
        users
            .create("Ada@Example.com", Role::Viewer, &right, &by())
            .await
            .unwrap();
        users.create("gone", Role::Viewer, &right, &by()).await.unwrap();
        users.set_enabled("gone", false, &by()).await.unwrap().unwrap();
        for (name, password, is_let_in) in [
            ("ada@example.COM", "correct horse battery", true),
            ("ada@example.com", "wrong horse battery!!", false),
            ("gone", "correct horse battery", false),
            ("nobody", "correct horse battery", false),
            ("not a name\n", "correct horse battery", false),
        ] {
            let before = users.hashes();
            let user = users.verify(name, &secret(password)).await.unwrap();
            assert_eq!(user.is_some(), is_let_in, "{name}");
            assert_eq!(users.hashes(), before + 1, "{name}");
        }
    }

    #[tokio::test]
    async fn one_name_and_one_password_in_two_spellings_are_one() {
        let directory = tempfile::tempdir().unwrap();
        let users = users(&directory).await;
        let password = secret("cafe\u{301} au lait sil vous plait");
        users
            .create("Rene\u{301}", Role::Viewer, &password, &by())
            .await
            .unwrap();
        let again = users.create("ren\u{e9}", Role::Viewer, &password, &by()).await;
        assert!(matches!(again, Err(UserError::NameTaken)), "{again:?}");
        let composed = secret("caf\u{e9} au lait sil vous plait");
        assert!(users.verify("REN\u{c9}", &composed).await.unwrap().is_some());
        assert!(users.verify("rene\u{301}", &password).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn users_of_before_still_log_in() {
        let directory = tempfile::tempdir().unwrap();
        let users = users(&directory).await;
        let old = secret("cafe\u{301} au lait sil vous plait");
        let hash = users.hasher.hash(&old).await.unwrap();
        let name = "rene\u{301}\u{200b}";
        let store = users.store();
        store
            .insert(UserId::generate(), name, &hash, Role::Viewer, &by())
            .await
            .unwrap();
        assert!(users.verify(name, &old).await.unwrap().is_some());
        let changed = users.set_role(name, Role::Admin, &by()).await.unwrap();
        assert_eq!(changed.unwrap().role, Role::Admin);
    }

    #[tokio::test]
    async fn every_change_raises_the_version_and_so_ends_the_sessions() {
        let directory = tempfile::tempdir().unwrap();
        let users = users(&directory).await;
        let password = secret("correct horse battery");
        let user = users.create("ada", Role::Viewer, &password, &by()).await.unwrap();
        assert_eq!(user.token_version, 1);
        let user = users
            .set_password("ADA", &secret("another long password"), &by())
            .await
            .unwrap();
        assert_eq!(user.unwrap().token_version, 2);
        let user = users.set_enabled("ada", false, &by()).await.unwrap().unwrap();
        assert_eq!((user.token_version, user.disabled_at.is_some()), (3, true));
        assert_eq!(users.status(user.id).await, UserStatus::Out);
        let user = users.set_role("ada", Role::Admin, &by()).await.unwrap().unwrap();
        assert_eq!((user.token_version, user.role), (4, Role::Admin));
        assert!(
            users
                .set_role("nobody", Role::Admin, &by())
                .await
                .unwrap()
                .is_none()
        );
    }

    #[tokio::test]
    async fn names_and_passwords_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        let users = users(&directory).await;
        let password = secret("correct horse battery");
        users.create("ada", Role::Viewer, &password, &by()).await.unwrap();
        assert!(matches!(
            users.create("ADA", Role::Viewer, &password, &by()).await,
            Err(UserError::NameTaken)
        ));
        for name in ["", "two words", "a\tb", &"n".repeat(255)] {
            assert!(
                matches!(
                    users.create(name, Role::Viewer, &password, &by()).await,
                    Err(UserError::InvalidName)
                ),
                "{name:?}"
            );
        }
        for text in ["short", &"p".repeat(MAX_PASSWORD + 1)] {
            assert!(matches!(
                users.create("bob", Role::Viewer, &secret(text), &by()).await,
                Err(UserError::InvalidPassword)
            ));
        }
    }
}
