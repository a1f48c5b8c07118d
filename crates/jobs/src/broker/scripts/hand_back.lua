-- Returns jobs that the member holds to the head of the queue, in the order given. It counts neither as an
-- attempt nor as a crash.
--
-- KEYS[1] inflight  set   ids that the member holds
-- KEYS[2] active    list
-- KEYS[3] signal    list
-- KEYS[4] crashes   hash  id -> crashes; negative while the job runs again
-- ARGV[1] deadline, in milliseconds of the server's clock: a late hand-back could return what the member has
--         fetched again since
-- ARGV[2..] ids, 500 at most
--
-- Answer: how many were held and went back; -1 if the deadline has passed and nothing was applied.

local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[1]) then
    return -1
end

local held = {}
for i = #ARGV, 2, -1 do
    -- Last first: LPUSH turns them round.
    if redis.call('SREM', KEYS[1], ARGV[i]) == 1 then
        held[#held + 1] = ARGV[i]
    end
end
if #held == 0 then
    return 0
end

redis.call('LPUSH', KEYS[2], unpack(held))
if redis.call('EXISTS', KEYS[4]) == 1 then
    local crashes = redis.call('HMGET', KEYS[4], unpack(held))
    for i, id in ipairs(held) do
        local count = tonumber(crashes[i] or 0)
        if count < 0 then
            redis.call('HSET', KEYS[4], id, -count)
        end
    end
end
redis.call('DEL', KEYS[3])
redis.call('LPUSH', KEYS[3], 1)
redis.pcall('PUBLISH', 'tasks:' .. KEYS[2] .. ':available', held[1])
return #held
