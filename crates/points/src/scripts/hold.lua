-- Pops the oldest points under a flusher's own hold, and tells which these are. A hold that still has points is told
-- again, with its age renewed: so a repeated call loses nothing.
--
-- KEYS[1] buffer  zset  packed point -> time
-- KEYS[2] hold    zset  the flusher's own
-- KEYS[3] holds   zset  hold -> when it was taken or renewed, unix seconds
-- ARGV[1] how many (1000 at most)
--
-- Answer: the packed points; none: the buffer is empty

local now = tonumber(redis.call('TIME')[1])
if redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('ZADD', KEYS[3], now, KEYS[2])
    return redis.call('ZRANGE', KEYS[2], 0, -1)
end
local popped = redis.call('ZPOPMIN', KEYS[1], ARGV[1])
if #popped == 0 then
    return {}
end
local add, points = { 'ZADD', KEYS[2] }, {}
for i = 1, #popped, 2 do
    add[#add + 1] = popped[i + 1]
    add[#add + 1] = popped[i]
    points[#points + 1] = popped[i]
end
redis.call(unpack(add))
redis.call('ZADD', KEYS[3], now, KEYS[2])
return points
