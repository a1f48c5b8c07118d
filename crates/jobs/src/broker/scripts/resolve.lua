-- Where does a job stand, and if it waits: take it out of the queue.
--
-- KEYS[1] data       hash  id -> envelope
-- KEYS[2] active     list
-- KEYS[3] scheduled  zset  id -> due
-- KEYS[4] crashes    hash  id -> crashes
-- KEYS[5] the job's meta key, hash
-- KEYS[6] workers    zset  member -> last heartbeat
-- KEYS[7] lost       zset  member -> 0 while it may hold jobs
-- KEYS[8] cancel     zset  ids to be cancelled -> when the wish may be forgotten (unix seconds)
-- KEYS[9..]          set   the inflight sets of the members in ARGV[4..], as read before
-- ARGV[1] id
-- ARGV[2] 'resolve': a waiting job leaves without a trace
--         'cancel': it leaves with the outcome cancelled; a running one is asked to give way
-- ARGV[3] how long an outcome is remembered, in milliseconds; 0: not at all
-- ARGV[4..] members
--
-- Answer: 'removed' | 'running' | 'done' | 'unknown' (not here: never was, or long gone)
--         | 'changed': a member has come since the members were read; read them again
-- A job that is here but in no place that can be seen counts as running: its member has to register again, or the
-- janitor will put it back.

local id, meta = ARGV[1], KEYS[5]

local status = redis.call('HGET', meta, 'status')
local ended = status == 'Done' or status == 'Killed'
if redis.call('HEXISTS', KEYS[1], id) == 0 then
    return ended and 'done' or 'unknown'
end

local known = {}
for i = 4, #ARGV do
    known[ARGV[i]] = true
end
for _, member in ipairs(redis.call('ZRANGE', KEYS[6], 0, -1)) do
    if not known[member] then
        return 'changed'
    end
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[7], 0, 0)) do
    if not known[member] then
        return 'changed'
    end
end

local running = false
for i = 9, #KEYS do
    running = running or redis.call('SISMEMBER', KEYS[i], id) == 1
end
if not running then
    -- From the tail: whoever asks, asks for a young job most often.
    local waiting = redis.call('ZREM', KEYS[3], id) == 1 or redis.call('LREM', KEYS[2], -1, id) == 1
    if not waiting then
        if ended then
            return 'done' -- a stock worker ended it; such workers leave the data
        end
        running = true
    end
end
if running then
    if ARGV[2] == 'cancel' then
        local now = tonumber(redis.call('TIME')[1])
        redis.call('ZREMRANGEBYSCORE', KEYS[8], '-inf', now)
        redis.call('ZADD', KEYS[8], now + 86400, id)
        redis.call('EXPIRE', KEYS[8], 86400)
    end
    return 'running'
end

redis.call('HDEL', KEYS[1], id)
redis.call('HDEL', KEYS[4], id)
if ARGV[2] == 'cancel' and tonumber(ARGV[3]) > 0 then
    redis.call('HSET', meta, 'status', 'Killed', 'outcome', 'cancelled', 'result', '{"Err":"cancelled"}',
        'done_at', redis.call('TIME')[1])
    redis.call('PEXPIRE', meta, ARGV[3])
else
    redis.call('DEL', meta)
end
return 'removed'
