-- Ends jobs that the member still holds. A job that was taken away from it stays as it is: that is the fence.
-- Repeating it is harmless: the second time nothing is held.
--
-- KEYS[1] inflight  set   ids that the member holds
-- KEYS[2] data      hash  id -> envelope
-- KEYS[3] crashes   hash  id -> crashes
-- KEYS[4..]         hash  the meta key of each job, in the order of ARGV
-- ARGV[1] how long outcomes are remembered, in milliseconds; 0: not at all
-- ARGV[2..] for each job (500 at most): id, outcome, kind, attempts, result
--           outcome: 'completed', 'cancelled', or 'moved' (to the ledger, which tells the rest: nothing is kept)
--           result: JSON as apalis stores it, {"Ok": ...} or {"Err": "..."}
--
-- Answer: the ids that were still held.

local STATUS = { completed = 'Done', cancelled = 'Killed' }

local ids = {}
for i = 2, #ARGV, 5 do
    ids[#ids + 1] = ARGV[i]
end
local flags = redis.call('SMISMEMBER', KEYS[1], unpack(ids))
local held = {}
for i, id in ipairs(ids) do
    if flags[i] == 1 then
        held[#held + 1] = id
    end
end
if #held == 0 then
    return held
end

redis.call('SREM', KEYS[1], unpack(held))
redis.call('HDEL', KEYS[2], unpack(held))
if redis.call('EXISTS', KEYS[3]) == 1 then
    redis.call('HDEL', KEYS[3], unpack(held))
end

local now = redis.call('TIME')[1]
local remember = tonumber(ARGV[1])
local forgotten = {}
for i = 1, #ids do
    if flags[i] == 1 then
        local meta, at = KEYS[3 + i], 5 * i - 3
        local status = STATUS[ARGV[at + 1]]
        if status and remember > 0 then
            redis.call('HSET', meta, 'status', status, 'outcome', ARGV[at + 1], 'kind', ARGV[at + 2],
                'attempts', ARGV[at + 3], 'result', ARGV[at + 4], 'done_at', now)
            redis.call('PEXPIRE', meta, remember)
        else
            forgotten[#forgotten + 1] = meta
        end
    end
end
if #forgotten > 0 then
    redis.call('UNLINK', unpack(forgotten))
end
return held
