//! The walk of a search over the rows of the ledger.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use holdfast_core::clock;
use holdfast_core::sql::dialect;
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;
use tokio::time::Instant;
use uuid::Uuid;

use super::contents::Contents;
use super::statement::{Bind, IdSpan, Source, Statement};
use super::{CALL_ROWS, CALL_TIME, CountBy, FoundJobs, JobSearch, OpenedPayload, SearchFrom};
use crate::LedgerTx;
use crate::id::JobId;
use crate::ledger::LedgerError;
use crate::sql::{Sql, hex_ids, limit};

/// Rows of the first window, and of the largest one: each is twice the one before.
const FIRST_WINDOW: usize = 1_000;
const LARGEST_WINDOW: usize = 4_000;

/// Bytes of payloads and errors, as they are stored, that one statement reads.
pub(super) const WINDOW_BYTES: i64 = 2 * 1024 * 1024;

/// Entries of a partial index that are read in place of a walk.
const SET_ROWS: usize = 5_000;

/// A query of a [`Statement`] on PostgreSQL. It is not prepared by name: there are many of them, and each may be the only one of its form.
macro_rules! bound_postgres {
    (query_as::<$row:ty>, $statement:expr) => {{
        let query = sqlx::query_as::<_, $row>(AssertSqlSafe(dialect::postgres(&$statement.text)));
        let bound = $statement.binds.iter().fold(query, |query, bind| match bind {
            Bind::Text(text) => query.bind(text),
            Bind::Id(id) => query.bind(id),
            Bind::Ids(ids) => query.bind(ids),
            Bind::Number(number) => query.bind(number),
        });
        bound.persistent(false)
    }};
}

/// The same on SQLite.
macro_rules! bound_sqlite {
    (query_as::<$row:ty>, $statement:expr) => {{
        let query = sqlx::query_as::<_, $row>(AssertSqlSafe(dialect::sqlite(&$statement.text)));
        let bound = $statement.binds.iter().fold(query, |query, bind| match bind {
            Bind::Text(text) => query.bind(text),
            Bind::Id(id) => query.bind(id),
            Bind::Ids(ids) => query.bind(hex_ids(ids)),
            Bind::Number(number) => query.bind(number),
        });
        bound.persistent(false)
    }};
}

/// A row of a window: its id, and the bytes of its contents.
type WindowRow = (Uuid, i64);

/// A row that its columns do not exclude: id, kind, payload, errors, and what it is counted by.
type ContentRow = (Uuid, String, Option<String>, Option<String>, Option<String>);

/// A row that matches: its id, and what it is counted by.
type Match = (Uuid, Option<String>);

/// A search under way.
pub(super) struct Walk<'s> {
    sql: &'s Sql,
    search: &'s JobSearch,
    opened: OpenedPayload<'s>,
    source: Source,
    /// What is left.
    span: IdSpan,
    /// `None`: without an end.
    give_up: Option<Instant>,
    reads_contents: bool,
    /// Matches are counted and not listed.
    counts_by: Option<CountBy>,
    pub(super) found: FoundJobs,
    /// The counts.
    pub(super) groups: BTreeMap<String, u64>,
}

/// Whether a search goes on after a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    GoesOn,
    /// The page is full, or the call has gone on for long enough.
    Ends,
}

impl<'s> Walk<'s> {
    pub(super) fn new(
        sql: &'s Sql,
        search: &'s JobSearch,
        opened: OpenedPayload<'s>,
        is_bounded: bool,
    ) -> Self {
        let mut walk = Self {
            sql,
            search,
            opened,
            source: Source::of(&search.query),
            span: IdSpan::of(&search.query, clock::unix_millis()),
            give_up: is_bounded.then(|| Instant::now() + CALL_TIME),
            reads_contents: search.query.is_about_contents(),
            counts_by: None,
            found: FoundJobs::default(),
            groups: BTreeMap::new(),
        };
        match search.from {
            SearchFrom::Newest => {}
            SearchFrom::OlderThan(id) => walk.leave_from(id.as_uuid()),
            SearchFrom::NewerThan(id) => walk.leave_to(id.as_uuid()),
        }
        walk
    }

    /// Counts what it finds.
    pub(super) fn counting(self, by: CountBy) -> Self {
        Self {
            counts_by: Some(by),
            ..self
        }
    }
}

impl Walk<'_> {
    fn goes_up(&self) -> bool {
        matches!(self.search.from, SearchFrom::NewerThan(_))
    }

    fn order(&self) -> &'static str {
        if self.goes_up() { "id" } else { "id desc" }
    }

    /// Leaves out this id and newer ones.
    fn leave_from(&mut self, id: Uuid) {
        match id.as_u128().checked_sub(1).map(Uuid::from_u128) {
            Some(before) if before < self.span.last => self.span.last = before,
            Some(_) => {}
            None => self.leave_all(),
        }
    }

    /// Leaves out this id and older ones.
    fn leave_to(&mut self, id: Uuid) {
        match id.as_u128().checked_add(1).map(Uuid::from_u128) {
            Some(after) if after > self.span.first => self.span.first = after,
            Some(_) => {}
            None => self.leave_all(),
        }
    }

    fn leave_all(&mut self) {
        (self.span.first, self.span.last) = (Uuid::max(), Uuid::nil());
    }

    fn leave_behind(&mut self, id: Uuid) {
        if self.goes_up() {
            self.leave_to(id);
        } else {
            self.leave_from(id);
        }
    }

    /// As far as one call goes.
    pub(super) async fn run(&mut self) -> Result<(), LedgerError> {
        if self.source != Source::Nothing && !self.span.is_empty() {
            self.walk().await?;
        }
        if self.found.of.is_none() && self.found.next.is_none() && self.search.from == SearchFrom::Newest {
            self.found.of = Some(self.found.searched);
        }
        Ok(())
    }

    async fn walk(&mut self) -> Result<(), LedgerError> {
        if let Source::Set { rows, order } = self.source.clone() {
            if let Some(set) = self.set(rows, order).await? {
                return self.take(&set).await.map(drop);
            }
            self.source = Source::Table;
        }
        let first = if self.search.query.is_empty() && self.counts_by.is_none() {
            self.search.limit.saturating_add(1)
        } else {
            FIRST_WINDOW
        };
        let mut size = first.min(LARGEST_WINDOW);
        loop {
            let left = CALL_ROWS.saturating_sub(usize::try_from(self.found.searched).unwrap_or(CALL_ROWS));
            let wanted = if self.give_up.is_some() {
                size.min(left)
            } else {
                size
            };
            let window = self.window(wanted).await?;
            let is_last = window.len() < wanted;
            if self.take(&window).await? == Progress::Ends {
                break;
            }
            if is_last {
                self.found.next = None;
                return Ok(());
            }
            self.found.next = window.last().map(|(id, _)| JobId::from_uuid(*id));
            if self.is_over() || self.span.is_empty() {
                break;
            }
            size = (size * 2).min(LARGEST_WINDOW);
        }
        if self.give_up.is_some() && self.found.next.is_some() {
            self.found.of = self.estimate().await?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.give_up
            .is_some_and(|give_up| Instant::now() >= give_up || self.found.searched >= CALL_ROWS as u64)
    }

    /// What a partial index has; `None`: more than [`SET_ROWS`].
    async fn set(&mut self, rows: Statement, order: &str) -> Result<Option<Vec<WindowRow>>, LedgerError> {
        let mut statement = Statement {
            text: format!(
                "select id, {} from holdfast_jobs where {}",
                self.size(),
                rows.text
            ),
            ..rows
        };
        let most = statement.bind(Bind::Number(limit(SET_ROWS + 1)));
        statement.push(&format!(" order by {order} limit {most}"));
        let mut set = self.rows(&statement).await?;
        if set.len() > SET_ROWS {
            return Ok(None);
        }
        self.found.of = Some(set.len() as u64);
        set.retain(|(id, _)| self.span.first <= *id && *id <= self.span.last);
        set.sort_unstable_by_key(|(id, _)| *id);
        if !self.goes_up() {
            set.reverse();
        }
        Ok(Some(set))
    }

    /// The next rows of the walk.
    async fn window(&self, wanted: usize) -> Result<Vec<WindowRow>, LedgerError> {
        let mut statement = Statement::new(&format!(
            "select id, {} from holdfast_jobs where {}",
            self.size(),
            self.source.walked()
        ));
        statement.push_span(self.span);
        let most = statement.bind(Bind::Number(limit(wanted)));
        statement.push(&format!(" order by {} limit {most}", self.order()));
        self.rows(&statement).await
    }

    /// What a row's contents weigh, where they are to be read.
    fn size(&self) -> &'static str {
        if self.reads_contents {
            "cast(@size(payload) + coalesce(@size(errors), 0) as bigint)"
        } else {
            "cast(0 as bigint)"
        }
    }

    /// Looks through rows in parts that are small enough. The page ends with its last match.
    async fn take(&mut self, rows: &[WindowRow]) -> Result<Progress, LedgerError> {
        let mut rest = rows;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|(_, size)| {
                let fits = bytes == 0 || bytes + size <= WINDOW_BYTES;
                bytes += size;
                fits
            });
            let (part, after) = rest.split_at(fits.count().max(1));
            let matches = self.matching(part).await?;
            if self.add(part, matches) == Progress::Ends {
                return Ok(Progress::Ends);
            }
            if self.is_over() && !after.is_empty() {
                self.found.next = part.last().map(|(id, _)| JobId::from_uuid(*id));
                return Ok(Progress::Ends);
            }
            rest = after;
        }
        Ok(Progress::GoesOn)
    }

    fn add(&mut self, part: &[WindowRow], matches: Vec<Match>) -> Progress {
        for (id, group) in matches {
            match group {
                Some(group) => *self.groups.entry(group).or_default() += 1,
                None => self.found.ids.push(JobId::from_uuid(id)),
            }
        }
        let mut looked_at = part.len();
        let is_full = self.found.ids.len() > self.search.limit;
        if is_full {
            self.found.ids.truncate(self.search.limit);
            self.found.next = self.found.ids.last().copied();
            let last = self.found.next.map(JobId::as_uuid);
            let place = part.iter().position(|(id, _)| Some(*id) == last);
            // The page was full before this part, which has only shown that there are more.
            looked_at = place.map_or(0, |place| place + 1);
        }
        self.found.searched += looked_at as u64;
        if let Some((id, _)) = part.last() {
            self.leave_behind(*id);
        }
        if is_full { Progress::Ends } else { Progress::GoesOn }
    }

    /// Which of these rows match.
    async fn matching(&self, part: &[WindowRow]) -> Result<Vec<Match>, LedgerError> {
        let (Some((first, _)), Some((last, _))) = (part.first(), part.last()) else {
            return Ok(Vec::new());
        };
        if self.search.query.is_empty() && self.counts_by.is_none() {
            return Ok(part.iter().map(|(id, _)| (*id, None)).collect());
        }
        let contents = if self.reads_contents {
            "kind, @text(payload), @text(errors)"
        } else {
            "kind, cast(null as text), cast(null as text)"
        };
        let group = self.counts_by.map_or("cast(null as text)", CountBy::column);
        let mut statement = Statement::new(&format!(
            "select id, {contents}, {group} from holdfast_jobs where "
        ));
        if let Source::Set { .. } = self.source {
            let ids = statement.bind(Bind::Ids(part.iter().map(|(id, _)| *id).collect()));
            statement.push(&format!("id @among({ids})"));
        } else {
            statement.push(self.source.walked());
            let span = IdSpan {
                first: *first.min(last),
                last: *first.max(last),
            };
            statement.push_span(span);
        }
        statement.push_conditions(&self.search.query);
        statement.push(&format!(" order by {}", self.order()));
        self.matching_rows(&statement).await
    }

    fn holds(&self, (_, kind, payload, errors, _): &ContentRow) -> bool {
        if !self.reads_contents {
            return true;
        }
        let stored = payload.as_deref().unwrap_or("null");
        let opened = (self.opened)(kind, stored);
        let payload = opened.as_deref().unwrap_or(stored);
        let shown = self.search.shown.as_ref().and_then(|shown| {
            let payload = RawValue::from_string(payload.to_owned()).ok()?;
            shown(kind, &payload)
        });
        self.search.query.holds_for(&Contents {
            payload: shown.as_deref().map_or(payload, RawValue::get),
            errors: errors.as_deref(),
        })
    }

    async fn rows(&self, statement: &Statement) -> Result<Vec<WindowRow>, LedgerError> {
        let search = self.sql.within("search jobs", async {
            let mut tx = self.sql.begin_read().await?;
            let rows = match tx.on() {
                LedgerTx::Postgres(on) => {
                    bound_postgres!(query_as::<WindowRow>, statement)
                        .fetch_all(on)
                        .await?
                }
                LedgerTx::Sqlite(on) => {
                    bound_sqlite!(query_as::<WindowRow>, statement)
                        .fetch_all(on)
                        .await?
                }
            };
            tx.commit().await?;
            Ok(rows)
        });
        search.await
    }

    /// Row by row: a window of large payloads is never held.
    async fn matching_rows(&self, statement: &Statement) -> Result<Vec<Match>, LedgerError> {
        let search = self.sql.within("search jobs", async {
            let mut tx = self.sql.begin_read().await?;
            let matches = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let mut rows = bound_postgres!(query_as::<ContentRow>, statement).fetch(on);
                    let mut matches = Vec::new();
                    while let Some(row) = rows.try_next().await? {
                        matches.extend(self.holds(&row).then_some((row.0, row.4)));
                    }
                    matches
                }
                LedgerTx::Sqlite(on) => {
                    let mut rows = bound_sqlite!(query_as::<ContentRow>, statement).fetch(on);
                    let mut matches = Vec::new();
                    while let Some(row) = rows.try_next().await? {
                        matches.extend(self.holds(&row).then_some((row.0, row.4)));
                    }
                    matches
                }
            };
            tx.commit().await?;
            Ok(matches)
        });
        search.await
    }

    /// About how many rows the walk has in all, as the database's statistics have it. SQLite has none.
    async fn estimate(&self) -> Result<Option<u64>, LedgerError> {
        let relation = self.source.relation();
        let estimate = self.sql.within("estimate the number of jobs", async {
            let mut tx = self.sql.begin_read().await?;
            let LedgerTx::Postgres(on) = tx.on() else {
                return Ok(None);
            };
            let rows: Option<i64> =
                sqlx::query_scalar("select reltuples::bigint from pg_class where oid = to_regclass($1)")
                    .bind(relation)
                    .persistent(self.sql.named)
                    .fetch_optional(on)
                    .await?;
            tx.commit().await?;
            Ok(rows)
        });
        // -1: it was never counted.
        let rows = estimate.await?.and_then(|rows| u64::try_from(rows).ok());
        Ok(rows.map(|rows| rows.max(self.found.searched)))
    }
}
