//! The statements of a search, made for the conditions that it has: what is not asked for is not in the text, so that each database
//! plans what is asked for, with the partial indexes that serve it.

use std::time::Duration;

use uuid::Uuid;

use super::query::{Comparison, Condition, JobQuery, Term};
use crate::id::JobId;
use crate::state::{State, StoredState};

/// A value of a statement.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Bind {
    Text(String),
    Id(Uuid),
    Ids(Vec<Uuid>),
    Number(i64),
}

/// A statement in the dialect of [`holdfast_core::sql::dialect`], and its values.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) binds: Vec<Bind>,
}

impl Statement {
    pub(super) fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            binds: Vec::new(),
        }
    }

    /// The placeholder of a value.
    pub(super) fn bind(&mut self, value: Bind) -> String {
        self.binds.push(value);
        format!("${}", self.binds.len())
    }

    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn any(&mut self, column: &str, values: impl IntoIterator<Item = Bind>) -> String {
        let places: Vec<String> = values.into_iter().map(|value| self.bind(value)).collect();
        format!("{column} in ({})", places.join(", "))
    }

    /// ` and …` for the ids of a span.
    pub(super) fn push_span(&mut self, span: IdSpan) {
        let first = self.bind(Bind::Id(span.first));
        let last = self.bind(Bind::Id(span.last));
        self.push(&format!(" and id >= {first} and id <= {last}"));
    }

    /// ` and …` for each condition that a column tells.
    pub(super) fn push_conditions(&mut self, query: &JobQuery) {
        for Term {
            is_negated,
            condition,
        } in &query.terms
        {
            // That a row has errors does not tell that it has not the one that is to be missing.
            if *is_negated && condition.is_about_contents() {
                continue;
            }
            let Some(holds) = self.condition(condition) else {
                continue;
            };
            // A comparison with null is null, and its opposite is to hold.
            let text = if *is_negated {
                format!(" and not coalesce({holds}, false)")
            } else {
                format!(" and {holds}")
            };
            self.push(&text);
        }
    }

    /// `None`: the row's contents tell, or the range of ids does.
    fn condition(&mut self, condition: &Condition) -> Option<String> {
        let texts = |values: &[String]| values.iter().cloned().map(Bind::Text).collect::<Vec<_>>();
        Some(match condition {
            Condition::Kind(names) => self.any("kind", texts(names)),
            Condition::Queue(names) => self.any("queue", texts(names)),
            Condition::LimitKey(keys) => self.any("limit_key", texts(keys)),
            Condition::UniqueKey(keys) => self.any("unique_key", texts(keys)),
            Condition::EnqueuedBy(names) => self.any("enqueued_by", texts(names)),
            Condition::Tag(tags) => {
                let places: Vec<String> = texts(tags).into_iter().map(|tag| self.bind(tag)).collect();
                let one = places.iter().map(|place| format!("{place} in (@names(tags))"));
                format!(
                    "(tags is not null and ({}))",
                    one.collect::<Vec<_>>().join(" or ")
                )
            }
            Condition::Priority(levels) => self.any(
                "priority",
                levels.iter().map(|level| Bind::Number(level.rank().into())),
            ),
            Condition::Batch(ids) => self.any("batch_id", ids.iter().map(|id| Bind::Id(id.as_uuid()))),
            Condition::Worker(ids) => self.any("worker", ids.iter().map(|id| Bind::Id(id.as_uuid()))),
            Condition::Id(ranges) => {
                let ranges = ranges.iter().map(|(first, last)| {
                    let first = self.bind(Bind::Id(first.as_uuid()));
                    let last = self.bind(Bind::Id(last.as_uuid()));
                    format!("id between {first} and {last}")
                });
                format!("({})", ranges.collect::<Vec<_>>().join(" or "))
            }
            Condition::State(states) => {
                let states: Vec<&str> = states.iter().map(|state| state_condition(*state)).collect();
                format!("({})", states.join(" or "))
            }
            Condition::Attempt(comparison, number) => self.compared("attempt", *comparison, *number),
            Condition::Crashes(comparison, number) => self.compared("crashes", *comparison, *number),
            Condition::Error(_) => "errors is not null".to_owned(),
            Condition::Age(..) | Condition::PayloadText(_) | Condition::PayloadValue(..) => return None,
        })
    }

    fn compared(&mut self, column: &str, comparison: Comparison, number: i64) -> String {
        format!(
            "{column} {} {}",
            comparison.sign(),
            self.bind(Bind::Number(number))
        )
    }
}

/// How the rows of a visible state are found.
fn state_condition(state: State) -> &'static str {
    match state {
        State::Scheduled => "(state = 'available' and run_at > @now and attempt = 0)",
        State::Retryable => "(state = 'available' and run_at > @now and attempt > 0)",
        State::Available => "(state = 'available' and run_at <= @now)",
        State::Running => "state = 'running'",
        State::Completed => "state = 'completed'",
        State::Discarded => "state = 'discarded'",
        State::Cancelled => "state = 'cancelled'",
    }
}

/// The ids that a match may have, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IdSpan {
    pub(super) first: Uuid,
    pub(super) last: Uuid,
}

impl IdSpan {
    /// Of the jobs of the query's ages and ids. `now_ms`: milliseconds since the epoch.
    pub(super) fn of(query: &JobQuery, now_ms: u64) -> Self {
        let mut span = Self {
            first: Uuid::nil(),
            last: Uuid::max(),
        };
        for term in &query.terms {
            match &term.condition {
                Condition::Age(comparison, age) => span.cut_age(*comparison, *age, term.is_negated, now_ms),
                Condition::Id(ranges) if !term.is_negated => {
                    let firsts = ranges.iter().map(|(first, _)| first.as_uuid());
                    let lasts = ranges.iter().map(|(_, last)| last.as_uuid());
                    span.first = span.first.max(firsts.min().unwrap_or_default());
                    span.last = span.last.min(lasts.max().unwrap_or_default());
                }
                _ => {}
            }
        }
        span
    }

    fn cut_age(&mut self, comparison: Comparison, age: Duration, is_negated: bool, now_ms: u64) {
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let border = JobId::first_of_ms(now_ms.saturating_sub(age_ms)).as_uuid();
        let is_older = matches!(comparison, Comparison::More | Comparison::AtLeast) != is_negated;
        if is_older {
            self.last = self.last.min(border);
        } else {
            self.first = self.first.max(border);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first > self.last
    }
}

/// Where the rows of a search come from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    /// No job can match.
    Nothing,
    /// All jobs by id.
    Table,
    /// Dead letters by id.
    DeadLetters,
    /// What a partial index has, if it is not much: no index has the waiting jobs, the running ones or those of a batch by id.
    Set {
        /// The index' own condition, and what else its first columns tell.
        rows: Statement,
        /// Its order, so that the database reads it and nothing else.
        order: &'static str,
    },
}

impl Source {
    pub(super) fn of(query: &JobQuery) -> Self {
        let stored = query.stored_states();
        if stored.is_empty() {
            return Self::Nothing;
        }
        let mut batches = query.positive().filter_map(|condition| match condition {
            Condition::Batch(ids) if ids.len() == 1 => ids.first(),
            _ => None,
        });
        let mut queues = query.positive().filter_map(|condition| match condition {
            Condition::Queue(names) if names.len() == 1 => names.first(),
            _ => None,
        });
        if let Some(batch) = batches.next() {
            let mut rows = Statement::default();
            let batch = rows.bind(Bind::Id(batch.as_uuid()));
            rows.push(&format!("batch_id = {batch}"));
            return Self::Set {
                rows,
                order: "batch_id, state",
            };
        }
        match stored.as_slice() {
            [StoredState::Discarded] => Self::DeadLetters,
            [StoredState::Running] => Self::Set {
                rows: Statement::new("state = 'running'"),
                order: "worker",
            },
            [StoredState::Available] => {
                let mut rows = Statement::new("state = 'available'");
                let order = match queues.next() {
                    Some(queue) => {
                        let queue = rows.bind(Bind::Text(queue.clone()));
                        rows.push(&format!(" and queue = {queue}"));
                        "priority, run_at, id"
                    }
                    None => "queue, priority, run_at, id",
                };
                Self::Set { rows, order }
            }
            _ => Self::Table,
        }
    }

    /// The rows that are walked by id.
    pub(super) fn walked(&self) -> &'static str {
        match self {
            Self::DeadLetters => "state = 'discarded'",
            Self::Nothing | Self::Table | Self::Set { .. } => "true",
        }
    }

    /// The relation whose estimated rows are those of the walk, on PostgreSQL.
    pub(super) fn relation(&self) -> &'static str {
        match self {
            Self::DeadLetters => "holdfast_jobs_dead",
            Self::Nothing | Self::Table | Self::Set { .. } => "holdfast_jobs",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(text: &str) -> Statement {
        let mut statement = Statement::default();
        statement.push_conditions(&text.parse().unwrap());
        statement
    }

    #[test]
    fn a_statement_has_what_is_asked_for_and_nothing_else() {
        assert_eq!(conditions(""), Statement::default());
        let found = conditions("kind:a,b -queue:c attempt:>=2 payload.x:1 age:>1h");
        assert_eq!(
            found.text,
            " and kind in ($1, $2) and not coalesce(queue in ($3), false) and attempt >= $4"
        );
        assert_eq!(found.binds.len(), 4);
        assert_eq!(conditions("error:a -error:b").text, " and errors is not null");
        assert_eq!(
            conditions("tag:vip,new by:key/01J").text,
            " and (tags is not null and ($1 in (@names(tags)) or $2 in (@names(tags)))) and enqueued_by in ($3)"
        );
        assert_eq!(
            conditions("-state:retryable,completed").text,
            " and not coalesce(((state = 'available' and run_at > @now and attempt > 0) or state = 'completed'), false)"
        );
    }

    #[test]
    fn the_source_is_the_smallest_index_that_has_every_match() {
        let source = |text: &str| Source::of(&text.parse().unwrap());
        assert_eq!(source("kind:a"), Source::Table);
        assert_eq!(source("state:discarded queue:a"), Source::DeadLetters);
        assert_eq!(source("state:running,completed"), Source::Table);
        assert_eq!(source("-state:scheduled"), Source::Table);
        assert_eq!(source("state:completed state:running"), Source::Nothing);
        for (text, condition) in [
            ("state:running", "state = 'running'"),
            ("state:scheduled", "state = 'available'"),
            ("state:available queue:a", "state = 'available' and queue = $1"),
            (
                "-state:running,completed,discarded,cancelled",
                "state = 'available'",
            ),
            ("batch:01JD3V0S7W8Q4M2XKZC5T9R6BH", "batch_id = $1"),
        ] {
            let Source::Set { rows, .. } = source(text) else {
                panic!("{text}");
            };
            assert_eq!(rows.text, condition, "{text}");
        }
    }

    #[test]
    fn ages_and_ids_are_a_span_of_ids() {
        let at = |ms: u64| JobId::first_of_ms(ms).as_uuid();
        let span = |text: &str| IdSpan::of(&text.parse().unwrap(), 10_000_000);
        assert_eq!(span("age:>1000s").last, at(9_000_000));
        assert_eq!(span("age:<1000s").first, at(9_000_000));
        assert_eq!(span("-age:<1000s"), span("age:>1000s"));
        assert_eq!(span("kind:a"), span(""));
        assert!(span("age:>1000s age:<10s").is_empty());
        assert_eq!(
            span("id:01JD3V").first,
            "01JD3V00000000000000000000".parse::<JobId>().unwrap().as_uuid()
        );
    }
}
