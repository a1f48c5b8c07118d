-- What holds for one limit key of a queue for a time: crates/jobs/src/limits/keys.rs.
create table holdfast_key_overrides (
    queue       text    not null,
    key         text    not null,
    paused      integer not null default 0,
    max_running integer,                     -- in place of the queue's limit for each key
    expires_at  integer not null,            -- ignored from then on, and deleted later
    primary key (queue, key)
) without rowid;
create index holdfast_key_overrides_expiry on holdfast_key_overrides (expires_at);
