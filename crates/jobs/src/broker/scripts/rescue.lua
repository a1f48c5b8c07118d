-- Takes a lost member's jobs away from it, a portion at a time: back to the head of the queue, crashes counted.
-- A job that never crashed counts as started when it was leased; one that did only from mark_started.lua on, so
-- that a job which merely waited in a crashing worker cannot be taken for poison.
--
-- KEYS[1] workers   zset  member -> last heartbeat
-- KEYS[2] lost      zset  member -> 0 until its inflight set is empty, then when it may be forgotten (unix seconds)
-- KEYS[3] inflight  set   ids that the member held
-- KEYS[4] active    list
-- KEYS[5] data      hash  id -> envelope
-- KEYS[6] crashes   hash  id -> crashes; negative while the job ran again
-- KEYS[7] signal    list
-- ARGV[1] member
-- ARGV[2] most jobs to take, 500 at most
-- ARGV[3] how long the name stays refused, in seconds; 0: not at all (a stock worker keeps its name)
--
-- Answer: {jobs returned, jobs the member still holds}

if tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or 1) ~= 0 then
    return { 0, 0 }
end
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
    -- A stock worker came back under its old name.
    redis.call('ZREM', KEYS[2], ARGV[1])
    return { 0, 0 }
end

local ids = redis.call('SPOP', KEYS[3], ARGV[2])
-- Youngest first: LPUSH turns them round.
table.sort(ids, function(a, b) return a > b end)
local returned, counts = {}, {}
if #ids > 0 then
    local crashes = redis.call('HMGET', KEYS[6], unpack(ids))
    for i, id in ipairs(ids) do
        -- Without its envelope a job is gone; its id would only be dropped by the next fetch.
        if redis.call('HEXISTS', KEYS[5], id) == 1 then
            returned[#returned + 1] = id
            local count = tonumber(crashes[i] or 0)
            if count <= 0 then
                counts[#counts + 1] = id
                counts[#counts + 1] = 1 - count
            end
        end
    end
end
if #returned > 0 then
    redis.call('LPUSH', KEYS[4], unpack(returned))
    for i = 1, #counts, 500 do
        redis.call('HSET', KEYS[6], unpack(counts, i, math.min(i + 499, #counts)))
    end
    redis.call('DEL', KEYS[7])
    redis.call('LPUSH', KEYS[7], 1)
    redis.pcall('PUBLISH', 'tasks:' .. KEYS[4] .. ':available', returned[1])
end

local left = redis.call('SCARD', KEYS[3])
if left == 0 then
    redis.call('ZREM', KEYS[2], ARGV[1])
    if tonumber(ARGV[3]) > 0 then
        redis.call('ZADD', KEYS[2], redis.call('TIME')[1] + ARGV[3], ARGV[1])
    end
end
return { #returned, left }
