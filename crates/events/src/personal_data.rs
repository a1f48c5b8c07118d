//! The personal data of events: interactions, subscriptions, and the list of recommendations.

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_cache::Cache;
use holdfast_core::sql::dialect::{moment, on_either, read_either, rows};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use holdfast_jobs::{Job, Jobs, LedgerTx};
use holdfast_product::{
    DELETED_ACCOUNT, DeletionCounts, ExportPage, Person, PersonalData, Process, UserName,
};
use serde_json::{Value, json};
use ulid::Ulid;
use uuid::Uuid;

use crate::interactions::Action;
use crate::recommend::{MlRecommend, RecommendError, Recommender};

/// Rows of one page of an export.
const PAGE: usize = 1_000;

/// By the user's name.
const INTERACTIONS: &str = "delete from holdfast_interactions where user_id = $1";
const SUBSCRIPTIONS: &str = "delete from holdfast_subscriptions where user_id = $1";

/// By the user's name.
const KNOWN: &str = "select user_id from holdfast_interactions where user_id = $1
    union all select user_id from holdfast_subscriptions where user_id = $1 limit 1";

/// By the user's name: where an admin has said that news go.
const SUBSCRIBED: &str = "select distinct email from holdfast_subscriptions
    where user_id = $1 and email is not null and email_proven";

/// By the address, in its normal form.
const SUBSCRIBERS: &str =
    "select user_id from holdfast_subscriptions where email is not null and @address(email) = $1 limit 1";

/// The last interaction of a page: when, of which event, and which action.
type InteractionCursor = (i64, Uuid, i16);

pub(crate) struct EventsData {
    sql: Sql,
    jobs: Jobs,
    recommender: Recommender,
}

impl EventsData {
    pub(crate) fn new(process: Process<'_>, cache: &Cache) -> Self {
        Self {
            sql: Sql::new(process.database, &process.settings.database),
            jobs: process.jobs.clone(),
            recommender: Recommender::new(process.settings, process.database, cache),
        }
    }

    async fn run(&self, on: LedgerTx<'_>, text: &'static str, user: &str) -> Result<u64, sqlx::Error> {
        on_either!(on, self.sql.named(), query(text), [user], execute)
    }

    async fn subscriptions(&self, user: &str, after: Option<&Value>) -> Result<ExportPage, LedgerError> {
        let text = "select id, email, filter, @ms(created_at) from holdfast_subscriptions
            where user_id = $1 and id > $2 order by id limit $3";
        let after: Uuid = read_cursor(after);
        let found = read_either!(
            self.sql,
            "export subscriptions",
            query_as::<(Uuid, Option<String>, String, i64)>(text),
            [user, after, rows(PAGE)],
            fetch_all
        )?;
        let next = full(&found).map(|&(id, ..)| json!(id));
        let items = found.into_iter().map(|(id, email, filter, created)| {
            // Ours, and JSON; a text that is none is shown as it is.
            let filter = serde_json::from_str(&filter).unwrap_or(Value::String(filter));
            json!({ "id": Ulid(id.as_u128()), "email": email, "filter": filter, "created_at": moment(created) })
        });
        Ok(ExportPage {
            items: items.collect(),
            next,
        })
    }

    async fn interactions(&self, user: &str, after: Option<&Value>) -> Result<ExportPage, LedgerError> {
        let text = "select @ms(at), event_id, kind from holdfast_interactions
            where user_id = $1 and (at, event_id, kind) > (@at($2), $3, $4) order by at, event_id, kind limit $5";
        let (at, event, kind): InteractionCursor = read_cursor(after);
        let found = read_either!(
            self.sql,
            "export interactions",
            query_as::<InteractionCursor>(text),
            [user, at, event, kind, rows(PAGE)],
            fetch_all
        )?;
        let next = full(&found).map(|last| json!(last));
        let items = found.into_iter().map(|(at, event, kind)| {
            let action = Action::from_number(kind).map(Action::as_str);
            json!({ "event": Ulid(event.as_u128()), "action": action, "at": moment(at) })
        });
        Ok(ExportPage {
            items: items.collect(),
            next,
        })
    }
}

impl PersonalData for EventsData {
    fn name(&self) -> &'static str {
        "events"
    }

    fn is_known<'a>(&'a self, user: &'a UserName) -> BoxFuture<'a, Result<bool, LedgerError>> {
        async move {
            let found = read_either!(
                self.sql,
                "look for a user",
                query_as::<(String,)>(KNOWN),
                [user.as_str()],
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
                query_as::<(String,)>(SUBSCRIBED),
                [person.name.as_str()],
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
            let list = self.recommender.make(&person.name).await.map_err(unmade)?;
            Ok(vec![("recommendations", json!(list))])
        }
        .boxed()
    }

    fn lists(&self) -> &'static [&'static str] {
        &["subscriptions", "interactions"]
    }

    fn page<'a>(
        &'a self,
        list: &'static str,
        person: &'a Person,
        after: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<ExportPage, LedgerError>> {
        let user = person.name.as_str();
        match list {
            "subscriptions" => self.subscriptions(user, after).boxed(),
            _ => self.interactions(user, after).boxed(),
        }
    }

    fn delete<'a>(
        &'a self,
        mut tx: LedgerTx<'a>,
        person: &'a Person,
    ) -> BoxFuture<'a, Result<DeletionCounts, sqlx::Error>> {
        async move {
            let user = person.name.as_str();
            let interactions = self.run(tx.reborrow(), INTERACTIONS, user).await?;
            let subscriptions = self.run(tx.reborrow(), SUBSCRIPTIONS, user).await?;
            let nobody = json!({ "user": DELETED_ACCOUNT }).to_string();
            let jobs = self
                .jobs
                .replace_payloads_of(tx, MlRecommend::KIND, user, &nobody)
                .await?;
            Ok(DeletionCounts::of(&[
                ("interactions", interactions),
                ("subscriptions", subscriptions),
                ("jobs", jobs),
            ]))
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
                query_as::<(String,)>(SUBSCRIBERS),
                [address],
                fetch_optional
            )?;
            Ok(found.is_some())
        }
        .boxed()
    }

    fn deleted<'a>(&'a self, user: &'a UserName) -> BoxFuture<'a, ()> {
        self.recommender.drop_list(user).boxed()
    }
}

fn read_cursor<T: serde::de::DeserializeOwned + Default>(after: Option<&Value>) -> T {
    let read = after.and_then(|value| serde_json::from_value(value.clone()).ok());
    read.unwrap_or_default()
}

/// The last row of a full page, behind which there may be more.
fn full<T>(rows: &[T]) -> Option<&T> {
    rows.last().filter(|_| rows.len() == PAGE)
}

fn unmade(error: RecommendError) -> LedgerError {
    match error {
        RecommendError::Sql(error) => error,
        error => LedgerError::Corrupt(format!("a list of recommendations: {error}")),
    }
}
