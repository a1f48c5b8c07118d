-- Results and channels: crates/results. Everything in these tables expires.

create table holdfast_results (
    id         text    not null primary key,    -- chosen by the client
    body       text    not null,
    version    integer not null,                   -- grows with every write, also over a deletion
    finished   integer not null,
    updated_at integer not null,
    expires_at integer not null
);
create index holdfast_results_expires on holdfast_results (expires_at);

-- A set of parts. Its row is the lock under which parts come and go, so that `count` is exact.
create table holdfast_result_sets (
    id          text    not null primary key,
    count       integer not null,                  -- exact while `next_expiry` lies ahead
    next_expiry integer not null,                  -- no part expires earlier
    expires_at  integer not null                   -- no part expires later
);
create index holdfast_result_sets_expires on holdfast_result_sets (expires_at);

create table holdfast_result_parts (
    set_id     text    not null,
    part       text    not null,
    expires_at integer not null,
    primary key (set_id, part)
);
create index holdfast_result_parts_expires on holdfast_result_parts (expires_at);

-- A channel. Its row is the lock under which messages are numbered: they become visible in the order of `seq`.
create table holdfast_channels (
    name       text    not null primary key,
    base_seq   integer not null,                   -- its first message is the next one
    last_seq   integer not null,
    bytes      integer not null,                   -- of all messages since the first
    expires_at integer not null
);
create index holdfast_channels_expires on holdfast_channels (expires_at);

create table holdfast_channel_messages (
    channel    text    not null,
    seq        integer not null,
    body       text    not null,
    total_bytes integer not null,                  -- of the channel, up to and with this message
    expires_at integer not null,
    primary key (channel, seq)
);
create index holdfast_channel_messages_expires on holdfast_channel_messages (expires_at);
