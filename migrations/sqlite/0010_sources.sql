-- Where events are found, and who wants to hear of them: crates/tasks/src/discovery. Times are milliseconds since the epoch.

create table holdfast_sources (
    id              blob    primary key,                   -- a ULID
    name            text    not null unique,
    definition      text    not null,                      -- JSON
    enabled         integer not null,
    revision        integer not null default 1,            -- counts edits: a run tells only what it began with
    next_run_at     integer,                               -- null: disabled
    etag            text,                                  -- of the answer that was read last
    last_modified   text,
    failures        integer not null default 0,            -- in a row
    last_run_at     integer,
    last_success_at integer,
    report          text,                                  -- JSON: what the last run did
    created_at      integer not null,
    updated_at      integer not null
) without rowid;
create index holdfast_sources_due on holdfast_sources (next_run_at) where next_run_at is not null;

create table holdfast_subscriptions (
    id         blob    primary key,                        -- a ULID
    user_id    text    not null,                           -- the application's own, opaque
    email      text,                                       -- where to, by mail; null: not by mail
    filter     text    not null,                           -- JSON
    created_at integer not null
) without rowid;
create index holdfast_subscriptions_user on holdfast_subscriptions (user_id, id);
