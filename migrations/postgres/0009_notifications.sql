-- Notifications: crates/tasks/src/webhooks and crates/tasks/src/notices.

create table holdfast_webhooks (
    id              uuid        primary key,                -- a ULID
    url             text        not null,
    description     text        not null,
    events          text        not null,                   -- JSON: the filters
    secret          text        not null,                   -- whsec_…: it has to sign, so it is no hash
    previous_secret text,                                   -- signs too until `previous_until`
    previous_until  timestamptz,
    enabled         boolean     not null,
    disabled_reason text,                                   -- why Holdfast disabled it, if nobody else did
    failing_since   timestamptz,                            -- the first failure after the last success
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now()
);

-- One row for each attempt. Without a foreign key: rows of a deleted endpoint age out like all the others.
create table holdfast_webhook_deliveries (
    id          uuid        primary key,                    -- a ULID
    webhook_id  uuid        not null,
    message_id  text        not null,
    event_type  text        not null,
    job_id      uuid        not null,
    attempt     integer     not null,
    at          timestamptz not null default now(),
    duration_ms bigint      not null,
    delivered   boolean     not null,
    status      integer,                                    -- null: no answer
    error       text,
    request     text        not null,                       -- the beginning of the body
    response    text                                        -- the same
);
create index holdfast_webhook_deliveries_of on holdfast_webhook_deliveries (webhook_id, id);
create index holdfast_webhook_deliveries_at on holdfast_webhook_deliveries (at);

-- What was published, so that a repetition under the same key publishes nothing.
create table holdfast_notices (
    id          uuid        primary key,                    -- a ULID; the message id of its webhooks
    key         text        unique,
    fingerprint bytea       not null,                       -- SHA-256 of what was asked for
    event_type  text        not null,
    webhooks    integer     not null,                       -- how many endpoints it went to
    at          timestamptz not null default now()
);
create index holdfast_notices_at on holdfast_notices (at);

-- Mail: crates/tasks/src/mail.

create table holdfast_mail_templates (
    name       text        primary key,
    subject    text        not null,
    body       text        not null,                        -- the plain text
    html       text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- What was sent to whom under which key: one mail, however many jobs want it.
create table holdfast_mails (
    key       text        not null,
    address   text        not null,                         -- in lower case
    job_id    uuid        not null,                         -- who sends it
    sent      boolean     not null default false,
    at        timestamptz not null default now(),
    primary key (key, address)
);
create index holdfast_mails_at on holdfast_mails (at);

-- Who gets no mail: of one list, or ('') at all.
create table holdfast_mail_suppressions (
    address text        not null,                           -- in lower case
    list    text        not null,
    reason  text        not null,
    at      timestamptz not null default now(),
    primary key (address, list)
);

-- What the link of a mail says, whose holder may unsubscribe the address from the list.
create table holdfast_mail_tokens (
    token   text        primary key,                        -- random
    address text        not null,
    list    text        not null,
    unique (address, list)
);
