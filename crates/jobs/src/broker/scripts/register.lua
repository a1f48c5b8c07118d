-- Makes a member known, or known again after the workers key itself was lost.
--
-- KEYS[1] workers  zset  member -> last heartbeat, in unix seconds
-- KEYS[2] lost     zset  members whose jobs were, or are being, taken away
-- ARGV[1] member
--
-- Answer: 1, or 0 if the member was taken for lost and must take a new name.

if redis.call('ZSCORE', KEYS[2], ARGV[1]) then
    return 0
end
-- Removed first: out of memory, a server lets a script add only after it has freed.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], redis.call('TIME')[1], ARGV[1])
return 1
