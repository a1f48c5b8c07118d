-- Leases due jobs to a registered member, oldest first.
--
-- KEYS[1] workers    zset   member -> last heartbeat, in unix seconds
-- KEYS[2] active     list
-- KEYS[3] inflight   set    ids that this member holds
-- KEYS[4] data       hash   id -> envelope
-- KEYS[5] signal     list
-- KEYS[6] scheduled  zset   id -> due, in unix seconds
-- KEYS[7] crashes    hash   id -> crashes; negative while the job runs again
-- KEYS[8] lost       zset   members whose jobs were, or are being, taken away
-- ARGV[1] member
-- ARGV[2] most jobs to lease, 1 to 500
-- ARGV[3] deadline, in milliseconds of the server's clock
-- ARGV[4] most bytes of envelopes to answer with; the first job is leased whatever its size
--
-- Answer: {'late'} the deadline has passed, nothing was applied
--         {'unknown'} the member must register, {'lost'} the member must take a new name
--         {'ok', ids, envelopes, crashes, evicted}: crashes is empty if no job of the queue has crashed;
--         evicted are ids whose envelope is gone; they are forgotten here.

local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[3]) then
    return { 'late' }
end
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
    return { redis.call('ZSCORE', KEYS[8], ARGV[1]) and 'lost' or 'unknown' }
end

-- Each step removes before it adds: a server that is out of memory lets a script add only after it has freed.
local due = redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', time[1], 'LIMIT', 0, 500)
if #due > 0 then
    redis.call('ZREM', KEYS[6], unpack(due))
    redis.call('RPUSH', KEYS[2], unpack(due))
end

local most = tonumber(ARGV[2])
local ids = redis.call('LPOP', KEYS[2], most) or {}
if #ids == 0 then
    redis.call('DEL', KEYS[5])
    return { 'ok', {}, {}, {}, {} }
end

local envelopes = redis.call('HMGET', KEYS[4], unpack(ids))
local leased, loads, evicted, surplus = {}, {}, {}, {}
local room = tonumber(ARGV[4])
for i, id in ipairs(ids) do
    local envelope = envelopes[i]
    if not envelope then
        evicted[#evicted + 1] = id
    elseif #surplus == 0 and (#leased == 0 or #envelope <= room) then
        leased[#leased + 1] = id
        loads[#loads + 1] = envelope
        room = room - #envelope
    else
        surplus[#surplus + 1] = id
    end
end
-- Last first, so that they stand at the head in their old order.
for i = #surplus, 1, -1 do
    redis.call('LPUSH', KEYS[2], surplus[i])
end

if #ids < most and #surplus == 0 then
    redis.call('DEL', KEYS[5])
end

local crashes = {}
if #leased > 0 then
    redis.call('SADD', KEYS[3], unpack(leased))
    if redis.call('EXISTS', KEYS[7]) == 1 then
        crashes = redis.call('HMGET', KEYS[7], unpack(leased))
    end
end
return { 'ok', leased, loads, crashes, evicted }
