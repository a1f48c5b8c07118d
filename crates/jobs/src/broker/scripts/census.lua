-- Counts a queue at one instant. More data than places to stand means that something may be lost (inspect.lua).
--
-- KEYS[1] data       hash
-- KEYS[2] active     list
-- KEYS[3] scheduled  zset
-- KEYS[4] crashes    hash
-- KEYS[5..]          set   inflight sets of the members known
--
-- Answer: {data, active, scheduled, inflight, crashes, id at the head of active or ''}

local inflight = 0
for i = 5, #KEYS do
    inflight = inflight + redis.call('SCARD', KEYS[i])
end
return {
    redis.call('HLEN', KEYS[1]),
    redis.call('LLEN', KEYS[2]),
    redis.call('ZCARD', KEYS[3]),
    inflight,
    redis.call('HLEN', KEYS[4]),
    redis.call('LINDEX', KEYS[2], 0) or '',
}
