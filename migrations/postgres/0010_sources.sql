-- Where events are found, and who wants to hear of them: crates/tasks/src/discovery.

create table holdfast_sources (
    id              uuid        primary key,               -- a ULID
    name            text        not null unique,
    definition      text        not null,                  -- JSON
    enabled         boolean     not null,
    revision        integer     not null default 1,        -- counts edits: a run tells only what it began with
    next_run_at     timestamptz,                           -- to the millisecond; null: disabled
    etag            text,                                  -- of the answer that was read last
    last_modified   text,
    failures        integer     not null default 0,        -- in a row
    last_run_at     timestamptz,
    last_success_at timestamptz,
    report          text,                                  -- JSON: what the last run did
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now()
);
create index holdfast_sources_due on holdfast_sources (next_run_at) where next_run_at is not null;

create table holdfast_subscriptions (
    id         uuid        primary key,                    -- a ULID
    user_id    text        collate "C" not null,           -- the application's own, opaque
    email      text,                                       -- where to, by mail; null: not by mail
    filter     text        not null,                       -- JSON
    created_at timestamptz not null default now()
);
create index holdfast_subscriptions_user on holdfast_subscriptions (user_id, id);
