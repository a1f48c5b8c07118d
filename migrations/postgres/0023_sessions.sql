-- Sessions of users, so that a logout and a refresh hold where there is no Redis: crates/api/src/auth/sessions.

create table holdfast_sessions (
    id         bytea       primary key,                     -- SHA-256 of the session's id
    user_id    uuid        not null references holdfast_users (id) on delete cascade,
    generation bigint      not null default 0,              -- of the token in force: one that is refreshed is good no more
    created_at timestamptz not null default now(),
    changed_at timestamptz not null default now(),          -- refreshed or ended
    ended_at   timestamptz
);
create index holdfast_sessions_changed on holdfast_sessions (changed_at);
create index holdfast_sessions_created on holdfast_sessions (created_at);
create index holdfast_sessions_user on holdfast_sessions (user_id);
