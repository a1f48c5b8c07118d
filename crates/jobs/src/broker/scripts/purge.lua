-- Takes jobs that wait out of the queue, with the outcome cancelled.
-- The ids were read just before. What has moved since (a worker took it) is left alone, so nothing is taken twice.
--
-- KEYS[1] data       hash  id -> envelope
-- KEYS[2] active     list
-- KEYS[3] scheduled  zset  id -> due
-- KEYS[4] crashes    hash  id -> crashes
-- KEYS[5..]          hash  the meta key of each job, in the order of ARGV
-- ARGV[1] how long an outcome is remembered, in milliseconds; 0: not at all
-- ARGV[2] how many of the ids stood at the head of the active list, in its order; the others are scheduled
-- ARGV[3..] ids (500 at most)
--
-- Answer: how many were taken out

local remember, active = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = redis.call('TIME')[1]
local removed = 0
for i = 3, #ARGV do
    local id, place = ARGV[i], i - 2
    local waits
    if place <= active then
        waits = redis.call('LINDEX', KEYS[2], 0) == id
        if waits then
            redis.call('LPOP', KEYS[2])
        end
    else
        waits = redis.call('ZREM', KEYS[3], id) == 1
    end
    if waits then
        local meta = KEYS[4 + place]
        redis.call('HDEL', KEYS[1], id)
        redis.call('HDEL', KEYS[4], id)
        if remember > 0 then
            redis.call('HSET', meta, 'status', 'Killed', 'outcome', 'cancelled', 'result', '{"Err":"cancelled"}',
                'done_at', now)
            redis.call('PEXPIRE', meta, remember)
        else
            redis.call('UNLINK', meta)
        end
        removed = removed + 1
    end
end
return removed
