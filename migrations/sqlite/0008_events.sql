-- Events, what people did with them, and the model that recommends: crates/tasks/src/{events,interactions,recommend}.
-- Times are milliseconds since the epoch.

create table holdfast_events (
    id           blob    primary key,                  -- a ULID
    source       text,                                 -- null: somebody posted it
    uid          text    not null,                     -- what its source calls it
    title        text    not null,
    description  text,
    url          text,
    category     text,
    starts_at    integer not null,
    ends_at      integer,
    time_zone    text,                                 -- IANA
    lat          real,
    lon          real,
    place        text,
    -- The place on the unit sphere: a distance is then a sum of squares, in either dialect.
    pos_x        real,
    pos_y        real,
    pos_z        real,
    words        text    not null,                     -- what a search finds it by, each once, a space around each
    content_hash blob    not null,                     -- 128 bits of the SHA-256 of what it says
    created_at   integer not null,
    updated_at   integer not null,
    cancelled_at integer
) without rowid;
create unique index holdfast_events_uid on holdfast_events (coalesce(source, ''), uid);
create index holdfast_events_starts on holdfast_events (starts_at, id);
create index holdfast_events_category on holdfast_events (category, starts_at, id);
create index holdfast_events_lat on holdfast_events (lat) where lat is not null;
create index holdfast_events_hash on holdfast_events (content_hash);

-- One thing that one user did with one event at one moment; the same again is the same row.
create table holdfast_interactions (
    user_id     text    not null,                      -- the application's own, opaque
    at          integer not null,
    event_id    blob    not null references holdfast_events (id) on delete cascade,
    kind        integer not null,                      -- 1 view, 2 save, 3 attend, 4 dismiss
    received_at integer not null,
    primary key (user_id, at, event_id, kind)
) without rowid;
create index holdfast_interactions_event on holdfast_interactions (event_id);
create index holdfast_interactions_at on holdfast_interactions (at);

-- The model that counts, and its pieces. Pieces of a version that no model names are swept by the next training.
create table holdfast_models (
    name       text    primary key,
    version    blob    not null,                       -- a ULID
    parts      integer not null,
    about      text    not null,                       -- JSON: size, checksum, what it was made of
    trained_at integer not null
) without rowid;

create table holdfast_model_parts (
    version blob    not null,
    part    integer not null,
    data    blob    not null,                          -- LZ4
    made_at integer not null,
    primary key (version, part)
);
