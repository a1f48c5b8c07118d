-- Takes tokens out of one bucket, which fills at an even rate.
--
-- KEYS[1]  the bucket, a hash: t, the tokens in it; u, when that was, in microseconds by the server's clock
-- ARGV[1]  tokens a second, above 0
-- ARGV[2]  most tokens in the bucket, 1 or more
-- ARGV[3]  tokens wanted, 1 or more
-- answer   {tokens given (0 to those wanted), tokens left, milliseconds until there is one (0 if some were given)}
local rate, most, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local known = redis.call('HMGET', KEYS[1], 't', 'u')
local tokens = tonumber(known[1]) or most
local since = tonumber(known[2]) or now
tokens = math.min(most, tokens + math.max(0, now - since) * rate / 1000000)
local given = math.min(wanted, math.floor(tokens))
tokens = tokens - given
redis.call('HSET', KEYS[1], 't', string.format('%.6f', tokens), 'u', string.format('%.0f', now))
-- A bucket that is full again is one that was never used.
redis.call('PEXPIRE', KEYS[1], math.ceil((most - tokens) / rate * 1000) + 1000)
local wait = 0
if given == 0 then
    wait = math.max(1, math.ceil((1 - tokens) / rate * 1000))
end
return {given, math.floor(tokens), wait}
