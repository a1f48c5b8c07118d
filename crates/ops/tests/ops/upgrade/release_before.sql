BEGIN TRANSACTION;
CREATE TABLE holdfast_api_keys (
    id           blob    primary key,
    name         text    not null unique,
    hash         blob    not null unique,              -- SHA-256 of a random 256-bit key
    scopes       text    not null,                     -- comma-separated: produce, read, admin
    created_at   integer not null,
    last_used_at integer,
    revoked_at   integer
, rotated_at integer, previous_hash blob, previous_until integer) without rowid;
CREATE TABLE holdfast_audit (
    id            blob    primary key,             -- a ULID: sorts by time; also the operation's id
    at            integer not null,
    actor         text    not null,                -- key/<id>, user/<name>, cli/<login>, bootstrap, local, system
    action        text    not null,                -- dead_letters.redrive, queue.pause, key.create, …
    target        text,
    count         integer,                         -- rows changed, where an action changes many
    request_id    text,
    details       text,
    operation_key text,                            -- an Idempotency-Key behind its caller's name
    finished      integer not null default 1       -- 0: a bulk operation that may be continued
) without rowid;
INSERT INTO "holdfast_audit" VALUES(X'01A22F18B038AE65B1ACED800D744A6D',1796086476856,'local','queue.pause','ml',NULL,'01M8QHHC1RDZNF6NAPKNSH9WCT',NULL,NULL,1);
INSERT INTO "holdfast_audit" VALUES(X'01A22F18B03E579CED9B976207DAA9F3',1796086476863,'local','job.cancel','01M8QHHC1WNY40A8BG6V0N86N4',NULL,'01M8QHHC1YKKF2SC4EK6GPS414','{"was":"waiting"}',NULL,1);
INSERT INTO "holdfast_audit" VALUES(X'01A22F18B0485A4DD83C313C3389FA30',1796086476872,'local','schedule.create','yearly',NULL,'01M8QHHC289CB3EN8B036HQDH4','{"enabled":true,"kind":"debug.echo","when":"0 3 1 1 * (Europe/Vienna)"}',NULL,1);
INSERT INTO "holdfast_audit" VALUES(X'01A22F18B04A6E249F25E724A6F41FFB',1796086476874,'local','webhook.create','01M8QHHC2AAGBZ1FSYYW26KZK7',NULL,'01M8QHHC2AGHW2H7N96T7GX4SD','{"enabled":true,"events":["order.*"],"url":"http://127.0.0.1:48999/status/200"}',NULL,1);
CREATE TABLE holdfast_batches (
    id               blob    primary key,                 -- a ULID: sorts by creation
    name             text,
    total            integer not null check (total > 0),
    completed        integer not null default 0,          -- final jobs, counted here: their rows are pruned one day
    discarded        integer not null default 0,
    cancelled        integer not null default 0,
    callback         text,                                -- the job that is enqueued at the end
    callback_id      blob,                                -- that job, once it is
    cancel_requested integer not null default 0,
    idempotency_key  text,
    fingerprint      text,                                -- of the request under that key
    created_at       integer not null,
    ended_at         integer                              -- once, when the last job became final
) without rowid;
INSERT INTO "holdfast_batches" VALUES(X'01A22F18B04657F26FFAFC1199EE251C',NULL,2,0,0,0,'{"kind":"http.request","queue":"ml","payload":{"url": "http://127.0.0.1:48999/hit/callback"},"priority":"normal","max_attempts":4,"timeout_seconds":315.0}',NULL,0,NULL,NULL,1796086476871,NULL);
CREATE TABLE holdfast_beats (
    id         blob    primary key,
    name       text    not null,
    started_at integer not null,
    seen_at    integer not null
) without rowid;
INSERT INTO "holdfast_beats" VALUES(X'01A22F18AFE9BEBD0BD6E683C0A9A0D6','vm-14040-0AK86P',1796086476777,1796086476777);
CREATE TABLE holdfast_digest_items (
    id      blob    primary key,                            -- a ULID
    user_id blob    not null references holdfast_users (id) on delete cascade,
    key     text    not null,                               -- of the mail: under one key it is put aside once
    list    text    not null,
    subject text    not null,
    body    text    not null,                               -- the beginning of the plain text
    at      integer not null,
    due_at  integer not null,
    batch   blob,
    unique (user_id, key)
) without rowid;
CREATE TABLE holdfast_events (
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
INSERT INTO "holdfast_events" VALUES(X'01A22F18B04D533D97761642D1C0D4F4',NULL,'jazz','Jazz 🎷',NULL,NULL,NULL,3800023200000,NULL,NULL,47.27,11.4,NULL,6.65157493741405869691e-01,1.34119276940797449437e-01,7.34559410852879346442e-01,' jazz ',X'6B90A60F006CD8DAAD251087ECBBAE05',1796086476878,1796086476878,NULL);
CREATE TABLE holdfast_interactions (
    user_id     text    not null,                      -- the application's own, opaque
    at          integer not null,
    event_id    blob    not null references holdfast_events (id) on delete cascade,
    kind        integer not null,                      -- 1 view, 2 save, 3 attend, 4 dismiss
    received_at integer not null,
    primary key (user_id, at, event_id, kind)
) without rowid;
CREATE TABLE holdfast_jobs (
    id               blob    primary key,
    queue            text    not null,
    kind             text    not null,
    state            text    not null default 'available'
                     check (state in ('available', 'running', 'completed', 'discarded', 'cancelled')),
    priority         integer not null default 1 check (priority between 0 and 2), -- 0 high, 1 normal, 2 low
    run_at           integer not null,
    attempt          integer not null default 0,       -- executions that came to an outcome
    crashes          integer not null default 0,       -- executions that ended with their worker
    max_attempts     integer not null,
    timeout_ms       integer not null,
    cancel_requested integer not null default 0,
    doubtful         integer not null default 0,       -- may also stand on the broker: crates/jobs/src/broker
    worker           blob,                             -- who runs it, or ran it last
    created_at       integer not null,
    started_at       integer,                          -- null while running: claimed, not yet started
    finished_at      integer,
    unique_key       text,
    idempotency_key  text,
    payload          text    not null,
    options          text,
    result           text,
    progress         text,
    errors           text
, snoozes integer not null default 0, limit_key text, batch_id blob, child_id blob) without rowid;
INSERT INTO "holdfast_jobs" VALUES(X'01A22F18B03927EF1DCA82F0844FD42E','default','debug.echo','completed',1,1796086476858,1,0,4,300000,0,0,X'01A22F18AFE332EDD9F5BD7429DDCD5B',1796086476858,1796086476859,1796086476860,'done',NULL,'"done"',NULL,'"done"',NULL,NULL,0,NULL,NULL,NULL);
INSERT INTO "holdfast_jobs" VALUES(X'01A22F18B03B50EE32068C18BD116EA6','default','debug.fail','discarded',1,1796086476859,1,0,4,300000,0,0,X'01A22F18AFE332EDD9F5BD7429DDCD5B',1796086476859,1796086476861,1796086476862,NULL,NULL,'{"mode": "permanent"}',NULL,NULL,NULL,'[{"at":"2026-12-01T00:54:36.861691716Z","attempt":1,"class":"permanent","message":"debug.fail was asked to fail","worker":"vm-14040-MXVKAV"}]',0,NULL,NULL,NULL);
INSERT INTO "holdfast_jobs" VALUES(X'01A22F18B03CAF8805217036C1541AA4','default','debug.echo','cancelled',1,1796090076861,0,0,4,300000,0,0,NULL,1796086476861,NULL,1796086476862,NULL,NULL,'1',NULL,NULL,NULL,NULL,0,NULL,NULL,NULL);
INSERT INTO "holdfast_jobs" VALUES(X'01A22F18B0415CB57CB5A0EEEC5422B6','ml','http.request','available',1,1796086476866,0,0,4,315000,0,0,NULL,1796086476866,NULL,NULL,'single',NULL,'{"url": "http://127.0.0.1:48999/hit/single"}',NULL,NULL,NULL,NULL,0,NULL,NULL,NULL);
INSERT INTO "holdfast_jobs" VALUES(X'01A22F18B042964F5352A3203BE64A53','ml','http.request','available',1,1796086476867,0,0,4,315000,0,0,NULL,1796086476867,NULL,NULL,NULL,NULL,'{"url": "http://127.0.0.1:48999/hit/chained"}','{"then":{"kind":"http.request","queue":"ml","payload":{"url": "http://127.0.0.1:48999/hit/next"},"priority":"normal","max_attempts":4,"timeout_seconds":315.0}}',NULL,NULL,NULL,0,NULL,NULL,NULL);
INSERT INTO "holdfast_jobs" VALUES(X'01A22F18B0436B40E3A7F80FA41C648A','ml','http.request','available',1,1796086476868,0,0,4,315000,0,0,NULL,1796086476868,NULL,NULL,NULL,NULL,'{"url": "http://127.0.0.1:48999/hit/limited"}',NULL,NULL,NULL,NULL,0,'customer-1',NULL,NULL);
INSERT INTO "holdfast_jobs" VALUES(X'01A22F18B0440BCE38C3C1650B874D16','ml','http.request','available',1,1796086477869,0,0,4,315000,0,0,NULL,1796086476869,NULL,NULL,NULL,NULL,'{"url": "http://127.0.0.1:48999/hit/due"}',NULL,NULL,NULL,NULL,0,NULL,NULL,NULL);
INSERT INTO "holdfast_jobs" VALUES(X'01A22F18B045741D6B1B65D5D03E1057','ml','http.request','available',1,1946086476870,0,0,4,315000,0,0,NULL,1796086476870,NULL,NULL,NULL,NULL,'{"url": "http://127.0.0.1:48999/hit/later"}',NULL,NULL,NULL,NULL,0,NULL,NULL,NULL);
INSERT INTO "holdfast_jobs" VALUES(X'01A22F18B04605D08714A26376F515B0','ml','http.request','available',1,1796086476871,0,0,4,315000,0,0,NULL,1796086476871,NULL,NULL,NULL,NULL,'{"url": "http://127.0.0.1:48999/hit/batch-2"}',NULL,NULL,NULL,NULL,0,NULL,X'01A22F18B04657F26FFAFC1199EE251C',NULL);
INSERT INTO "holdfast_jobs" VALUES(X'01A22F18B046901A188E4EFEA83780B0','ml','http.request','available',1,1796086476871,0,0,4,315000,0,0,NULL,1796086476871,NULL,NULL,NULL,NULL,'{"url": "http://127.0.0.1:48999/hit/batch-1"}',NULL,NULL,NULL,NULL,0,NULL,X'01A22F18B04657F26FFAFC1199EE251C',NULL);
INSERT INTO "holdfast_jobs" VALUES(X'01A22F18B04E113DFE8B53F6551E8D85','default','http.request','running',1,1796086476879,0,0,4,315000,0,0,X'01A22F18AFE332EDD9F5BD7429DDCD5B',1796086476879,1796086476880,NULL,NULL,NULL,'{"url": "http://127.0.0.1:48999/hit/lost"}',NULL,NULL,NULL,NULL,0,NULL,NULL,NULL);
CREATE TABLE holdfast_limit_buckets (
    queue   text    not null,
    key     text    not null,
    full_at real    not null,
    primary key (queue, key)
) without rowid;
CREATE TABLE holdfast_mail_suppressions (
    address text    not null,                               -- in lower case
    list    text    not null,
    reason  text    not null,
    at      integer not null,
    primary key (address, list)
) without rowid;
CREATE TABLE holdfast_mail_templates (
    name       text    primary key,
    subject    text    not null,
    body       text    not null,                            -- the plain text
    html       text,
    created_at integer not null,
    updated_at integer not null
) without rowid;
CREATE TABLE holdfast_mail_tokens (
    token   text primary key,                               -- random
    address text not null,
    list    text not null,
    unique (address, list)
) without rowid;
CREATE TABLE holdfast_mails (
    key     text    not null,
    address text    not null,                               -- in lower case
    job_id  blob    not null,                               -- who sends it
    sent    boolean not null default false,
    at      integer not null,
    primary key (key, address)
) without rowid;
CREATE TABLE holdfast_migrations (
    version    bigint      PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);
INSERT INTO "holdfast_migrations" VALUES(1,'0001_jobs','3c8f753809c0c1dd366045c2955aed1979a731f5dda2f7d1c3e1691b64846384','2026-12-01 00:54:36');
INSERT INTO "holdfast_migrations" VALUES(2,'0002_accounts','9edf153545f46097622fed20d355e04c92c8c69b04adf1ff5868086a19aca9af','2026-12-01 00:54:36');
INSERT INTO "holdfast_migrations" VALUES(3,'0003_schedules','9f0efa118e9d92a723469f8216da7b4279b99b1a039a1acb0e5b34372589771a','2026-12-01 00:54:36');
INSERT INTO "holdfast_migrations" VALUES(4,'0004_queue_limits','67933bec8bc84ba184186551e462f66eb09141543d9702df5ef7d65052526b45','2026-12-01 00:54:36');
INSERT INTO "holdfast_migrations" VALUES(5,'0005_dead_letters','eb0ec6649c38e73c5f78ab403385a7d1f77666dae859e9b5b90cb655db379783','2026-12-01 00:54:36');
INSERT INTO "holdfast_migrations" VALUES(6,'0006_points','f22f8c0f8111fa610df9d3edac8a2da90fb51338ec86ff10104200b1beebc840','2026-12-01 00:54:36');
INSERT INTO "holdfast_migrations" VALUES(7,'0007_batches','7e53df4869e7d834005e9f7332c57d8017b6c9eb6cb944d0cdb403e9c0cadd41','2026-12-01 00:54:36');
INSERT INTO "holdfast_migrations" VALUES(8,'0008_events','34c81e673f31632ab1e647ac307123a6f5e34eccc5b6afd7cc621648e203a793','2026-12-01 00:54:36');
INSERT INTO "holdfast_migrations" VALUES(9,'0009_notifications','ed8dff57e7ab2bab3021a7579b57fff0774c0099df933cf304c734524cace136','2026-12-01 00:54:36');
INSERT INTO "holdfast_migrations" VALUES(10,'0010_sources','88c23328c8c3c011f22dbe22cacda8da92f22684b7c464634c85ec42f8167fe0','2026-12-01 00:54:36');
INSERT INTO "holdfast_migrations" VALUES(11,'0011_preferences','825f03054edd1f2fb4c5d98f9133d076d9113d69c2aaf272b7b2168262f19fed','2026-12-01 00:54:36');
INSERT INTO "holdfast_migrations" VALUES(12,'0012_cancelling','fabd46e4cc67b72661a0de236ef7e8d9ca850b14d9d92f44ed4ceea66187c35d','2026-12-01 00:54:36');
CREATE TABLE holdfast_model_parts (
    version blob    not null,
    part    integer not null,
    data    blob    not null,                          -- LZ4
    made_at integer not null,
    primary key (version, part)
);
CREATE TABLE holdfast_models (
    name       text    primary key,
    version    blob    not null,                       -- a ULID
    parts      integer not null,
    about      text    not null,                       -- JSON: size, checksum, what it was made of
    trained_at integer not null
) without rowid;
CREATE TABLE holdfast_notices (
    id          blob    primary key,                        -- a ULID; the message id of its webhooks
    key         text    unique,
    fingerprint blob    not null,                           -- SHA-256 of what was asked for
    event_type  text    not null,
    webhooks    integer not null,                           -- how many endpoints it went to
    at          integer not null
) without rowid;
CREATE TABLE holdfast_point_letters (
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
CREATE TABLE holdfast_points (
    track_id    blob    not null references holdfast_tracks (id) on delete cascade,
    recorded_at integer not null,
    lat         real    not null,
    lon         real    not null,
    altitude    real,
    speed       real,
    primary key (track_id, recorded_at)
) without rowid;
INSERT INTO "holdfast_points" VALUES(X'01A22F18B04B99DD965B624D1DE7A5E1',1780308000123456,0.1,-11.4,NULL,NULL);
CREATE TABLE holdfast_preferences (
    user_id    blob    primary key references holdfast_users (id) on delete cascade,
    document   text    not null,                            -- JSON
    updated_at integer not null
) without rowid;
CREATE TABLE holdfast_queues (
    name       text    primary key,
    paused     integer not null default 0,
    updated_at integer not null
, limited integer not null default 0, configured text, overridden text, rate_full_at real, key_cursor text not null default '') without rowid;
INSERT INTO "holdfast_queues" VALUES('ml',1,1796086476856,0,NULL,NULL,NULL,'');
CREATE TABLE holdfast_schedules (
    name          text    primary key,
    source        text    not null check (source in ('api', 'config')),
    enabled       integer not null,
    cron          text,                                   -- either this
    every_seconds integer,                                -- or this
    time_zone     text    not null,
    kind          text    not null,
    payload       text    not null,
    queue         text,                                   -- null: the kind's own
    catch_up      text    not null check (catch_up in ('skip', 'latest', 'all')),
    catch_up_max  integer not null,
    jitter_ms     integer not null,
    revision      integer not null default 1,             -- one higher with each edit
    next_tick     integer,                                -- null: it never comes
    last_tick     integer,
    last_run_at   integer,
    last_job      blob,
    last_error    text,
    created_at    integer not null,
    updated_at    integer not null,
    check ((cron is null) <> (every_seconds is null))
) without rowid;
INSERT INTO "holdfast_schedules" VALUES('yearly','api',1,'0 3 1 1 *',NULL,'Europe/Vienna','debug.echo','{"b": 1, "a": 2}',NULL,'latest',1,0,1,1798768800000,NULL,NULL,NULL,NULL,1796086476872,1796086476872);
CREATE TABLE holdfast_sources (
    id              blob    primary key,                   -- a ULID
    name            text    not null unique,
    definition      text    not null,                      -- JSON
    enabled         integer not null,
    revision        integer not null default 1,            -- counts edits: a run tells only what it began with
    next_run_at     integer,                               -- null: disabled
    etag            text,                                  -- of the answer that was read last
    last_modified   text,
    failures        integer not null default 0,            -- in a row
    last_run_at     integer,
    last_success_at integer,
    report          text,                                  -- JSON: what the last run did
    created_at      integer not null,
    updated_at      integer not null
) without rowid;
CREATE TABLE holdfast_subscriptions (
    id         blob    primary key,                        -- a ULID
    user_id    text    not null,                           -- the application's own, opaque
    email      text,                                       -- where to, by mail; null: not by mail
    filter     text    not null,                           -- JSON
    created_at integer not null
) without rowid;
CREATE TABLE holdfast_tracks (
    id         blob    primary key,                    -- a ULID
    name       text    not null,
    created_at integer not null
) without rowid;
INSERT INTO "holdfast_tracks" VALUES(X'01A22F18B04B99DD965B624D1DE7A5E1','regatta',1796086476875);
CREATE TABLE holdfast_users (
    id            blob    primary key,                  -- a ULID
    name          text    not null unique,              -- in lower case; may be an e-mail address
    password_hash text    not null,                     -- argon2id, as a PHC string
    role          text    not null,                     -- viewer, operator, admin
    token_version integer not null default 1,           -- raised to end every session of the user
    disabled_at   integer,
    created_at    integer not null,
    updated_at    integer not null
) without rowid;
CREATE TABLE holdfast_webhook_deliveries (
    id          blob    primary key,                        -- a ULID
    webhook_id  blob    not null,
    message_id  text    not null,
    event_type  text    not null,
    job_id      blob    not null,
    attempt     integer not null,
    at          integer not null,
    duration_ms integer not null,
    delivered   boolean not null,
    status      integer,                                    -- null: no answer
    error       text,
    request     text    not null,                           -- the beginning of the body
    response    text                                        -- the same
) without rowid;
CREATE TABLE holdfast_webhooks (
    id              blob    primary key,                    -- a ULID
    url             text    not null,
    description     text    not null,
    events          text    not null,                       -- JSON: the filters
    secret          text    not null,                       -- whsec_…: it has to sign, so it is no hash
    previous_secret text,                                   -- signs too until `previous_until`
    previous_until  integer,
    enabled         boolean not null,
    disabled_reason text,                                   -- why Holdfast disabled it, if nobody else did
    failing_since   integer,                                -- the first failure after the last success
    created_at      integer not null,
    updated_at      integer not null
) without rowid;
INSERT INTO "holdfast_webhooks" VALUES(X'01A22F18B04A5417F0BF3EF70469FE67','http://127.0.0.1:48999/status/200','','["order.*"]','whsec_+o8+p+aYtJX/uBicWkD283hWxVZFsw2KkUmg122bzHo=',NULL,NULL,1,NULL,NULL,1796086476874,1796086476874);
CREATE TABLE holdfast_workers (
    id         blob    primary key,
    name       text    not null,
    queues     text    not null,
    stats      text    not null,
    started_at integer not null,
    seen_at    integer not null
) without rowid;
INSERT INTO "holdfast_workers" VALUES(X'01A22F18AFE332EDD9F5BD7429DDCD5B','vm-14040-MXVKAV','["default","events","ml","notifications"]','{"default":{"completed":0,"failed":0,"per_second":0.0,"running":0},"events":{"completed":0,"failed":0,"per_second":0.0,"running":0},"ml":{"completed":0,"failed":0,"per_second":0.0,"running":0},"notifications":{"completed":0,"failed":0,"per_second":0.0,"running":0}}',1796086476771,1796086476772);
CREATE INDEX holdfast_jobs_claim on holdfast_jobs (queue, priority, run_at, id) where state = 'available';
CREATE INDEX holdfast_jobs_discarded on holdfast_jobs (queue, id) where state = 'discarded';
CREATE INDEX holdfast_jobs_doubtful on holdfast_jobs (id) where doubtful;
CREATE UNIQUE INDEX holdfast_jobs_unique on holdfast_jobs (kind, unique_key)
    where unique_key is not null and state in ('available', 'running');
CREATE UNIQUE INDEX holdfast_jobs_idempotency on holdfast_jobs (idempotency_key) where idempotency_key is not null;
CREATE UNIQUE INDEX holdfast_api_keys_previous on holdfast_api_keys (previous_hash) where previous_hash is not null;
CREATE INDEX holdfast_schedules_due on holdfast_schedules (next_tick) where enabled;
CREATE INDEX holdfast_jobs_keys on holdfast_jobs (queue, limit_key, priority, run_at, id)
    where state = 'available' and limit_key is not null;
CREATE INDEX holdfast_jobs_running_keys on holdfast_jobs (queue, limit_key)
    where state = 'running' and limit_key is not null;
CREATE INDEX holdfast_jobs_running on holdfast_jobs (worker, queue) where state = 'running';
CREATE INDEX holdfast_limit_buckets_full on holdfast_limit_buckets (full_at);
CREATE INDEX holdfast_jobs_dead on holdfast_jobs (id) where state = 'discarded';
CREATE UNIQUE INDEX holdfast_audit_operation on holdfast_audit (operation_key) where operation_key is not null;
CREATE INDEX holdfast_audit_action on holdfast_audit (action, id);
CREATE INDEX holdfast_audit_actor on holdfast_audit (actor, id);
CREATE INDEX holdfast_point_letters_at on holdfast_point_letters (at);
CREATE UNIQUE INDEX holdfast_batches_idempotency on holdfast_batches (idempotency_key)
    where idempotency_key is not null;
CREATE INDEX holdfast_batches_open on holdfast_batches (id) where ended_at is null;
CREATE INDEX holdfast_batches_ended on holdfast_batches (ended_at) where ended_at is not null;
CREATE INDEX holdfast_jobs_batch on holdfast_jobs (batch_id, state) where batch_id is not null;
CREATE UNIQUE INDEX holdfast_events_uid on holdfast_events (coalesce(source, ''), uid);
CREATE INDEX holdfast_events_starts on holdfast_events (starts_at, id);
CREATE INDEX holdfast_events_category on holdfast_events (category, starts_at, id);
CREATE INDEX holdfast_events_lat on holdfast_events (lat) where lat is not null;
CREATE INDEX holdfast_events_hash on holdfast_events (content_hash);
CREATE INDEX holdfast_interactions_event on holdfast_interactions (event_id);
CREATE INDEX holdfast_interactions_at on holdfast_interactions (at);
CREATE INDEX holdfast_webhook_deliveries_of on holdfast_webhook_deliveries (webhook_id, id);
CREATE INDEX holdfast_webhook_deliveries_at on holdfast_webhook_deliveries (at);
CREATE INDEX holdfast_notices_at on holdfast_notices (at);
CREATE INDEX holdfast_mails_at on holdfast_mails (at);
CREATE INDEX holdfast_sources_due on holdfast_sources (next_run_at) where next_run_at is not null;
CREATE INDEX holdfast_subscriptions_user on holdfast_subscriptions (user_id, id);
CREATE INDEX holdfast_digest_items_due on holdfast_digest_items (due_at);
CREATE INDEX holdfast_mails_address on holdfast_mails (address);
CREATE INDEX holdfast_jobs_user on holdfast_jobs (payload ->> 'user')
    where kind in ('notify.email', 'notify.digest', 'ml.recommend');
CREATE INDEX holdfast_jobs_address on holdfast_jobs
    (lower(rtrim(substr(payload ->> 'to', instr(payload ->> 'to', '<') + 1), '> '))) where kind = 'notify.email';
CREATE INDEX holdfast_jobs_webhooks on holdfast_jobs (id) where kind = 'notify.webhook';
CREATE INDEX holdfast_jobs_keyed on holdfast_jobs (substr(idempotency_key, 1, 31))
    where substr(idempotency_key, 1, 5) = 'user-';
CREATE INDEX holdfast_batches_keyed on holdfast_batches (substr(idempotency_key, 1, 31))
    where substr(idempotency_key, 1, 5) = 'user-';
CREATE INDEX holdfast_notices_keyed on holdfast_notices (substr(key, 1, 31)) where substr(key, 1, 5) = 'user-';
CREATE INDEX holdfast_audit_users on holdfast_audit (target) where action in ('user.create', 'user.update', 'user.delete');
CREATE INDEX holdfast_jobs_cancelling on holdfast_jobs (worker) where state = 'running' and cancel_requested;
COMMIT;
