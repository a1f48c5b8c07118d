-- Who made the keys of before, as far as the audit log tells: both are written in one transaction.
update holdfast_api_keys set created_by = (
    select min(a.actor) from holdfast_audit as a
    where a.action = 'key.create' and a.details ->> 'name' = holdfast_api_keys.name
        and a.at between holdfast_api_keys.created_at - 5000 and holdfast_api_keys.created_at + 5000
    having count(distinct a.actor) = 1)
where created_by is null;
