-- What calendars repeat without end is written out as far as a horizon, which moves on while their server answers that nothing
-- has changed: crates/tasks/src/discovery/horizon.rs.

create table holdfast_source_bodies (
    source_id    uuid        primary key references holdfast_sources (id) on delete cascade,
    revision     integer     not null,                     -- of the source whose body it is
    read_until   timestamptz not null,                     -- how far it was written out
    body         bytea,                                    -- gzip; null: larger than is kept
    content_type text,
    url          text        not null                      -- where it came from in the end
);

-- Every calendar is read once more, whatever its server says.
update holdfast_sources set etag = null, last_modified = null;
