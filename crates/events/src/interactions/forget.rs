//! Forgetting: what is too old, and what belongs to a user who goes.

use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use ulid::Ulid;

use super::Interactions;
use holdfast_product::UserName;

/// Most rows of one step.
const STEP: i64 = 1_000;

const POSTGRES_PRUNE: &str = "
delete from holdfast_interactions where ctid = any (array (
    select ctid from holdfast_interactions
    where at < now() - $1 * interval '1 millisecond' order by at limit $2 for update skip locked))";

const SQLITE_PRUNE: &str = "
delete from holdfast_interactions where (user_id, at, event_id, kind) in (
    select user_id, at, event_id, kind from holdfast_interactions
    where at < cast(unixepoch('subsec') * 1000 as integer) - ?1 order by at limit ?2)";

const POSTGRES_FORGET: &str = "
delete from holdfast_interactions where ctid = any (array (
    select ctid from holdfast_interactions where user_id = $1 limit $2 for update))";

const SQLITE_FORGET: &str = "
delete from holdfast_interactions where (user_id, at, event_id, kind) in (
    select user_id, at, event_id, kind from holdfast_interactions where user_id = ?1 limit ?2)";

const POSTGRES_ANONYMISE: &str = "
update holdfast_interactions set user_id = $3, received_at = now() where ctid = any (array (
    select ctid from holdfast_interactions where user_id = $1 limit $2 for update))";

const SQLITE_ANONYMISE: &str = "
update holdfast_interactions set user_id = ?3, received_at = cast(unixepoch('subsec') * 1000 as integer)
where (user_id, at, event_id, kind) in (
    select user_id, at, event_id, kind from holdfast_interactions where user_id = ?1 limit ?2)";

impl Interactions {
    /// One step of forgetting what is past its retention; how many went.
    pub async fn prune(&self) -> Result<u64, LedgerError> {
        let age = i64::try_from(self.0.retain.as_millis()).unwrap_or(i64::MAX);
        let sql = &self.0.sql;
        sql.within("prune interactions", async {
            let mut tx = sql.begin().await?;
            let gone = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query = sqlx::query(POSTGRES_PRUNE).bind(age).bind(STEP);
                    query.persistent(sql.named()).execute(on).await?.rows_affected()
                }
                LedgerTx::Sqlite(on) => {
                    let query = sqlx::query(SQLITE_PRUNE).bind(age).bind(STEP);
                    query.execute(on).await?.rows_affected()
                }
            };
            tx.commit().await?;
            Ok(gone)
        })
        .await
    }

    /// Deletes all that a user did; how many. In steps: after a failure, ask again. The model forgets with the next training;
    /// [`crate::recommend::Recommender::forget`] drops what is cached too, and is what a deletion of a user calls.
    pub async fn forget(&self, user: &UserName) -> Result<u64, LedgerError> {
        self.in_steps("forget a user's interactions", user, None).await
    }

    /// Keeps all that a user did under a name that was drawn at random, so that the model goes on knowing it and nobody
    /// knows whose it was; how many. After a failure, ask again: the rest then gets another name, which says less.
    pub async fn anonymise(&self, user: &UserName) -> Result<u64, LedgerError> {
        let nobody = format!("anonymous-{}", Ulid(rand::random()));
        self.in_steps("anonymise a user's interactions", user, Some(&nobody))
            .await
    }

    async fn in_steps(
        &self,
        doing: &'static str,
        user: &UserName,
        name: Option<&str>,
    ) -> Result<u64, LedgerError> {
        let mut sum = 0;
        loop {
            let done = self.step(doing, user, name).await?;
            sum += done;
            if done < STEP.unsigned_abs() {
                return Ok(sum);
            }
        }
    }

    async fn step(
        &self,
        doing: &'static str,
        user: &UserName,
        name: Option<&str>,
    ) -> Result<u64, LedgerError> {
        let sql = &self.0.sql;
        sql.within(doing, async {
            let mut tx = sql.begin().await?;
            let done = match (tx.on(), name) {
                (LedgerTx::Postgres(on), None) => {
                    let query = sqlx::query(POSTGRES_FORGET).bind(user.as_str()).bind(STEP);
                    query.persistent(sql.named()).execute(on).await?.rows_affected()
                }
                (LedgerTx::Postgres(on), Some(name)) => {
                    let query = sqlx::query(POSTGRES_ANONYMISE).bind(user.as_str()).bind(STEP);
                    let query = query.bind(name).persistent(sql.named());
                    query.execute(on).await?.rows_affected()
                }
                (LedgerTx::Sqlite(on), None) => {
                    let query = sqlx::query(SQLITE_FORGET).bind(user.as_str()).bind(STEP);
                    query.execute(on).await?.rows_affected()
                }
                (LedgerTx::Sqlite(on), Some(name)) => {
                    let query = sqlx::query(SQLITE_ANONYMISE).bind(user.as_str()).bind(STEP);
                    query.bind(name).execute(on).await?.rows_affected()
                }
            };
            tx.commit().await?;
            Ok(done)
        })
        .await
    }
}
