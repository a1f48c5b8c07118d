-- Of which kinds and queues an endpoint is sent the events of jobs: JSON lists; empty: of all.
alter table holdfast_webhooks add column kinds text not null default '[]';
alter table holdfast_webhooks add column queues text not null default '[]';
