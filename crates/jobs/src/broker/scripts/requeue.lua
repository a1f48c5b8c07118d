-- Decides on ids that are suspected to stand nowhere, and makes those due again of which it is true, in one step:
-- what waits or runs is never put twice. They go into `scheduled`, where an id can stand only once and is found at
-- once, and from there to the queue with the next fetches.
--
-- KEYS[1] data       hash  id -> envelope
-- KEYS[2] active     list
-- KEYS[3] scheduled  zset  id -> due, in unix seconds
-- KEYS[4] workers    zset  member -> last heartbeat
-- KEYS[5] lost       zset  member -> 0 while it may hold jobs
-- KEYS[6] signal     list
-- KEYS[7..6+m]       set   the inflight sets of the m members in ARGV
-- KEYS[7+m..]        hash  the meta key of each id
-- ARGV[1] m
-- ARGV[2] most entries of `active` to compare
-- ARGV[3] most ids that may be due in `scheduled`: stock's fetch fails for ever above some 8,000
-- ARGV[4..3+m] members, as read before
-- ARGV[4+m..] ids, 500 at most
--
-- Answer: {'changed'} a member has come since the members were read; read them again
--         {'ok', verdicts}: for each id 'requeued' | 'held' (it waits or runs) | 'gone' (no data)
--         | 'finished' (by a stock worker, which leaves the data) | 'undecided' (ask again later)

local members = tonumber(ARGV[1])
local known = {}
for i = 4, 3 + members do
    known[ARGV[i]] = true
end
for _, member in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
    if not known[member] then
        return { 'changed' }
    end
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], 0, 0)) do
    if not known[member] then
        return { 'changed' }
    end
end

local function stands(id)
    if redis.call('ZSCORE', KEYS[3], id) then
        return true
    end
    for k = 7, 6 + members do
        if redis.call('SISMEMBER', KEYS[k], id) == 1 then
            return true
        end
    end
    return false
end

-- 'Failed' is final for stock only after 25 attempts; before that the job waits in `scheduled`.
local function finished(meta)
    local status, attempts = unpack(redis.call('HMGET', meta, 'status', 'attempts'))
    return status == 'Done' or status == 'Killed' or (status == 'Failed' and tonumber(attempts or 0) >= 25)
end

local verdicts, open = {}, {}
for i = 4 + members, #ARGV do
    local id, n = ARGV[i], i - 3 - members
    if redis.call('HEXISTS', KEYS[1], id) == 0 then
        verdicts[n] = 'gone'
    elseif stands(id) then
        verdicts[n] = 'held'
    elseif finished(KEYS[6 + members + n]) then
        verdicts[n] = 'finished'
    else
        verdicts[n] = 'requeued'
        open[id] = n
    end
end

-- What is left may still wait in the list, which can only be read. A short one is read once for all ids; of a long
-- one as many times as the limit allows, for one id each.
local length, limit = redis.call('LLEN', KEYS[2]), tonumber(ARGV[2])
if length * 20 <= limit then
    for from = 0, length - 1, 500 do
        for _, id in ipairs(redis.call('LRANGE', KEYS[2], from, from + 499)) do
            if open[id] then
                verdicts[open[id]] = 'held'
                open[id] = nil
            end
        end
    end
else
    local looks = math.max(1, math.floor(limit / length))
    for id, n in pairs(open) do
        if looks == 0 then
            verdicts[n] = 'undecided'
        else
            looks = looks - 1
            if redis.call('LPOS', KEYS[2], id) then
                verdicts[n] = 'held'
            end
        end
    end
end

local now = redis.call('TIME')[1]
local room = math.max(0, tonumber(ARGV[3]) - redis.call('ZCOUNT', KEYS[3], '-inf', now))
local due = {}
for i = 4 + members, #ARGV do
    local n = i - 3 - members
    if verdicts[n] == 'requeued' then
        if room == 0 then
            verdicts[n] = 'undecided'
        else
            room = room - 1
            due[#due + 1] = now
            due[#due + 1] = ARGV[i]
        end
    end
end
if #due > 0 then
    -- Removed first: out of memory, a server lets a script add only after it has freed.
    redis.call('DEL', KEYS[6])
    for i = 1, #due, 500 do
        redis.call('ZADD', KEYS[3], unpack(due, i, math.min(i + 499, #due)))
    end
    redis.call('LPUSH', KEYS[6], 1)
    redis.pcall('PUBLISH', 'tasks:' .. KEYS[2] .. ':available', due[2])
end
return { 'ok', verdicts }
