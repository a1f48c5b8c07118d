-- Gives held jobs ids that are ULIDs. A stock producer may choose other ids; ours could not be traced by them.
--
-- KEYS[1] inflight  set   ids that the member holds
-- KEYS[2] data      hash  id -> envelope
-- KEYS[3..]         hash  for each job: its old meta key, its new meta key
-- ARGV    for each job (250 at most): its old id, its new id
--
-- Answer: for each job 1, or 0 if the member no longer held it.

local adopted = {}
for i = 1, #ARGV, 2 do
    local old, new = ARGV[i], ARGV[i + 1]
    adopted[#adopted + 1] = redis.call('SREM', KEYS[1], old)
    if adopted[#adopted] == 1 then
        local envelope = redis.call('HGET', KEYS[2], old)
        redis.call('HDEL', KEYS[2], old)
        redis.call('SADD', KEYS[1], new)
        if envelope then
            redis.call('HSET', KEYS[2], new, envelope)
        end
        if redis.call('EXISTS', KEYS[2 + i]) == 1 then
            redis.call('RENAME', KEYS[2 + i], KEYS[3 + i])
        end
    end
end
return adopted
