-- Declares members lost whose heartbeat is too old, and tells whose jobs have to be taken away (rescue.lua).
-- From here on a lost member can neither fetch nor register under its name, while its jobs go back in portions.
--
-- KEYS[1] workers  zset  member -> last heartbeat, in unix seconds
-- KEYS[2] lost     zset  member -> 0 until its inflight set is empty, then when it may be forgotten (unix seconds)
-- ARGV[1] age of a lost heartbeat, in seconds, of members whose name starts with ARGV[3]
-- ARGV[2] the same of all others: stock workers beat more slowly
-- ARGV[3] prefix of our members' names
--
-- Answer: names of lost members that still hold jobs, 100 at most.

local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '(0', now)

-- A heartbeat is stored in whole seconds, and may be up to one second younger than it says.
local stale = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[1]) - 1, 'WITHSCORES', 'LIMIT', 0, 500)
for i = 1, #stale, 2 do
    local ours = string.sub(stale[i], 1, #ARGV[3]) == ARGV[3]
    if ours or tonumber(stale[i + 1]) <= now - tonumber(ARGV[2]) - 1 then
        redis.call('ZREM', KEYS[1], stale[i])
        redis.call('ZADD', KEYS[2], 0, stale[i])
    end
end
return redis.call('ZRANGEBYSCORE', KEYS[2], 0, 0, 'LIMIT', 0, 100)
