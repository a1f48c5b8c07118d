-- Points: crates/tasks/src/points. `recorded_at` is microseconds since the epoch, other times are milliseconds.

create table holdfast_tracks (
    id         blob    primary key,                    -- a ULID
    name       text    not null,
    created_at integer not null
) without rowid;

create table holdfast_points (
    track_id    blob    not null references holdfast_tracks (id) on delete cascade,
    recorded_at integer not null,
    lat         real    not null,
    lon         real    not null,
    altitude    real,
    speed       real,
    primary key (track_id, recorded_at)
) without rowid;

-- Points that have no place: accepted, and kept with the reason until somebody redrives or deletes them.
create table holdfast_point_letters (
    track_id    blob    not null,
    recorded_at integer not null,
    lat         real    not null,
    lon         real    not null,
    altitude    real,
    speed       real,
    reason      text    not null,
    at          integer not null,
    primary key (track_id, recorded_at)
) without rowid;
create index holdfast_point_letters_at on holdfast_point_letters (at);
