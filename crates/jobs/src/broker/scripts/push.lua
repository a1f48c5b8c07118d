-- Puts new jobs at the tail of a queue, in one step: all of them, or none if the deadline has passed.
-- A push whose answer was lost can therefore not be applied later, from the buffer of a server that hung.
--
-- KEYS[1] data     hash   id -> envelope
-- KEYS[2] active   list   ids that are due, oldest first
-- KEYS[3] signal   list   wakes stock workers
-- KEYS[4..]        hash   the meta key of each job, in the order of ARGV
-- ARGV[1] deadline, in milliseconds of the server's clock
-- ARGV[2..] for each job (500 at most): id, envelope, max_attempts
--
-- Answer: how many jobs are new; -1 if the deadline has passed and nothing was applied.
-- A job that stands here already, or whose outcome is still remembered, is left as it is.

local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[1]) then
    return -1
end

local ids = {}
for i = 2, #ARGV, 3 do
    ids[#ids + 1] = ARGV[i]
end
local known = redis.call('HMGET', KEYS[1], unpack(ids))

local fresh, pairs_of_data, taken = {}, {}, {}
for i, id in ipairs(ids) do
    if not known[i] and not taken[id] then
        local meta, envelope, max_attempts = KEYS[3 + i], ARGV[3 * i], ARGV[3 * i + 1]
        -- HSETNX also keeps a job from running twice that has finished in the meantime.
        local new = redis.call('HSETNX', meta, 'status', 'Pending') == 1
        local status = new or redis.call('HGET', meta, 'status')
        if status ~= 'Done' and status ~= 'Killed' then
            redis.call('HSET', meta, 'attempts', 0, 'max_attempts', max_attempts)
            if not new then
                redis.call('HSET', meta, 'status', 'Pending')
            end
            fresh[#fresh + 1] = id
            taken[id] = true
            pairs_of_data[#pairs_of_data + 1] = id
            pairs_of_data[#pairs_of_data + 1] = envelope
            if #pairs_of_data == 500 then
                redis.call('HSET', KEYS[1], unpack(pairs_of_data))
                pairs_of_data = {}
            end
        end
    end
end
if #fresh == 0 then
    return 0
end
if #pairs_of_data > 0 then
    redis.call('HSET', KEYS[1], unpack(pairs_of_data))
end
redis.call('RPUSH', KEYS[2], unpack(fresh))
redis.call('DEL', KEYS[3])
redis.call('LPUSH', KEYS[3], 1)
-- Stock workers made by a factory wake on this. An account may lack the channel: that is no failure.
redis.pcall('PUBLISH', 'tasks:' .. KEYS[2] .. ':available', fresh[#fresh])
return #fresh
