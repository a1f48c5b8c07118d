-- Sessions of users, so that a logout and a refresh hold where there is no Redis: crates/api/src/auth/sessions.
-- Times are milliseconds since the epoch.

create table holdfast_sessions (
    id         blob    primary key,                         -- SHA-256 of the session's id
    user_id    blob    not null references holdfast_users (id) on delete cascade,
    generation integer not null default 0,                  -- of the token in force: one that is refreshed is good no more
    created_at integer not null,
    changed_at integer not null,                            -- refreshed or ended
    ended_at   integer
) without rowid;
create index holdfast_sessions_changed on holdfast_sessions (changed_at);
create index holdfast_sessions_created on holdfast_sessions (created_at);
create index holdfast_sessions_user on holdfast_sessions (user_id);
