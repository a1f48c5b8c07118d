-- Reads a session and, if asked to, moves its end on. It writes only if that moves it by a twentieth of the idle time.
-- KEYS[1] the user's hash: field -> "<expires ms> <created ms> <data>"
-- ARGV[1] field  ARGV[2] idle time, ms  ARGV[3] longest life, ms  ARGV[4] 1: move its end on
-- Answers {created ms, data}, or nil if there is no such session any more.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if not stored then
  return nil
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends, since, data = string.match(stored, '^(%d+) (%d+) (.*)$')
if not ends or tonumber(ends) <= now then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return nil
end
local idle = tonumber(ARGV[2])
local expires = math.min(now + idle, tonumber(since) + tonumber(ARGV[3]))
if ARGV[4] == '1' and expires - tonumber(ends) >= idle / 20 then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s ', expires, since) .. data)
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(redis.call('PTTL', KEYS[1]), expires - now)))
end
return {tonumber(since), data}
