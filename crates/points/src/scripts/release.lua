-- Ends a hold: its points are stored, or go back to the buffer.
--
-- KEYS[1] buffer  zset  packed point -> time
-- KEYS[2] hold    zset
-- KEYS[3] holds   zset  hold -> when it was taken, unix seconds
-- ARGV[1] 'stored' | 'back' | the age in seconds that a hold must have to go back
--
-- Answer: how many points went back

local stored = ARGV[1] == 'stored'
local age = tonumber(ARGV[1])
if age then
    local taken = redis.call('ZSCORE', KEYS[3], KEYS[2])
    if taken and tonumber(redis.call('TIME')[1]) - tonumber(taken) < age then
        return 0
    end
end
local back = 0
if not stored then
    back = redis.call('ZCARD', KEYS[2])
    if back > 0 then
        redis.call('ZUNIONSTORE', KEYS[1], 2, KEYS[1], KEYS[2], 'AGGREGATE', 'MIN')
    end
end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], KEYS[2])
return back
