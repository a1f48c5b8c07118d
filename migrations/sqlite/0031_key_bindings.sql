-- Keys that are bound to queues and kinds, and keys that read without payloads: crates/accounts/src/keys.
alter table holdfast_api_keys add column payloads integer;   -- read:payload, beside `scopes`; null: made before, `read` shows payloads
alter table holdfast_api_keys add column binding text;       -- {"queues": [...], "kinds": [...]}; null: any
