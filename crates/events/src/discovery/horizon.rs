//! The horizon: how far ahead what repeats was written out, and how it moves on without a new answer.
//!
//! A rule without end is written out as far as `discovery.ahead_seconds`. Each day that passes, another day comes into view; but
//! a server whose calendar has not changed answers 304, without a body. So the last body of a calendar that repeats is kept
//! (gzip, at most [`MAX_KEPT`] bytes), and read again when the horizon has moved by [`STEP`].
//!
//! # Invariants
//! - A kept body is the one that the validators of its source belong to. It is written before them: a run that dies in
//!   between has older validators, which bring the body again.
//! - A body is of one revision of its source. After an edit it is not read.
//! - Only what repeats is kept, and only if its server gave a validator: without one it cannot answer 304.
//! - A calendar that is larger is fetched without conditions instead, once for each [`STEP`].
//!
//! # When things fail
//! A kept body that cannot be read is passed over, and the calendar is fetched without conditions.

use std::io::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use holdfast_jobs::ledger::LedgerError;
use url::Url;

use super::Sources;
use super::fetch::{Body, gunzip};
use super::source::SourceRecord;
use super::store::BODY_URL;
use holdfast_core::sql::dialect::{read_either, write_either};

/// Largest body that is kept, in bytes of gzip: some 60,000 lines.
const MAX_KEPT: usize = 512 << 10;

/// How far the horizon moves before a calendar is read again.
const STEP: TimeDelta = TimeDelta::days(1);

/// A calendar that repeats, as it was read last.
#[derive(Debug)]
pub(super) struct KeptBody {
    read_until: DateTime<Utc>,
    packed: Option<Vec<u8>>,
    content_type: Option<String>,
    url: String,
}

type Row = (i64, Option<Vec<u8>>, Option<String>, String);

impl KeptBody {
    /// Of a body that has just been read; packing it takes a moment of a core.
    pub(super) fn of(body: &Body, read_until: DateTime<Utc>) -> Self {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        let packed = packed.write_all(&body.bytes).and_then(|()| packed.finish()).ok();
        Self {
            read_until,
            packed: packed.filter(|packed| packed.len() <= MAX_KEPT),
            content_type: body.content_type.clone(),
            url: body.url.to_string(),
        }
    }

    /// Whether there is something new to see as far as `until`.
    pub(super) fn is_behind(&self, until: DateTime<Utc>) -> bool {
        until.signed_duration_since(self.read_until) >= STEP
    }

    /// The body, if it was kept and can be read.
    pub(super) fn into_body(self, max_bytes: usize) -> Option<Body> {
        Some(Body {
            bytes: gunzip(&self.packed?, max_bytes, "the body that was kept").ok()?,
            content_type: self.content_type,
            etag: None,
            last_modified: None,
            url: Url::parse(&self.url).ok()?,
        })
    }
}

impl Sources {
    /// What was kept of a source as it is now.
    pub(super) async fn kept_body(&self, source: &SourceRecord) -> Result<Option<KeptBody>, LedgerError> {
        let text = "select @ms(read_until), body, content_type, url from holdfast_source_bodies
            where source_id = $1 and revision = $2";
        let row = read_either!(
            self.0.sql,
            "read a kept body",
            query_as::<Row>(text),
            [source.id.as_uuid(), source.revision],
            fetch_optional
        )?;
        let opened = |stored| {
            let row = source.id.as_uuid().to_string();
            self.0.jobs.encryption().open_text(&BODY_URL.column(&row), stored)
        };
        Ok(row.and_then(|(until, packed, content_type, url)| {
            Some(KeptBody {
                read_until: DateTime::from_timestamp_millis(until).unwrap_or_default(),
                packed,
                content_type,
                // One that cannot be opened is passed over like one that cannot be read.
                url: opened(url).ok()?,
            })
        }))
    }

    /// Keeps a body in place of the one before, unless the source was edited since it was fetched.
    pub(super) async fn keep_body(&self, source: &SourceRecord, kept: &KeptBody) -> Result<(), LedgerError> {
        let row = source.id.as_uuid().to_string();
        let url = self
            .0
            .jobs
            .encryption()
            .seal_text(&BODY_URL.column(&row), &kept.url);
        let text = "insert into holdfast_source_bodies (source_id, revision, read_until, body, content_type, url)
            select id, revision, @at($3), $4, $5, $6 from holdfast_sources where id = $1 and revision = $2
            on conflict (source_id) do update set revision = excluded.revision, read_until = excluded.read_until,
                body = excluded.body, content_type = excluded.content_type, url = excluded.url";
        write_either!(
            self.0.sql,
            "keep a body",
            query(text),
            [
                source.id.as_uuid(),
                source.revision,
                kept.read_until.timestamp_millis(),
                kept.packed.as_deref(),
                kept.content_type.as_deref(),
                &url
            ],
            execute
        )?;
        Ok(())
    }

    /// The kept body was read as far as `until`.
    pub(super) async fn move_horizon(
        &self,
        source: &SourceRecord,
        until: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let text =
            "update holdfast_source_bodies set read_until = @at($3) where source_id = $1 and revision = $2";
        write_either!(
            self.0.sql,
            "move a horizon",
            query(text),
            [source.id.as_uuid(), source.revision, until.timestamp_millis()],
            execute
        )?;
        Ok(())
    }

    /// Nothing of it repeats any more.
    pub(super) async fn drop_body(&self, source: &SourceRecord) -> Result<(), LedgerError> {
        let text = "delete from holdfast_source_bodies where source_id = $1";
        write_either!(
            self.0.sql,
            "drop a kept body",
            query(text),
            [source.id.as_uuid()],
            execute
        )?;
        Ok(())
    }
}
