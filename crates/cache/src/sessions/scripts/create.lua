-- Stores a session. Those of the user that have expired go; if there are too many, the oldest go.
-- KEYS[1] the user's hash: field -> "<expires ms> <created ms> <data>"
-- ARGV[1] field  ARGV[2] created, ms  ARGV[3] idle time, ms  ARGV[4] longest life, ms  ARGV[5] sessions at most  ARGV[6] data
-- Answers 1, or 0 if its time is over already.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local created = tonumber(ARGV[2])
local expires = math.min(now + tonumber(ARGV[3]), created + tonumber(ARGV[4]))
if expires <= now then
  return 0
end
local others = {}
local fields = redis.call('HGETALL', KEYS[1])
for at = 1, #fields, 2 do
  local ends, since = string.match(fields[at + 1], '^(%d+) (%d+) ')
  if not ends or tonumber(ends) <= now then
    redis.call('HDEL', KEYS[1], fields[at])
  elseif fields[at] ~= ARGV[1] then
    others[#others + 1] = {tonumber(since), fields[at]}
  end
end
table.sort(others, function(one, other) return one[1] < other[1] end)
for at = 1, #others - tonumber(ARGV[5]) + 1 do
  redis.call('HDEL', KEYS[1], others[at][2])
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f ', expires, created) .. ARGV[6])
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(redis.call('PTTL', KEYS[1]), expires - now)))
return 1
