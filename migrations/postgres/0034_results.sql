-- Results and channels: crates/results. Everything in these tables expires.

create table holdfast_results (
    id         text        collate "C" primary key,    -- chosen by the client
    body       text        not null,
    version    bigint      not null,                   -- grows with every write, also over a deletion
    finished   boolean     not null,
    updated_at timestamptz not null,
    expires_at timestamptz not null
);
create index holdfast_results_expires on holdfast_results (expires_at);

-- A set of parts. Its row is the lock under which parts come and go, so that `count` is exact.
create table holdfast_result_sets (
    id          text        collate "C" primary key,
    count       bigint      not null,                  -- exact while `next_expiry` lies ahead
    next_expiry timestamptz not null,                  -- no part expires earlier
    expires_at  timestamptz not null                   -- no part expires later
);
create index holdfast_result_sets_expires on holdfast_result_sets (expires_at);

create table holdfast_result_parts (
    set_id     text        collate "C" not null,
    part       text        collate "C" not null,
    expires_at timestamptz not null,
    primary key (set_id, part)
);
create index holdfast_result_parts_expires on holdfast_result_parts (expires_at);

-- A channel. Its row is the lock under which messages are numbered: they become visible in the order of `seq`.
create table holdfast_channels (
    name       text        collate "C" primary key,
    base_seq   bigint      not null,                   -- its first message is the next one
    last_seq   bigint      not null,
    bytes      bigint      not null,                   -- of all messages since the first
    expires_at timestamptz not null
);
create index holdfast_channels_expires on holdfast_channels (expires_at);

create table holdfast_channel_messages (
    channel    text        collate "C" not null,
    seq        bigint      not null,
    body       text        not null,
    total_bytes bigint      not null,                  -- of the channel, up to and with this message
    expires_at timestamptz not null,
    primary key (channel, seq)
);
create index holdfast_channel_messages_expires on holdfast_channel_messages (expires_at);
