-- JSON that users send is kept as text, byte for byte: `json`, not `jsonb`. Steps 0015 to 0019 put a new column beside each
-- old one, fill it and put it in the old one's place, beside traffic; until then this release and the one before write the
-- old columns, and the triggers the new ones.

-- One field of a document as text. `->>` refuses a document that holds U+0000 or half a surrogate pair anywhere, which are
-- legal JSON: those are replaced first. A field that still cannot be read is null, so that no index refuses the row.
create function holdfast_json_text(document json, field text) returns text
    language plpgsql immutable strict as $$
begin
    return document ->> field;
exception when untranslatable_character or invalid_text_representation then
    begin
        -- Escaped backslashes stand aside, so that every backslash left begins an escape.
        return replace(regexp_replace(
            replace(document::text, '\\', '\u0001'),
            '\\u0000|\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..',
            '?', 'g')::json ->> field, chr(1), '\');
    exception when untranslatable_character or invalid_text_representation then
        return null;
    end;
end $$;

alter table holdfast_jobs
    add column payload_json  json,
    add column options_json  json,
    add column result_json   json,
    add column progress_json json;

create function holdfast_jobs_json() returns trigger language plpgsql as $$
begin
    new.payload_json := new.payload::text;
    new.options_json := new.options::text;
    new.result_json := new.result::text;
    new.progress_json := new.progress::text;
    return new;
end $$;

create trigger holdfast_jobs_json before insert or update of payload, options, result, progress on holdfast_jobs
    for each row execute function holdfast_jobs_json();

alter table holdfast_batches add column callback_json json;

create function holdfast_batches_json() returns trigger language plpgsql as $$
begin
    new.callback_json := new.callback::text;
    return new;
end $$;

create trigger holdfast_batches_json before insert or update of callback on holdfast_batches
    for each row execute function holdfast_batches_json();

-- A small table: rewritten in place.
alter table holdfast_schedules alter column payload type json using payload::text::json;
