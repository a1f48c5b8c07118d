-- The schema `holdfast` has the functions of 0030. A role of that name has it first in its search path, where the release before would
-- make a second, empty set of tables: its `create table if not exists` looks at the first schema alone. So that role's path in this
-- database begins with the schema of the tables. A session that is older, such as one of a pooler, may make nothing in the other.
-- Called by each service when it starts, too: the functions may be made after this migration.
create function holdfast_settle_search_path_1() returns void
language plpgsql volatile as $settle$
declare
    tables constant text := (select n.nspname from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
                             where c.oid = 'holdfast_jobs'::regclass);
    -- As the session began with it: a URL that names a path decides for itself.
    path constant text := (select s.reset_val from pg_settings as s where s.name = 'search_path');
begin
    if current_user <> 'holdfast' or tables = 'holdfast' or to_regnamespace('holdfast') is null or path not like '"$user"%' then
        return;
    end if;
    -- Processes that start together take turns, as in 0030.
    perform pg_advisory_xact_lock(1936813169);
    if exists (select from pg_db_role_setting as s, unnest(s.setconfig) as setting
               where s.setdatabase = (select d.oid from pg_database as d where d.datname = current_database())
                 and s.setrole = (select r.oid from pg_roles as r where r.rolname = current_user)
                 and setting like 'search_path=%') then
        return;
    end if;
    execute format('alter role %I in database %I set search_path = %I, %s', current_user, current_database(), tables, path);
    revoke create on schema holdfast from holdfast;
exception when insufficient_privilege then
    raise warning 'the search path of the role holdfast cannot be set: %', sqlerrm;
end $settle$;

do $$
begin
    perform holdfast_settle_search_path_1();
end $$;
