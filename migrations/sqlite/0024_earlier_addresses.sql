-- The addresses that users set before there were proofs. Mail goes there as before; nothing is exported or deleted by them.
insert into holdfast_addresses (user_id, address, proof, asked_at, proven_at)
select user_id, lower(json_extract(document, '$.address')), 'earlier', updated_at, updated_at
from holdfast_preferences
where json_valid(document) and json_type(document, '$.address') = 'text'
on conflict (user_id, address) do nothing;
