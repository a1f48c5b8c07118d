-- Looks through a portion of the data for ids that stand nowhere else. It changes nothing, and what it names is
-- only suspected: requeue.lua decides.
-- Ids sort by creation, and the queue is served in that order: what is not older than the head is taken to wait.
--
-- KEYS[1] data       hash  id -> envelope
-- KEYS[2] active     list
-- KEYS[3] scheduled  zset
-- KEYS[4..]          set   inflight sets of the members known
-- ARGV[1] cursor, '0' at first
-- ARGV[2] size of the portion, about
--
-- Answer: {next cursor, suspected ids}; cursor '0' ends the round

local head = redis.call('LINDEX', KEYS[2], 0)
local portion = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local suspects = {}
for i = 1, #portion[2], 2 do
    local id = portion[2][i]
    local seen = (head and id >= head) or redis.call('ZSCORE', KEYS[3], id)
    for k = 4, #KEYS do
        seen = seen or redis.call('SISMEMBER', KEYS[k], id) == 1
    end
    if not seen then
        suspects[#suspects + 1] = id
    end
end
return { portion[1], suspects }
