-- Renews a member, puts right what the eviction of its inflight set may have broken, and tells it which of its
-- jobs somebody wants cancelled.
--
-- KEYS[1] workers   zset  member -> last heartbeat, in unix seconds
-- KEYS[2] lost      zset  members whose jobs were, or are being, taken away
-- KEYS[3] inflight  set   ids that this member holds
-- KEYS[4] data      hash  id -> envelope
-- KEYS[5] cancel    zset  ids to be cancelled
-- ARGV[1] member
-- ARGV[2] deadline, in milliseconds of the server's clock: a late heartbeat would know old ids
-- ARGV[3] how many of the ids were missing from the inflight set at the heartbeat before: they come first
-- ARGV[4..] ids that the member runs or has not acknowledged yet, 500 at most
--
-- Answer: {'late'}, {'unknown'} the member must register, {'lost'} the member must take a new name,
--         {'ok', inflight, reasserted, missing, cancel}: how many ids the inflight set holds, how many were put back
--         into it, the ids that are missing for the first time, and those that are to be cancelled.
--
-- An id is put back only when it is missing twice in a row: once, it may just be on its way back to the queue.

local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[2]) then
    return { 'late' }
end
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
    return { redis.call('ZSCORE', KEYS[2], ARGV[1]) and 'lost' or 'unknown' }
end
-- Removed first: out of memory, a server lets a script add only after it has freed.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], time[1], ARGV[1])

local reasserted, missing = 0, {}
for i = 4, #ARGV do
    -- An id without data was acknowledged in the meantime.
    if redis.call('SISMEMBER', KEYS[3], ARGV[i]) == 0 and redis.call('HEXISTS', KEYS[4], ARGV[i]) == 1 then
        if i - 3 <= tonumber(ARGV[3]) then
            redis.call('SADD', KEYS[3], ARGV[i])
            reasserted = reasserted + 1
        else
            missing[#missing + 1] = ARGV[i]
        end
    end
end

local cancel = {}
if redis.call('EXISTS', KEYS[5]) == 1 then
    for i = 4, #ARGV do
        if redis.call('ZSCORE', KEYS[5], ARGV[i]) then
            cancel[#cancel + 1] = ARGV[i]
        end
    end
end
return { 'ok', redis.call('SCARD', KEYS[3]), reasserted, missing, cancel }
