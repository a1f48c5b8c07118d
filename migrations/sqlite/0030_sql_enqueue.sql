-- holdfast.enqueue is a function on PostgreSQL. SQLite has the table alone, so that both have the same ones: nothing reads it.
create table holdfast_catalogue (
    id         integer primary key,                         -- 1
    document   text    not null,
    updated_at integer not null default (cast(unixepoch('subsec') * 1000 as integer))
);
