-- Points: crates/tasks/src/points.

create table holdfast_tracks (
    id         uuid        primary key,                -- a ULID
    name       text        not null,
    created_at timestamptz not null default now()
);

create table holdfast_points (
    track_id    uuid             not null references holdfast_tracks (id) on delete cascade,
    recorded_at timestamptz      not null,
    lat         double precision not null,
    lon         double precision not null,
    altitude    double precision,
    speed       double precision,
    primary key (track_id, recorded_at)
);

-- Points that have no place: accepted, and kept with the reason until somebody redrives or deletes them.
create table holdfast_point_letters (
    track_id    uuid             not null,
    recorded_at timestamptz      not null,
    lat         double precision not null,
    lon         double precision not null,
    altitude    double precision,
    speed       double precision,
    reason      text             not null,
    at          timestamptz      not null default now(),
    primary key (track_id, recorded_at)
);
create index holdfast_point_letters_at on holdfast_point_letters (at);
