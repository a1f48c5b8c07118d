-- Revokes the sessions of a user that were created until a moment.
-- KEYS[1] the user's hash: field -> "<expires ms> <created ms> <data>"
-- ARGV[1] the moment, ms
-- Answers how many there were.
local revoked = 0
local fields = redis.call('HGETALL', KEYS[1])
for at = 1, #fields, 2 do
  local ends, since = string.match(fields[at + 1], '^(%d+) (%d+) ')
  if not ends or tonumber(since) <= tonumber(ARGV[1]) then
    revoked = revoked + redis.call('HDEL', KEYS[1], fields[at])
  end
end
return revoked
